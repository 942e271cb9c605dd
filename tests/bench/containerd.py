"""The peer: a private containerd (Debian's), spoken to over gRPC with hand-packed protobuf messages."""

import contextlib
import subprocess
import sys
import time
from pathlib import Path

from tests.bench.figures import median_ms
from tests.bench.records import ROUNDS

START_S = 30.0
SERVICES = "/containerd.services"


def packed(*fields):
    """A protobuf message of length-delimited fields, from (number, text or bytes) pairs (protobuf's encoding guide)."""
    message = b""
    for number, value in fields:
        data = value.encode() if isinstance(value, str) else value
        message += _varint(number << 3 | 2) + _varint(len(data)) + data
    return message


def _mount(mount):
    return packed((1, mount.type), (2, mount.source), *((4, option) for option in mount.options))


def _varint(value):
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


@contextlib.contextmanager
def running(directory):
    """A private containerd below `directory`."""
    directory = Path(directory)
    config = directory / "config.toml"
    config.write_text(
        'version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
        f'root = "{directory}/root"\nstate = "{directory}/state"\n'
        f'[grpc]\naddress = "{directory}/containerd.sock"\n[debug]\nlevel = "error"\n'
        '[plugins."io.containerd.internal.v1.opt"]\n'
        f'path = "{directory}/opt"\n'
    )
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(["containerd", "--config", config], stdout=log, stderr=log)
    try:
        peer = Containerd(f"{directory}/containerd.sock", process.pid, directory / "root")
        peer.wait()
        yield peer
    finally:
        process.terminate()
        process.wait()


class Containerd:
    """Calls by hand; each process makes its own channel."""

    def __init__(self, address, pid, root=None):
        self.address = address
        self.pid = pid
        self.root = root

    @contextlib.contextmanager
    def caller(self):
        import grpc

        with grpc.insecure_channel(f"unix://{self.address}") as channel:
            methods = {}

            def call(method, message):
                if method not in methods:
                    methods[method] = channel.unary_unary(f"{SERVICES}.{method}")
                return methods[method](message, metadata=(("containerd-namespace", "default"),), timeout=30)

            yield call

    def wait(self):
        """Until it answers; asked from another process, since gRPC and fork do not go together."""
        code = (
            "import sys\nfrom tests.bench.containerd import Containerd\n"
            "with Containerd(sys.argv[1], 0).caller() as call: call('version.v1.Version/Version', b'')"
        )
        deadline = time.monotonic() + START_S
        while subprocess.run([sys.executable, "-c", code, self.address], capture_output=True, check=False).returncode:
            if time.monotonic() > deadline:
                raise RuntimeError("containerd did not answer")

    def churn_snapshots(self, number):
        root = packed((1, "containerd.io/gc.root"), (2, "bench"))  # or its garbage collection takes them at once
        with self.caller() as call:
            for turn in range(ROUNDS):
                key = f"bench-{number}-{turn}"
                call("snapshots.v1.Snapshots/Prepare", packed((1, "overlayfs"), (2, key), (4, root)))
                call("snapshots.v1.Snapshots/Remove", packed((1, "overlayfs"), (2, key)))
        return ROUNDS

    def commit(self, fill, turn):
        """Seconds for Commit of a snapshot that `fill(directory)` filled."""
        root = packed((1, "containerd.io/gc.root"), (2, "bench"))
        with self.caller() as call:
            call("snapshots.v1.Snapshots/Prepare", packed((1, "overlayfs"), (2, f"key-{turn}"), (4, root)))
            made = (self.root / "io.containerd.snapshotter.v1.overlayfs/snapshots").iterdir()
            fill(max(made, key=lambda path: int(path.name)) / "fs")
            began = time.perf_counter()
            request = packed((1, "overlayfs"), (2, f"name-{turn}"), (3, f"key-{turn}"), (4, root))
            call("snapshots.v1.Snapshots/Commit", request)
            return time.perf_counter() - began

    def diff(self, left, right, times):
        """Milliseconds for Diff of two lists of mounts; the median."""
        sides = [(number, _mount(mount)) for number, mounts in ((1, left), (2, right)) for mount in mounts]
        with self.caller() as call:
            return median_ms(times, lambda: call("diff.v1.Diff/Diff", packed(*sides)))

    def churn_containers(self, number):
        spec = packed((1, "types.containerd.io/opencontainers/runtime-spec/1/Spec"), (2, '{"ociVersion":"1.0.2"}'))
        with self.caller() as call:
            for turn in range(ROUNDS):
                id = f"bench-{number}-{turn}"
                container = packed((1, id), (4, packed((1, "io.containerd.runc.v2"))), (5, spec))
                call("containers.v1.Containers/Create", packed((1, container)))
                call("containers.v1.Containers/Delete", packed((1, id)))
        return ROUNDS

    def churn_versions(self, count):
        with self.caller() as call:
            for _ in range(count):
                call("version.v1.Version/Version", b"")
        return count
