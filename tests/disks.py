"""Filesystems of their own: small ones to be filled or to lack something, larger ones for what depends on the kind."""

import contextlib
import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from daemon.kit import mounting
from spec.types import Mount

MIB = 1 << 20

# kind: how it is made, on an image behind a loop device
MAKERS = {
    "ext4": ("mkfs.ext4", "-q", "-F", "-O", "has_journal"),
    "ext4 without d_type": ("mkfs.ext4", "-q", "-F", "-O", "^filetype"),
    "btrfs": ("mkfs.btrfs", "-q"),
    "xfs": ("mkfs.xfs", "-q", "-m", "reflink=1"),
}
KINDS = ("tmpfs", "ext4")
LARGE = ("btrfs", "ext4", "xfs")


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
        subprocess.run([*MAKERS[kind], image], check=True)
        mounts = [Mount(type=kind.split()[0], source=str(image), options=("loop", *options))]
    mounting.attach(mounts, str(target))
    try:
        yield target
    finally:
        mounting.detach(str(target))
        image.unlink(missing_ok=True)
        target.rmdir()


def fill(directory):
    """Until not one block is left; the file that does it."""
    path = directory / "filler"
    with path.open("wb", buffering=0) as file:
        for size in (MIB, 4096, 1):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)):
                    os.fsync(file.fileno())
    with pytest.raises(OSError, match="No space left") as failed:
        (directory / "one more").write_bytes(b"x" * 4096)
    assert failed.value.errno == errno.ENOSPC
    (directory / "one more").unlink(missing_ok=True)
    return path


@contextlib.contextmanager
def every(place):
    """One of each LARGE kind that can be made here; afterwards their loop devices are free again."""
    with contextlib.ExitStack() as stack:
        made = {}
        for kind in LARGE:
            if shutil.which(MAKERS[kind][0]):
                Path(place, kind).mkdir()
                made[kind] = stack.enter_context(disk(Path(place, kind), kind, 1024 * MIB))
        yield made
    backing = [path.read_text() for path in Path("/sys/block").glob("loop*/loop/backing_file")]
    assert not [name for name in backing if str(place) in name]
