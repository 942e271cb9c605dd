"""Several differs as one: each is asked in turn, and the first answer that is not Unimplemented counts."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from spec import errors
from spec.oci.image import Descriptor
from spec.ports import Applied, Cancel, Differ, Source
from spec.records import Labels
from spec.types import Mount

T = TypeVar("T")


class Chain:
    """A ports.Differ. One that cannot do something says so before it has read or written anything."""

    def __init__(self, differs: Sequence[Differ]) -> None:
        self._differs = differs

    def apply(self, layer: Descriptor, mounts: Sequence[Mount], cancel: Cancel | None = None) -> Applied:
        return self._first(lambda differ: differ.apply(layer, mounts, cancel), f"applying {layer.media_type!r}")

    def apply_stream(
        self, source: Source, layer: Descriptor, mounts: Sequence[Mount], cancel: Cancel | None = None
    ) -> Applied:
        return self._first(
            lambda differ: differ.apply_stream(source, layer, mounts, cancel), f"applying {layer.media_type!r}"
        )

    def settle(self, applied: Applied, mounts: Sequence[Mount]) -> bool:
        return self._first(lambda differ: differ.settle(applied, mounts), "settling")

    def sync(self, mounts: Sequence[Mount]) -> None:
        return self._first(lambda differ: differ.sync(mounts), "syncing")

    def compare(
        self,
        lower: Sequence[Mount],
        upper: Sequence[Mount],
        media_type: str = "",
        ref: str = "",
        labels: Labels | None = None,
        source_date_epoch_s: int | None = None,
        cancel: Cancel | None = None,
    ) -> Descriptor:
        return self._first(
            lambda differ: differ.compare(lower, upper, media_type, ref, labels, source_date_epoch_s, cancel),
            f"comparing into {media_type!r}",
        )

    def _first(self, ask: Callable[[Differ], T], doing: str) -> T:
        last = errors.Unimplemented(f"{doing}: there is no differ")
        for differ in self._differs:
            try:
                return ask(differ)
            except errors.Unimplemented as exc:
                last = exc
        raise last
