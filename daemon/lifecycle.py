"""From start to stop: assemble, recover, open the socket last; on a signal close it first and let shims be."""

import asyncio
import gc
import logging
import signal

from daemon.assembly import System
from daemon.config import Config
from daemon.kit import mounting
from daemon.runtime.nursery import Nursery
from daemon.transport.dispatch import Dispatcher
from daemon.transport.unix import UnixServer

log = logging.getLogger(__name__)


async def serve(config: Config, nursery: Nursery) -> None:
    """Run the daemon until SIGTERM or SIGINT."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    system = System(config, nursery)
    try:
        mounting.private(config.state)  # what shims mount below it reaches nobody
        await system.runtime.recover()
        gc.collect()
        gc.freeze()  # what the start made stays; collections look at what came after
        server = UnixServer(Dispatcher(system.services))
        server.listen(config.address)
        log.info("serving at %s", config.address)
        tidying = asyncio.create_task(asyncio.to_thread(system.tidy))
        collecting = asyncio.create_task(system.scheduler.run())
        try:
            await stopping.wait()
        finally:
            log.info("stopping")
            await server.close()
            collecting.cancel()
            await asyncio.wait([tidying, collecting])
    finally:
        await system.runtime.close()
        system.close()
        if not system.runtime.tasks():
            mounting.detach(config.state)
