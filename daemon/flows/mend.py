"""A tree made what it should be, in place: what differs is exchanged for the same path of a tree that is right.

Both lie on one filesystem, for nothing is copied: each path changes from one moment to the next, and who has a file
open goes on with the one he has. What is taken out lands in the other tree, which is rubbish afterwards.
"""

import contextlib
import errno
import os

from daemon.flows.compare import DEEP, Difference, attributes, opened
from pyx import fs, walk
from spec import errors


def mend(expected: int, actual: int, found: list[Difference]) -> None:
    """Exchange what `found` names, parents before children, in the tree `actual`; durable when it returns.

    Unimplemented where the trees lie on different filesystems.
    """
    times: dict[bytes, os.stat_result] = {}
    try:
        for difference in found:
            folder, _, name = difference.path.rpartition(b"/")
            folder = folder or b"."
            with contextlib.ExitStack() as stack:
                theirs = stack.enter_context(opened(expected, folder))
                ours = stack.enter_context(opened(actual, folder))
                times.setdefault(folder, os.fstat(theirs))
                if "link" in difference.what and difference.first:
                    _link(theirs, actual, difference.first, name)
                    fs.renameat2(theirs, name, ours, name)
                else:
                    _put(theirs, ours, name, difference)
        for folder, info in times.items():
            with contextlib.suppress(FileNotFoundError), opened(actual, folder) as ours:
                os.utime(ours, ns=(info.st_atime_ns, info.st_mtime_ns))
        fs.syncfs(actual)
    except OSError as exc:
        if exc.errno == errno.EXDEV:
            raise errors.Unimplemented(
                "repairing a snapshot: each is on a filesystem of its own; remove it and unpack again"
            ) from exc
        raise errors.from_os(exc, "repairing a snapshot") from exc


def _put(theirs: int, ours: int, name: bytes, difference: Difference) -> None:
    """One entry of two open directories."""
    what = set(difference.what)
    if "extra" in what:
        walk.remove(ours, name)
    elif "missing" in what:
        fs.renameat2(theirs, name, ours, name, fs.RENAME_NOREPLACE)
    elif not what & (DEEP - {"opaque"}) and _is_folder(ours, name):
        _dress(theirs, ours, name)
    else:
        fs.renameat2(theirs, name, ours, name, fs.RENAME_EXCHANGE)


def _link(theirs: int, actual: int, first: bytes, name: bytes) -> None:
    """The entry `name` of the open directory, made one more name of what is `first` in the tree `actual`, where that is
    right by now."""
    folder, _, last = first.rpartition(b"/")
    with opened(actual, folder or b".") as source:
        os.unlink(name, dir_fd=theirs)
        os.link(last, name, src_dir_fd=source, dst_dir_fd=theirs, follow_symlinks=False)


def _is_folder(folder: int, name: bytes) -> bool:
    try:
        with opened(folder, name):
            return True
    except OSError as exc:
        if exc.errno in (errno.ENOTDIR, errno.ELOOP):
            return False
        raise


def _dress(theirs: int, ours: int, name: bytes) -> None:
    """A directory's owner, mode and attributes; what is in it stays."""
    with contextlib.ExitStack() as stack:
        source, target = (stack.enter_context(opened(folder, name)) for folder in (theirs, ours))
        info = os.fstat(source)
        os.fchown(target, info.st_uid, info.st_gid)
        os.fchmod(target, info.st_mode & 0o7777)  # after the owner, whose change clears setgid
        wanted, held = attributes(theirs, name), attributes(ours, name)
        for key in held.keys() - wanted.keys():
            os.removexattr(target, key)
        for key, value in wanted.items():
            if held.get(key) != value:
                os.setxattr(target, key, value)

