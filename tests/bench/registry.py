"""Registries: a push beside skopeo's, and a pull of many small layers beside what the round trips alone would take."""

import json
import random
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from spec.api import transfer
from tests.bench import image
from tests.bench.figures import Row, show
from tests.daemon import Daemon
from tests.fake import LAYER, Fake, layer
from tests.registry import Registry

MB = 1_000_000
PUSHED = {"layers": 8, "entries": 48_000, "raw_bytes": 920 * MB}  # compressed 350 MB
ROUNDS = 3
SMALL = 40
CONNECTIONS = 6
DELAY_S = 0.02


def measure():
    """All rows, on tmpfs."""
    with tempfile.TemporaryDirectory(prefix="holdd-bench-", dir="/dev/shm") as directory:
        work = Path(directory)
        yield from measure_push(work)
        yield from measure_small(work)


def measure_push(work):
    """Each push goes to a registry of its own, which has nothing."""
    layout = work / "layout"
    image.build(layout, **PUSHED)
    size = sum(path.stat().st_size for path in layout.glob("blobs/sha256/*"))
    pairs = []
    with daemon_below(work / "daemon") as daemon:
        daemon.ctr("images", "import", "--quiet", "--no-unpack", "--index-name", "a.example/bench:1", layout)
        argv = ("images", "push", "--quiet")
        for _ in range(ROUNDS):
            ours = pushed(work, lambda host: daemon.ctr(*argv, f"{host}/b:1", "a.example/bench:1"))
            theirs = pushed(work, lambda host: skopeo(layout, host))
            pairs.append((ours, theirs))
    shutil.rmtree(layout)
    ratio = statistics.median(theirs / ours for ours, theirs in pairs)
    ours, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
    what = f"push, {PUSHED['layers']} layers, {size / MB:.0f} MB, to docker-registry"
    yield Row(what, f"{ours:.2f} s = {ratio:.2f} x", ">= 1 x as fast", f"{theirs:.2f} s skopeo")


def pushed(work, push):
    """Seconds."""
    with Registry(work / "registry") as registry:
        began = time.perf_counter()
        push(registry.host)
        took = time.perf_counter() - began
    shutil.rmtree(work / "registry")
    return took


def skopeo(layout, host):
    argv = ["skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"]
    subprocess.run([*argv, f"oci:{layout}:latest", f"docker://{host}/b:1"], check=True, capture_output=True)


def measure_small(work):
    """At the least: the reference, the manifest and the config, one after the other, and the layers in rounds."""
    least = DELAY_S * (3 + -(-SMALL // CONNECTIONS))
    took = []
    for _ in range(ROUNDS):
        with Fake(delay_s=DELAY_S) as fake, daemon_below(work / "daemon") as daemon:
            many(fake)
            fake.image("first", {"a": b"b"})
            pull(daemon, f"{fake.host}/a:first")  # what a first pull costs a daemon once
            began = time.perf_counter()
            pull(daemon, f"{fake.host}/a:1")
            took.append(time.perf_counter() - began)
        shutil.rmtree(work / "daemon")
    what = f"pull of {SMALL} layers of 64 KB, {DELAY_S * 1000:.0f} ms an answer, {CONNECTIONS} connections"
    wall = statistics.median(took)
    yield Row(what, f"{wall:.2f} s = {wall / least:.2f} x", "<= 1.5 x", f"{least:.2f} s round trips")


def pull(daemon, ref):
    request = transfer.TransferRequest(
        source=transfer.Registry(reference=ref, plain_http=True),
        destination=transfer.ImageStore(name=ref, unpacks=[transfer.Unpack()]),
    )
    with daemon.client() as client:
        for _ in client.transfer.transfer(request):
            pass


def many(fake):
    made = [layer({f"file-{number}": random.Random(number).randbytes(64_000)}) for number in range(SMALL)]
    config = json.dumps(
        {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [id for _, id in made]}}
    ).encode()
    config_type = "application/vnd.oci.image.config.v1+json"
    document = {
        "schemaVersion": 2,
        "config": {"mediaType": config_type, "digest": fake.blob(config), "size": len(config)},
        "layers": [{"mediaType": LAYER, "digest": fake.blob(data), "size": len(data)} for data, _ in made],
    }
    fake.manifest("1", document)


def daemon_below(directory):
    Path(directory).mkdir(exist_ok=True)
    return Daemon(directory, f"[registry]\nmax_concurrent_downloads = {CONNECTIONS}\n")


if __name__ == "__main__":
    show(measure())
