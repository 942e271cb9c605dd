"""Tasks: running containers. An empty `exec_id` means the init process."""

from collections.abc import Sequence

import msgspec

from spec.api.service import Service, giving, unary
from spec.base import Empty, Reply, Request
from spec.metrics import Figures
from spec.oci.image import Descriptor
from spec.records import CheckpointOptions, Process
from spec.types import Mount, Stdio
from spec.wire import NIL


class CreateRequest(Request, frozen=True):
    """Descriptors that come with it are what `fd://N` in `stdio` means. `runtime_path` goes before the container's
    runtime, and what is set in `options`, a RuntimeOptions, before the same of its options.

    With a `checkpoint`, the tar that `Checkpoint` makes, the start restores what was running then; there is no pid
    before.
    """

    container_id: str
    rootfs: Sequence[Mount] = ()
    stdio: Stdio = Stdio()
    runtime_path: str = ""
    options: msgspec.Raw = NIL
    checkpoint: Descriptor | None = None


class CreateReply(Reply, frozen=True):
    container_id: str
    pid: int = 0


class StartRequest(Request, frozen=True):
    container_id: str
    exec_id: str = ""


class StartReply(Reply, frozen=True):
    pid: int = 0


class DeleteRequest(Request, frozen=True):
    container_id: str


class DeleteProcessRequest(Request, frozen=True):
    container_id: str
    exec_id: str


class DeleteReply(Reply, frozen=True):
    """`id` is the exec id, empty for a task."""

    id: str = ""
    pid: int = 0
    exit_status: int = 0
    exited_at_ns: int = 0


class GetRequest(Request, frozen=True):
    container_id: str
    exec_id: str = ""


class ListRequest(Request, frozen=True):
    filter: str = ""


class ListReply(Reply, frozen=True):
    tasks: Sequence[Process] = ()


class KillRequest(Request, frozen=True):
    container_id: str
    exec_id: str = ""
    signal: int = 15
    all: bool = False


class ExecRequest(Request, frozen=True):
    """`spec` is the JSON of an OCI `process`. Descriptors as with CreateRequest."""

    container_id: str
    exec_id: str
    spec: bytes = b""
    stdio: Stdio = Stdio()


class ResizePtyRequest(Request, frozen=True):
    """In characters."""

    container_id: str
    exec_id: str = ""
    width: int = 0
    height: int = 0


class CloseIORequest(Request, frozen=True):
    """`stdin`: a FIFO is held open for whoever writes to it, until this; nothing is to be closed of other streams."""

    container_id: str
    exec_id: str = ""
    stdin: bool = False


class AttachRequest(Request, frozen=True):
    container_id: str
    exec_id: str = ""


class AttachReply(Reply, frozen=True):
    """Comes with one descriptor: the master of the process's terminal."""


class PauseRequest(Request, frozen=True):
    container_id: str


class ResumeRequest(Request, frozen=True):
    container_id: str


class UpdateRequest(Request, frozen=True):
    """`resources` is the JSON of the OCI runtime spec's `linux.resources`; `annotations` change nothing."""

    container_id: str
    resources: bytes = b"{}"
    annotations: dict[str, str] = {}


class ListPidsRequest(Request, frozen=True):
    container_id: str


class ProcessInfo(Reply, frozen=True):
    """`exec_id` when the process was exec'd by us."""

    pid: int
    exec_id: str = ""


class ListPidsReply(Reply, frozen=True):
    processes: Sequence[ProcessInfo] = ()


class CheckpointRequest(Request, frozen=True):
    """With an `image_path` the checkpoint stays there; else it goes into the content store."""

    container_id: str
    options: CheckpointOptions = CheckpointOptions()


class CheckpointReply(Reply, frozen=True):
    """A tar of CRIU's images, and the container's spec; nothing with an `image_path`. Only a lease of the call keeps
    them."""

    descriptors: Sequence[Descriptor] = ()


class MetricsRequest(Request, frozen=True):
    """Filter fields: id, and namespace, which is the call's."""

    filters: Sequence[str] = ()


class Metric(Reply, frozen=True):
    id: str
    data: Figures
    timestamp_ns: int = 0


class MetricsReply(Reply, frozen=True):
    """Without those that have no cgroup of their own any more."""

    metrics: Sequence[Metric] = ()


class WaitRequest(Request, frozen=True):
    container_id: str
    exec_id: str = ""


class WaitReply(Reply, frozen=True):
    """The last three as in `spec.records.Exit`."""

    exit_status: int = 0
    exited_at_ns: int = 0
    oom_killed: bool = False
    oom_kills: int = 0
    oom_ancestor: bool = False


class Tasks(Service):
    NAME = "holdd.services.tasks.v1.Tasks"

    create = unary(CreateRequest, CreateReply, takes=True)
    start = unary(StartRequest, StartReply)
    delete = unary(DeleteRequest, DeleteReply)
    delete_process = unary(DeleteProcessRequest, DeleteReply)
    get = unary(GetRequest, Process)
    list = unary(ListRequest, ListReply)
    kill = unary(KillRequest, Empty)
    exec = unary(ExecRequest, Empty, takes=True)
    resize_pty = unary(ResizePtyRequest, Empty)
    close_io = unary(CloseIORequest, Empty)
    attach = giving(AttachRequest, AttachReply)
    pause = unary(PauseRequest, Empty)
    resume = unary(ResumeRequest, Empty)
    update = unary(UpdateRequest, Empty)
    checkpoint = unary(CheckpointRequest, CheckpointReply)
    list_pids = unary(ListPidsRequest, ListPidsReply)
    wait = unary(WaitRequest, WaitReply)
    metrics = unary(MetricsRequest, MetricsReply)
