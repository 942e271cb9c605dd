"""Filesystems of their own: small ones to be filled or to lack something, larger ones for what depends on the kind."""

import contextlib
import errno
import fcntl
import os
import shutil
import struct
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
    "ext4 by pages": ("mkfs.ext4", "-q", "-F", "-O", "has_journal", "-b", "4096"),
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


class Failing:
    """A filesystem at `path` on a disk behind a loop device, whose image is on another that fills up: then what the
    disk has not written before fails to be written back, though the filesystem has room. Its own tables and journal
    have theirs from the start."""

    def __init__(self, path, image):
        self.path = path
        self.image = image
        self._filler = None
        self._by_pages()
        with image.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, image.stat().st_size)
        subprocess.run(["fstrim", path], check=True)

    def _by_pages(self):
        """To Linux's loop device a request is done of which its file took only a part. A page it takes or refuses."""
        device = os.stat(self.path).st_dev
        queue = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/queue/max_sectors_kb")
        queue.write_text("4")

    def fail(self):
        self._filler = fill(self.image.parents[1])

    def mend(self):
        self._filler.unlink()

    def end(self):
        """From now on whatever is written or synced is EIO (EXT4_IOC_SHUTDOWN, without the log)."""
        fd = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, 0x8004587D, struct.pack("I", 2))
        finally:
            os.close(fd)

    def again(self):
        """What is on the disk, after a check: the filesystem is mounted anew."""
        mounting.detach(str(self.path))
        done = subprocess.run(["e2fsck", "-fy", self.image], capture_output=True, check=False)
        assert done.returncode in (0, 1), done.stdout
        mounting.attach([Mount(type="ext4", source=str(self.image), options=("loop",))], str(self.path))
        self._by_pages()


@contextlib.contextmanager
def failing(place, size=64 * MIB):
    """A Failing disk of `size` bytes."""
    with disk(place, "tmpfs", size + MIB) as outer:
        (outer / "inner").mkdir()
        with disk(outer / "inner", "ext4 by pages", size) as inner:
            yield Failing(inner, outer / "inner/disk.img")


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
