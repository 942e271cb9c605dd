"""Import: an archive's images, each by a pull from the archive. Over ports only."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from daemon.flows.progress import Report
from daemon.flows.pull import Pull
from daemon.kit import tracing
from spec import errors
from spec.oci.image import Descriptor
from spec.ports import ProgressSink


def run(
    images: Sequence[tuple[str, Descriptor]],
    name: str,
    base_name: str,
    pull: Callable[[str, str], Pull],
    sink: ProgressSink,
) -> None:
    """Bring in `images`, pairs of what the archive calls one and its target. `pull(digest, name)` makes one's pull.

    With `name` there must be but one, and that is its name. InvalidArgument when there is none, or more than one.
    """
    if not images:
        raise errors.InvalidArgument("importing: the archive has no image")
    if name and len(images) > 1:
        raise errors.InvalidArgument(f"importing as {name}: the archive has {len(images)} images, not one")
    for called, target in images:
        chosen = name or _whole(called, base_name, target)
        report = Report(sink, chosen)
        report.tell("Importing", target.digest)
        with tracing.timeline():
            pull(target.digest, chosen).bring(target, report)
        report.tell("Completed import", target.digest)


def _whole(called: str, base_name: str, target: Descriptor) -> str:
    """A whole name stays; a tag, or nothing, is completed by `base_name` or, as containerd has it, by the date."""
    if "/" in called or ":" in called:
        return called
    base = base_name or datetime.now(UTC).strftime("import-%Y-%m-%d")
    return f"{base}:{called}" if called else f"{base}@{target.digest}"
