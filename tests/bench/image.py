"""Images for benchmarks, as OCI layouts: deterministic, sized and compressible as a distribution's."""

import hashlib
import itertools
import json
import random
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"

FOLDERS = 8  # one entry in so many is a directory
LINKS = 20  # one in so many is a symbolic link
SIGMA = 1.6  # of the logarithm of file sizes: a median of 0.28 of the mean
POOL = 8 << 20
WORDS = 800
MTIME = 1_700_000_000


def build(directory, layers, entries, raw_bytes, seed=0):
    """An OCI layout of an image with so many layers and, over all of them, entries and bytes of file content; its raw
    size. gzip -6 makes about 2.7 times less of it."""
    layout = Path(directory)
    (layout / "blobs/sha256").mkdir(parents=True)
    pool = content(seed)
    each = [(layout, pool, entries // layers, raw_bytes // layers, number) for number in range(layers)]
    with ThreadPoolExecutor() as threads:
        made = list(threads.map(lambda arguments: _layer(*arguments), each))
    config = {
        "os": "linux",
        "architecture": "amd64",
        "config": {"Cmd": ["/bin/true"]},
        "rootfs": {"type": "layers", "diff_ids": [diff_id for _, diff_id, _ in made]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": _blob(layout, json.dumps(config).encode(), CONFIG),
        "layers": [descriptor for descriptor, _, _ in made],
    }
    target = _blob(layout, json.dumps(manifest).encode(), MANIFEST)
    target["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [target]}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return sum(size for _, _, size in made)


def content(seed):
    """Bytes that compress as programs and texts do: words, some often and some rarely, between noise."""
    dice = random.Random(seed)
    words = [dice.randbytes(dice.randint(6, 28)) for _ in range(WORDS)]
    parts, size = [], 0
    while size < POOL:
        part = b"".join(words[int(WORDS * dice.random() ** 2.5)] for _ in range(40)) + dice.randbytes(88)
        parts.append(part)
        size += len(part)
    return b"".join(parts)[:POOL]


def members(pool, entries, raw_bytes, seed):
    """A layer's members, as (header, content). Every directory is stated."""
    dice = random.Random(seed)
    count = entries - entries // FOLDERS - entries // LINKS
    weights = [dice.lognormvariate(0, SIGMA) for _ in range(count)]
    scale = raw_bytes / sum(weights)
    sizes = iter([min(int(weight * scale), POOL // 2) for weight in weights])
    folder, folders = f"layer{seed}", [f"layer{seed}"]
    for number in range(entries):
        if number % FOLDERS == 0:
            folder = f"{dice.choice(folders[: 1 + len(folders) // 8])}/folder{number}" if number else folder
            folders.append(folder)
            yield header(f"{folder}/", b"5", 0, 0o755), b""
        elif number % LINKS == 1:
            yield header(f"{folder}/link{number}", b"2", 0, 0o777, f"file{number + 1}"), b""
        else:
            size = next(sizes, 0)
            at = dice.randrange(POOL - size)
            yield header(f"{folder}/file{number}", b"0", size, 0o644), pool[at : at + size]


def header(name, kind, size, mode, link=""):
    """ustar (POSIX.1-1988), with a prefix where the name is long."""
    prefix = ""
    if len(name) > 100:
        cut = name.index("/", len(name) - 101)
        prefix, name = name[:cut], name[cut + 1 :]
    data = struct.pack(
        "100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x", name.encode(), b"%07o" % mode, b"0000000", b"0000000",
        b"%011o" % size, b"%011o" % MTIME, b" " * 8, kind, link.encode(), b"ustar\x0000", b"root", b"root",
        b"0000000", b"0000000", prefix.encode(),
    )  # fmt: skip
    return data[:148] + b"%06o\0 " % sum(data) + data[156:]


def plain(path, entries, raw_bytes, seed=0):
    """A plain tar."""
    with open(path, "wb") as file:
        for head, body in members(content(seed), entries, raw_bytes, seed):
            file.write(head + body + bytes(-len(body) % 512))
        file.write(bytes(1024))


def _layer(layout, pool, entries, raw_bytes, seed):
    """One layer's blob: descriptor, diff id, raw size."""
    plain, packed, deflate = hashlib.sha256(), hashlib.sha256(), zlib.compressobj(6, wbits=31)
    raw = size = 0
    path = layout / f"layer-{seed}"
    with path.open("wb") as file:
        chunks = (head + body + bytes(-len(body) % 512) for head, body in members(pool, entries, raw_bytes, seed))
        for chunk in itertools.chain(_gathered(chunks), [bytes(1024), None]):
            data = deflate.flush() if chunk is None else deflate.compress(chunk)
            if chunk:
                plain.update(chunk)
                raw += len(chunk)
            packed.update(data)
            size += file.write(data)
    path.rename(layout / "blobs/sha256" / packed.hexdigest())
    descriptor = {"mediaType": LAYER, "digest": f"sha256:{packed.hexdigest()}", "size": size}
    return descriptor, f"sha256:{plain.hexdigest()}", raw


def _gathered(chunks, size=1 << 20):
    parts, length = [], 0
    for chunk in chunks:
        parts.append(chunk)
        length += len(chunk)
        if length >= size:
            yield b"".join(parts)
            parts, length = [], 0
    yield b"".join(parts)


def _blob(layout, data, media_type):
    digest = hashlib.sha256(data).hexdigest()
    (layout / "blobs/sha256" / digest).write_bytes(data)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}
