"""Spans and timelines: who is whose child, on other threads too, and that nothing is kept when nobody asks."""

import asyncio

import pytest

from daemon.kit import context, tracing
from daemon.kit.context import Call
from daemon.kit.threads import Pool, hop

PARENT = f"00-{'a' * 32}-{'b' * 16}-01"


@pytest.fixture
def spans():
    ended = []
    tracing.install(tracing.Tracer(export=ended.append, samples=lambda trace, has_parent, flags: True))
    yield ended
    tracing.install(None)


def test_a_tree(spans):
    with context.entered(Call(namespace="n", trace=PARENT)):
        with tracing.span("outer", size=3):
            assert context.namespace() == "n"
            with tracing.span("inner"):
                pass
        assert context.trace() == PARENT
    inner, outer = spans
    assert (outer.name, outer.trace_id, outer.parent) == ("outer", "a" * 32, "b" * 16)
    assert (inner.trace_id, inner.parent) == (outer.trace_id, outer.span_id)
    assert outer.attributes == {"size": 3}
    assert outer.began_ns <= inner.began_ns <= inner.ended_ns <= outer.ended_ns


def test_on_threads(spans):
    async def work():
        with Pool("x", 1) as pool, tracing.timeline():
            with tracing.span("outer"):
                await hop(pool, within)
            return tracing.phases()

    def within():
        with tracing.span("inner"):
            pass

    phases = asyncio.run(work())
    inner, outer = spans
    assert inner.parent == outer.span_id
    assert [phase.name for phase in phases] == ["outer", "inner"]


def test_an_error_is_told(spans):
    with pytest.raises(KeyError), tracing.timeline(), tracing.span("x"):
        raise KeyError("lost")
    assert spans[0].error == "KeyError: 'lost'"
    assert spans[0].ended_ns


@pytest.mark.parametrize(
    "trace",
    ["", "x", PARENT[:-1], PARENT.replace("a", "g"), PARENT.upper().replace("00-", "FF-"), PARENT.replace("a", "0"),
     PARENT.replace("b", "0"), PARENT.replace("00-", "ff-")],
)  # fmt: skip
def test_a_parent_that_is_none_begins_a_trace(spans, trace):
    with context.entered(Call(trace=trace)), tracing.span("x"):
        pass
    assert spans[0].parent == ""
    assert len(spans[0].trace_id) == 32
    assert int(spans[0].trace_id, 16)


def test_what_is_not_sampled_is_not_told_and_says_so():
    ended = []
    tracing.install(tracing.Tracer(export=ended.append, samples=lambda trace, has_parent, flags: False))
    with tracing.span("x"):
        assert context.trace().endswith("-00")
    tracing.install(None)
    assert not ended


def test_nobody_asks():
    with context.entered(Call(trace=PARENT)), tracing.span("x"):
        assert context.trace() == PARENT
        assert tracing.phases() == ()


def test_a_timeline_without_a_tracer():
    with tracing.timeline():
        for name in ("one", "two"):
            with tracing.span(name):
                pass
        phases = tracing.phases()
    assert [phase.name for phase in phases] == ["one", "two"]
    assert phases[0].began_at_ns + phases[0].took_ns <= phases[1].began_at_ns + 10**9
    assert tracing.phases() == ()
