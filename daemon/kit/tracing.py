"""Spans: what took how long, in a tree, for whoever collects them; and timelines, which keep a journey's phases with
what it made. Both are off unless asked for, and then a span costs nothing but the asking.

A call's span is named by its W3C traceparent (`context.trace`): 00-TRACE-SPAN-FLAGS, in hexadecimal.
"""

import contextlib
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar

import msgspec

from daemon.kit import context
from spec.records import Timing

SERVER = 2
INTERNAL = 1
CLIENT = 3
SAMPLED = "01"

Attribute = str | int


class Span:
    """One that is under way, or has ended: then `ended_ns` and perhaps `error` are set. Times are since the epoch."""

    __slots__ = (
        "_clock_ns", "attributes", "began_ns", "ended_ns", "error", "kind", "name", "parent", "sampled", "span_id",
        "trace_id",
    )  # fmt: skip

    def __init__(self, name: str, kind: int, trace: str, attributes: Mapping[str, Attribute]) -> None:
        self.name = name
        self.kind = kind
        self.attributes = dict(attributes)
        self.error = ""
        self.began_ns = time.time_ns()
        self.ended_ns = 0
        self._clock_ns = time.monotonic_ns()
        self.span_id = f"{_random.getrandbits(64) or 1:016x}"
        self.trace_id, self.parent, flags = _parsed(trace)
        self.sampled = _tracer.samples(self.trace_id, bool(self.parent), flags) if _tracer else False

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{SAMPLED if self.sampled else '00'}"

    def end(self, error: str = "") -> None:
        self.ended_ns = self.began_ns + time.monotonic_ns() - self._clock_ns
        self.error = error
        if self.sampled and _tracer is not None:
            _tracer.export(self)


class Tracer(msgspec.Struct):
    """Where spans go. `samples` says, of a trace, whether it has a parent and that one's flags, if it is exported."""

    export: Callable[[Span], None]
    samples: Callable[[str, bool, str], bool]


_random = random.Random(os.urandom(16))
_tracer: Tracer | None = None
_TIMELINE: ContextVar[list[Timing] | None] = ContextVar("timeline", default=None)


def install(tracer: Tracer | None) -> None:
    """For the whole process; None ends it."""
    global _tracer
    _tracer = tracer


def begin(name: str, kind: int, trace: str, attributes: Mapping[str, Attribute]) -> Span:
    """A span that the caller ends, below the one that `trace` names."""
    return Span(name, kind, trace, attributes)


@contextlib.contextmanager
def span(name: str, kind: int = INTERNAL, /, **attributes: Attribute) -> Iterator[None]:
    """The block as a span, below the call's, and, unless it is a call of another host, as a phase of the timeline that
    is kept: that of what its first attribute names."""
    timeline = _TIMELINE.get()
    if _tracer is None:
        if timeline is None or kind != INTERNAL:
            yield
            return
        began_ns, clock_ns = time.time_ns(), time.monotonic_ns()
        try:
            yield
        finally:
            timeline.append(_phase(name, attributes, began_ns, time.monotonic_ns() - clock_ns))
        return
    made = Span(name, kind, context.trace(), attributes)
    try:
        with context.entered(msgspec.structs.replace(context.CALL.get(), trace=made.traceparent)):
            yield
    except BaseException as exc:
        made.end(f"{type(exc).__name__}: {exc}")
        raise
    else:
        made.end()
    finally:
        if timeline is not None and kind == INTERNAL:
            timeline.append(_phase(name, attributes, made.began_ns, made.ended_ns - made.began_ns))


def _phase(name: str, attributes: Mapping[str, Attribute], began_ns: int, took_ns: int) -> Timing:
    return Timing(name=name, began_at_ns=began_ns, took_ns=took_ns, of=str(next(iter(attributes.values()), "")))


@contextlib.contextmanager
def timeline() -> Iterator[None]:
    """Keep the phases of the block, those on threads that took its context along, too."""
    token = _TIMELINE.set([])
    try:
        yield
    finally:
        _TIMELINE.reset(token)


def phases() -> Sequence[Timing]:
    """Those that have ended so far of the timeline that is kept; none when none is."""
    return tuple(sorted(_TIMELINE.get() or (), key=lambda phase: phase.began_at_ns))


def _parsed(trace: str) -> tuple[str, str, str]:
    """Trace, span and flags of a traceparent (W3C Trace Context, 3.2); a new trace without a good one."""
    parts = trace.split("-")
    well_formed = [len(part) for part in parts[:4]] == [2, 32, 16, 2] and set("".join(parts[:4])) <= _HEX
    if well_formed and parts[0] != "ff" and int(parts[1], 16) and int(parts[2], 16):
        return parts[1], parts[2], parts[3]
    return f"{_random.getrandbits(128) or 1:032x}", "", ""


_HEX = frozenset("0123456789abcdef")
