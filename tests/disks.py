"""Small filesystems of their own, to be filled, or to lack something."""

import contextlib
import subprocess
from pathlib import Path

from daemon.kit import mounting
from spec.types import Mount

MIB = 1 << 20

# kind: options of mkfs.ext4, for an image behind a loop device
EXT4 = {"ext4": (), "ext4 without d_type": ("-O", "^filetype")}
KINDS = ("tmpfs", "ext4")


@contextlib.contextmanager
def disk(place, kind, size=16 * MIB, *options):
    """A new filesystem mounted on a new directory below `place`, as long as the block runs."""
    target = Path(place) / "disk"
    target.mkdir()
    image = Path(place) / "disk.img"
    if kind == "tmpfs":
        mounts = [Mount(type="tmpfs", source="tmpfs", options=(f"size={size}", *options))]
    else:
        image.touch()
        with image.open("r+b") as file:
            file.truncate(size)
        subprocess.run(["mkfs.ext4", "-q", "-F", *EXT4[kind], image], check=True)
        mounts = [Mount(type="ext4", source=str(image), options=("loop", *options))]
    mounting.attach(mounts, str(target))
    try:
        yield target
    finally:
        mounting.detach(str(target))
        image.unlink(missing_ok=True)
        target.rmdir()
