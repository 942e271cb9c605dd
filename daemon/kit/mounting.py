"""The consumer of `Mount`: what filesystems planned is mounted here, detached where the kernel can.

A detached mount is a descriptor that no mount table shows: it goes when the descriptor goes, so nothing that dies can
leak one. What only mount(2) can make is made in a mount namespace that a passing thread has for itself, and taken out
of it detached. Kernels before 5.2 get ordinary mounts.
"""

import errno
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from itertools import count
from typing import TypeVar

import msgspec

from pyx import fs, proc
from pyx import mount as calls
from spec import errors
from spec.base import Record
from spec.types import Mount

# mount(2) flags and the words of mount(8) that set (True) or clear (False) them.
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_SYNCHRONOUS, MS_REMOUNT = 1, 2, 4, 8, 16, 32
MS_MANDLOCK, MS_DIRSYNC, MS_NOATIME, MS_NODIRATIME, MS_BIND, MS_REC = 64, 128, 1024, 2048, 4096, 16384
MS_PRIVATE, MS_RELATIME, MS_STRICTATIME = 1 << 18, 1 << 21, 1 << 24
MNT_DETACH, UMOUNT_NOFOLLOW = 2, 8

_WORDS = {
    "async": (MS_SYNCHRONOUS, False), "atime": (MS_NOATIME, False), "bind": (MS_BIND, True), "defaults": (0, True),
    "dev": (MS_NODEV, False), "diratime": (MS_NODIRATIME, False), "dirsync": (MS_DIRSYNC, True),
    "exec": (MS_NOEXEC, False), "mand": (MS_MANDLOCK, True), "noatime": (MS_NOATIME, True), "nodev": (MS_NODEV, True),
    "nodiratime": (MS_NODIRATIME, True), "noexec": (MS_NOEXEC, True), "nomand": (MS_MANDLOCK, False),
    "norelatime": (MS_RELATIME, False), "nostrictatime": (MS_STRICTATIME, False), "nosuid": (MS_NOSUID, True),
    "rbind": (MS_BIND | MS_REC, True), "relatime": (MS_RELATIME, True), "remount": (MS_REMOUNT, True),
    "ro": (MS_RDONLY, True), "rw": (MS_RDONLY, False), "strictatime": (MS_STRICTATIME, True),
    "suid": (MS_NOSUID, False), "sync": (MS_SYNCHRONOUS, True),
}  # fmt: skip

_ATTRIBUTES = {
    MS_RDONLY: calls.MOUNT_ATTR_RDONLY, MS_NOSUID: calls.MOUNT_ATTR_NOSUID, MS_NODEV: calls.MOUNT_ATTR_NODEV,
    MS_NOEXEC: calls.MOUNT_ATTR_NOEXEC, MS_NOATIME: calls.MOUNT_ATTR_NOATIME,
    MS_STRICTATIME: calls.MOUNT_ATTR_STRICTATIME, MS_NODIRATIME: calls.MOUNT_ATTR_NODIRATIME,
}  # fmt: skip
# Flags that are the filesystem's, not the mount's: to fsconfig(2) they are words.
_FS_WORDS = {MS_RDONLY: "ro", MS_SYNCHRONOUS: "sync", MS_DIRSYNC: "dirsync", MS_MANDLOCK: "mand"}

_VOLATILE = ("volatile", "fsync=volatile")
PAGE = os.sysconf("SC_PAGE_SIZE")
AT_FDCWD = -100
LOOP_TRIES = 64
SUMMARY = 200  # characters of options in a message

T = TypeVar("T")


class Step(Record, frozen=True):
    """One mount call to be: flags of mount(2), and the filesystem's own parameters in order.

    With `loop` the source is a file that a loop device shows. The maps, lines of "inside outside length", are those
    that owners are shown through. A step with MS_REMOUNT changes what the step before it mounted.
    """

    type: str
    source: str
    target: str
    flags: int
    parameters: Sequence[tuple[str, str]] = ()
    loop: bool = False
    uid_map: str = ""
    gid_map: str = ""

    @property
    def binds(self) -> bool:
        return bool(self.flags & MS_BIND)

    @property
    def attributes(self) -> int:
        """As MOUNT_ATTR_* (mount_setattr(2))."""
        return sum(bit for flag, bit in _ATTRIBUTES.items() if self.flags & flag)

    @property
    def data(self) -> str:
        """The parameters as mount(2) takes them."""
        return ",".join(self._option(key, value) for key, value in self.parameters)

    def _option(self, key: str, value: str) -> str:
        if self.type == "overlay":
            value = value.replace(",", "\\,")  # it alone knows a comma that does not end an option
        return f"{key}={value}" if value else key

    def __str__(self) -> str:
        what = self.data if self.source in ("", "none", self.type) else self.source
        if len(what) > SUMMARY:
            what = f"{what[:SUMMARY]}..."
        return f"{self.type} {what}".rstrip() + (f" on {self.target}" if self.target else "")


def plan(mounts: Sequence[Mount]) -> list[Step]:
    """The calls that `mounts` come to, as values; InvalidArgument for an option nobody handles."""
    return [step for mount in mounts for step in _pages(_step(mount))]


def detached(mounts: Sequence[Mount]) -> int:
    """The mounts as one detached mount; its descriptor is the caller's. Unimplemented on a kernel without the calls."""
    steps = plan(mounts)
    if not steps:
        raise errors.InvalidArgument("mounting: there is nothing to mount")
    if steps[0].target:
        raise errors.InvalidArgument(f"mounting {steps[0]}: the first mount cannot have a target")
    if steps[0].flags & MS_REMOUNT:
        raise errors.InvalidArgument(f"mounting {steps[0]}: there is nothing to remount yet")
    with _doing(steps[0]):
        if len(steps) == 1 and not _needs_place(steps[0]):
            return _make(steps[0])
        return _apart(proc.CLONE_NEWNS, lambda: _assembled(steps))


@contextmanager
def opened(mounts: Sequence[Mount]) -> Iterator[int]:
    """A descriptor of the directory that the mounts show, for as long as the block runs.

    An overlay is not mounted as volatile, which could be done only once.
    """
    mounts = [_lasting(mount) for mount in mounts]
    with ExitStack() as stack:
        try:
            root = detached(mounts)
            stack.callback(os.close, root)
            fd = _open_directory(".", root)
        except errors.Unimplemented:
            directory = tempfile.mkdtemp(prefix="holdd-mount-")
            stack.callback(os.rmdir, directory)  # never recursively: should it still be mounted, that must fail
            attach(mounts, directory)
            stack.callback(detach, directory)
            fd = _open_directory(directory)
        stack.callback(os.close, fd)
        yield fd


def attach(mounts: Sequence[Mount], target: str) -> None:
    """Mount them at `target`, for all to see; `detach` undoes it."""
    try:
        root = detached(mounts)
    except errors.Unimplemented:
        _attach_each(plan(mounts), target)
        return
    try:
        calls.move_mount(root, AT_FDCWD, target)
    except OSError as exc:
        raise errors.from_os(exc, f"mounting on {target}") from exc
    finally:
        os.close(root)


def detach(target: str) -> None:
    """Unmount what is at `target`, lazily; nothing there is fine."""
    try:
        calls.umount2(target, MNT_DETACH | UMOUNT_NOFOLLOW)
    except OSError as exc:
        if exc.errno not in (errno.EINVAL, errno.ENOENT):
            raise errors.from_os(exc, f"unmounting {target}") from exc


def is_mount(path: str) -> bool:
    """Whether `path`, which is not followed when it is a link, is the root of a mount, bind mounts included."""
    found = fs.is_mount_root(AT_FDCWD, path)
    if found is not None:
        return found
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        above = os.open("..", os.O_PATH | os.O_CLOEXEC, dir_fd=fd)
        try:
            return _mount_id(fd) != _mount_id(above)
        finally:
            os.close(above)
    finally:
        os.close(fd)


def private(directory: str) -> bool:
    """Make `directory` a mount of its own whose mounts reach nobody, unless it is one; whether it was made."""
    try:
        directory = os.path.realpath(directory)
        if is_mount(directory):
            return False
        calls.mount(directory, directory, "", MS_BIND)
        try:
            calls.mount("", directory, "", MS_PRIVATE)
        except BaseException:
            calls.umount2(directory, MNT_DETACH | UMOUNT_NOFOLLOW)
            raise
    except OSError as exc:
        raise errors.from_os(exc, f"making {directory} a private mount") from exc
    return True


# Plans


def _step(mount: Mount) -> Step:
    flags = MS_BIND if mount.type == "bind" else 0
    parameters = []
    loop, maps = False, {"uidmap": "", "gidmap": ""}
    for option in mount.options:
        key, _, value = option.partition("=")
        if option in _WORDS:
            bits, sets = _WORDS[option]
            flags = flags | bits if sets else flags & ~bits
        elif option.startswith("X-containerd."):
            raise errors.InvalidArgument(f"mounting {mount.type} {mount.source}: option {option} was not handled")
        elif option == "loop":
            loop = True
        elif key in maps:
            maps[key] += _map(mount, option, value)
        else:
            parameters.append((key, value))
    if bool(maps["uidmap"]) != bool(maps["gidmap"]):
        raise errors.InvalidArgument(f"mounting {mount.type} {mount.source}: uidmap and gidmap come together")
    return Step(
        type=mount.type, source=mount.source, target=mount.target, flags=flags, parameters=tuple(parameters), loop=loop,
        uid_map=maps["uidmap"], gid_map=maps["gidmap"],
    )  # fmt: skip


def _map(mount: Mount, option: str, value: str) -> str:
    """From "inside:outside:length", several of them separated by commas."""
    lines = [part.split(":") for part in value.split(",")]
    if not all(len(line) == 3 and all(word.isascii() and word.isdigit() for word in line) for line in lines):
        raise errors.InvalidArgument(f"mounting {mount.type} {mount.source}: option {option} is no id map")
    return "".join(f"{' '.join(line)}\n" for line in lines)


def _pages(step: Step) -> list[Step]:
    """aufs takes the branches that a page of options cannot hold by remounts, one each."""
    if step.type != "aufs" or len(step.data) < PAGE:
        return [step]
    key, value = next(((key, value) for key, value in step.parameters if key.startswith("br:")), ("", ""))
    if not key:
        return [step]
    others = [parameter for parameter in step.parameters if parameter != (key, value)]
    branches = f"{key.removeprefix('br:')}={value}".split(":")
    room = PAGE - 1 - len("br") - sum(len(f",{key}={value}") for key, value in others)
    fitting = 0
    while fitting < len(branches) and (room := room - len(branches[fitting]) - 1) >= 0:
        fitting += 1
    if not fitting:
        raise errors.InvalidArgument(f"mounting {step}: its options alone take more than a page")
    key, _, value = f"br:{':'.join(branches[:fitting])}".partition("=")
    first = msgspec.structs.replace(step, parameters=((key, value), *others))
    return [first, *(_appending(step, branch) for branch in branches[fitting:])]


def _appending(step: Step, branch: str) -> Step:
    key, _, value = f"append:{branch}".partition("=")
    return msgspec.structs.replace(step, flags=step.flags | MS_REMOUNT, parameters=((key, value),))


def _lasting(mount: Mount) -> Mount:
    return msgspec.structs.replace(mount, options=[option for option in mount.options if option not in _VOLATILE])


def _layers(value: str) -> list[tuple[str, str]]:
    """An overlay's lowerdir as parameters of one layer each: "\\:" is a colon of a name, "::" comes before layers of
    data only (kernel documentation, overlayfs)."""
    found = []
    name, key = "", "lowerdir+"
    rest = iter(value)
    for char in rest:
        if char == "\\":
            name += next(rest, "")
        elif char == ":":
            if name:
                found.append((key, name))
            else:
                key = "datadir+"
            name = ""
        else:
            name += char
    return [*found, (key, name)]


def _lowerdirs(step: Step) -> list[tuple[str, str]]:
    return [layer for key, value in step.parameters if key == "lowerdir" for layer in _layers(value)]


# By the new calls: a mount is made detached


def _make(step: Step) -> int:
    return _bind(step) if step.binds else _filesystem(step)


def _bind(step: Step) -> int:
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
        with _source(step) as source:
            if source and step.type != "overlay":
                calls.fsconfig(context, calls.FSCONFIG_SET_STRING, "source", source)
            for key, value in step.parameters:
                _set(context, step.type, key, value)
            for flag, word in _FS_WORDS.items():
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
        for add, layer in _layers(value):
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
def _source(step: Step) -> Iterator[str]:
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


# By mount(2), and what has several parts: at a place


def _needs_place(step: Step) -> bool:
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
            yield from (layer for _, layer in _layers(value))
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


def _assembled(steps: Sequence[Step]) -> int:
    """All steps in this thread's own mount namespace, taken out of it as one detached mount."""
    with ExitStack() as stack:
        calls.mount("", "/", "", MS_REC | MS_PRIVATE)  # or it would all happen in the namespace we came from, too
        place = tempfile.mkdtemp(prefix="holdd-mount-")
        stack.callback(os.rmdir, place)
        for step in steps:
            with _doing(step):
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
        _move(_make(step), target)
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
    for number, (_, layer) in enumerate(_lowerdirs(step)):
        name = f"{place}/{number}"
        os.mkdir(name)
        bind = Step(type="bind", source=layer, target="", flags=MS_BIND, uid_map=step.uid_map, gid_map=step.gid_map)
        _move(_bind(bind), name)
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


def _attach_each(steps: Sequence[Step], target: str) -> None:
    """One after the other by mount(2), for kernels before 5.2."""
    done = 0
    try:
        for step in steps:
            if step.target:
                raise errors.Unimplemented(f"mounting {step}: a mount inside another needs Linux 5.6")
            with _doing(step):
                _mount(step, target)
            done += not step.flags & MS_REMOUNT
    except BaseException:
        for _ in range(done):
            detach(target)
        raise


def _mount(step: Step, target: str) -> None:
    """By mount(2)."""
    if step.uid_map:
        raise OSError(errno.ENOSYS, "an id map needs Linux 5.12")
    if step.type == "overlay" and len(os.fsencode(step.data)) >= PAGE:
        common, short = _relative(step)
        _apart(proc.CLONE_FS, lambda: _mount_from(common, short, target))
        return
    with _source(step) as source:
        calls.mount(source or step.type, target, step.type, step.flags, step.data)
    if step.binds and step.attributes and not step.flags & MS_REMOUNT:
        calls.mount("", target, "", step.flags & ~MS_REC | MS_REMOUNT)  # a bind mount takes its flags only later


def _mount_from(directory: str, step: Step, target: str) -> None:
    """With names relative to `directory`, which only a thread of its own may change to."""
    os.chdir(directory)
    calls.mount(step.source or step.type, target, step.type, step.flags, step.data)


def _relative(step: Step) -> tuple[str, Step]:
    """The directory that all layers share, and the step with layers named from there: mount(2) takes one page."""
    layers = _lowerdirs(step)
    common = os.path.commonpath([os.path.dirname(layer) for _, layer in layers])
    text = ""
    for key, layer in layers:
        name = os.path.relpath(layer, common).replace("\\", "\\\\").replace(":", "\\:")
        text += ("::" if key == "datadir+" else ":" if text else "") + name
    parameters = tuple((key, text if key == "lowerdir" else value) for key, value in step.parameters)
    return common, msgspec.structs.replace(step, parameters=parameters)


def _apart(flags: int, function: Callable[[], T]) -> T:
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


@contextmanager
def _doing(step: Step) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise errors.from_os(exc, f"mounting {step}") from exc


def _open_directory(path: str, folder: int | None = None) -> int:
    # A descriptor of a detached mount is good for no reading: its directory is opened through it.
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
    except OSError as exc:
        raise errors.from_os(exc, "opening the directory that was mounted") from exc


def _mount_id(fd: int) -> str:
    with open(f"/proc/self/fdinfo/{fd}") as info:
        return next(line.split()[1] for line in info if line.startswith("mnt_id:"))
