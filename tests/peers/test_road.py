"""From a sensor's MQTT message to the aggregator's outputs, over both legs, with what goes wrong on the way."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest

from tests.needs import need
from tests.peers.harness import wait_until
from tests.peers.road import Reading, Road, running

LEGS = pytest.mark.parametrize("leg", ["avro", "mqtt"])


@pytest.fixture(autouse=True)
def _broker_is_here() -> None:
    need("mosquitto", "mosquitto_pub")


@LEGS
@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_every_reading_arrives_once_and_in_order(tmp_path: Path, leg: str, version: str) -> None:
    """mosquitto_pub -> collector -> aggregator: each reading once in table and files, in order per sensor."""
    with running(Road(tmp_path, leg, version)) as road:
        sent: Counter[Reading] = Counter()
        for sensor in ("a", "b"):
            sent += road.publish(sensor, [str(number) for number in range(500)], version)
        sent += road.publish("stuck", ["21.5"] * 200, version)
        road.settle(sent)
        for sensor in ("a", "b"):
            arrived = [int(body) for topic, body in road.table() if topic == f"sensors/{sensor}"]
            assert arrived == sorted(arrived)


@LEGS
def test_an_outage_of_the_aggregator_loses_nothing(tmp_path: Path, leg: str) -> None:
    """What comes while the aggregator is away, the collector killed meanwhile, arrives whole and in order."""
    with running(Road(tmp_path, leg)) as road:
        sent = road.publish("a", [str(number) for number in range(200)])
        road.aggregator.kill9()
        sent += road.publish("a", [str(number) for number in range(200, 600)])
        wait_until(lambda: road.collector.count("CHANNEL.ch", "ChannelSize") >= 400, what="readings kept")
        road.collector.kill9()
        sent += road.publish("a", [str(number) for number in range(600, 900)])
        road.collector.start()
        sent += road.publish("a", [str(number) for number in range(900, 1000)])
        wait_until(lambda: road.collector.count("CHANNEL.ch", "ChannelSize") >= 800, what="readings kept")
        road.aggregator.start()
        road.settle(sent)
        arrived = [int(body) for _, body in road.table()]
        assert arrived == sorted(arrived)


@LEGS
def test_the_broker_may_go_and_come(tmp_path: Path, leg: str) -> None:
    """The broker is stopped and started; both programs come back by themselves and nothing that it kept is missing."""
    with running(Road(tmp_path, leg)) as road:
        sent = road.publish("a", [str(number) for number in range(300)])
        road.broker.stop()
        time.sleep(0.3)
        road.broker.start()
        sent += road.publish("a", [str(number) for number in range(300, 600)])
        road.settle(sent)


def test_a_full_channel_holds_the_broker_back(tmp_path: Path) -> None:
    """With the aggregator away and the channel full, readings wait at the broker; later all arrive."""
    road = Road(tmp_path)
    road.collector.conf += (
        "c.channels.ch.capacity = 600\nc.channels.ch.transactionCapacity = 500\nc.channels.ch.keep-alive = 0\n"
    )
    with road.broker, road.collector:
        sent = road.publish("a", [str(number) for number in range(2000)])
        wait_until(lambda: road.collector.count("CHANNEL.ch", "ChannelSize") >= 100, what="a channel that fills")
        time.sleep(0.5)
        assert road.collector.count("CHANNEL.ch", "ChannelSize") <= 600
        with road.aggregator:
            road.settle(sent)
