"""Real filesystems on images behind loop devices, for what depends on the filesystem."""

import shutil
import subprocess
from contextlib import ExitStack, contextmanager
from pathlib import Path

from daemon.kit import mounting
from pyx import mount as calls
from spec.types import Mount

SIZE = 1 << 30  # sparse; mkfs.xfs wants at least 300 MB
MAKERS = {
    "ext4": ("mkfs.ext4", "-q", "-F", "-O", "has_journal"),
    "xfs": ("mkfs.xfs", "-q", "-m", "reflink=1"),
}


@contextmanager
def disk(fstype, directory, *options):
    """A new filesystem, mounted below `directory` while the block runs; then its loop device is free again."""
    image, place = directory / f"{fstype}.image", directory / fstype
    with open(image, "wb") as file:
        file.truncate(SIZE)
    subprocess.run([*MAKERS[fstype], *options, image], check=True)
    place.mkdir()
    mounting.attach([Mount(type=fstype, source=str(image), options=("loop",))], str(place))
    try:
        yield place
    finally:
        calls.umount2(str(place))  # not lazily: who still uses it shall be found
        image.unlink()
    backing = [path.read_text() for path in Path("/sys/block").glob("loop*/loop/backing_file")]
    assert not [name for name in backing if str(image) in name]


@contextmanager
def every(directory):
    """One of each that can be made here, by type."""
    with ExitStack() as stack:
        yield {
            fstype: stack.enter_context(disk(fstype, directory))
            for fstype, (maker, *_) in MAKERS.items()
            if shutil.which(maker)
        }
