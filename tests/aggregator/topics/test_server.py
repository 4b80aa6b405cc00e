"""Connections: the order of answers, what one client may cost, and what ends its connection."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import struct
from pathlib import Path

import pytest

from agent import server as listeners
from agent.errors import ChannelError
from aggregator.topics import handlers, server
from aggregator.topics.errors import Code
from aggregator.topics.wire.api import APIS, Api, encode_request
from aggregator.topics.wire.tables.connection import API_VERSIONS, METADATA, SASL_AUTHENTICATE, SASL_HANDSHAKE
from aggregator.topics.wire.tables.groups import JOIN_GROUP
from aggregator.topics.wire.tables.records import FETCH, PRODUCE
from tests.agent.certificates import Authority
from tests.aggregator.topics.talking import (
    Client,
    Scene,
    batch,
    fetch,
    fetching,
    framed,
    produce,
    producing,
    run,
    until,
    values,
)

HOUR_MS = 3_600_000
JOIN = {
    "group_id": "g", "session_timeout_ms": 10_000, "rebalance_timeout_ms": 10_000, "member_id": "",
    "protocol_type": "consumer", "protocols": [{"name": "range", "metadata": b"\0\0\0\0\0\0\0\0\0\0"}],
}  # fmt: skip


async def topic(scene: Scene, name: str = "t", **config: str) -> Client:
    """A topic, and a client."""
    await scene.log.create(name, 1, {key.replace("_", "."): value for key, value in config.items()})
    return await scene.client()


# -- order


def test_answers_come_in_the_order_of_the_requests(tmp_path: Path) -> None:
    """What is asked while a fetch waits is answered after it, as in Kafka."""

    async def steps(scene: Scene) -> None:
        client = await topic(scene)
        client.send(FETCH, 11, fetching(("t", 0, 0), wait=HOUR_MS))
        client.send(METADATA, 8, {"topics": None})
        await produce(await scene.client(), "t", batch(b"a"))
        assert (await client.answer(FETCH, 11))[0] == 1
        assert (await client.answer(METADATA, 8))[0] == 2

    run(steps, tmp_path)


def test_produce_requests_overlap_and_keep_their_order(tmp_path: Path) -> None:
    """More of them than may be in flight, sent at once, stand in the log in their order."""

    async def steps(scene: Scene) -> None:
        client = await topic(scene)
        most = 0
        append = scene.log.append

        async def watched(*args: object) -> object:
            nonlocal most
            most = max(most, *(len(peer.flights) for peer in scene.peers if isinstance(peer, server.TopicsPeer)))
            return await append(*args)  # type: ignore[arg-type]

        scene.log.append = watched  # type: ignore[method-assign,assignment]
        want = [b"%d" % number for number in range(40)]
        for value in want:
            client.send(PRODUCE, 8, producing("t", batch(value)))
        offsets = [(await client.answer(PRODUCE, 8))[1]["responses"][0]["partition_responses"][0] for _ in want]
        assert [one["base_offset"] for one in offsets] == [*range(40)]
        assert values((await fetch(client, ("t", 0, 0)))[0]["records"]) == want
        assert most == server.IN_FLIGHT

    run(steps, tmp_path)


def test_nothing_overlaps_with_another_request(tmp_path: Path) -> None:
    """A fetch between two Produce requests sees the first and not the second."""

    async def steps(scene: Scene) -> None:
        client = await topic(scene)
        client.send(PRODUCE, 8, producing("t", batch(b"a")))
        client.send(FETCH, 11, fetching(("t", 0, 0)))
        client.send(PRODUCE, 8, producing("t", batch(b"b")))
        await client.answer(PRODUCE, 8)
        _, body = await client.answer(FETCH, 11)
        assert values(body["responses"][0]["partitions"][0]["records"]) == [b"a"]

    run(steps, tmp_path)


def test_a_request_that_comes_byte_by_byte(tmp_path: Path) -> None:
    """It is answered as if it had come whole."""

    async def steps(scene: Scene) -> None:
        client = await scene.client()
        for byte in framed(b"".join(encode_request(METADATA, 8, 7, "slow", {"topics": None}))):
            client.writer.write(bytes([byte]))
            await client.writer.drain()
            await asyncio.sleep(0)
        assert (await client.answer(METADATA, 8))[0] == 7

    run(steps, tmp_path)


def test_without_an_answer_the_next_request_goes_on(tmp_path: Path) -> None:
    """acks=0 is answered by nothing at all."""

    async def steps(scene: Scene) -> None:
        client = await topic(scene)
        client.send(PRODUCE, 8, producing("t", batch(b"a"), acks=0))
        client.send(FETCH, 11, fetching(("t", 0, 0)))
        number, body = await client.answer(FETCH, 11)
        assert number == 2
        assert values(body["responses"][0]["partitions"][0]["records"]) == [b"a"]

    run(steps, tmp_path)


# -- refusals


def head(key: int, version: int, body: bytes = b"") -> bytes:
    """A request with correlation 9 and no client id."""
    return key.to_bytes(2, "big") + version.to_bytes(2, "big") + b"\0\0\0\x09\xff\xff" + body


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\xff\xff\xff\xff", "a frame of -1 bytes"),
        (b"\x7f\xff\xff\xff", "a frame of 2147483647 bytes"),
        (framed(b"\0\x12"), "a request ends early"),
        (framed(head(99, 0)), "an API of key 99 in version 0 isn't served"),
        (framed(head(METADATA.key, 99)), "Metadata 3 in version 99 isn't served"),
        (framed(head(PRODUCE.key, 2)), "Produce 0 in version 2 isn't served"),
        (framed(head(METADATA.key, 1, b"\x7f\xff\xff\xff")), "an array claims 2147483647 elements"),
        (framed(head(METADATA.key, 0, b"\0\0\0\0junk")), "4 bytes too many"),
        (framed(head(METADATA.key, 0, b"\0\0\0\x01\0\x02\xff\xfe")), "no UTF-8"),
    ],
    ids=["negative", "large", "early", "api", "version", "produce-2", "claim", "junk", "utf-8"],
)
def test_what_cannot_be_answered_ends_its_connection_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, data: bytes, why: str
) -> None:
    """With one line in the log that says from where and why; others go on."""

    async def steps(scene: Scene) -> None:
        bystander, client = await scene.client(), await scene.client()
        client.writer.write(data)
        assert await client.is_closed()
        assert (await bystander.ask(METADATA, 8, {"topics": None}))["topics"] == []

    run(steps, tmp_path)
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(lines) == 1
    assert why in lines[0]
    assert lines[0].startswith("127.0.0.1:")


def test_an_unknown_version_of_apiversions_is_answered(tmp_path: Path) -> None:
    """In version 0 with error 35, and the same connection goes on in a version that is known (KIP-511)."""

    async def steps(scene: Scene) -> None:
        client = await scene.client()
        client.writer.write(framed(head(API_VERSIONS.key, 4, b"\0\x05java\x062.0\0")))
        number, body = await client.answer(API_VERSIONS, 0)
        assert (number, body["error_code"]) == (9, Code.UNSUPPORTED_VERSION)
        body = await client.ask(API_VERSIONS, 2, {})
        assert body["error_code"] == 0
        assert {one["api_key"] for one in body["api_keys"]} == {*handlers.HANDLERS}

    run(steps, tmp_path)


def test_every_api_of_the_tables_is_served() -> None:
    """And no other."""
    assert {*handlers.HANDLERS} == {*APIS}


def test_a_bug_ends_one_connection(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a handler raises unexpectedly is logged with its trace, and the service goes on."""

    async def steps(scene: Scene) -> None:
        async def buggy(*_: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setitem(handlers.HANDLERS, FETCH.key, buggy)
        client, other = await topic(scene), await scene.client()
        client.send(FETCH, 11, fetching(("t", 0, 0)))
        assert await client.is_closed()
        assert (await produce(other, "t", batch(b"a")))["error_code"] == 0

    run(steps, tmp_path)
    assert any(record.exc_info and record.exc_info[0] is ZeroDivisionError for record in caplog.records)


def test_a_log_that_cannot_go_on_ends_the_service(tmp_path: Path) -> None:
    """Its ChannelError is what `run` raises, so that the agent ends and is started again."""

    async def steps(scene: Scene) -> None:
        client = await topic(scene)
        scene.log.fail(ChannelError("the disk is gone"))
        client.send(PRODUCE, 8, producing("t", batch(b"a")))
        assert await client.is_closed()
        with pytest.raises(ChannelError, match="the disk is gone"):
            await scene.service.run()

    run(steps, tmp_path)


def test_acks_0_learns_of_a_failure_by_the_end_of_its_connection(tmp_path: Path) -> None:
    """As in Kafka: there is no answer that could say it."""

    async def steps(scene: Scene) -> None:
        client = await topic(scene)
        client.send(PRODUCE, 8, producing("unknown", batch(b"a"), acks=0))
        assert await client.is_closed()

    run(steps, tmp_path)


# -- bounds


def test_a_client_that_reads_nothing_has_a_bounded_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answer counts in the room of all, nothing more is begun for it, others are served, and it is closed in the
    end; then the room is free again."""
    monkeypatch.setattr(listeners, "SWEEP_SECONDS", 0.05)
    monkeypatch.setattr(listeners, "STALL_SECONDS", 0.3)

    async def steps(scene: Scene) -> None:
        client = await topic(scene)
        for _ in range(8):
            await produce(client, "t", batch(b"x" * 1_000_000))
        room = scene.service.broker.room
        deaf = await scene.client()
        for _ in range(20):
            deaf.send(FETCH, 11, fetching(("t", 0, 0), most=1 << 30))
        await until(lambda: room.used)
        assert room.used <= room.limit // 4
        assert values((await fetch(client, ("t", 0, 7)))[0]["records"]) == [b"x" * 1_000_000]
        await until(lambda: len(scene.peers) == 1)
        assert room.used == 0

    run(steps, tmp_path, maxBytesInFlight="20MiB")


def test_who_does_not_read_can_not_buy_time_by_sending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then of a next request keeps neither the connection nor the room that its answer takes."""
    monkeypatch.setattr(listeners, "SWEEP_SECONDS", 0.05)
    monkeypatch.setattr(listeners, "STALL_SECONDS", 0.3)

    async def steps(scene: Scene) -> None:
        client = await topic(scene)
        for _ in range(8):
            await produce(client, "t", batch(b"x" * 1_000_000))
        deaf = await scene.client()
        deaf.send(FETCH, 11, fetching(("t", 0, 0), most=1 << 30))
        request = framed(b"".join(encode_request(METADATA, 8, 2, "x" * 30_000, {"topics": None})))
        at = 0
        while len(scene.peers) == 2:
            deaf.writer.write(request[at : at + 1])
            at += 1
            await asyncio.sleep(0.02)
        assert scene.service.broker.room.used == 0

    run(steps, tmp_path)


def test_where_answers_fill_the_room_others_go_on(tmp_path: Path) -> None:
    """A batch at a time, however long those who fill it take to read."""

    async def steps(scene: Scene) -> None:
        client = await topic(scene)
        for value in (b"a", b"b"):
            await produce(client, "t", batch(value))
        room = scene.service.broker.room
        room.used = room.limit
        for at, value in enumerate((b"a", b"b")):
            assert values((await fetch(client, ("t", 0, at)))[0]["records"]) == [value]

    run(steps, tmp_path)


def test_a_slow_reader_is_not_taken_for_a_deaf_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who takes its answer little by little may take longer than the bound on silence."""
    monkeypatch.setattr(listeners, "SWEEP_SECONDS", 0.02)
    monkeypatch.setattr(listeners, "STALL_SECONDS", 0.3)

    async def steps(scene: Scene) -> None:
        client = await topic(scene)
        for _ in range(8):
            await produce(client, "t", batch(b"x" * 1_000_000))
        slow = await scene.client()
        await until(lambda: len(scene.peers) == 2)
        for transport in (slow.writer.transport, *(peer.transport for peer in scene.peers)):
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, option, 1 << 16)
        slow.send(FETCH, 11, fetching(("t", 0, 0), most=1 << 30))
        size = int.from_bytes(await slow.reader.readexactly(4), "big")
        assert size > 8_000_000
        for _ in range(20):
            await asyncio.sleep(0.04)
            await slow.reader.readexactly(size // 20)
        await slow.reader.readexactly(size % 20)
        assert (await slow.ask(METADATA, 8, {"topics": None}))["topics"]

    run(steps, tmp_path)


def test_where_answers_fill_twice_the_room_a_fetch_waits(tmp_path: Path) -> None:
    """It gets no records after its wait, and no error; and all of them when there is room again."""

    async def steps(scene: Scene) -> None:
        client = await topic(scene)
        await produce(client, "t", batch(b"a"))
        room = scene.service.broker.room
        room.used = 2 * room.limit
        assert (await fetch(client, ("t", 0, 0), wait=10))[0]["records"] == b""
        room.used = 0
        assert values((await fetch(client, ("t", 0, 0)))[0]["records"]) == [b"a"]

    run(steps, tmp_path)


def test_who_is_gone_is_waited_for_no_more(tmp_path: Path) -> None:
    """A fetch that waits an hour and a member that waits for others end with their connections."""

    async def steps(scene: Scene) -> None:
        fetcher, member = await topic(scene), await scene.client()
        fetcher.send(FETCH, 11, fetching(("t", 0, 0), wait=HOUR_MS))
        member.send(JOIN_GROUP, 5, JOIN)
        partition = scene.log.partition("t", 0)
        await until(lambda: partition.waiting)
        fetcher.close()
        member.close()
        await until(lambda: not scene.peers)
        await until(lambda: not partition.waiting)

    run(steps, tmp_path)


def test_what_is_appended_counts_until_it_is_kept(tmp_path: Path) -> None:
    """Also when who sent it is gone, or else one client after another could fill the memory."""

    async def steps(scene: Scene) -> None:
        client = await topic(scene)
        gate, append = asyncio.Event(), scene.log.append

        async def slow(*args: object) -> object:
            await gate.wait()
            return await append(*args)  # type: ignore[arg-type]

        scene.log.append = slow  # type: ignore[method-assign,assignment]
        assert scene.service.listener
        budget = scene.service.listener.budget
        client.send(PRODUCE, 8, producing("t", batch(b"x" * 900_000)))
        await until(lambda: budget.busy > 900_000)
        reset = struct.pack("ii", 1, 0)
        client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        client.close()
        await until(lambda: not scene.peers)
        assert budget.busy > 900_000
        gate.set()
        await until(lambda: scene.log.partition("t", 0).end == 1)
        await until(lambda: budget.used == 0)

    run(steps, tmp_path)


def test_what_came_before_the_end_is_kept(tmp_path: Path) -> None:
    """A client without acks that closes at once loses nothing of what arrived."""

    async def steps(scene: Scene) -> None:
        client = await topic(scene)
        for number in range(50):
            client.send(PRODUCE, 8, producing("t", batch(b"%d" % number), acks=0))
        client.writer.write_eof()
        await until(lambda: scene.log.partition("t", 0).end == 50)
        assert await client.is_closed()

    run(steps, tmp_path)


def test_a_stop_waits_for_no_fetch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The service closes while clients wait for records, without cutting them."""

    async def steps(scene: Scene) -> None:
        client = await topic(scene)
        client.send(FETCH, 11, fetching(("t", 0, 0), wait=HOUR_MS))
        await until(lambda: scene.log.partition("t", 0).waiting)

    run(steps, tmp_path)
    assert "did not end in time" not in caplog.text


def test_large_answers_over_tls(tmp_path: Path) -> None:
    """Requests and answers of many times what one read or write takes, and a client that is gone."""
    authority = Authority(tmp_path)
    pem, _ = authority.leaf("server", "127.0.0.1")

    async def steps(scene: Scene) -> None:
        await scene.log.create("t", 1)
        client = await scene.client(ssl.create_default_context(cafile=str(authority.pem)))
        for _ in range(5):
            await produce(client, "t", batch(b"x" * 1_000_000))
        (found,) = await fetch(client, ("t", 0, 0), most=1 << 30)
        assert values(found["records"]) == [b"x" * 1_000_000] * 5
        assert scene.service.broker.room.used == 0
        client.send(FETCH, 11, fetching(("t", 0, 5), wait=HOUR_MS))
        await until(lambda: scene.log.partition("t", 0).waiting)
        client.close()
        await until(lambda: not scene.peers)
        assert not scene.log.partition("t", 0).waiting

    run(steps, tmp_path, ssl="true", keystore=str(pem))


# -- authentication


def users(folder: Path) -> str:
    path = folder / "users"
    path.write_text("alice = secret\n")
    path.chmod(0o600)
    return str(path)


async def plain(client: Client, text: bytes) -> dict[str, object]:
    assert (await client.ask(SASL_HANDSHAKE, 1, {"mechanism": "PLAIN"}))["error_code"] == 0
    return await client.ask(SASL_AUTHENTICATE, 1, {"auth_bytes": text})


def test_before_authentication_only_what_belongs_to_it(tmp_path: Path) -> None:
    """ApiVersions and SASL are answered, anything else ends the connection."""

    async def steps(scene: Scene) -> None:
        client = await scene.client()
        assert (await client.ask(API_VERSIONS, 0, {}))["error_code"] == 0
        client.send(METADATA, 8, {"topics": None})
        assert await client.is_closed()

    run(steps, tmp_path, sasl__users=users(tmp_path))


def test_who_proves_its_name_is_served(tmp_path: Path) -> None:
    """PLAIN on loopback; afterwards there is nothing left to shake hands about."""

    async def steps(scene: Scene) -> None:
        client = await scene.client()
        assert (await plain(client, b"\0alice\0secret"))["error_code"] == 0
        assert (await client.ask(METADATA, 8, {"topics": None}))["topics"] == []
        body = await client.ask(SASL_HANDSHAKE, 1, {"mechanism": "PLAIN"})
        assert body["error_code"] == Code.ILLEGAL_SASL_STATE
        assert await client.is_closed()

    run(steps, tmp_path, sasl__users=users(tmp_path))


def test_a_wrong_password_is_said_and_ends_the_connection(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without saying which of name and password is wrong; the log has a line."""

    async def steps(scene: Scene) -> None:
        client = await scene.client()
        body = await plain(client, b"\0alice\0guess")
        assert body["error_code"] == Code.SASL_AUTHENTICATION_FAILED
        assert body["error_message"] == "authentication failed: wrong user name or password"
        assert await client.is_closed()

    run(steps, tmp_path, sasl__users=users(tmp_path))
    assert "authentication failed: wrong user name or password; closed" in caplog.text


@pytest.mark.parametrize(
    ("api", "version", "body"),
    [
        (SASL_AUTHENTICATE, 1, {"auth_bytes": b"\0alice\0secret"}),
        (SASL_HANDSHAKE, 0, {"mechanism": "PLAIN"}),
    ],
    ids=["no handshake", "messages would come bare"],
)
def test_sasl_out_of_turn(tmp_path: Path, api: Api, version: int, body: dict[str, object]) -> None:
    """ILLEGAL_SASL_STATE, and the connection ends."""

    async def steps(scene: Scene) -> None:
        client = await scene.client()
        assert (await client.ask(api, version, body))["error_code"] == Code.ILLEGAL_SASL_STATE
        assert await client.is_closed()

    run(steps, tmp_path, sasl__users=users(tmp_path))


def test_an_unknown_mechanism_may_be_followed_by_a_known_one(tmp_path: Path) -> None:
    """The answer lists what there is."""

    async def steps(scene: Scene) -> None:
        client = await scene.client()
        body = await client.ask(SASL_HANDSHAKE, 1, {"mechanism": "GSSAPI"})
        assert body["error_code"] == Code.UNSUPPORTED_SASL_MECHANISM
        assert [*body["mechanisms"]] == ["SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN"]
        assert (await plain(client, b"\0alice\0secret"))["error_code"] == 0

    run(steps, tmp_path, sasl__users=users(tmp_path))


def test_large_frames_are_for_who_is_known(tmp_path: Path) -> None:
    """Before authentication 64 KiB are the most, after it maxRequestBytes."""

    async def steps(scene: Scene) -> None:
        stranger, alice = await topic(scene), await scene.client()
        stranger.send(SASL_AUTHENTICATE, 1, {"auth_bytes": b"x" * 70_000})
        assert await stranger.is_closed()
        await plain(alice, b"\0alice\0secret")
        assert (await produce(alice, "t", batch(b"x" * 900_000)))["error_code"] == 0

    run(steps, tmp_path, sasl__users=users(tmp_path))


def test_who_does_not_say_who_it_is_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stranger's connection is closed after a while; one that is known may stay silent."""
    monkeypatch.setattr(server, "AUTHENTICATION_SECONDS", 0.3)

    async def steps(scene: Scene) -> None:
        alice, stranger = await scene.client(), await scene.client()
        await plain(alice, b"\0alice\0secret")
        assert await stranger.is_closed()
        assert (await alice.ask(METADATA, 8, {"topics": None}))["topics"] == []

    run(steps, tmp_path, sasl__users=users(tmp_path))
