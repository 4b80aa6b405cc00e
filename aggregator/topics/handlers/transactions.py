"""Producers that are numbered, and their transactions.

A transactional id takes a right of its own, or any to write (access/acl.py), its partitions and groups take theirs. An
open transaction is ended, taken over and seen only by who has the rights to all that it holds. Nothing of a request is
done when a part of it is refused, but for TxnOffsetCommit, where each partition stands for itself as in
OffsetCommit. Old versions don't know PRODUCER_FENCED: they get INVALID_PRODUCER_EPOCH (KIP-588, Kafka's KafkaApis).
"""

from __future__ import annotations

from collections.abc import Awaitable
from functools import partial

from aggregator.topics.broker import Handler, Session
from aggregator.topics.errors import Code, TopicsError
from aggregator.topics.handlers.offsets import fault, growth
from aggregator.topics.log.log import Offset, Place
from aggregator.topics.log.transactions import Transactional
from aggregator.topics.wire.api import Body, Request
from aggregator.topics.wire.tables.transactions import (
    ADD_OFFSETS_TO_TXN,
    ADD_PARTITIONS_TO_TXN,
    DESCRIBE_TRANSACTIONS,
    END_TXN,
    INIT_PRODUCER_ID,
    LIST_TRANSACTIONS,
    TXN_OFFSET_COMMIT,
)

KNOW_FENCED = {INIT_PRODUCER_ID: 4, ADD_PARTITIONS_TO_TXN: 2, ADD_OFFSETS_TO_TXN: 2, END_TXN: 2, TXN_OFFSET_COMMIT: 99}
"""From these versions on."""
STATES = {"Empty", "Ongoing", "PrepareCommit", "PrepareAbort", "CompleteCommit", "CompleteAbort", "Dead",
          "PrepareEpochFence"}  # fmt: skip
"""Kafka's; a transaction here is never in half of them."""


async def init(request: Request, session: Session) -> Body:
    """InitProducerId: a number for an idempotent producer, or the one of a transactional id with a new epoch."""
    body = request.body
    id_, expected = body["transactional_id"], (body["producer_id"], body["producer_epoch"])
    try:
        if id_ is None:
            _require_write(session)
            return {"producer_id": await session.broker.log.producer_id(), "producer_epoch": 0}
        session.require("transaction", id_)
        if (expected[0] < 0) != (expected[1] < 0):
            raise TopicsError(Code.INVALID_REQUEST, "a producer's id and its epoch come together")
        producer, epoch = await session.broker.transactions.init(
            id_, body["transaction_timeout_ms"], None if expected[0] < 0 else expected, partial(_judge, session)
        )
    except TopicsError as error:
        return {"error_code": _code(request, error)}
    return {"producer_id": producer, "producer_epoch": epoch}


def _require_write(session: Session) -> None:
    if not session.may("transaction"):
        raise TopicsError(Code.CLUSTER_AUTHORIZATION_FAILED, f"{session.principal} has no right to write anything")


def _judge(session: Session, known: Transactional) -> None:
    if not _is_its(session, known):
        text = f"{session.principal} has no right to all that the transaction of {known.id} holds"
        raise TopicsError(Code.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, text)


def _is_its(session: Session, known: Transactional) -> bool:
    """Whether this client may have the transactional id, and could have begun the transaction that is open."""
    return (
        session.may("transaction", known.id)
        and all(session.may("write", name) for name, _ in known.partitions)
        and all(session.may("group", name) for name in known.groups)
    )


async def add_partitions(request: Request, session: Session) -> Body:
    """AddPartitionsToTxn: all of them, or none."""
    body = request.body
    places = {(topic["name"], number) for topic in body["topics"] for number in topic["partitions"]}
    codes = {place: _fault(session, body["transactional_id"], place) for place in places}
    if any(codes.values()):
        codes = {place: code or Code.OPERATION_NOT_ATTEMPTED for place, code in codes.items()}
    else:
        adding = session.broker.transactions.add(*_identity(body), partitions=places)
        codes = dict.fromkeys(places, await _outcome(request, adding))
    return {
        "results": [
            {
                "name": topic["name"],
                "results": [
                    {"partition_index": number, "error_code": codes[topic["name"], number]}
                    for number in topic["partitions"]
                ],
            }
            for topic in body["topics"]
        ]
    }


def _fault(session: Session, id_: str, place: Place) -> Code:
    """Why this client can't have the partition in a transaction; NONE if it can."""
    try:
        session.require("transaction", id_)
        session.partition(*place, "write")
    except TopicsError as error:
        return error.code
    return Code.NONE


async def add_offsets(request: Request, session: Session) -> Body:
    """AddOffsetsToTxn: the transaction will commit offsets of this group."""
    body, group = request.body, request.body["group_id"]
    try:
        session.require("transaction", body["transactional_id"])
        session.require("group", group)
        if not group:
            raise TopicsError(Code.INVALID_GROUP_ID, "a group has a name")
    except TopicsError as error:
        return {"error_code": error.code}
    return {"error_code": await _outcome(request, session.broker.transactions.add(*_identity(body), groups={group}))}


async def commit_offsets(request: Request, session: Session) -> Body:
    """TxnOffsetCommit: offsets that are the group's once the transaction is committed. Who is no member of the group
    any more, or of an older generation, has nothing to commit (KIP-447)."""
    topics = request.body["topics"]
    asked = {(topic["name"], one["partition_index"]): one for topic in topics for one in topic["partitions"]}
    codes = {place: _offset_fault(request.body, session, place, one) for place, one in asked.items()}
    offsets = {
        place: Offset(one["committed_offset"], one["committed_leader_epoch"], one["committed_metadata"] or "")
        for place, one in asked.items()
        if codes[place] is Code.NONE
    }
    if offsets:
        codes |= dict.fromkeys(offsets, await _pending(request, session, offsets))
    return {"topics": [{"name": topic["name"], "partitions": _codes(topic, codes)} for topic in topics]}


def _codes(topic: Body, codes: dict[Place, Code]) -> list[Body]:
    numbers = [one["partition_index"] for one in topic["partitions"]]
    return [{"partition_index": number, "error_code": codes[topic["name"], number]} for number in numbers]


def _offset_fault(body: Body, session: Session, place: Place, asked: Body) -> Code:
    if not session.may("transaction", body["transactional_id"]):
        return Code.TRANSACTIONAL_ID_AUTHORIZATION_FAILED
    return fault(session, body["group_id"], place, asked["committed_metadata"])


async def _pending(request: Request, session: Session, offsets: dict[Place, Offset]) -> Code:
    body, broker = request.body, session.broker
    group = body["group_id"]
    code = broker.coordinator.check(
        group, body["generation_id"], body["member_id"], body["group_instance_id"], transactional=True
    )
    if not code and growth(broker.log, group, offsets) is None:
        return Code.POLICY_VIOLATION
    return code or await _outcome(request, broker.transactions.commit_offsets(*_identity(body), group, offsets))


async def end(request: Request, session: Session) -> Body:
    """EndTxn: committed or aborted, and answered when that is so."""
    body = request.body
    if not session.may("transaction", body["transactional_id"]):
        return {"error_code": Code.TRANSACTIONAL_ID_AUTHORIZATION_FAILED}
    ending = session.broker.transactions.end(*_identity(body), body["committed"], partial(_judge, session))
    return {"error_code": await _outcome(request, ending)}


def _identity(body: Body) -> tuple[str, int, int]:
    return body["transactional_id"], body["producer_id"], body["producer_epoch"]


async def _outcome(request: Request, call: Awaitable[None]) -> Code:
    try:
        await call
    except TopicsError as error:
        return _code(request, error)
    return Code.NONE


def _code(request: Request, error: TopicsError) -> Code:
    if error.code is Code.PRODUCER_FENCED and request.version < KNOW_FENCED[request.api]:
        return Code.INVALID_PRODUCER_EPOCH
    if error.code is Code.KAFKA_STORAGE_ERROR:  # no room: a client looks for its coordinator and tries again
        return Code.COORDINATOR_NOT_AVAILABLE
    return error.code


# ---- for administrators


async def describe(request: Request, session: Session) -> Body:
    """DescribeTransactions: how each stands."""
    known = {one.id: one for one in await session.broker.transactions.all()}
    asked = request.body["transactional_ids"]
    return {"transaction_states": [_described(session, id_, known.get(id_)) for id_ in asked]}


def _described(session: Session, id_: str, known: Transactional | None) -> Body:
    if not (_is_its(session, known) if known else session.may("transaction", id_)):
        return {"transactional_id": id_, "error_code": Code.TRANSACTIONAL_ID_AUTHORIZATION_FAILED}
    if known is None:
        return {"transactional_id": id_, "error_code": Code.TRANSACTIONAL_ID_NOT_FOUND}
    topics: dict[str, list[int]] = {}
    for name, number in sorted(known.partitions):
        topics.setdefault(name, []).append(number)
    return {
        "transactional_id": id_,
        "transaction_state": known.state,
        "transaction_timeout_ms": known.timeout_ms,
        "transaction_start_time_ms": known.started_ms,
        "producer_id": known.producer,
        "producer_epoch": known.epoch,
        "topics": [{"topic": name, "partitions": numbers} for name, numbers in topics.items()],
    }


async def list_all(request: Request, session: Session) -> Body:
    """ListTransactions: those in one of the states and of one of the producers, where such are named."""
    states, producers = request.body["state_filters"], request.body["producer_id_filters"]
    found = await session.broker.transactions.all()
    return {
        "unknown_state_filters": [state for state in states if state not in STATES],
        "transaction_states": [
            {"transactional_id": one.id, "producer_id": one.producer, "transaction_state": one.state}
            for one in found
            if (not states or one.state in states)
            and (not producers or one.producer in producers)
            and _is_its(session, one)
        ],
    }


HANDLERS: dict[int, Handler] = {
    INIT_PRODUCER_ID.key: init,
    ADD_PARTITIONS_TO_TXN.key: add_partitions,
    ADD_OFFSETS_TO_TXN.key: add_offsets,
    TXN_OFFSET_COMMIT.key: commit_offsets,
    END_TXN.key: end,
    DESCRIBE_TRANSACTIONS.key: describe,
    LIST_TRANSACTIONS.key: list_all,
}
