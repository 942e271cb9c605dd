"""What an earlier daemon told of how tasks ended: it may have died before it had that on record. Knows no task."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from spec.events import Envelope, TaskCreate, TaskExecAdded, TaskExit, TaskOOM, topic_of

_BODIES = {
    topic_of(TaskCreate(container_id="")): TaskCreate,
    topic_of(TaskExecAdded(container_id="", exec_id="")): TaskExecAdded,
    topic_of(TaskExit(container_id="", id="")): TaskExit,
    topic_of(TaskOOM(container_id="")): TaskOOM,
}


class Ends(NamedTuple):
    """Of one task: the exits that were told, by exec id ("" for init), and whether a kill for memory was."""

    exits: Mapping[str, TaskExit] = {}
    oom: bool = False

    def exit(self, exec_id: str, pid: int) -> TaskExit | None:
        found = self.exits.get(exec_id)
        return found if found is not None and found.pid == pid else None


class Told:
    """By the last events, oldest first. Ids come round again: what is made anew has told nothing yet."""

    def __init__(self, envelopes: Iterable[Envelope]) -> None:
        self._exits: dict[tuple[str, str], dict[str, TaskExit]] = {}
        self._ooms: set[tuple[str, str]] = set()
        for envelope in envelopes:
            body = _BODIES.get(envelope.topic)
            if body is None:
                continue
            try:
                event = msgspec.msgpack.decode(envelope.event, type=body)
            except msgspec.DecodeError:
                continue  # a client's, of its own making
            self._take((envelope.namespace, event.container_id), event)

    def of(self, namespace: str, id: str) -> Ends:
        key = (namespace, id)
        return Ends(self._exits.get(key, {}), key in self._ooms)

    def _take(self, key: tuple[str, str], event: TaskCreate | TaskExecAdded | TaskExit | TaskOOM) -> None:
        if isinstance(event, TaskCreate):
            self._exits.pop(key, None)
            self._ooms.discard(key)
        elif isinstance(event, TaskExecAdded):
            self._exits.get(key, {}).pop(event.exec_id, None)
        elif isinstance(event, TaskExit):
            self._exits.setdefault(key, {})["" if event.id == event.container_id else event.id] = event
        else:
            self._ooms.add(key)
