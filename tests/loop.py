"""Filesystems on loop devices, for tests of what needs one of its own."""

import subprocess
from contextlib import contextmanager

from daemon.kit import mounting
from spec.types import Mount

BYTES = 512 << 20  # of an image, which is sparse


@contextmanager
def mounted(directory, fstype, *options):
    """The path of a new filesystem in a file of `directory`; it is gone when the block ends."""
    image, target = directory / f"{fstype}.img", directory / fstype
    with image.open("xb") as file:
        file.truncate(BYTES)
    target.mkdir()
    try:
        subprocess.run([f"mkfs.{fstype}", "-q", image], check=True, capture_output=True)
        mounting.attach([Mount(type=fstype, source=str(image), options=("loop", *options))], str(target))
        try:
            yield target
        finally:
            mounting.detach(str(target))
    finally:
        target.rmdir()
        image.unlink()
