"""A daemon's worth of runtime that lives one life after another and says what it does next, until it is killed.

Usage: python -m tests.root.tasks_child STATE ROOTFS
"""

import asyncio
import itertools
import json
import sys
from pathlib import Path

from daemon.runtime.nursery import Nursery
from spec.types import Stdio
from tests.root.tasks_rig import Rig, process


def say(step):
    print(step, flush=True)


async def live(rig, id):
    say("create")
    task = await rig.create(id, "sleep", "1000")
    say("start")
    await task.start()
    say("exec")
    await task.exec("e", json.dumps(process("sleep", "1000")).encode(), Stdio())
    say("start exec")
    await task.start("e")
    say("pause")
    await task.pause()
    say("resume")
    await task.resume()
    say("kill")
    await task.kill(9)
    say("wait")
    await task.wait()
    say("delete")
    await rig.delete(id)


async def main():
    rig = Rig(sys.argv[1], NURSERY, Path(sys.argv[2]))
    for number in itertools.count():
        await live(rig, f"c{number}")


NURSERY = Nursery.fork()
asyncio.run(main())
