"""How much a layer may be."""

from spec.base import Record


class Bounds(Record, frozen=True):
    """What is beyond one of them is ResourceExhausted.

    `size` is the most bytes a layer may inflate to; `ratio` the most of them for each byte read, once `slack` bytes
    came out; `entries` the most files, directories and links; `header` the bytes of one entry's extended header.

    gzip makes at most 1032 of one: a ratio of hundreds is zeros, whose honest uses are small.
    """

    size: int = 1 << 40
    ratio: int = 200
    slack: int = 1 << 30
    entries: int = 1 << 22
    header: int = 1 << 20
