"""Small values that islands exchange."""

from collections.abc import Sequence

from spec.base import Record


class Mount(Record, frozen=True):
    """One mount, as a plan: filesystems produce these and execution consumes them.

    `type` and `options` are those of mount(8) ("overlay", "bind"; "ro", "rbind", "lowerdir=..."). An overlay's
    `lowerdir` is one option whose layers are separated by colons, uppermost first. `target` is a path below the place
    where the list is mounted, empty for that place itself.
    """

    type: str
    source: str = ""
    target: str = ""
    options: Sequence[str] = ()


class Usage(Record, frozen=True):
    """What a tree takes: `size` in bytes (allocated blocks), and inodes."""

    size: int = 0
    inodes: int = 0


class Stdio(Record, frozen=True):
    """Where a process's streams go.

    Each of stdin, stdout and stderr is empty (/dev/null), a path of a FIFO, or a URI: `fd://N` (the Nth descriptor
    that came with the request), `fifo:///path`, `file:///path`, or `binary:///path?key=value` (`binary-v2`), a program
    that reads outputs. A FIFO that is stdin is held open for its writers until `Tasks.CloseIO`. With `terminal` a
    pseudo-terminal is made instead, and `Tasks.Attach` hands out its master.
    """

    stdin: str = ""
    stdout: str = ""
    stderr: str = ""
    terminal: bool = False


class Progress(Record, frozen=True):
    """One line of a journey's progress.

    `event` is the phase ("downloading", "extracting", ...), `name` the object (an image name or a content ref),
    `parents` the names it belongs to, `progress` and `total` are bytes (0: unknown).
    """

    event: str
    name: str = ""
    parents: Sequence[str] = ()
    progress: int = 0
    total: int = 0
    descriptor: str = ""


class Finding(Record, frozen=True):
    """Something of an image that is not as it should be.

    `kind` is content or snapshot, `object` a digest or a snapshot's name. `what` of content: missing, damaged; of a
    snapshot: unchecked (`detail` says why), or what differs of `path` (relative, of bytes, `.` for the root): missing,
    extra, type, content, mode, owner, xattr, opaque, target, device, link, time. `detail` is for people.
    """

    kind: str
    object: str
    path: bytes = b""
    what: Sequence[str] = ()
    detail: str = ""
    repaired: bool = False
