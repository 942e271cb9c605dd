from collections.abc import Sequence
from typing import Self

from typing_extensions import disjoint_base

class Malformed(ValueError):
    entry: bytes

class Truncated(EOFError):
    entry: bytes

class Exceeded(ValueError):
    entry: bytes

class Entangled(ValueError):
    entry: bytes

@disjoint_base
class Unpacker:
    def __new__(
        cls,
        root_fd: int,
        opaque: str = "",
        users: Sequence[tuple[int, int, int]] = (),
        groups: Sequence[tuple[int, int, int]] = (),
        entries: int = ...,
        meta: int = ...,
    ) -> Self: ...
    def feed(self, data: bytes | bytearray | memoryview) -> None: ...
    def finish(self) -> tuple[int, int]: ...
    def implied(self) -> list[tuple[bytes, bool]]: ...
    def dropped(self) -> int: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *exc: object) -> None: ...
