"""The one error taxonomy: containerd's classes, whose wire codes are gRPC's status codes.

Messages are lower case and say what was being done to which object. Callers test classes, never text.
"""

import contextlib
import errno
from collections.abc import Iterator
from typing import ClassVar


class Error(Exception):
    """Base of all errors that cross a port or the wire: a message, and a brief one where the caller's standard error
    has the rest already. `code` is the wire code (0 is success and has no class)."""

    code: ClassVar[int] = 2

    @property
    def message(self) -> str:
        return str(self.args[0]) if self.args else ""

    @property
    def brief(self) -> str:
        """The message for whoever reads that standard error, too."""
        return str(self.args[1]) if len(self.args) > 1 and self.args[1] else self.message

    def __str__(self) -> str:
        return self.message


class Canceled(Error):
    """The caller gave up."""

    code = 1


class Unknown(Error):
    """A failure of no known class; always a defect or a foreign component's."""

    code = 2


class InvalidArgument(Error):
    """The request cannot be right, whatever the state."""

    code = 3


class DeadlineExceeded(Error):
    """The caller's or a bound's time ran out."""

    code = 4


class NotFound(Error):
    """The named object does not exist."""

    code = 5


class AlreadyExists(Error):
    """The named object exists."""

    code = 6


class PermissionDenied(Error):
    """Known, but not allowed."""

    code = 7


class ResourceExhausted(Error):
    """A limit or a disk is full."""

    code = 8


class FailedPrecondition(Error):
    """The state does not allow it; the same request may succeed in another state."""

    code = 9


class Aborted(Error):
    """A concurrent change won."""

    code = 10


class OutOfRange(Error):
    """Past the end."""

    code = 11


class Unimplemented(Error):
    """Not offered here (containerd's ErrNotImplemented)."""

    code = 12


class Internal(Error):
    """An invariant broke."""

    code = 13


class Unavailable(Error):
    """Not now; trying again may succeed."""

    code = 14


class DataLoss(Error):
    """Bytes are gone or damaged."""

    code = 15


class Unauthenticated(Error):
    """No valid credentials."""

    code = 16


CLASSES: dict[int, type[Error]] = {
    cls.code: cls
    for cls in (
        Canceled, Unknown, InvalidArgument, DeadlineExceeded, NotFound, AlreadyExists, PermissionDenied,
        ResourceExhausted, FailedPrecondition, Aborted, OutOfRange, Unimplemented, Internal, Unavailable, DataLoss,
        Unauthenticated,
    )
}  # fmt: skip

_BY_ERRNO: dict[int, type[Error]] = {
    errno.ENOENT: NotFound,
    errno.EEXIST: AlreadyExists,
    errno.EACCES: PermissionDenied,
    errno.EPERM: PermissionDenied,
    errno.ENOSPC: ResourceExhausted,
    errno.EDQUOT: ResourceExhausted,
    errno.EMFILE: ResourceExhausted,
    errno.ENFILE: ResourceExhausted,
    errno.ENOMEM: ResourceExhausted,
    errno.EINVAL: InvalidArgument,
    errno.ENAMETOOLONG: InvalidArgument,
    errno.EBUSY: Unavailable,
    errno.EAGAIN: Unavailable,
    errno.ECONNREFUSED: Unavailable,
    errno.ECONNRESET: Unavailable,
    errno.EPIPE: Unavailable,
    errno.ETIMEDOUT: DeadlineExceeded,
    errno.ENOSYS: Unimplemented,
    errno.EOPNOTSUPP: Unimplemented,
    errno.EPROTONOSUPPORT: Unimplemented,
    errno.EIO: DataLoss,
}


def from_code(code: int, message: str, brief: str = "") -> Error:
    """The error that wire code `code` stands for; a code of no class becomes Unknown."""
    return CLASSES.get(code, Unknown)(*((message, brief) if brief else (message,)))


@contextlib.contextmanager
def during(doing: str, name: str = "") -> Iterator[None]:
    """Errors of the block say, before all else, what was being done to which object and where. With `name` those that
    have it in their message say so already."""
    try:
        yield
    except Error as exc:
        if name and name in exc.message:
            raise
        raise type(exc)(*(f"{doing}: {said}" if said else said for said in exc.args)) from exc


def from_os(error: OSError, doing: str) -> Error:
    """`error` as a class of the taxonomy; `doing` says what was being done to which object."""
    cls = _BY_ERRNO.get(error.errno or 0, Unknown)
    return cls(f"{doing}: {error.strerror or error}")
