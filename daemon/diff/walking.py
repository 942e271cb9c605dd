"""The differ that is always there: tar layers onto any mounts, and any mounts' difference by walking them."""

from collections.abc import Sequence

from daemon.diff.applier import ArchiveApplier
from daemon.diff.bounds import Bounds
from daemon.diff.comparer import WalkingComparer
from spec.oci.image import Descriptor
from spec.ports import Cancel, ContentStore, StreamProcessor
from spec.records import Labels
from spec.types import Mount


class WalkingDiffer(ArchiveApplier):
    """A ports.Differ whose blobs are in `content`; `programs` take the media types that are not known here."""

    def __init__(
        self, content: ContentStore, programs: Sequence[StreamProcessor] = (), bounds: Bounds = Bounds()
    ) -> None:
        super().__init__(content, bounds, programs)
        self._comparer = WalkingComparer(content)

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
        return self._comparer.compare(lower, upper, media_type, ref, labels, source_date_epoch_s, cancel)
