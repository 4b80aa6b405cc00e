"""Which page a path is, and who may see it.

The web port asks nobody who he is. What is here is therefore for `anonymous`, with the rights that the configuration
gives that name (access/acl.py). Where it says nothing of rights, only this machine looks: a port that was opened to
others for its metrics doesn't open the topics, and neither does a browser on this machine that a page of another site
led here by a name of its own.
"""

from __future__ import annotations

import json
from urllib.parse import urlencode

from agent.errors import ChannelError
from agent.http import EVENTS, HTML, JSON, Page, Request, text
from aggregator.topics.access.acl import ANONYMOUS
from aggregator.topics.broker import Broker
from aggregator.topics.errors import Code, TopicsError
from aggregator.topics.log.log import Topic
from aggregator.topics.web import shown, tables
from aggregator.topics.web.asking import Refused, number, only, partitions
from aggregator.topics.web.listing import listed
from aggregator.topics.web.newest import newest
from aggregator.topics.web.stream import Stream, start

PATH = "/topics"
LAST, MOST = 20, 1000
"""Records of a page."""


class Face:
    """What a service shows. `in_words`: its configuration says who may read, or that anyone may; `certificates`: its
    clients prove by one who they are."""

    def __init__(self, broker: Broker, *, in_words: bool, certificates: bool) -> None:
        self.broker, self.in_words, self.certificates = broker, in_words, certificates

    async def page(self, request: Request) -> Page:
        """For a path that begins with `topics`."""
        try:
            return await self._page(request)
        except Refused as refused:
            return refused.page
        except TopicsError as error:
            return text(404 if error.code is Code.UNKNOWN_TOPIC_OR_PARTITION else 503, str(error))
        except ChannelError as error:
            return text(503, str(error))

    async def _page(self, request: Request) -> Page:
        self._require(request)
        match request.parts[1:]:
            case ():
                return self._list(request)
            case (name,):
                return await self._newest(request, self._topic(name))
            case (name, "stream"):
                return await self._stream(request, self._topic(name))
        raise Refused(404, f"there is {PATH}, {PATH}/NAME and {PATH}/NAME/stream")

    # -- rights

    def _require(self, request: Request) -> None:
        """Refused: nobody comes in this way."""
        if self.certificates:
            raise Refused(403, "the clients of this service need a certificate (clientAuth); this port asks for none")
        if not self.broker.rights.lets_anonymous_in:
            why = "this service has users, and this port can't ask who you are; acl.anonymous = read:TOPIC lets you in"
            raise Refused(403, why)
        if not self.in_words and not (request.local and request.by_address):
            why = "topics are shown on this machine only, at localhost or its address"
            raise Refused(403, f"{why}; acl.anonymous = read:TOPIC shows them to all who reach this port")

    def _may_read(self, name: str) -> bool:
        return self.broker.rights.may(ANONYMOUS, "read", name)

    def _topic(self, name: str) -> Topic:
        """Rights come before whether it exists."""
        if not self._may_read(name):
            raise Refused(403, f"acl.anonymous gives no right to read {name[:249]!a}")
        topic = self.broker.log.topics.get(name)
        if topic is None:
            raise Refused(404, f"there is no topic {name[:249]!a}; see {PATH}")
        return topic

    # -- pages

    def _list(self, request: Request) -> Page:
        only(request)
        log, rights = self.broker.log, self.broker.rights
        topics = [topic for topic in log.topics.values() if self._may_read(topic.name)]
        if log.topics and not topics:
            raise Refused(403, "acl.anonymous gives no right to read any topic")
        found = listed(log, topics, lambda group: rights.may(ANONYMOUS, "group", group))
        if _in_html(request):
            return Page(200, HTML, tables.of_topics(found, _service(request)))
        return Page(200, JSON, json.dumps(found, indent=1) + "\n")

    async def _newest(self, request: Request, topic: Topic) -> Page:
        only(request, "last", "partition")
        count = number(request, "last", LAST, 1, MOST)
        records = await newest(self.broker.log, partitions(request, topic), count)
        if _in_html(request):
            return Page(200, HTML, tables.of_records(topic.name, records, _service(request)))
        return Page(200, JSON, "[" + ",\n ".join(map(shown.line, records)) + "]\n")

    async def _stream(self, request: Request, topic: Topic) -> Page:
        only(request, "from", "partition")
        places = await start(self.broker.log, partitions(request, topic), request)
        stream = Stream(self.broker.log, topic, places, whole="partition" not in request.query)
        return Page(200, EVENTS, stream.chunks())


def _in_html(request: Request) -> bool:
    return request.prefers("text/html", "application/json", "*/*") == "text/html"


def _service(request: Request) -> str:
    """What links need so as to lead to the same service."""
    return "?" + urlencode({"service": request.query["service"]}) if "service" in request.query else ""
