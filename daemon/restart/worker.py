"""One container that is not as its restart labels say, until it is. Knows no other."""

import asyncio
import contextlib
import logging
import random
import signal
import time
from typing import Protocol

import msgspec

from daemon.kit import context
from daemon.kit.tally import Counter
from daemon.restart.api import API
from spec import errors, names, restart
from spec.api import containers, tasks
from spec.base import Doc
from spec.records import Container, Status
from spec.restart import Delays, Do, Moment, Seen, Verdict
from spec.types import Stdio

KILL_SECONDS = 10.0  # for a task to end

log = logging.getLogger(__name__)


class Shop(Protocol):
    """What workers share: `turns` bounds how many of them do something at once."""

    delays: Delays
    turns: asyncio.Semaphore
    restarts: Counter


class _Process(Doc, frozen=True):
    terminal: bool = False


class _Spec(Doc, frozen=True):
    process: _Process | None = None


class Worker:
    """`happened` is set by whoever knows that something did. Waits are by the clock that nobody sets. The container has
    had no task for `idle_s` seconds, if it has none."""

    def __init__(self, api: API, shop: Shop, namespace: str, id: str, idle_s: float) -> None:
        self.namespace = namespace
        self.id = id
        self.title = f"container {id} of namespace {namespace}"
        self.happened = asyncio.Event()
        self._api = api
        self._shop = shop
        self._idle_since_s = time.monotonic() - idle_s
        self._plan, self._due_s = "", 0.0
        self._started = False
        self._failures = 0

    async def run(self) -> None:
        with context.using(namespace=self.namespace):
            while (wait_s := await self._turn()) is not None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self.happened.wait()

    def record(self) -> Container | None:
        with context.using(namespace=self.namespace), contextlib.suppress(errors.NotFound):
            return self._api.containers.get(containers.GetRequest(id=self.id))
        return None

    async def _turn(self) -> float | None:
        """Look, and do what is to be done now; how long the next turn may wait, None when it is all as it shall be."""
        async with self._shop.turns:
            self.happened.clear()
            try:
                record, task = self.record(), self._seen()
                if record is None:
                    await self._leave(task)
                    return None
                verdict = self._verdict(record, task)
                if verdict.wait_s or verdict.do is Do.NOTHING:
                    return verdict.wait_s or None
                await self._do(verdict, record, task)
            except errors.Error as exc:
                log.warning("restarting %s: %s", self.title, exc.message)
                self._failures += 1
                return min(self._shop.delays.first * 2.0 ** min(self._failures, 32), self._shop.delays.longest)
            self._failures = 0
            return 0.0

    def _verdict(self, record: Container, task: Seen | None) -> Verdict:
        if task is not None:
            self._idle_since_s = time.monotonic()
        try:
            verdict = restart.decide(record.labels, task, self._shop.delays, self._moment())
        except errors.InvalidArgument as exc:
            log.warning("%s is not restarted: %s", self.title, exc.message)
            return Verdict(Do.NOTHING)
        if verdict.do is Do.START:
            plan = record.labels[names.RESTART_AT]
            if plan != self._plan:
                self._plan, self._due_s = plan, time.monotonic() + verdict.wait_s
            return verdict._replace(wait_s=max(self._due_s - time.monotonic(), 0.0))
        return verdict

    def _moment(self) -> Moment:
        return Moment(time.time_ns(), time.monotonic() - self._idle_since_s, random.random())

    def _seen(self) -> Seen | None:
        try:
            process = self._api.tasks.get(tasks.GetRequest(container_id=self.id))
        except errors.NotFound:
            return None
        began_ns = max((phase.began_at_ns for phase in process.timing if phase.name == "start"), default=0)
        ran_s = (process.exited_at_ns - began_ns) / 1e9 if began_ns else 0.0
        return Seen(process.status, process.exit_status, process.exited_at_ns, ran_s)

    async def _do(self, verdict: Verdict, record: Container, task: Seen | None) -> None:
        if verdict.do is Do.NOTE:
            await self._label(record, verdict.labels)
        elif verdict.do is Do.STOP:
            await self._stop(task)
        elif verdict.do is Do.START:
            try:
                await self._start(record, task)
            except errors.Error as exc:
                log.warning("starting %s again: %s", self.title, exc.message)
                await self._label(record, restart.put_off(record.labels, self._shop.delays, self._moment()))

    async def _start(self, record: Container, task: Seen | None) -> None:
        if task is not None and task.status is Status.STOPPED:
            await self._api.tasks.delete(tasks.DeleteRequest(container_id=self.id))
        if task is None or task.status is Status.STOPPED:
            await self._api.tasks.create(tasks.CreateRequest(container_id=self.id, stdio=_stdio(record)), ())
        try:
            await self._api.tasks.start(tasks.StartRequest(container_id=self.id))
        except errors.Error:
            with contextlib.suppress(errors.Error):
                await self._api.tasks.delete(tasks.DeleteRequest(container_id=self.id))
            raise
        self._started = True
        self._shop.restarts.add(self.namespace)
        log.info("%s was started again", self.title)

    async def _leave(self, task: Seen | None) -> None:
        """The record is gone: so shall be a task that was started just before."""
        if self._started and task is not None:
            await self._stop(task)

    async def _stop(self, task: Seen | None) -> None:
        id = self.id
        if task is not None and task.status is not Status.CREATED:
            with contextlib.suppress(errors.NotFound):  # it has just ended
                await self._api.tasks.kill(tasks.KillRequest(container_id=id, signal=signal.SIGKILL, all=True))
            try:
                async with asyncio.timeout(KILL_SECONDS):
                    await self._api.tasks.wait(tasks.WaitRequest(container_id=id))
            except TimeoutError as exc:
                raise errors.DeadlineExceeded(f"stop task {id}: it does not end") from exc
        await self._api.tasks.delete(tasks.DeleteRequest(container_id=id))

    async def _label(self, record: Container, labels: restart.Labels) -> None:
        changed = msgspec.structs.replace(record, labels={**record.labels, **labels})
        fields = [f"labels.{key}" for key in labels]
        await self._api.containers.update(containers.UpdateRequest(container=changed, fields=fields))


def _stdio(record: Container) -> Stdio:
    """A restart has nobody to talk to: its output goes where the container's own label says, or nowhere."""
    with contextlib.suppress(msgspec.DecodeError):  # the runtime will say so
        spec = msgspec.json.decode(record.spec, type=_Spec)
        if spec.process is not None and spec.process.terminal:
            return Stdio(terminal=True)
    uri = record.labels.get(names.RESTART_LOG_URI, "")
    return Stdio(stdout=uri, stderr=uri)
