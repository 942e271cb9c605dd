"""The way back: out of pages, journal, backup, blobs and directories."""

import os
import shutil
from pathlib import Path

import pytest

from daemon import rebuild
from daemon.fsck import check
from daemon.metadata import held
from daemon.metadata.migrate import migrate
from spec import errors
from tests import stored


@pytest.fixture
def config(tmp_path):
    return stored.fill(tmp_path / "root")


def rows(config):
    return held.load(os.path.join(config.root, "metadata/data.mdb"))[0]


def metadata(config, name="data.mdb"):
    return Path(config.root, "metadata", name)


def sound(config):
    """It opens, and nothing is wrong with it."""
    assert [fault for fault in check(config, hashed=True) if not fault.harmless] == []
    with stored.opened(config.root) as (store, content, native, images, leases):
        migrate(store)
        return (
            {info.name for info in native.list()},
            {image.name for image in images.list()},
            {info.digest for info in content.list()},
            {lease.id for lease in leases.list()},
        )


def test_a_damaged_store_is_made_again_from_its_journal(config):
    before = rows(config)
    damaged = bytes(4096) + metadata(config).read_bytes()[4096:]
    metadata(config).write_bytes(damaged)
    assert rebuild.rebuild(config, "default") == []
    assert rows(config) == before
    (aside,) = metadata(config, "").glob("damaged-*")
    assert (aside / "data.mdb").read_bytes() == damaged
    assert sound(config)[1] == {"example/app:1"}
    assert rebuild.rebuild(config, "default") == []
    assert rows(config) == before


def test_without_records_blobs_are_adopted_and_images_found(config):
    before = rows(config)
    with stored.opened(config.root) as (_, content, _, _, _):
        known = {info.digest: info.labels for info in content.list()}
    shutil.rmtree(metadata(config, ""))
    told = rebuild.rebuild(config, "found")
    assert len([line for line in told if line.endswith("adopted")]) == len(known)
    found = held.Held(rows(config))
    assert [key for key, _ in found.items(b"found\0images\0")] != []
    names, images, _, _ = sound(config)
    assert (names, images) == (set(), set())
    with stored.opened(config.root) as (store, *_):
        from daemon.metadata.tables import CONTENT, IMAGES

        with store.view() as view:
            assert {info.digest: info.labels for info in CONTENT.scan(view, "found")} == known
            (image,) = IMAGES.scan(view, "found")
    assert image.name == f"recovered@{image.target.digest}"
    assert before


def test_what_the_disk_contradicts_is_left_out(config):
    blob = sorted(Path(config.root, "content/blobs/sha256").iterdir())[0]
    blob.unlink()
    shutil.rmtree(Path(config.root, "snapshots/native/snapshots/2"))
    told = rebuild.rebuild(config, "default")
    assert len([line for line in told if blob.name in line]) == 1
    assert {line.split()[1] for line in told if line.startswith("snapshot ")} == {"default/l2", "default/c"}
    assert sound(config)[0] == {"default/l1", "default/v"}


def test_no_id_is_given_out_again(config):
    for name in ("data.mdb", "journal"):
        metadata(config, name).unlink()
    rebuild.rebuild(config, "default")
    with stored.opened(config.root) as (_, _, native, _, _):
        native.prepare("default/new")
    assert Path(config.root, "snapshots/native/snapshots/5").is_dir()


def test_backup_and_restore(config, tmp_path):
    copy = tmp_path / "backup"
    rebuild.backup(config, str(copy))
    before = rows(config)
    with stored.opened(config.root) as (_, content, native, images, _):
        images.put_image("example/later:1", stored.put_image(content, b"two"), {})
        native.prepare("default/later")
    assert rebuild.restore(config, str(copy)) == []
    prefix = b"*\0kv\0snapshots\0native\0n"
    assert rows(config) == before | {prefix: b"5"}
    assert sound(config)[1] == {"example/app:1"}


@pytest.mark.parametrize("keep", [0, 5000, 9000])
def test_a_damaged_backup_is_refused_and_nothing_changes(config, tmp_path, keep):
    copy = tmp_path / "backup"
    rebuild.backup(config, str(copy))
    copy.write_bytes(copy.read_bytes()[:keep])
    before = metadata(config).read_bytes()
    with pytest.raises(errors.DataLoss, match="backup"):
        rebuild.restore(config, str(copy))
    assert metadata(config).read_bytes() == before
    with pytest.raises(errors.NotFound):
        rebuild.restore(config, str(tmp_path / "none"))


def test_a_damaged_store_is_not_backed_up(config, tmp_path):
    data = metadata(config).read_bytes()
    metadata(config).write_bytes(data.replace(b"example/app:1", b"example/bpp:1"))
    with pytest.raises(errors.DataLoss):
        rebuild.backup(config, str(tmp_path / "backup"))
    assert list(tmp_path.iterdir()) == [Path(config.root)]


def test_not_beside_a_daemon(config):
    with stored.opened(config.root), pytest.raises(errors.FailedPrecondition, match="another daemon has it"):
        rebuild.rebuild(config, "default")
