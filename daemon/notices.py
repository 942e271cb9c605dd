"""What is used here and should not be: what will not be supported for ever, and what is known to be vulnerable."""

import os
import time
from collections.abc import Callable, Mapping, Sequence

from spec.api.introspection import Deprecation

V1 = "cgroup version 1 is in use: support for it will end; boot with systemd.unified_cgroup_hierarchy=1"


class Notices:
    """`runtimes` are the warnings of OCI runtimes, by their names."""

    def __init__(self, runtimes: Callable[[], Mapping[str, str]]) -> None:
        self._runtimes = runtimes
        self._began_ns = time.time_ns()
        self._version_1 = not os.path.exists("/sys/fs/cgroup/cgroup.controllers")

    def all(self) -> Sequence[Deprecation]:
        found = {"deprecation/cgroup-v1": V1} if self._version_1 else {}
        found |= {f"warning/runtime-{name}": message for name, message in self._runtimes().items()}
        return [
            Deprecation(id=f"io.holdd.{id}", message=message, last_occurrence_ns=self._began_ns)
            for id, message in found.items()
        ]
