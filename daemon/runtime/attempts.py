"""One creation of a task that is under way, for whoever asks for the same. Knows no task.

A caller who lost the connection, or patience, asks again and finds the attempt it began: it need not know whether that
failed. The last who leaves without having got the task ends the attempt.
"""

import asyncio
import os
from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

from spec.ports import Checkpoint
from spec.records import RuntimeRef
from spec.types import Mount, Stdio

T = TypeVar("T")


class Order(NamedTuple):
    """What a task is made of. Descriptors are lent."""

    namespace: str
    id: str
    spec: bytes
    rootfs: Sequence[Mount]
    stdio: Stdio
    runtime: RuntimeRef
    fds: Sequence[int]
    checkpoint: Checkpoint | None = None

    @property
    def doing(self) -> str:
        return f"create task {self.id}"


class Attempt(Generic[T]):
    def __init__(self, order: Order, task: "asyncio.Task[T]") -> None:
        self.ending = False
        self._task = task
        self._means = _meaning(order)
        self._waiting = 0

    def answers(self, order: Order) -> bool:
        """Whether `order` asks for the very same: descriptors are the same that lead to the same files."""
        return self._means == _meaning(order)

    async def join(self) -> T:
        """What comes of it. The last who is cancelled here waits until nothing is left of the attempt."""
        self._waiting += 1
        try:
            return await asyncio.shield(self._task)
        finally:
            self._waiting -= 1
            if not self._waiting and not self._task.done():
                self.ending = True
                self._task.cancel()
                await self.over()

    async def over(self) -> None:
        await asyncio.wait([self._task])


def _meaning(order: Order) -> tuple[object, ...]:
    files = [(status.st_dev, status.st_ino) for status in map(os.fstat, order.fds)]
    checkpoint = order.checkpoint.digest if order.checkpoint else ""
    return (order.spec, list(order.rootfs), order.stdio, order.runtime, files, checkpoint)
