"""What mount calls a list of `Mount`s comes to, as values: they can be printed and tested before the kernel sees them.
Calls nothing."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import msgspec

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
FS_WORDS = {MS_RDONLY: "ro", MS_SYNCHRONOUS: "sync", MS_DIRSYNC: "dirsync", MS_MANDLOCK: "mand"}

PAGE = os.sysconf("SC_PAGE_SIZE")
SUMMARY = 200  # characters of options in a message


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
    """aufs takes the branches that a page of options cannot hold by remounts, each with as many as a page holds: what
    a remount says is done from left to right (aufs(5))."""
    if step.type != "aufs" or len(os.fsencode(step.data)) < PAGE:
        return [step]
    key, value = next(((key, value) for key, value in step.parameters if key.startswith("br:")), ("", ""))
    if not key:
        return [step]
    others = [parameter for parameter in step.parameters if parameter != (key, value)]
    rest = msgspec.structs.replace(step, parameters=others).data
    branches = f"{key.removeprefix('br:')}={value}".split(":")
    fitting = _fitting(branches, PAGE - 1 - len(os.fsencode(f"br:,{rest}")))
    if not fitting:
        raise errors.InvalidArgument(f"mounting {step}: its options alone take more than a page")
    first = f"br:{':'.join(branches[:fitting])}".partition("=")
    steps = [msgspec.structs.replace(step, parameters=((first[0], first[2]), *others))]
    appended = [f"append:{branch}" for branch in branches[fitting:]]
    while appended:
        fitting = max(_fitting(appended, PAGE - 1), 1)
        words = [(key, value) for key, _, value in (word.partition("=") for word in appended[:fitting])]
        steps.append(msgspec.structs.replace(step, flags=step.flags | MS_REMOUNT, parameters=words))
        del appended[:fitting]
    return steps


def _fitting(words: Sequence[str], room: int) -> int:
    """How many of the words `room` bytes hold, with one more between two."""
    room += 1
    for count, word in enumerate(words):
        room -= len(os.fsencode(word)) + 1
        if room < 0:
            return count
    return len(words)


def layers(value: str) -> list[tuple[str, str]]:
    """An overlay's lowerdir as parameters of one layer each: "\\:" is a colon of a name, "::" comes before layers of
    data only (kernel documentation, overlayfs)."""
    if "\\" not in value and "::" not in f":{value}":  # nothing but names: a third of what mounting 500 layers took
        return [("lowerdir+", name) for name in value.split(":")]
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


def lowerdirs(step: Step) -> list[tuple[str, str]]:
    return [layer for key, value in step.parameters if key == "lowerdir" for layer in layers(value)]


@contextmanager
def doing(step: Step) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise errors.from_os(exc, f"mounting {step}") from exc
