"""Events: publish, forward, subscribe."""

from collections.abc import Sequence

import msgspec

from spec.api.service import Service, server_stream, unary
from spec.base import Empty, Request
from spec.events import Envelope


class PublishRequest(Request, frozen=True):
    """The daemon sets the time and takes the namespace from the call."""

    topic: str
    event: msgspec.Raw


class ForwardRequest(Request, frozen=True):
    envelope: Envelope


class SubscribeRequest(Request, frozen=True):
    """Filter fields: topic, namespace, event.FIELD. All namespaces unless filtered.

    `since` asks for those after that sequence number first, as far as they are kept: 0 for all; OutOfRange beyond the
    last. In place of events that are kept no longer comes one of topic /events/lagged, whatever the filters.
    """

    filters: Sequence[str] = ()
    since: int | None = None


class Events(Service):
    NAME = "holdd.services.events.v1.Events"
    NAMESPACED = False

    publish = unary(PublishRequest, Empty)
    forward = unary(ForwardRequest, Empty)
    subscribe = server_stream(SubscribeRequest, Envelope)
