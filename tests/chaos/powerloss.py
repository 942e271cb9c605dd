"""Power losses: at random instants, while many clients write and pull, the disk is copied as it is, which is what a
host without power finds: whatever was not yet synced is missing. What was acknowledged is there, the rest is there
whole or not at all, blobs have their digests, images their files.

    python -m tests.chaos.powerloss --rounds 50 [--kind ext4|xfs|btrfs] [--seed N] [--directory DIR]

The root directory is on a disk behind a loop device, whose image is on a filesystem that copies it at once, with all
that has been written to it (FICLONE). A disk that loses or reorders what it has said is written is not tried.
"""

import contextlib
import os
import random
import subprocess
import time
from pathlib import Path

from daemon.kit import mounting
from spec.api import images
from spec.types import Mount
from tests.chaos import command
from tests.chaos.records import CONFIG, Model, Wrong, found, fsck, working
from tests.daemon import Daemon
from tests.disks import MIB, disk
from tests.fake import Fake

SIZE = 600 * MIB


def chaos(directory, rounds, seed, kind="ext4", say=lambda line: None):
    """Wrong when anything does not hold; what was done."""
    chance = random.Random(seed)
    model = Model()
    checked = 0
    with contextlib.ExitStack() as stack:
        fake = stack.enter_context(Fake())
        for tag in range(3):
            fake.image(str(tag), {f"f{n}": os.urandom(20_000) for n in range(20)})
        outer = stack.enter_context(disk(directory, "xfs", 3 * SIZE))
        (outer / "inner").mkdir()
        inner = stack.enter_context(disk(outer / "inner", kind, SIZE))
        daemon = stack.enter_context(_on(Path(directory, "before"), inner))
        for number in range(rounds):
            with working(daemon, model, chance, fake.host):
                time.sleep(chance.uniform(0.3, 2.0))
                with model.during() as then:
                    _copy(outer / "inner/disk.img", outer / "copy.img")
            checked += _look(Path(directory, f"after{number}"), outer / "copy.img", kind, then, fake.host)
            daemon.start()
            with daemon.client() as client:
                model.compare(found(client, fake.host))
            say(f"round {number + 1}: {model.acknowledged} changes acknowledged, {checked} images looked at")
    return {
        "rounds": rounds,
        "kind": kind,
        "seed": seed,
        "acknowledged": model.acknowledged,
        "images looked at": checked,
    }


def _on(directory, root):
    """A daemon whose root is on the disk, and no more of it."""
    directory.mkdir()
    daemon = Daemon(directory, CONFIG)
    daemon.root = root / "root"
    return daemon


def _copy(image, copy):
    subprocess.run(["cp", "--reflink=always", image, copy], check=True)


def _look(directory, image, kind, then, host):
    """What a host finds that has this disk after it had no power; how many images are whole."""
    place = directory.with_name(f"{directory.name}-disk")
    place.mkdir()
    options = ("loop", "nouuid") if kind == "xfs" else ("loop",)
    mounting.attach([Mount(type=kind, source=str(image), options=options)], str(place))
    try:
        daemon = _on(directory, place)
        fsck(daemon)
        with daemon, daemon.client() as client:
            then.compare(found(client, host))
            whole = [image.name for image in client.images.list(images.ListRequest()).images]
            whole = [name for name in whole if name.startswith(host)]
            for name in whole:
                _whole(client, name)
        fsck(daemon)
    finally:
        mounting.detach(str(place))
        image.unlink()
        place.rmdir()
    return len(whole)


def _whole(client, name):
    """Each blob has its digest, and each snapshot what its layers give."""
    for reply in client.images.check(images.CheckRequest(name=name)):
        if reply.finding is not None:
            raise Wrong(f"{name}: {reply.finding}")


if __name__ == "__main__":
    command.run(__doc__, chaos, rounds=50, kind="ext4")
