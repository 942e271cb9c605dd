from collections.abc import Sequence
from typing import Final, Self

from typing_extensions import disjoint_base

MAX: Final = 0xFFFFFFFFFFFFFFFF
NUMBER: Final = 0
LINES: Final = 1
ROWS: Final = 2
NUMBERS: Final = 3
TEXT: Final = 4

@disjoint_base
class Reader:
    def __new__(
        cls, files: Sequence[tuple[Sequence[str], int, Sequence[tuple[str, int]], int]], values: int
    ) -> Self: ...
    def read(self) -> tuple[object, ...]: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *exc: object) -> None: ...
