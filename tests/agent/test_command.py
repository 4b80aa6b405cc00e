"""The command line: options of Flume's and ours, exit codes, the built-in configurations, reload and signals."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agent import command, logs, options
from agent.options import parse
from aggregator.__main__ import AGGREGATOR
from edge.__main__ import COLLECTOR
from tests.peers.harness import ROOT, Program, answers, free_port, http_get, wait_until

FLOW = """\
a1.sources = r1
a1.channels = c1
a1.sinks = k1
a1.sources.r1.type = seq
a1.sources.r1.totalEvents = 3
a1.sources.r1.channels = c1
a1.channels.c1.type = memory
a1.sinks.k1.type = null
a1.sinks.k1.channel = c1
"""


def run(*arguments: str, package: str = "edge", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """`python -m edge arguments`, to its end."""
    return subprocess.run(
        [sys.executable, "-m", package, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=cwd, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    path = tmp_path / "flow.conf"
    path.write_text(FLOW)
    return path


# ---- options


def test_flumes_own_line_is_taken_as_it_is() -> None:
    """Every option of `flume-ng agent` of Flume's guide means the same."""
    line = "agent --conf conf --conf-file example.conf --name a1 -Dflume.root.logger=DEBUG,console"
    read = parse(COLLECTOR, line.split())
    assert (read.given.name, read.given.files, read.given.log_level) == ("a1", ["example.conf"], logging.DEBUG)


def test_short_options_and_several_files() -> None:
    """-f may come again; -D gives system properties, also empty ones and ones with an equals sign."""
    read = parse(COLLECTOR, ["-n", "a1", "-f", "x", "-f", "y", "-i", "30", "-Da=b=c", "-De", "--no-reload-conf"])
    assert read.given.files == ["x", "y"] and read.given.poll_interval == 30 and read.given.no_reload_conf
    assert read.system == {"a": "b=c", "e": ""}


@pytest.mark.parametrize("flag", [flag for flags in options.REFUSED for flag in flags])
def test_what_is_not_there_is_refused(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An option that would promise what isn't there ends with 2 and says what to do instead."""
    with pytest.raises(SystemExit) as ended:
        parse(COLLECTOR, [flag, "x"])
    assert ended.value.code == 2
    assert f"{flag}: " in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["-C", "x"], ["--plugins-path", "x"], ["-Xmx20m"], ["-b", "x"], ["-a", "x"]])
def test_what_means_nothing_is_accepted_with_a_warning(arguments: list[str]) -> None:
    """A JVM's options are accepted, with one warning each that says why."""
    read = parse(COLLECTOR, [*arguments, "-n", "a1"])
    assert len(read.given.warnings) == 1 and read.given.name == "a1"


@pytest.mark.parametrize(
    "arguments",
    [["avro-client", "-H", "x"], ["--log-level", "loud"], ["-Dflume.root.logger=LOUD,console"], ["--nonsense"]],
)
def test_wrong_options_end_with_2(arguments: list[str]) -> None:
    """A wrong option or level ends with 2."""
    with pytest.raises(SystemExit) as ended:
        parse(COLLECTOR, arguments)
    assert ended.value.code == 2


def test_log_level_goes_before_flumes_property() -> None:
    """--log-level wins over -Dflume.root.logger."""
    assert parse(COLLECTOR, ["--log-level", "error", "-Dflume.root.logger=DEBUG"]).given.log_level == logging.ERROR


def test_json_lines_hold_the_exception() -> None:
    """A line of the JSON log is one object with time, level, logger, message, and the traceback if there is one."""
    try:
        raise OSError("gone")
    except OSError:
        record = logging.LogRecord("agent.x", logging.WARNING, "", 0, "a %s", ("b\nc",), sys.exc_info())
    text = logs.JsonFormatter().format(record)
    line = json.loads(text)
    assert "\n" not in text and line["message"] == "a b\nc" and "OSError: gone" in line["exception"]
    assert line["time"].endswith("Z") and line["logger"] == "agent.x"


def test_version_and_help_load_no_runtime() -> None:
    """`version` and `--help` end with 0 and load neither asyncio nor a component."""
    done = run("version")
    assert done.returncode == 0 and done.stdout.startswith("Headrace ")
    script = "import sys, edge.__main__ as m; sys.argv[1:] = ['--help']\ntry: m.main()\nexcept SystemExit: pass\n"
    script += "print([n for n in sys.modules if n in ('asyncio', 'sqlite3', 'ssl') or '.sinks' in n])"
    shown = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert shown.rstrip().endswith("[]") and "exit codes:" in shown


# ---- judging


def test_check_of_a_right_file(conf: Path) -> None:
    """--check of a right file says what it holds and ends with 0; the only agent needs no name."""
    done = run("-f", str(conf), "--check")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "agent a1: 1 source, 1 channel, 1 sink: the configuration is right\n"


def test_check_says_every_error_with_its_line(conf: Path) -> None:
    """--check of a wrong file names every error with file and line and ends with 2."""
    conf.write_text(FLOW.replace("memory", "memry").replace("k1.channel", "k1.chanel"))
    done = run("-f", str(conf), "--check")
    assert done.returncode == 2 and done.stdout == ""
    assert f"{conf}:7: " in done.stderr and f"{conf}:9: " in done.stderr
    assert "3 errors in the configuration, nothing was started" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-f", "missing.conf"], "missing.conf: the configuration can't be read: No such file or directory"),
        (["-f", "flow.conf", "-n", "a2"], "a2"),
        (["-f", "flow.conf", "-Dflume.monitoring.type=ganglia"], "it takes http"),
        (["-f", "flow.conf", "-Dflume.monitoring.type=http", "-Dflume.monitoring.port=x"], "it takes a port"),
    ],
)
def test_wrong_files_and_properties_end_with_2(conf: Path, arguments: list[str], says: str) -> None:
    """A missing file, an agent that isn't in it, wrong monitoring: one line that says so, and 2."""
    done = run(*arguments, cwd=conf.parent)
    assert done.returncode == 2 and says in done.stderr and "Traceback" not in done.stderr


def test_lenient_is_named_only_where_it_helps(conf: Path) -> None:
    """--lenient is offered for a key that Flume would drop, not where nothing would be left or the file is missing."""
    conf.write_text(FLOW.replace("totalEvents", "totalEvent"))
    assert "nothing was started; --lenient" in run("-f", str(conf)).stderr
    conf.write_text(FLOW.replace("memory", "memry"))
    assert "--lenient" not in run("-f", str(conf)).stderr
    assert "--lenient" not in run("-f", "nix.conf", cwd=conf.parent).stderr


def test_the_monitoring_port_clashes_with_a_component(conf: Path) -> None:
    """-Dflume.monitoring.port and a component of the file on one port: its key and place, and 2."""
    conf.write_text(FLOW + "a1.services = web\na1.services.web.type = metrics\na1.services.web.port = 41999\n")
    done = run("-f", str(conf), "--check", "-Dflume.monitoring.type=http", "-Dflume.monitoring.port=41999")
    assert done.returncode == 2
    assert "a1.services.web.port: port 41999 is taken by -Dflume.monitoring.port" in done.stderr


@pytest.mark.parametrize("package", ["edge", "aggregator"])
def test_write_config_gives_what_runs(package: str, tmp_path: Path) -> None:
    """--write-config writes the built-in configuration, commented, in a form that --check takes; never over a file."""
    done = run("--write-config", "my.conf", package=package, cwd=tmp_path)
    assert done.returncode == 0 and "my.conf" in done.stdout
    assert "# " in (tmp_path / "my.conf").read_text()
    assert run("-f", "my.conf", "--check", package=package, cwd=tmp_path).returncode == 0
    again = run("--write-config", "my.conf", package=package, cwd=tmp_path)
    assert again.returncode == 2 and "File exists" in again.stderr


def test_write_config_of_a_file_is_the_same_flow(conf: Path) -> None:
    """--write-config with -f renders that file's flow; what it prints is right again."""
    done = run("-f", str(conf), "--write-config", "-")
    assert done.returncode == 0, done.stderr
    copy = conf.with_name("copy.conf")
    copy.write_text(done.stdout)
    assert (
        run("-f", str(copy), "--check").stdout == "agent a1: 1 source, 1 channel, 1 sink: the configuration is right\n"
    )


@pytest.mark.parametrize("path", sorted((ROOT / "deploy").glob("*.conf")), ids=lambda path: path.name)
def test_shipped_configurations_are_right(path: Path) -> None:
    """Every configuration in deploy/ is judged right without a warning."""
    done = run("-f", str(path), "--check", package="edge" if "collector" in path.name else "aggregator")
    assert done.returncode == 0 and done.stderr == "", done.stderr


def test_the_guides_configurations_are_right(tmp_path: Path) -> None:
    """Every whole configuration that docs/guide.md shows is judged right without a warning."""
    blocks = re.findall(r"```properties\n(.*?)```", (ROOT / "docs" / "guide.md").read_text(), re.DOTALL)
    for number, block in enumerate(blocks):
        path = tmp_path / f"{number}.conf"
        path.write_text(block)
        done = run("-f", str(path), "--check")
        assert done.returncode == 0 and done.stderr == "", done.stderr
    assert blocks


def test_a_closed_terminal_does_not_end_it(conf: Path) -> None:
    """When nobody reads what it prints any more, the agent goes on."""
    reading, writing = os.pipe()
    os.close(reading)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "edge", "-f", str(conf)]
    with subprocess.Popen(command, env=env, stdout=writing, stderr=subprocess.PIPE, text=True) as one:
        os.close(writing)
        port = free_port()
        conf.write_text(FLOW + f"a1.services = web\na1.services.web.type = metrics\na1.services.web.port = {port}\n")
        wait_until(lambda: answers(port), what="the reloaded agent's metrics port")
        one.terminate()
        assert one.wait(30) == 0


def test_built_in_configurations_share_no_store() -> None:
    """Started in one folder, the two programs keep their stores apart and listen on different ports."""
    stores, ports = [], []
    for program in (COLLECTOR, AGGREGATOR):
        lines = program.default()[1].decode().splitlines()
        pairs = dict(line.split(" = ") for line in lines if " = " in line and not line.startswith("#"))
        stores.append({value for name, value in pairs.items() if name.endswith(".path")})
        ports.append({value for name, value in pairs.items() if name.endswith("web.port")})
    assert len(stores[0]) == 1 and len(stores[1]) == 2 and stores[0].isdisjoint(stores[1])
    assert ports == [{"41416"}, {"41415"}]


# ---- running

Make = Callable[..., Program]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, ])  # fmt: skip
def test_a_signal_ends_it_clean(program: Make, number: int) -> None:
    """SIGTERM and SIGINT drain and end with 0."""
    one = program("edge", FLOW)
    one.signal(number)
    assert one.wait_exit() == 0
    assert "stopping" in one.log and "Traceback" not in one.log


def test_it_says_what_runs_and_that_it_is_ready(program: Make) -> None:
    """At start it says what comes in, is kept and goes out, and then that it is ready."""
    one = program("edge", FLOW)
    one.wait_log("ready, agent a1: 1 source, 1 channel, 1 sink")
    lines = [line.split() for line in one.log.splitlines()]
    assert ["in", "r1", "seq"] in lines and ["keep", "c1", "memory"] in lines and ["out", "k1", "null"] in lines


def test_monitoring_flags_give_flumes_json(program: Make) -> None:
    """-Dflume.monitoring.type=http serves Flume's JSON on the port, loopback only."""
    one = program("edge", FLOW)
    shown = one.metrics()
    assert {"SOURCE.r1", "CHANNEL.c1", "SINK.k1"} <= set(shown)
    wait_until(lambda: one.count("SINK.k1", "EventDrainSuccessCount") == 3, what="three events at the sink")


def test_a_changed_file_is_taken_up(program: Make) -> None:
    """New content of the file is taken up by itself; an unchanged channel goes on and keeps its counters."""
    one = program("edge", FLOW, args=["-i", "0.1"])
    wait_until(lambda: one.count("CHANNEL.c1", "EventPutSuccessCount") == 3, what="three events in")
    one.conf_file.write_text(FLOW.replace("totalEvents = 3", "totalEvents = 5"))
    one.wait_log("configuration taken up")
    wait_until(lambda: one.count("CHANNEL.c1", "EventPutSuccessCount") == 8, what="five more events")


def test_a_bad_new_file_is_refused_once(program: Make) -> None:
    """A wrong new file is refused with its errors, once, and the old configuration goes on."""
    one = program("edge", FLOW, args=["-i", "0.1"])
    one.conf_file.write_text(FLOW.replace("seq", "sequence"))
    one.wait_log("the new configuration is refused")
    assert f"{one.conf_file}:4: " in one.log
    one.conf_file.write_text(FLOW + "# right again\n")
    one.wait_log("configuration taken up")
    assert one.log.count("is refused") == 1 and http_get(one.monitoring, "/readyz")[0] == 200


def test_hang_up_reloads(program: Make) -> None:
    """SIGHUP reloads the file also with --no-reload-conf."""
    one = program("edge", FLOW, args=["--no-reload-conf"])
    one.conf_file.write_text(FLOW + "a1.sinks.k1.batchSize = 7\n")
    one.signal(signal.SIGHUP)
    one.wait_log("configuration taken up")


def test_a_taken_port_names_the_other_program(conf: Path) -> None:
    """A port that somebody listens on is one error that names the process, and 1."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = run("-f", str(conf), "-Dflume.monitoring.type=http", f"-Dflume.monitoring.port={port}")
    assert done.returncode == 1
    assert f"127.0.0.1:{port} is taken by process {os.getpid()}" in done.stderr and "Traceback" not in done.stderr


def test_systemd_hears_of_it(program: Make, tmp_path: Path) -> None:
    """READY, WATCHDOG and STOPPING go to the socket of NOTIFY_SOCKET."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        env = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "300000"}
        one = program("edge", FLOW, env=env)
        heard: list[str] = []
        while not any("READY=1" in text for text in heard) or heard.count("WATCHDOG=1") < 3:
            heard.append(manager.recv(4096).decode())
        one.signal(signal.SIGTERM)
        while not any("STOPPING=1" in text for text in heard):
            heard.append(manager.recv(4096).decode())


def test_json_log_is_json(program: Make) -> None:
    """With --log-format json every line that it prints is one JSON object."""
    one = program("edge", FLOW, args=["--log-format", "json"])
    one.wait_log("ready, ")
    one.stop()
    lines = [json.loads(line) for line in one.log.splitlines()]
    assert any(line["message"].startswith("ready, agent a1") for line in lines)


def test_no_argument_aggregator(tmp_path: Path) -> None:
    """Without an argument the built-in configuration runs; a taken port is one line (another aggregator runs here)."""
    text = AGGREGATOR.default()[1].decode()
    for port in ("41414", "41415", "9092"):
        text = text.replace(port, str(free_port()))
    one = Program("aggregator", text, tmp_path)
    with one:
        one.wait_log("ready, agent aggregator: 1 source, 3 channels, 3 sinks")
        assert (tmp_path / "headrace-data" / "aggregator" / "headrace.db").exists()
    assert one.process is not None and one.process.returncode == 0


def test_lenient_runs_the_rest(conf: Path) -> None:
    """--lenient drops what is wrong with a warning, as Flume does, and goes on with the rest."""
    conf.write_text(FLOW.replace("sinks = k1", "sinks = k1 k2") + "a1.sinks.k2.type = null\na1.sinks.k2.channel = c9\n")
    strict, lenient = run("-f", str(conf), "--check"), run("-f", str(conf), "--check", "--lenient")
    assert strict.returncode == 2 and lenient.returncode == 0
    assert lenient.stdout == "agent a1: 1 source, 1 channel, 1 sink: the configuration is right\n"
    assert "WARN" in lenient.stderr and f"{conf}:11" in lenient.stderr


def test_system_properties_reach_the_file(conf: Path) -> None:
    """-Dkey=value is ${sys:key} in the file."""
    conf.write_text(FLOW.replace("totalEvents = 3", "totalEvents = ${sys:total}"))
    assert run("-f", str(conf), "--check", "-Dtotal=3").returncode == 0
    assert run("-f", str(conf), "--check", "-Dtotal=three").returncode == 2


def test_later_files_replace_keys(conf: Path) -> None:
    """Of several -f the later one's keys win, and an error names the file that it is in."""
    other = conf.with_name("other.conf")
    other.write_text("a1.sinks.k1.type = nonsense\n")
    done = run("-f", str(conf), "-f", str(other), "--check")
    assert done.returncode == 2 and f"{other}:1: a1.sinks.k1.type" in done.stderr


STUCK = (
    FLOW.replace("k1.type = null", "k1.type = avro\na1.sinks.k1.hostname = 127.0.0.1\na1.sinks.k1.port = 1")
    + "a1.drainTimeout = 600\n"
)


def test_a_second_signal_skips_the_drain(program: Make) -> None:
    """While a memory channel drains into a sink that can't deliver, a second SIGTERM ends it, saying what is lost."""
    one = program("edge", STUCK)
    wait_until(lambda: one.count("CHANNEL.c1", "EventPutSuccessCount") == 3, what="three events in")
    one.signal(signal.SIGTERM)
    one.wait_log("stopping")
    assert one.running
    one.signal(signal.SIGTERM)
    assert one.wait_exit() == 0
    assert "3 events, they are lost" in one.log


def test_the_default_folder_of_a_store_is_said_at_start(conf: Path) -> None:
    """A file channel that names no folder says at start where its store lies."""
    conf.write_text(FLOW.replace("c1.type = memory", "c1.type = file"))
    read = parse(COLLECTOR, ["-f", str(conf)])
    assert "  keep   c1  file  ~/.headrace/a1" in command.banner(read, read.judge(read.read()))


def test_a_store_that_another_agent_holds_ends_with_1(program: Make) -> None:
    """Two agents on one store: the second ends with 1 and names the first."""
    text = FLOW.replace("c1.type = memory", "c1.type = file\na1.channels.c1.path = {store}")
    first = program("edge", "", name="first", start=False)
    first.conf = text.format(store=first.folder / "store")
    first.start()
    second = program("edge", first.conf, name="second", start=False)
    second.launch()
    assert second.wait_exit() == 1
    assert f"is held by process {first.pid}" in second.log and "Traceback" not in second.log
