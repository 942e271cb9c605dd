"""Events over the API: kept while nobody listens, counted through restarts, and one stopped subscriber is alone."""

import itertools
import json
import signal
import subprocess

import msgspec
import pytest

from spec import errors
from spec.api import events, namespaces
from spec.events import Envelope
from spec.records import Namespace
from tests.bench.figures import memory_kb
from tests.daemon import BIN


def make(client, *names):
    for name in names:
        client.namespaces.create(namespaces.CreateRequest(namespace=Namespace(name=name)))


def subscribed(client, since=None, filters=('topic=="/namespaces/create"',)):
    return client.events.subscribe(events.SubscribeRequest(since=since, filters=filters))


def names(stream, count):
    with stream:
        return [msgspec.msgpack.decode(envelope.event)["name"] for envelope in itertools.islice(stream, count)]


def test_what_happened_before_a_kill_is_told_after_it(daemon):
    with daemon.client() as client:
        make(client, "a", "b")
    daemon.kill()
    daemon.start()
    with daemon.client() as client:
        make(client, "c")
        assert names(subscribed(client, 0), 3) == ["a", "b", "c"]
        with subscribed(client, 0) as stream:
            last = [next(stream).sequence for _ in range(3)][1]
        assert names(subscribed(client, last), 1) == ["c"]
        with pytest.raises(errors.OutOfRange, match="since event 1000000"):
            next(subscribed(client, 1_000_000))
        with pytest.raises(errors.InvalidArgument, match="position 7: expected value or quoted"):
            next(subscribed(client, 0, ["topic=="]))


def test_ctr_since(daemon):
    daemon.ctr("namespaces", "create", "a")
    argv = [BIN / "ctr", "--address", daemon.address, "events", "--json", "--since", "0", "namespace==a"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        said = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == ""
    assert (said["topic"], said["event"]) == ("/namespaces/create", {"name": "a"})
    assert said["sequence"] > 0


def test_what_is_forwarded(daemon):
    with daemon.client() as client:
        event = msgspec.Raw(msgspec.msgpack.encode({"k": 1}))
        envelope = Envelope(timestamp_ns=42, namespace="ns", topic="/a/b", event=event, sequence=99)
        client.events.forward(events.ForwardRequest(envelope=envelope))
        client.events.publish(events.PublishRequest(topic="/a/c", event=event))
        with subscribed(client, 0, ["topic~=|^/a/|"]) as stream:
            forwarded, published = next(stream), next(stream)
        assert (forwarded.timestamp_ns, forwarded.namespace, published.namespace) == (42, "ns", "default")
        assert published.sequence == forwarded.sequence + 1 != 100
        for topic in ("", "a", "/", "/a b"):
            with pytest.raises(errors.InvalidArgument, match="topic"):
                client.events.publish(events.PublishRequest(topic=topic, event=event))


def test_one_of_a_hundred_who_has_stopped_reading(daemon):
    """The others get everything, the daemon's memory does not grow by what he does not read, and he is told."""
    body = msgspec.Raw(msgspec.msgpack.encode({"text": "x" * 50_000}))
    with daemon.client() as client:
        stopped = subscribed(client, filters=())
        streams = [subscribed(client, filters=["event.last"]) for _ in range(99)]
        whole = subscribed(client, filters=())
        before = memory_kb(daemon.process.pid, "Private_Dirty", "Private_Clean")
        count = 800  # 40 MB: more than the ring, memory and socket hold
        for _ in range(count):
            client.events.publish(events.PublishRequest(topic="/a/b", event=body))
            assert len(bytes(next(whole).event)) > 50_000
        last = msgspec.Raw(msgspec.msgpack.encode({"last": "yes"}))
        client.events.publish(events.PublishRequest(topic="/a/b", event=last))
        for stream in streams:
            with stream:
                assert next(stream).event == last
        grown = memory_kb(daemon.process.pid, "Private_Dirty", "Private_Clean") - before
        assert grown < 12 << 10
        got = missed = 0
        with stopped, whole:
            for envelope in stopped:
                if envelope.topic == "/events/lagged":
                    missed += msgspec.msgpack.decode(envelope.event)["missed"]
                else:
                    got += 1
                if got + missed == count + 1:
                    break
        assert missed > 100
