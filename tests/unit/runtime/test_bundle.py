"""A task's directory and its record."""

import contextlib
import os
import shutil
import stat
from pathlib import Path

import msgspec
import pytest

from daemon.runtime.bundle import Bundle, Phase, ProcessRecord, TaskRecord, bundles, clear
from daemon.runtime.oci import Launch
from spec import errors
from spec.records import Exit
from spec.types import Stdio

RECORD = TaskRecord(
    namespace="ns",
    id="c1",
    launch=Launch(name="runc", path="/runc", root="/r", args=["-x"]),
    boot_id="b",
    created=True,
    init=ProcessRecord(pid=5, started_ticks=7, phase=Phase.STARTED, stdio=Stdio(stdout="fd://1")),
    execs=[ProcessRecord(exec_id="e", exit=Exit(pid=6, status=3, exited_at_ns=9, oom_killed=True))],
    paused=True,
)


@pytest.fixture
def bundle(tmp_path):
    return Bundle.make(str(tmp_path / "tasks/ns/c1"), RECORD, None)


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_nobody_else_gets_in(tmp_path, umask):
    old = os.umask(umask)
    try:
        made = Bundle.make(str(tmp_path / "tasks/ns/c1"), RECORD, None)
        made.write("config.json", b"{}")
    finally:
        os.umask(old)
    assert [mode(tmp_path / path) for path in ("tasks", "tasks/ns", "tasks/ns/c1", "tasks/ns/c1/rootfs")] == [
        0o711, 0o711, 0o700, 0o711
    ]  # fmt: skip
    assert mode(made.at("task.json")) == mode(made.at("config.json")) == 0o600


def test_the_record_comes_back(bundle):
    assert bundle.load() == RECORD
    changed = msgspec.structs.replace(RECORD, paused=False)
    bundle.save(changed)
    assert bundle.load() == changed
    assert sorted(os.listdir(bundle.path)) == ["rootfs", "task.json"]


def test_records_of_other_versions_of_us(bundle):
    text = Path(bundle.at("task.json")).read_bytes()
    Path(bundle.at("task.json")).write_bytes(text[:-1] + b',"field of tomorrow":1}')
    assert bundle.load() == RECORD


@pytest.mark.parametrize("text", [b"", b"{", b"{}", b"\xff"])
def test_a_record_that_cannot_be_read(bundle, text):
    bundle.write("task.json", text)
    with pytest.raises(errors.DataLoss):
        bundle.load()
    bundle.discard("task.json")
    with pytest.raises(errors.NotFound):
        bundle.load()


def test_an_id_is_taken_once(bundle):
    with pytest.raises(errors.AlreadyExists):
        Bundle.make(bundle.path, RECORD, None)


def test_removal_frees_the_id(bundle):
    bundle.write("config.json", b"{}")
    bundle.vacate("undertaker")
    bundle.remove()
    bundle.remove()
    assert os.listdir(os.path.dirname(bundle.path)) == []
    assert Bundle.make(bundle.path, RECORD, None).load() == RECORD


@pytest.mark.parametrize("what", ["rootfs", "task.json", "undertaker", "."])
def test_removal_goes_through_no_link(bundle, tmp_path, what):
    """buildkit, CVE-2024-23652: what a container put in a directory's place led out of it."""
    victim = tmp_path / "victim"
    (victim / "rootfs").mkdir(parents=True)
    (victim / "precious").touch()
    place = Path(bundle.path, what)
    if place.is_dir():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)
    place.symlink_to(victim)
    with contextlib.suppress(OSError) if what == "." else contextlib.nullcontext():
        bundle.remove()
    assert sorted(os.listdir(victim)) == ["precious", "rootfs"]
    assert what == "." or not os.path.lexists(bundle.path)


def test_what_there_is(bundle, tmp_path):
    (tmp_path / "tasks/ns/.c2.xyz").mkdir()
    (tmp_path / "tasks/other/c3").mkdir(parents=True)
    (tmp_path / "tasks/file").write_text("")
    living, dying = bundles(str(tmp_path / "tasks"))
    assert living == [bundle.path, str(tmp_path / "tasks/other/c3")]
    assert dying == [str(tmp_path / "tasks/ns/.c2.xyz")]
    clear(dying[0])
    assert bundles(str(tmp_path / "tasks"))[1] == []
    assert bundles(str(tmp_path / "nothing")) == ([], [])


def test_pid_files(bundle):
    assert bundle.pid("init.pid") == 0
    bundle.write("init.pid", b"")
    assert bundle.pid("init.pid") == 0
    bundle.write("init.pid", b"42\n")
    assert bundle.pid("init.pid") == 42


def test_logs_do_not_stay(bundle):
    with bundle.log() as one, bundle.log() as two:
        assert one != two
        Path(one).write_text("x")
    assert sorted(os.listdir(bundle.path)) == ["rootfs", "task.json"]
