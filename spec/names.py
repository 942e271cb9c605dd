"""What names and labels may look like, and the labels that mean something. The rules are containerd's."""

import re
from collections.abc import Mapping

from spec import errors

MAX_IDENTIFIER = 76
MAX_LABEL = 4096  # bytes of a key and its value together

_IDENTIFIER = re.compile(r"[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*", re.ASCII)

# Garbage collection.
GC_ROOT = "containerd.io/gc.root"
GC_REF_CONTENT = "containerd.io/gc.ref.content"
GC_REF_SNAPSHOT = "containerd.io/gc.ref.snapshot"
GC_REF_IMAGE = "containerd.io/gc.ref.image"
GC_BACK_REF_CONTAINER = "containerd.io/gc.bref.container"
GC_BACK_REF_CONTENT = "containerd.io/gc.bref.content"
GC_BACK_REF_IMAGE = "containerd.io/gc.bref.image"
GC_BACK_REF_SNAPSHOT = "containerd.io/gc.bref.snapshot"
GC_CONDITION_SNAPSHOT = "containerd.io/gc.cond.snapshot"
GC_CONDITION_USED_AT = "containerd.io/gc.cond.value-usedat"
GC_EXPIRE = "containerd.io/gc.expire"
GC_FLAT = "containerd.io/gc.flat"

# Content and snapshots.
UNCOMPRESSED = "containerd.io/uncompressed"
DISTRIBUTION_SOURCE = "containerd.io/distribution.source"
SNAPSHOT_PREFIX = "containerd.io/snapshot/"
SNAPSHOT_REF = "containerd.io/snapshot.ref"
DIFF_ID = "containerd.io/snapshot/diff-id"
PARENT_CHAIN_ID = "containerd.io/snapshot/parent-chain-id"
UID_MAPPING = "containerd.io/snapshot/uidmapping"
GID_MAPPING = "containerd.io/snapshot/gidmapping"
UPPER_DIRECTORY = "containerd.io/snapshot/overlay.upperdir"
VOLATILE = "containerd.io/snapshot/overlay.volatile"  # ours: not "" spares an active snapshot all syncing

# Namespaces and containers.
SHAREABLE = "containerd.io/namespace.shareable"  # true: others may have its blobs without sending them
DEFAULT_RUNTIME = "containerd.io/defaults/runtime"
DEFAULT_SNAPSHOTTER = "containerd.io/defaults/snapshotter"
STOP_SIGNAL = "io.containerd.image.config.stop-signal"
RESTART_STATUS = "containerd.io/restart.status"
RESTART_POLICY = "containerd.io/restart.policy"
RESTART_COUNT = "containerd.io/restart.count"
RESTART_STOPPED = "containerd.io/restart.explicitly-stopped"
RESTART_LOG_URI = "containerd.io/restart.loguri"
RESTART_AT = "containerd.io/restart.at"  # this and the next two are ours: see spec.restart
RESTART_AFTER = "containerd.io/restart.after"
RESTART_BACKOFF = "containerd.io/restart.backoff"

# Annotations of descriptors in an image archive's index.
IMAGE_NAME = "io.containerd.image.name"
REF_NAME = "org.opencontainers.image.ref.name"

# Prefixes that an image may not put on a container (hardening: CVE-2026-53488).
_RESERVED = ("containerd.io/", "io.cri-containerd")


def check_identifier(value: str, what: str) -> str:
    """`value`, if it may name a namespace, container, task or process: runs of letters and digits, separated by single
    `.`, `_` or `-`, at most 76 characters. `what` names it in the InvalidArgument."""
    if not value:
        raise errors.InvalidArgument(f"{what} is empty")
    if len(value) > MAX_IDENTIFIER:
        raise errors.InvalidArgument(f"{what} {value[:MAX_IDENTIFIER]!r}... is longer than {MAX_IDENTIFIER} characters")
    if not _IDENTIFIER.fullmatch(value):
        raise errors.InvalidArgument(
            f"{what} {value!r} must be letters and digits, separated by single '.', '_' or '-'"
        )
    return value


def check_namespace(value: str) -> str:
    return check_identifier(value, "namespace")


def check_topic(topic: str) -> str:
    """`topic`, if it starts with `/` and each of its parts is an identifier."""
    if not topic.startswith("/") or len(topic) < 2:
        raise errors.InvalidArgument(f"topic {topic!r} must start with '/' and name something")
    for part in topic[1:].split("/"):
        check_identifier(part, f"a part of topic {topic!r}")
    return topic


def check_labels(labels: Mapping[str, str]) -> None:
    """InvalidArgument for a label that is too long; its key is shortened in the message."""
    for key, value in labels.items():
        if not key:
            raise errors.InvalidArgument("a label's key is empty")
        if len(key) + len(value) > MAX_LABEL or len(key.encode()) + len(value.encode()) > MAX_LABEL:
            raise errors.InvalidArgument(f"label {key[:64]!r} and its value are longer than {MAX_LABEL} bytes together")


def inherited_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """An image's labels that its containers may bear: none that would steer the daemon, none too long."""
    return {
        key: value
        for key, value in labels.items()
        if key and not key.startswith(_RESERVED) and len(key.encode()) + len(value.encode()) <= MAX_LABEL
    }
