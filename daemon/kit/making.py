"""One mount by the new calls (fsopen(2), open_tree(2), Linux 5.2): detached, a descriptor."""

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count

from daemon.kit.steps import FS_WORDS, MS_PRIVATE, MS_RDONLY, MS_REC, Step, layers
from pyx import mount as calls
from pyx import proc

AT_FDCWD = -100
LOOP_TRIES = 64


def make(step: Step) -> int:
    return bind(step) if step.binds else _filesystem(step)


def bind(step: Step) -> int:
    recursive = calls.AT_RECURSIVE if step.flags & MS_REC else 0
    tree = calls.open_tree(AT_FDCWD, step.source, calls.OPEN_TREE_CLONE | recursive)
    try:
        _dress(tree, step, step.attributes, recursive)
    except BaseException:
        os.close(tree)
        raise
    return tree


def _filesystem(step: Step) -> int:
    context = calls.fsopen(step.type)
    try:
        with source(step) as shown:
            if shown and step.type != "overlay":
                calls.fsconfig(context, calls.FSCONFIG_SET_STRING, "source", shown)
            for key, value in step.parameters:
                _set(context, step.type, key, value)
            for flag, word in FS_WORDS.items():
                if step.flags & flag:
                    calls.fsconfig(context, calls.FSCONFIG_SET_FLAG, word)
            calls.fsconfig(context, calls.FSCONFIG_CMD_CREATE)
        made = calls.fsmount(context, step.attributes)
    finally:
        os.close(context)
    try:
        if step.type != "overlay" and step.uid_map:
            _dress(made, step, 0, 0)
    except BaseException:
        os.close(made)
        raise
    return made


def _set(context: int, fstype: str, key: str, value: str) -> None:
    """One parameter. Overlay's layers go one by one: so no page limits how many there are."""
    if (fstype, key) == ("overlay", "lowerdir"):
        for add, layer in layers(value):
            calls.fsconfig(context, calls.FSCONFIG_SET_STRING, add, layer)
    elif value:
        calls.fsconfig(context, calls.FSCONFIG_SET_STRING, key, value)
    else:
        calls.fsconfig(context, calls.FSCONFIG_SET_FLAG, key)


def _dress(tree: int, step: Step, attributes: int, recursive: int) -> None:
    """Attributes, id maps and propagation of a detached mount."""
    # The access time attributes are one field, which must be cleared to be set (mount_setattr(2)).
    clear = calls.MOUNT_ATTR__ATIME if attributes & calls.MOUNT_ATTR__ATIME else 0
    where = calls.AT_EMPTY_PATH | recursive
    if step.uid_map:
        users = proc.user_namespace(step.uid_map, step.gid_map)
        try:
            set_ = attributes | calls.MOUNT_ATTR_IDMAP
            calls.mount_setattr(tree, "", where, set_, clear, MS_PRIVATE, users)
        finally:
            os.close(users)
    else:
        calls.mount_setattr(tree, "", where, attributes, clear, MS_PRIVATE)


@contextmanager
def source(step: Step) -> Iterator[str]:
    """The source as the kernel takes it; a loop device is held until the mount holds it, and goes with the mount."""
    if not step.loop:
        yield step.source
        return
    read_only = bool(step.flags & MS_RDONLY)
    access = (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC
    flags = calls.LO_FLAGS_AUTOCLEAR | (calls.LO_FLAGS_READ_ONLY if read_only else 0)
    with ExitStack() as stack:
        backing = os.open(step.source, access)
        stack.callback(os.close, backing)
        control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
        stack.callback(os.close, control)
        for tries in count(1):
            device = f"/dev/loop{calls.loop_get_free(control)}"
            loop = os.open(device, access)
            stack.callback(os.close, loop)
            try:
                calls.loop_configure(loop, backing, flags, step.source)
            except OSError as exc:
                if exc.errno == errno.EBUSY and tries < LOOP_TRIES:
                    continue  # another took it since
                raise
            yield device
            return
