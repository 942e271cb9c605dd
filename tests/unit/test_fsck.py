"""What holds together has no fault; each thing that does not is told, by name, and nothing else is."""

import contextlib
import fnmatch
import os
import shutil
from pathlib import Path

import pytest
from msgspec.structs import replace

from daemon import upkeep
from daemon.fsck import check
from daemon.metadata import buckets
from daemon.metadata.kv import BucketKV
from daemon.metadata.store import Store
from daemon.metadata.table import GLOBAL
from daemon.snapshots.tree import Tree, rows_of
from spec import errors
from spec.base import pack
from spec.records import ContentInfo, LeaseResource
from tests import stored


@pytest.fixture
def config(tmp_path):
    return stored.fill(tmp_path / "root")


def faults(config, hashed=False):
    return sorted((fault.place, fault.what, fault.harmless) for fault in check(config, hashed))


def change(config, work):
    store = Store(os.path.join(config.root, "metadata"))
    store.update(work).result()
    store.close()


def blobs(config):
    return sorted(Path(config.root, "content/blobs/sha256").iterdir())


def folder(config, id):
    return Path(config.root, "snapshots/native/snapshots", str(id))


def test_what_is_sound_has_no_fault_and_is_not_changed(config):
    before = {path: path.stat().st_mtime_ns for path in Path(config.root).rglob("*") if path.is_file()}
    assert check(config, hashed=True) == []
    after = {path: path.stat().st_mtime_ns for path in Path(config.root).rglob("*") if path.is_file()}
    del before[Path(config.root, "metadata/daemon.lock")], after[Path(config.root, "metadata/daemon.lock")]
    assert after == before


def test_a_root_that_is_none(config, tmp_path):
    with pytest.raises(errors.NotFound):
        check(replace(config, root=str(tmp_path / "none")))


def linked(path, elsewhere):
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def snapshot_row(config, key, **changes):
    """Write the row of a snapshot with other fields."""
    with contextlib.closing(Store(os.path.join(config.root, "metadata"))) as store:
        kv = BucketKV(store, "snapshots", "native")
        node = Tree(kv).get(f"default/{key}")
        (row,) = [key for key in rows_of([node]) if key.startswith(b"s")]
        kv.update(lambda txn: txn.put(row, pack(replace(node, **changes))))


CASES = {
    "a blob is lost": (
        lambda config: blobs(config)[0].unlink(),
        [("content", "namespace default has a record, but there are no bytes", False)],
    ),
    "a blob is shorter": (
        lambda config: os.truncate(blobs(config)[0], 3),
        [("content", "its record in namespace default says * bytes, it has 3", False)],
    ),
    "a blob is a link": (
        lambda config: linked(blobs(config)[0], Path(config.root, "elsewhere")),
        [
            ("content", "it is no blob", True),
            ("content", "namespace default has a record, but there are no bytes", False),
        ],
    ),
    "a blob of no record": (
        lambda config: blobs(config)[0].with_name("0" * 64).write_bytes(b"?"),
        [("content", "there is no record of it", True)],
    ),
    "a foreign file": (
        lambda config: blobs(config)[0].with_name("README").write_bytes(b"?"),
        [("content", "it is no blob", True)],
    ),
    "a crash between an active snapshot's record and its directory": (
        lambda config: shutil.rmtree(folder(config, 3)),
        [("snapshots/native", "its directory snapshots/3 is not there, or empty", True)],
    ),
    "a snapshot's directory is lost": (
        lambda config: shutil.rmtree(folder(config, 1)),
        [("snapshots/native", "its directory snapshots/1 is not there, or empty", False)],
    ),
    "a directory of no snapshot": (
        lambda config: folder(config, 99).mkdir(),
        [("snapshots/native", "no snapshot has this directory", True)],
    ),
    "two of one id": (
        lambda config: snapshot_row(config, "v", id=3),
        [
            ("snapshots/native", "its id 3 is that of default/c, too", False),
            ("snapshots/native", "no snapshot has this directory", True),
        ],
    ),
    "a chain that is another than the parent's": (
        lambda config: snapshot_row(config, "c", parents=(1, 2)),
        [("snapshots/native", "it stands on [1, 2], its parent on [1]", False)],
    ),
    "a row that does not decode": (
        lambda config: change(config, lambda txn: txn.put(buckets.key("default", "images", "x"), b"\xc1")),
        [("metadata", "it does not decode: *", False)],
    ),
    "a lease that does not decode": (
        lambda config: change(config, lambda txn: txn.put(buckets.key("default", "leases", "l"), b"\xc1")),
        [("metadata", "it does not decode: *", False)],
    ),
    "content that does not decode": (
        lambda config: change(config, lambda txn: txn.put(buckets.key("default", "content", "sha256:x"), b"\xc1")),
        [("metadata", "it does not decode: *", False)],
    ),
    "a row in another's place": (
        lambda config: change(
            config,
            lambda txn: txn.put(buckets.key("default", "leases", "x"), txn.get(buckets.key("default", "leases", "l"))),
        ),
        [("metadata", "its record is that of l", False)],
    ),
    "a row of no bucket": (
        lambda config: change(config, lambda txn: txn.put(buckets.key("default", "volumes", "x"), b"")),
        [("metadata", "there is no such bucket", False)],
    ),
    "a resource of no lease": (
        lambda config: change(
            config,
            lambda txn: txn.put(
                buckets.key("default", "leased", "gone", "images", "i"), pack(LeaseResource(id="i", type="images"))
            ),
        ),
        [("metadata", "there is no lease gone", False)],
    ),
    "a record of another namespace": (
        lambda config: change(
            config,
            lambda txn: txn.put(
                buckets.key("two", "content", f"sha256:{blobs(config)[0].name}"),
                pack(ContentInfo(digest=f"sha256:{blobs(config)[0].name}", size=1)),
            ),
        ),
        [("content", "its record in namespace two says 1 bytes, it has *", False)],
    ),
    "the last id is taken": (
        lambda config: change(
            config, lambda txn: txn.put(buckets.prefix(GLOBAL, "kv", "snapshots", "native") + b"n", b"2")
        ),
        [("snapshots/native", "the last id given out is 2, but 4 is in use", False)],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_each_fault_is_told(config, case):
    spoil, expected = CASES[case]
    spoil(config)
    found = faults(config)
    assert len(found) == len(expected), found
    for (place, what, rubbish), (told_place, pattern, told_rubbish) in zip(found, sorted(expected), strict=True):
        assert (place, rubbish) == (told_place, told_rubbish)
        assert fnmatch.fnmatchcase(what, pattern.replace("[", "[[]")), what


def test_a_bit_in_a_blob_takes_reading_it(config):
    blob = blobs(config)[1]
    blob.chmod(0o600)
    data = bytearray(blob.read_bytes())
    data[0] ^= 1
    blob.write_bytes(data)
    assert faults(config) == []
    assert faults(config, hashed=True) == [("content", "it does not hash to its name", False)]


def test_damaged_pages_are_told_alone(config):
    Path(config.root, "metadata/data.mdb").write_bytes(b"rubbish" * 1000)
    assert {place for place, _, _ in faults(config)} == {"metadata"}


def test_exit_statuses(config, capsys):
    argv = ["fsck", "--root", config.root, "--config", "/none"]
    assert upkeep.run(argv) == 0
    blobs(config)[0].with_name("README").write_bytes(b"?")
    assert upkeep.run(argv) == 0
    assert "it is no blob (harmless)" in capsys.readouterr().out
    blobs(config)[0].unlink()
    assert upkeep.run([*argv, "--quiet", "--json"]) == 1
    assert capsys.readouterr().out.startswith('{"place":"content"')
    assert upkeep.run(["fsck", "--root", "/none", "--config", "/none"]) == 2
