"""Spans to a collector: OTLP over HTTP as JSON, from one thread behind a bounded queue. Whoever ends a span never
waits; what does not fit is counted and dropped."""

import logging
import random
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import urllib3

from daemon.kit.tracing import Span
from spec.base import to_json
from spec.otel import Settings
from spec.version import VERSION

QUEUE = 2048  # spans that wait; those beyond are dropped
BATCH = 512
ATTEMPTS = 3
RETRIED = frozenset((429, 502, 503, 504))
ERROR = 2
CLOSE_S = 5.0  # what is left may take that long

log = logging.getLogger(__name__)


class Exporter:
    """Sends spans as `settings` say. `close` sends what is left."""

    def __init__(self, settings: Settings) -> None:
        self.dropped = 0
        self._settings = settings
        self._queue: deque[Span] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._failing = False
        self._post = _poster(settings)
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    def export(self, span: Span) -> None:
        with self._changed:
            if len(self._queue) >= QUEUE or self._closing:
                self.dropped += 1
                return
            self._queue.append(span)
            if len(self._queue) == BATCH:
                self._changed.notify()

    def samples(self, trace_id: str, has_parent: bool, flags: str) -> bool:
        """By the parent's word, or by the trace's id, so that all who see the trace agree."""
        if has_parent and self._settings.follows:
            return bool(int(flags, 16) & 1)
        return int(trace_id[16:], 16) < self._settings.ratio * 2**64

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(CLOSE_S)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or len(self._queue) >= BATCH, self._settings.delay_s)
                spans = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
                closing = self._closing
            if spans:
                self._send(spans)
            elif closing:
                return

    def _send(self, spans: Sequence[Span]) -> None:
        problem = self._tried(to_json(document(spans, self._settings)))
        if problem:
            with self._changed:
                self.dropped += len(spans)
        if bool(problem) is not self._failing:  # once, and not for each batch
            self._failing = bool(problem)
            if problem:
                log.warning("exporting traces to %s: %s", self._settings.url, problem)
            else:
                log.info("exporting traces to %s again", self._settings.url)

    def _tried(self, body: bytes) -> str:
        """Why it could not be sent; empty when it was."""
        problem = ""
        for attempt in range(ATTEMPTS):
            problem, again = self._post(body)
            if not problem or not again:
                break
            with self._changed:
                if self._closing:
                    break
                self._changed.wait_for(lambda: self._closing, random.uniform(0.5, 1) * 2**attempt)
        return problem


def _poster(settings: Settings) -> Callable[[bytes], tuple[str, bool]]:
    """What sends a body: the problem, or nothing, and whether it may pass."""
    pool = urllib3.PoolManager(num_pools=1, maxsize=1, retries=False, timeout=settings.timeout_s)
    headers = {**settings.headers, "Content-Type": "application/json", "User-Agent": f"holdd/{VERSION}"}

    def post(body: bytes) -> tuple[str, bool]:
        try:
            answer = pool.request("POST", settings.url, body=body, headers=headers, redirect=False)
        except (urllib3.exceptions.HTTPError, OSError) as exc:
            return str(exc), True
        return ("" if answer.status < 300 else f"status {answer.status}"), answer.status in RETRIED

    return post


def document(spans: Sequence[Span], settings: Settings) -> Mapping[str, Any]:
    """An ExportTraceServiceRequest in OTLP's JSON: ids in hexadecimal, 64 bit numbers as text."""
    resource = {**settings.resource, "service.name": settings.service, "service.version": VERSION}
    scope = {"scope": {"name": "holdd", "version": VERSION}, "spans": [_span(span) for span in spans]}
    return {"resourceSpans": [{"resource": {"attributes": _attributes(resource)}, "scopeSpans": [scope]}]}


def _span(span: Span) -> Mapping[str, Any]:
    shown: dict[str, Any] = {
        "traceId": span.trace_id,
        "spanId": span.span_id,
        "name": span.name,
        "kind": span.kind,
        "startTimeUnixNano": str(span.began_ns),
        "endTimeUnixNano": str(span.ended_ns),
        "attributes": _attributes(span.attributes),
        "status": {"code": ERROR, "message": span.error} if span.error else {},
    }
    if span.parent:
        shown["parentSpanId"] = span.parent
    return shown


def _attributes(given: Mapping[str, str | int]) -> Sequence[Mapping[str, Any]]:
    return [
        {"key": key, "value": {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value}}
        for key, value in given.items()
    ]
