"""Several differs as one: each is asked in turn, and the first answer that is not Unimplemented counts.

A stream is for the first alone: where that takes none, or not this one, all are asked once the blob is there.
"""

from collections.abc import Callable, Iterator, Sequence
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
        if not self._differs:
            raise errors.Unimplemented(f"applying {layer.media_type!r}: there is no differ")
        return self._differs[0].apply_stream(source, layer, mounts, cancel)

    def settle(self, applied: Applied, mounts: Sequence[Mount]) -> bool:
        """Whoever applied it has something to settle, the others have not."""
        return all(self._each(lambda differ: differ.settle(applied, mounts), "settling"))

    def sync(self, mounts: Sequence[Mount]) -> None:
        """Each makes durable what it has applied."""
        list(self._each(lambda differ: differ.sync(mounts), "syncing"))

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

    def _each(self, ask: Callable[[Differ], T], doing: str) -> Iterator[T]:
        last = errors.Unimplemented(f"{doing}: there is no differ")
        answers = 0
        for differ in self._differs:
            try:
                answer = ask(differ)
            except errors.Unimplemented as exc:
                last = exc
            else:
                answers += 1
                yield answer
        if not answers:
            raise last

    def _first(self, ask: Callable[[Differ], T], doing: str) -> T:
        last = errors.Unimplemented(f"{doing}: there is no differ")
        for differ in self._differs:
            try:
                return ask(differ)
            except errors.Unimplemented as exc:
                last = exc
        raise last
