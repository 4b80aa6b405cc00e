"""The wiring of an agent; tests/configs/bad holds the messages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from agent.config.flow import ConfigErrors, Flow, judge
from tests.peers.harness import ROOT

PARTS = "tests.agent.config.parts"
BASE = """\
a1.sources = r1
a1.channels = c1
a1.sinks = k1
a1.sources.r1.type = seq
a1.sources.r1.channels = c1
a1.channels.c1.type = memory
a1.sinks.k1.type = logger
a1.sinks.k1.channel = c1
"""


def flow(more: str = "", agent: str | None = None, **options: bool | dict[str, str]) -> Flow:
    """The flow of BASE with more lines, which replace those of BASE."""
    return judge([("base", BASE.encode()), ("more", more.encode())], agent, **options)  # type: ignore[arg-type]


def errors(more: str, agent: str | None = None, **options: bool) -> list[str]:
    """The lines of what is wrong with BASE and more lines."""
    with pytest.raises(ConfigErrors) as caught:
        flow(more, agent, **options)
    return str(caught.value).splitlines()


def warnings(more: str, **options: bool) -> list[str]:
    return [str(problem) for problem in flow(more, **options).warnings]


def test_a_flow_holds_every_component_by_name() -> None:
    """Kinds, names, types, channels and typed keys are those of the file; the selector is replicating."""
    judged = flow("a1.sources.r1.batchSize = 7")
    source, sink = judged.sources["r1"], judged.sinks["k1"]
    assert (judged.agent, list(judged.channels), source.channels, sink.channel) == ("a1", ["c1"], ("c1",), "c1")
    assert (source.type, source.place, source.raw["batchSize"]) == ("seq", "base:4", "7")
    assert source.selector is not None and source.selector.type == "replicating" and not source.interceptors
    assert getattr(source.config, "batchSize") == 7  # noqa: B009 - the class is known at run time only


@pytest.mark.parametrize(
    "name", ["SEQ", "Seq", "org.apache.flume.source.SequenceGeneratorSource",
             "org.apache.flume.source.sequencegeneratorsource"],
)  # fmt: skip
def test_aliases_and_java_classes_mean_our_type(name: str) -> None:
    """Any case of an alias, and Flume's class name."""
    assert flow(f"a1.sources.r1.type = {name}").sources["r1"].type == "seq"


def test_interceptors_keep_their_order_and_may_name_the_builder() -> None:
    """Flume names an interceptor's Builder; the list's order counts, not the file's."""
    judged = flow(
        "a1.sources.r1.interceptors = i2 i1\n"
        "a1.sources.r1.interceptors.i1.type = org.apache.flume.interceptor.HostInterceptor$Builder\n"
        "a1.sources.r1.interceptors.i2.type = org.apache.flume.sink.solr.morphline.UUIDInterceptor$Builder\n"
    )
    assert [spec.type for spec in judged.sources["r1"].interceptors] == ["uuid", "host"]


def test_the_only_agent_needs_no_name() -> None:
    """With two agents the name decides, and the other one's keys aren't looked at."""
    other = BASE.replace("a1.", "b2.").replace("= seq", "= ${env:NOT_SET_ANYWHERE}")
    assert flow().agent == "a1" and flow(other, "a1").agent == "a1"
    assert errors(other) == ["base, more: holds 2 agents: say with --name which of a1, b2 to run"]
    assert errors(other, "a2") == ["base, more: holds no agent 'a2'; it holds a1, b2"]


def test_later_files_replace_keys_of_earlier_ones() -> None:
    """Without a warning: that is what several files are for."""
    judged = flow("a1.sinks.k1.type = null")
    assert judged.sinks["k1"].type == "null" and not judged.warnings


def test_references_see_every_file_environment_and_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable may stand after its use, without a dot, in the environment or in a -D option."""
    monkeypatch.setenv("SOME_TYPE", "null")
    more = "a1.sources.r1.batchSize = ${N}\na1.sinks.k1.type = ${env:SOME_TYPE}\na1.drainTimeout = ${sys:drain}\nN = 3"
    judged = flow(more, system={"drain": "2m"})
    assert (judged.sources["r1"].raw["batchSize"], judged.sinks["k1"].type, judged.drain_timeout) == (
        "3",
        "null",
        120.0,
    )
    assert not judged.warnings


def test_lenient_drops_what_flume_drops() -> None:
    """An unknown channel, a sink without a channel and a source with a wrong key's value go; the rest runs."""
    more = """\
a1.sources = r1 r2
a1.sinks = k1 k2
a1.sources.r1.channels = c1 c9
a1.sources.r1.typo = 1
a1.sources.r2.type = seq
a1.sources.r2.channels = c1
a1.sources.r2.batchSize = many
a1.sinks.k2.type = null
a1.sinks.k2.channel = c9
"""
    assert len(errors(more)) == 4
    judged = flow(more, lenient=True)
    assert (list(judged.sources), list(judged.sinks), judged.sources["r1"].channels) == (["r1"], ["k1"], ("c1",))
    assert [problem.place for problem in judged.warnings] == ["more:3", "more:4", "more:7", "more:9"]


def test_lenient_does_not_run_what_flume_would_die_of() -> None:
    """A type that isn't there, a refused key, a port taken twice and a flow without parts stay errors."""
    assert errors("a1.sinks.k1.type = hdsf", lenient=True)
    assert errors("a1.channels.c1.type = file\na1.channels.c1.encryption.activeKey = k", lenient=True)
    assert errors("a1.sinks.k1.channel = x\na1.sources.r1.channels = x", lenient=True) == [
        "base, more: a1: has nothing to run: no source and no sink is left"
    ]


def test_an_agent_may_have_services_alone() -> None:
    """What serves needs no channels; with a source or a sink it does."""
    alone = "a1.services = m\na1.services.m.type = metrics\n"
    assert list(judge([("file", alone.encode())]).services) == ["m"]
    with pytest.raises(ConfigErrors, match=r"a1\.channels: is missing"):
        judge([("file", f"{alone}a1.sources = r1\na1.sources.r1.type = seq\n".encode())])


def test_tolerable_says_whether_lenient_would_run_it() -> None:
    """The command's hint depends on it."""
    for more, tolerable in (("a1.sinks.k1.x = 1", True), ("a1.sinks.k1.x = 1\na1.sinks.k1.type = hdsf", False)):
        with pytest.raises(ConfigErrors) as caught:
            flow(more)
        assert caught.value.tolerable is tolerable


def test_a_parked_component_is_a_warning() -> None:
    """Properties of a component that no list names are how one parks it; without a type the name is wrong."""
    assert warnings("a1.sinks.k9.type = null") == ["more:1: a1.sinks.k9: is not in a1.sinks and does not run"]
    assert errors("a1.sinks.k2.channel = c1") == ["more:1: a1.sinks.k2: is not in a1.sinks; it has k1"]


def test_unknown_keys_of_a_class_of_ones_own_are_a_warning() -> None:
    """It may read them by itself."""
    more = f"a1.sinks.k1.type = {PARTS}:Keep\na1.sinks.k1.password = x\na1.sinks.k1.other = 1"
    judged = flow(more)
    assert judged.sinks["k1"].type == f"{PARTS}:Keep" and [w.place for w in judged.warnings] == ["more:3"]


def test_a_missing_library_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install; a module that isn't there says where it must lie."""
    (tmp_path / "needs_paho.py").write_text("import paho_that_is_not_here\n")
    (tmp_path / "fails.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("agent.component.EXTRAS", {"paho_that_is_not_here": "mqtt"})
    start = "more:1: a1.sinks.k1.type: "
    assert errors("a1.sinks.k1.type = needs_paho:X") == [
        f"{start}type needs_paho:X needs the package paho_that_is_not_here: pip install 'headrace[mqtt]'"
    ]
    assert errors("a1.sinks.k1.type = not_there.at_all:X") == [
        f"{start}there is no module not_there; it must lie on PYTHONPATH"
    ]
    assert errors("a1.sinks.k1.type = fails:X") == [
        f"{start}module fails can't be imported: ZeroDivisionError: division by zero"
    ]
    assert errors(f"a1.sinks.k1.type = {PARTS}:NotAComponent") == [f"{start}{PARTS}:NotAComponent is not a component"]


def test_only_what_the_file_names_is_imported() -> None:
    """Judging seq -> memory -> logger loads no other component and no library of one."""
    probe = (
        "import sys\nfrom agent.config.flow import judge\n"
        f"judge([('base', {BASE.encode()!r})])\nprint(*sys.modules, sep='\\n')"
    )
    run = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    kinds = ("sources", "channels", "sinks", "interceptors", "selectors", "services", "serializers", "processors")
    components = {name for name in loaded if len(name.split(".")) == 3 and name.split(".")[1] in kinds}
    assert components == {
        "agent.sources.seq", "agent.channels.memory", "agent.sinks.logger", "agent.selectors.replicating",
    }  # fmt: skip
    assert not loaded & {"paho", "fastavro", "sqlite_utils", "sqlite3", "amqtt"}


def test_flows_are_equal_whatever_their_lines() -> None:
    """Comments, order of keys and places don't count; a value does."""
    moved = "\n\n# moved\n" + BASE
    assert judge([("other", moved.encode())]) == flow()
    assert flow("a1.sinks.k1.maxBytesToLog = 32") != flow()


def test_a_secret_is_in_no_text_of_a_flow(tmp_path: Path) -> None:
    """Neither repr of the flow nor an error shows what stands in a secret's key or file."""
    (tmp_path / "pw").write_text("s3cret")
    more = f"a1.sinks.k1.type = {PARTS}:Keep\na1.sinks.k1.token = t0ken\na1.sinks.k1.password = file:{tmp_path}/pw"
    judged = flow(more)
    assert "s3cret" not in repr(judged) and "t0ken" not in repr(judged)
