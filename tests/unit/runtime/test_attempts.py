"""What counts as asking for the same task."""

import asyncio
import os

import pytest
from msgspec.structs import replace

from daemon.runtime.attempts import Attempt, Order
from spec.records import RuntimeRef
from spec.types import Mount, Stdio

MOUNT = Mount(type="bind", source="/a")


@pytest.fixture
def order():
    read, write = os.pipe()
    yield Order("ns", "t", b"{}", (MOUNT,), Stdio(stdout="fd://0"), RuntimeRef(name="runc"), (write,))
    os.close(read)
    os.close(write)


def answered(order, other):
    async def ask():
        return Attempt(order, asyncio.current_task()).answers(other)

    return asyncio.run(ask())


def test_the_same_and_by_another_descriptor(order):
    again = os.dup(order.fds[0])
    try:
        assert answered(order, order)
        assert answered(order, order._replace(fds=[again], rootfs=[MOUNT]))
    finally:
        os.close(again)


@pytest.mark.parametrize(
    "change",
    [
        {"spec": b"{ }"},
        {"rootfs": ()},
        {"rootfs": (replace(MOUNT, options=("ro",)),)},
        {"stdio": Stdio()},
        {"runtime": RuntimeRef(name="crun")},
        {"fds": ()},
        {"fds": (0,)},
    ],
)
def test_another(order, change):
    assert not answered(order, order._replace(**change))
