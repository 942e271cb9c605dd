"""Sees to it that containers run, or do not, as their restart labels say. What to do is `spec.restart`'s to decide; how
it is done is the API's: whatever the monitor does, a client could do. Knows no runtime and no metadata.

It looks at a container when something happens to it or its task, and at all of them when it begins. One that needs
something has a worker until it is as it shall be; the others cost nothing.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Sequence

import msgspec

from daemon.kit import context
from daemon.kit.tally import Counter
from daemon.restart.api import API
from daemon.restart.worker import Worker
from spec import errors, names, restart
from spec.api import containers, namespaces
from spec.events import Envelope
from spec.exposition import Family
from spec.restart import Delays

TOPICS = ("/containers/create", "/containers/update", "/containers/delete", "/tasks/exit", "/tasks/delete")
PARALLEL = 8  # containers that something is done for at once
AGAIN_SECONDS = 1.0  # until events are followed again, should that fail

log = logging.getLogger(__name__)


class _Subject(msgspec.Struct):
    """Whom an event is about: a container's own has `id`, its task's `container_id`."""

    container_id: str = ""
    id: str = ""


class Monitor:
    """`delays` may be replaced at any time."""

    capabilities = restart.KINDS

    def __init__(self, api: API, delays: Delays) -> None:
        self.delays = delays
        self.turns = asyncio.Semaphore(PARALLEL)
        self.restarts = Counter("holdd_restarts_total", "Tasks that the restart monitor started.", ("namespace",))
        self._api = api
        self._workers: dict[tuple[str, str], tuple[Worker, asyncio.Task[None]]] = {}

    async def run(self) -> None:
        """Until cancelled; what is under way then is found again by its plan."""
        try:
            while True:
                try:
                    await self._follow()
                except errors.Error as exc:
                    log.warning("following events: %s", exc.message)
                    await asyncio.sleep(AGAIN_SECONDS)
        finally:
            running = [task for _, task in self._workers.values()]
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    def families(self) -> Sequence[Family]:
        """What the metrics tell of it."""
        return [self.restarts.family()]

    async def _follow(self) -> None:
        reading = asyncio.create_task(self._read(self._api.subscribe([f'topic=="{topic}"' for topic in TOPICS])))
        try:
            await asyncio.sleep(0)  # it has begun: what happens from now on is read
            await self._look_at_all()
            await reading
        finally:
            reading.cancel()
            await asyncio.wait([reading])

    async def _read(self, events: AsyncIterator[Envelope]) -> None:
        async for envelope in events:
            if envelope.topic not in TOPICS:
                await self._look_at_all()  # it was too slow, and has missed some
                continue
            with contextlib.suppress(msgspec.DecodeError):
                subject = msgspec.msgpack.decode(envelope.event, type=_Subject)
                self._look(envelope.namespace, subject.container_id or subject.id)

    async def _look_at_all(self) -> None:
        """One without a task may have been without it since it was made."""
        marked = containers.ListRequest(filters=[f'labels."{names.RESTART_STATUS}"'])
        for namespace in self._api.namespaces.list(namespaces.ListRequest()).namespaces:
            with context.using(namespace=namespace.name):
                async for block in self._api.containers.list_stream(marked):
                    for row in block.containers:
                        age_s = (time.time_ns() - row.created_at_ns) / 1e9
                        self._look(namespace.name, row.id, age_s if age_s > 0 else self.delays.grace)

    def _look(self, namespace: str, id: str, idle_s: float = 0.0) -> None:
        """Have a worker see to the container, if that bears our labels; the one that it has looks again."""
        key = (namespace, id)
        if key in self._workers:
            self._workers[key][0].happened.set()
            return
        worker = Worker(self._api, self, namespace, id, idle_s)
        record = worker.record()
        if record is None or names.RESTART_STATUS not in record.labels:
            return
        task = asyncio.create_task(worker.run())
        self._workers[key] = worker, task
        task.add_done_callback(lambda done: self._worked(worker, done))

    def _worked(self, worker: Worker, done: "asyncio.Task[None]") -> None:
        del self._workers[worker.namespace, worker.id]
        if done.cancelled():
            return
        if (error := done.exception()) is not None:
            log.error("restarting %s", worker.title, exc_info=error)
        elif worker.happened.is_set():
            self._look(worker.namespace, worker.id)
