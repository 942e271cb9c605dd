"""From start to stop: assemble, recover, open the socket last; on a signal close it first and let shims be."""

import asyncio
import contextlib
import gc
import logging
import signal
from collections.abc import AsyncIterator, Callable, Sequence

from daemon.assembly import System, make_directories
from daemon.config import Config
from daemon.kit import log as logs
from daemon.kit import mounting, sole
from daemon.manager import Manager
from daemon.runtime.nursery import Nursery
from daemon.transport.dispatch import Dispatcher, Observer
from daemon.transport.http import HttpServer, Page
from daemon.transport.tracing import Tracing
from daemon.transport.unix import UnixServer
from spec import errors
from spec.exposition import CONTENT_TYPE

log = logging.getLogger(__name__)


async def serve(config: Config, nursery: Nursery, again: Callable[[], Config], manager: Manager) -> None:
    """Run the daemon until SIGTERM or SIGINT. On SIGHUP it takes up what `again` reads. Sockets that `manager` handed
    over take the place of the configured one."""
    stopping, reloading = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, reloading.set)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    make_directories(config)
    with sole.held(config.state, "state"):
        await _run(config, nursery, again, manager, stopping, reloading)


async def _run(
    config: Config,
    nursery: Nursery,
    again: Callable[[], Config],
    manager: Manager,
    stopping: asyncio.Event,
    reloading: asyncio.Event,
) -> None:
    system = System(config, nursery)
    try:
        mounting.private(config.state)  # what shims mount below it reaches nobody
        await system.runtime.recover()
        gc.freeze()  # what the start made stays; collections look at what came after
        gc.enable()
        observers: list[Observer] = [Tracing()] if system.tracing else []
        if system.metrics is not None:
            observers.append(system.metrics.calls)
        server = UnixServer(Dispatcher(system.services, observers))
        async with _metrics(config, system):
            for address in _listen(server, config, manager):
                log.info("serving at %s", address)
            manager.ready()
            tidying = asyncio.create_task(asyncio.to_thread(system.tidy))
            tasks = [
                asyncio.create_task(manager.beat()),
                asyncio.create_task(system.scheduler.run()),
                asyncio.create_task(system.runtime.look()),
                asyncio.create_task(_reload(system, reloading, again, manager)),
            ]
            if system.restarting is not None:
                tasks.append(asyncio.create_task(system.restarting.run()))
            try:
                await stopping.wait()
            finally:
                log.info("stopping")
                manager.stopping()
                await server.close()
                for task in tasks:
                    task.cancel()
                await asyncio.wait([tidying, *tasks])
    finally:
        await system.runtime.close()
        system.close()
        if not system.runtime.tasks():
            mounting.detach(config.state)


def _listen(server: UnixServer, config: Config, manager: Manager) -> Sequence[str]:
    if not manager.sockets:
        server.listen(config.address)
        return [config.address]
    return [server.listen_on(sock) for sock in manager.sockets]


@contextlib.asynccontextmanager
async def _metrics(config: Config, system: System) -> AsyncIterator[None]:
    """The metrics endpoint while the block runs, if there shall be one."""
    if system.metrics is None:
        yield
        return
    endpoint = HttpServer(Page(system.metrics.body, config.metrics.max_age_s), CONTENT_TYPE)
    log.info("metrics at %s", await endpoint.listen(config.metrics.address))
    try:
        yield
    finally:
        await endpoint.close()


async def _reload(system: System, reloading: asyncio.Event, again: Callable[[], Config], manager: Manager) -> None:
    """Each time it is told to; a configuration with a mistake changes nothing."""
    while True:
        await reloading.wait()
        reloading.clear()
        with manager.reloading():
            try:
                config = await asyncio.to_thread(again)
            except errors.Error as exc:
                log.error("the configuration stays as it was: %s", exc.message)
                continue
            waiting = system.reload(config)
            logs.setup(system.config.log_level, system.config.log_format)
        log.info("read the configuration again")
        if waiting:
            log.warning("a restart is needed for %s", ", ".join(waiting))
