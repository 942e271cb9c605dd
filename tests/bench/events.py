"""Events: what publishing costs the daemon, and how soon a hundred subscribers have them, one of whom has stopped."""

import threading
import time

import msgspec

from spec.api import events as api
from tests.bench.figures import Row, cpu_s, memory_kb
from tests.daemon import Daemon

SUBSCRIBERS = 100
COUNT = 2000


def measure(where):
    with Daemon(where) as daemon, daemon.client() as client:
        alone = _published(client, daemon)
        stopped = client.events.subscribe(api.SubscribeRequest())
        streams = [client.events.subscribe(api.SubscribeRequest()) for _ in range(SUBSCRIBERS - 1)]
        before = memory_kb(daemon.process.pid, "Private_Dirty")
        seen = []
        readers = [threading.Thread(target=_read, args=(stream, seen)) for stream in streams]
        for reader in readers:
            reader.start()
        began = time.perf_counter()
        heard = _published(client, daemon)
        for reader in readers:
            reader.join()
        took = time.perf_counter() - began
        grown = (memory_kb(daemon.process.pid, "Private_Dirty") - before) / 1024
        for stream in (stopped, *streams):
            stream.close()
    assert sum(seen) == COUNT * len(streams)
    yield Row("event published, nobody listens, daemon's CPU", f"{alone * 1e6:.0f} us", "", "")
    yield Row(f"  {SUBSCRIBERS} listen, one has stopped", f"{heard * 1e6:.0f} us (daemon +{grown:.1f} MB)", "", "")
    yield Row("  all others have it", f"{COUNT * len(streams) / took:.0f}/s", "", "")


def _published(client, daemon):
    """CPU seconds of the daemon for each of COUNT calls of Publish."""
    event = msgspec.Raw(msgspec.msgpack.encode({"container_id": "c", "pid": 1}))
    before = cpu_s(daemon.process.pid)
    for _ in range(COUNT):
        client.events.publish(api.PublishRequest(topic="/tasks/start", event=event))
    return (cpu_s(daemon.process.pid) - before) / COUNT


def _read(stream, seen):
    for number, _ in enumerate(stream, 1):
        if number == COUNT:
            break
    seen.append(COUNT)
