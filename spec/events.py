"""Events: their bodies, and the topic that carries each. Topics and fields are containerd's."""

from collections.abc import Sequence

import msgspec

from spec.base import Event, Record
from spec.records import RuntimeRef
from spec.types import Mount, Stdio


class ContainerCreate(Event, frozen=True):
    id: str
    image: str = ""
    runtime: RuntimeRef = RuntimeRef(name="")


class ContainerUpdate(Event, frozen=True):
    id: str
    image: str = ""
    labels: dict[str, str] = {}
    snapshot_key: str = ""


class ContainerDelete(Event, frozen=True):
    id: str


class ContentCreate(Event, frozen=True):
    digest: str
    size: int = 0
    media_type: str = ""


class ContentDelete(Event, frozen=True):
    digest: str


class ImageCreate(Event, frozen=True):
    name: str
    labels: dict[str, str] = {}


class ImageUpdate(Event, frozen=True):
    name: str
    labels: dict[str, str] = {}


class ImageDelete(Event, frozen=True):
    name: str


class NamespaceCreate(Event, frozen=True):
    name: str
    labels: dict[str, str] = {}


class NamespaceUpdate(Event, frozen=True):
    name: str
    labels: dict[str, str] = {}


class NamespaceDelete(Event, frozen=True):
    name: str


class SnapshotPrepare(Event, frozen=True):
    key: str
    parent: str = ""
    snapshotter: str = ""


class SnapshotCommit(Event, frozen=True):
    key: str
    name: str
    snapshotter: str = ""


class SnapshotRemove(Event, frozen=True):
    key: str
    snapshotter: str = ""


class TaskCreate(Event, frozen=True):
    container_id: str
    bundle: str = ""
    rootfs: Sequence[Mount] = ()
    io: Stdio = Stdio()
    checkpoint: str = ""
    pid: int = 0


class TaskStart(Event, frozen=True):
    container_id: str
    pid: int = 0


class TaskDelete(Event, frozen=True):
    """`id` is the exec id when an exec'd process was deleted."""

    container_id: str
    pid: int = 0
    exit_status: int = 0
    exited_at_ns: int = 0
    id: str = ""


class TaskExit(Event, frozen=True):
    """`id` is the container's id for its init process, else the exec id."""

    container_id: str
    id: str
    pid: int = 0
    exit_status: int = 0
    exited_at_ns: int = 0


class TaskOOM(Event, frozen=True):
    container_id: str


class TaskExecAdded(Event, frozen=True):
    container_id: str
    exec_id: str


class TaskExecStarted(Event, frozen=True):
    container_id: str
    exec_id: str
    pid: int = 0


class TaskPaused(Event, frozen=True):
    container_id: str


class TaskResumed(Event, frozen=True):
    container_id: str


class TaskCheckpointed(Event, frozen=True):
    container_id: str
    checkpoint: str = ""


class EventsLagged(Event, frozen=True):
    """Said to one subscriber, in place of `missed` events that it was too slow for, or that are no longer kept."""

    missed: int


TOPICS: dict[str, type[Event]] = {
    "/containers/create": ContainerCreate,
    "/containers/update": ContainerUpdate,
    "/containers/delete": ContainerDelete,
    "/content/create": ContentCreate,
    "/content/delete": ContentDelete,
    "/images/create": ImageCreate,
    "/images/update": ImageUpdate,
    "/images/delete": ImageDelete,
    "/namespaces/create": NamespaceCreate,
    "/namespaces/update": NamespaceUpdate,
    "/namespaces/delete": NamespaceDelete,
    "/snapshot/prepare": SnapshotPrepare,
    "/snapshot/commit": SnapshotCommit,
    "/snapshot/remove": SnapshotRemove,
    "/tasks/create": TaskCreate,
    "/tasks/start": TaskStart,
    "/tasks/delete": TaskDelete,
    "/tasks/exit": TaskExit,
    "/tasks/oom": TaskOOM,
    "/tasks/exec-added": TaskExecAdded,
    "/tasks/exec-started": TaskExecStarted,
    "/tasks/paused": TaskPaused,
    "/tasks/resumed": TaskResumed,
    "/tasks/checkpointed": TaskCheckpointed,
    "/events/lagged": EventsLagged,
}
_TOPIC_OF = {body: topic for topic, body in TOPICS.items()}


def topic_of(event: Event) -> str:
    """The topic that carries `event`."""
    return _TOPIC_OF[type(event)]


class Envelope(Record, frozen=True):
    """One event as subscribers see it: `event` is the packed body of the topic's Struct (or a publisher's own map).

    `sequence` is the daemon's to give: 1 and rising by 1 as long as its root directory lives, whatever restarts.
    """

    timestamp_ns: int
    topic: str
    event: msgspec.Raw
    namespace: str = ""
    sequence: int = 0
