"""The exporter against a collector that is real, one that fails, and none."""

import pytest

from daemon.kit.tracing import CLIENT, INTERNAL, Span, begin
from daemon.metrics import otlp
from daemon.metrics.otlp import Exporter
from spec.otel import Settings
from tests.collector import Collector, attributes

PARENT = f"00-{'a' * 32}-{'b' * 16}-01"


def span(name="s", trace=PARENT, error="", **attributes_) -> Span:
    made = begin(name, INTERNAL, trace, attributes_)
    made.end(error)
    return made


def exporter(collector, **fields):
    return Exporter(Settings(url=f"{collector.url}/v1/traces", headers={"X-Key": "k"}, delay_s=0.01, **fields))


def test_a_span_as_the_collector_sees_it():
    with Collector() as collector:
        sender = exporter(collector, service="me", resource={"zone": "z"})
        sent = span("op", error="NotFound: x", size=3, digest="d")
        sender.export(sent)
        sender.export(span(trace=""))
        one, two = collector.wait(lambda spans: len(spans) == 2)
        sender.close()
    assert one == {
        "traceId": "a" * 32,
        "parentSpanId": "b" * 16,
        "spanId": sent.span_id,
        "name": "op",
        "kind": INTERNAL,
        "startTimeUnixNano": str(sent.began_ns),
        "endTimeUnixNano": str(sent.ended_ns),
        "attributes": one["attributes"],
        "status": {"code": 2, "message": "NotFound: x"},
    }
    assert attributes(one) == {"size": 3, "digest": "d"}
    assert "parentSpanId" not in two
    assert two["status"] == {}
    assert collector.resources[0].items() >= {"service.name": "me", "zone": "z"}.items()
    assert collector.headers[0]["X-Key"] == "k"


def test_what_is_left_is_sent_at_the_end():
    with Collector() as collector:
        sender = Exporter(Settings(url=f"{collector.url}/v1/traces", headers={}, delay_s=3600.0))
        for _ in range(3):
            sender.export(span())
        sender.close()
        assert len(collector.spans) == 3


@pytest.mark.parametrize(("statuses", "kept", "requests"), [([503], True, 2), ([400], False, 1), ([503] * 3, False, 3)])
def test_a_collector_that_fails(statuses, kept, requests, caplog):
    with Collector(statuses) as collector:
        sender = exporter(collector)
        sender.export(span("first"))
        collector.wait(lambda spans: collector.requests == requests)
        sender.export(span("second"))
        names = [found["name"] for found in collector.wait(lambda spans: spans and spans[-1]["name"] == "second")]
        sender.close()
    assert names == (["first", "second"] if kept else ["second"])
    assert sender.dropped == (not kept)
    assert ("status" in caplog.text) is not kept


def test_nobody_there_costs_no_more_than_the_queue(monkeypatch, caplog):
    monkeypatch.setattr(otlp, "QUEUE", 4)
    sender = Exporter(Settings(url="http://127.0.0.1:1/v1/traces", headers={}, delay_s=3600.0))
    for _ in range(10):
        sender.export(span())
    assert sender.dropped == 6
    sender.close()
    assert sender.dropped == 10
    assert caplog.text.count("exporting traces") == 1


@pytest.mark.parametrize(
    ("ratio", "follows", "has_parent", "flags", "sampled"),
    [
        (1.0, True, False, "", True),
        (0.0, True, False, "", False),
        (0.0, True, True, "01", True),
        (1.0, True, True, "00", False),
        (0.0, False, True, "01", False),
        (1.0, False, True, "00", True),
    ],
)
def test_sampling(ratio, follows, has_parent, flags, sampled):
    sender = Exporter(Settings(url="http://127.0.0.1:1", headers={}, ratio=ratio, follows=follows))
    assert sender.samples("a" * 32, has_parent, flags) is sampled
    sender.close()


def test_sampling_by_ratio_is_the_traces():
    sender = Exporter(Settings(url="http://127.0.0.1:1", headers={}, ratio=0.25))
    traces = [begin("x", CLIENT, "", {}).trace_id for _ in range(4000)]
    chosen = [trace for trace in traces if sender.samples(trace, False, "")]
    assert 800 < len(chosen) < 1200
    assert all(sender.samples(trace, False, "") for trace in chosen)
    sender.close()
