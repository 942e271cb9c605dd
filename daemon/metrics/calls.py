"""Figures of the API's calls, under the names that containerd's have (go-grpc-prometheus). Told by the dispatcher."""

import time
from collections.abc import Sequence
from typing import Protocol

from daemon.kit.tally import BUCKETS, Counter, Histogram
from spec.errors import CLASSES
from spec.exposition import Family

CODES = {0: "OK", **{code: cls.__name__ for code, cls in CLASSES.items()}}
LABELS = ("grpc_type", "grpc_service", "grpc_method")


class Call(Protocol):
    """What the dispatcher tells of one."""

    kind: str
    service: str
    method: str
    began_ns: int
    received: int
    sent: int


class Calls:
    """Counts calls; with `histogram`, how long they took, too."""

    def __init__(self, histogram: bool = True) -> None:
        self._started = Counter("grpc_server_started_total", "Calls that were begun.", LABELS)
        self._handled = Counter("grpc_server_handled_total", "Calls that have ended.", (*LABELS, "grpc_code"))
        self._received = Counter("grpc_server_msg_received_total", "Messages that came with calls.", LABELS)
        self._sent = Counter("grpc_server_msg_sent_total", "Messages that calls were answered with.", LABELS)
        self._seconds = (
            Histogram("grpc_server_handling_seconds", "How long calls took.", LABELS, BUCKETS) if histogram else None
        )

    def begun(self, call: Call) -> None:
        self._started.add(call.kind, call.service, call.method)

    def ended(self, call: Call, code: int) -> None:
        labels = (call.kind, call.service, call.method)
        self._handled.add(*labels, CODES.get(code, "Unknown"))
        self._received.add(*labels, count=call.received)
        self._sent.add(*labels, count=call.sent)
        if self._seconds is not None:
            self._seconds.observe((time.monotonic_ns() - call.began_ns) / 1e9, *labels)

    def families(self) -> Sequence[Family]:
        made = [self._started, self._handled, self._received, self._sent]
        return [counter.family() for counter in made] + ([self._seconds.family()] if self._seconds else [])
