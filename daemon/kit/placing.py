"""Mounts that the new calls cannot make by themselves: by mount(2), of several parts, or through id maps. They are put
together at a place in a mount namespace that a passing thread has for itself, and taken out of it detached."""

import errno
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import cache
from typing import TypeVar

import msgspec

from daemon.kit.making import AT_FDCWD, bind, make, source
from daemon.kit.steps import (
    MNT_DETACH,
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_REC,
    MS_REMOUNT,
    PAGE,
    UMOUNT_NOFOLLOW,
    Step,
    doing,
    layers,
    lowerdirs,
)
from pyx import fs, proc
from pyx import mount as calls
from spec import errors

T = TypeVar("T")


def needs_place(step: Step) -> bool:
    """Whether it takes more than the new calls can make by themselves."""
    return _needs_old_call(step) or (step.type == "overlay" and bool(step.uid_map))


def _needs_old_call(step: Step) -> bool:
    """Whether only mount(2) can make it, on this kernel or on any."""
    if step.binds:
        return not _changes_attributes()
    if step.type == "aufs" or (step.type == "overlay" and not _appends_layers()):
        return True
    return any(len(os.fsencode(text)) > calls.FSCONFIG_STRING_MAX for text in _texts(step))


def _texts(step: Step) -> Iterator[str]:
    yield step.source
    for key, value in step.parameters:
        if (step.type, key) == ("overlay", "lowerdir"):
            yield from (layer for _, layer in layers(value))
        else:
            yield value


@cache
def _appends_layers() -> bool:
    """Whether overlay takes its layers one by one. Kernels from 6.5 refuse a parameter that they do not know; those
    before find fault only in the end, and take even this one without its value."""
    context = calls.fsopen("overlay")
    try:
        calls.fsconfig(context, calls.FSCONFIG_SET_STRING, "lowerdir+", "/")
    except OSError:
        os.close(context)
        return False
    try:
        calls.fsconfig(context, calls.FSCONFIG_SET_FLAG, "lowerdir+")
    except OSError:
        return True
    finally:
        os.close(context)
    return False


@cache
def _changes_attributes() -> bool:
    """Whether there is mount_setattr(2), of Linux 5.12."""
    try:
        calls.mount_setattr(-1, "", calls.AT_EMPTY_PATH)
    except OSError as exc:
        return exc.errno != errno.ENOSYS
    return True


def assembled(steps: Sequence[Step]) -> int:
    """All steps in this thread's own mount namespace, taken out of it as one detached mount."""
    with ExitStack() as stack:
        calls.mount("", "/", "", MS_REC | MS_PRIVATE)  # or it would all happen in the namespace we came from, too
        place = tempfile.mkdtemp(prefix="holdd-mount-")
        stack.callback(os.rmdir, place)
        for step in steps:
            with doing(step):
                _put(step, place, stack)
        return calls.open_tree(AT_FDCWD, place, calls.OPEN_TREE_CLONE | calls.AT_RECURSIVE)


def _put(step: Step, place: str, stack: ExitStack) -> None:
    """Mount one step at or below `place`, until `stack` ends."""
    target = _inside(place, step.target, stack) if step.target else place
    if step.flags & MS_REMOUNT:
        _mount(step, target)
        return
    if step.type == "overlay" and step.uid_map:
        step = _idmapped(step, stack)
    if _needs_old_call(step):
        _mount(step, target)
    else:
        _move(make(step), target)
    if not step.target:
        stack.callback(calls.umount2, place, MNT_DETACH)


def _move(made: int, target: str) -> None:
    """Attach the mount, whose descriptor is closed."""
    try:
        calls.move_mount(made, AT_FDCWD, target, calls.MOVE_MOUNT_F_EMPTY_PATH | calls.MOVE_MOUNT_T_SYMLINKS)
    finally:
        os.close(made)


def _idmapped(step: Step, stack: ExitStack) -> Step:
    """An overlay over layers that are each shown through the map (Linux 5.19): it cannot be mapped as a whole."""
    place = tempfile.mkdtemp(prefix="holdd-layers-")
    stack.callback(os.rmdir, place)
    calls.mount("tmpfs", place, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    stack.callback(calls.umount2, place, MNT_DETACH)
    names = []
    for number, (_, layer) in enumerate(lowerdirs(step)):
        name = f"{place}/{number}"
        os.mkdir(name)
        shown = Step(type="bind", source=layer, target="", flags=MS_BIND, uid_map=step.uid_map, gid_map=step.gid_map)
        _move(bind(shown), name)
        names.append(name)
    others = tuple(parameter for parameter in step.parameters if parameter[0] != "lowerdir")
    return msgspec.structs.replace(step, parameters=(("lowerdir", ":".join(names)), *others), uid_map="", gid_map="")


def _inside(place: str, target: str, stack: ExitStack) -> str:
    """A path of `target`, which is looked up as if `place` were "/": links lead nowhere else."""
    root = os.open(place, os.O_PATH | os.O_CLOEXEC)
    stack.callback(os.close, root)
    fd = fs.openat2(root, target, os.O_PATH, 0, fs.RESOLVE_IN_ROOT | fs.RESOLVE_NO_MAGICLINKS)
    stack.callback(os.close, fd)
    return f"/proc/self/fd/{fd}"


def attach_each(steps: Sequence[Step], target: str) -> None:
    """One after the other by mount(2), for kernels before 5.2."""
    done = 0
    try:
        for step in steps:
            if step.target:
                raise errors.Unimplemented(f"mounting {step}: a mount inside another needs Linux 5.6")
            with doing(step):
                _mount(step, target)
            done += not step.flags & MS_REMOUNT
    except BaseException:
        for _ in range(done):
            with suppress(OSError):  # what failed is what is told
                calls.umount2(target, MNT_DETACH | UMOUNT_NOFOLLOW)
        raise


def _mount(step: Step, target: str) -> None:
    """By mount(2)."""
    if step.uid_map:
        raise OSError(errno.ENOSYS, "an id map needs Linux 5.12")
    if step.type == "overlay" and len(os.fsencode(step.data)) >= PAGE:
        common, short = _relative(step)
        apart(proc.CLONE_FS, lambda: _mount_from(common, short, target))
        return
    with source(step) as shown:
        calls.mount(shown or step.type, target, step.type, step.flags, step.data)
    if step.binds and step.attributes and not step.flags & MS_REMOUNT:
        calls.mount("", target, "", step.flags & ~MS_REC | MS_REMOUNT)  # a bind mount takes its flags only later


def _mount_from(directory: str, step: Step, target: str) -> None:
    """With names relative to `directory`, which only a thread of its own may change to."""
    os.chdir(directory)
    calls.mount(step.source or step.type, target, step.type, step.flags, step.data)


def _relative(step: Step) -> tuple[str, Step]:
    """The directory that all layers share, and the step with layers named from there: mount(2) takes one page."""
    layers = lowerdirs(step)
    common = os.path.commonpath([os.path.dirname(layer) for _, layer in layers])
    text = ""
    for key, layer in layers:
        name = os.path.relpath(layer, common).replace("\\", "\\\\").replace(":", "\\:")
        text += ("::" if key == "datadir+" else ":" if text else "") + name
    parameters = tuple((key, text if key == "lowerdir" else value) for key, value in step.parameters)
    return common, msgspec.structs.replace(step, parameters=parameters)


def apart(flags: int, function: Callable[[], T]) -> T:
    """What `function` returns in a thread that has what `flags` (CLONE_*) name for itself, and passes with it."""
    results: list[T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            proc.unshare(flags)
            results.append(function())
        except BaseException as exc:
            failures.append(exc)

    thread = threading.Thread(target=run, name="holdd-mount")
    thread.start()
    thread.join()
    if failures:
        raise failures.pop()
    return results.pop()
