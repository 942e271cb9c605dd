"""Checkpoints: what the runtime and CRIU say reaches whoever asked, and what they write is kept."""

import io
import json
import tarfile
import time

import pytest
from msgspec.structs import replace

from daemon.client.proxies import RemoteContent
from spec import errors
from spec.api import containers, leases, tasks
from spec.oci import build
from spec.oci.checkpoint import CRIU, SPEC
from spec.records import CheckpointOptions, Status
from spec.types import Stdio
from tests.containers import busybox, container
from tests.daemon import Daemon
from tests.registry import Registry, make_image

# runc, but for what needs a CRIU that works on this kernel: what it writes stands for images, and what it restores
# begins anew.
RUNTIME = r"""#!/bin/sh
case "$*" in *" checkpoint "*|*" restore "*) ;; *) exec runc "$@";; esac
echo "$@" >> $0.asked
self=$0 global= verb=
for word in "$@"; do
    case $word in checkpoint|restore) verb=$word; break;; *) global="$global $word";; esac
done
while [ $# -gt 1 ]; do
    case $1 in
        --image-path) image=$2;; --work-path) work=$2;; --bundle) bundle=$2;; --pid-file) pid=$2;;
        --log) said=$2;;
    esac
    shift
done
if [ -e $self.fail ]; then
    [ $verb = restore ] && log=restore.log || log=dump.log
    echo '(00.1) fine\n(00.2) Error (criu/x.c:7): no such luck\n(00.3) Error (criu/y.c:8): so' > $work/$log
    echo '{"level": "error", "msg": "criu failed: type NOTIFY errno 0"}' >> $said
    exit 1
fi
if [ $verb = restore ]; then
    cat $image/core-1.img > $self.restored || exit 1
    exec runc $global run --detach --bundle $bundle --pid-file $pid $1
fi
mkdir -p $image
echo state > $image/core-1.img
"""
SAID = r"criu failed: .*; criu: Error \(criu/x.c:7\): no such luck; Error \(criu/y.c:8\): so"


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "runtime"
    path.write_text(RUNTIME)
    path.chmod(0o755)
    return path


@pytest.fixture
def daemon(tmp_path):
    with Daemon(tmp_path, "[gc]\npause_threshold = 0\nstartup_delay_s = 3600\n") as daemon:
        yield daemon


@pytest.fixture
def client(daemon, tmp_path, program):
    """Of a daemon with a task of either runtime, both running."""
    with daemon.client() as client:
        rootfs = busybox(tmp_path)
        for id, runtime in (("one", str(program)), ("real", "runc")):
            container(client, id, "/bin/sleep", "1000", runtime=runtime)
            client.tasks.create(tasks.CreateRequest(container_id=id, rootfs=(rootfs,)))
            client.tasks.start(tasks.StartRequest(container_id=id))
        yield client


def asked(client, id="one", **options):
    return client.tasks.checkpoint(
        tasks.CheckpointRequest(container_id=id, options=CheckpointOptions(**options))
    ).descriptors


def status(client, id="one"):
    return client.tasks.get(tasks.GetRequest(container_id=id)).status


def test_a_checkpoint_goes_into_the_content_store(client):
    lease = client.leases.create(leases.CreateRequest()).id
    with client.using(lease=lease) as under:
        images, spec = asked(under)
        store = RemoteContent(under)
        with store.reader(images.digest) as blob, tarfile.open(fileobj=io.BytesIO(blob.read())) as archive:
            assert archive.extractfile("./core-1.img").read() == b"state\n"
        with store.reader(spec.digest) as blob:
            assert blob.read() == client.containers.get(containers.GetRequest(id="one")).spec
    assert (images.media_type, spec.media_type) == (CRIU, SPEC)
    assert status(client) is Status.RUNNING


def test_a_checkpoint_stays_where_it_is_wanted(client, tmp_path, program):
    image, work = tmp_path / "image", tmp_path / "work"
    work.mkdir()
    options = {"exit": True, "open_tcp": True, "empty_namespaces": ("network",), "parent_path": "/p"}
    assert asked(client, image_path=str(image), work_path=str(work), **options) == ()
    assert (image / "core-1.img").exists()
    flags = program.with_name("runtime.asked").read_text().partition(" checkpoint ")[2].split()
    expected = f"--image-path {image} --work-path {work} --tcp-established --empty-ns network --parent-path /p one"
    assert flags == expected.split()


def test_what_criu_says_is_the_error(client, program):
    program.with_name("runtime.fail").touch()
    said = rf"checkpoint container one by runtime .*: {SAID}$"
    with pytest.raises(errors.Unknown, match=said):
        asked(client)
    assert status(client) is Status.RUNNING


def test_a_criu_that_is_missing_or_does_not_work_here(client, tmp_path):
    """Where it works there is a checkpoint."""
    failed = ""
    try:
        asked(client, "real", image_path=str(tmp_path / "image"))
    except errors.Unknown as exc:
        failed = exc.message
    assert "criu" in failed or any((tmp_path / "image").iterdir())
    assert status(client, "real") is Status.RUNNING


def test_only_what_runs_has_a_state(client):
    client.tasks.kill(tasks.KillRequest(container_id="one", signal=9))
    client.tasks.wait(tasks.WaitRequest(container_id="one"))
    with pytest.raises(errors.FailedPrecondition, match="not running"):
        asked(client)


# And back.


@pytest.fixture
def tar(client):
    """A checkpoint of a container that is gone."""
    made, _ = asked(client)
    gone(client)
    return made


def gone(client):
    client.tasks.kill(tasks.KillRequest(container_id="one", signal=9))
    client.tasks.wait(tasks.WaitRequest(container_id="one"))
    client.tasks.delete(tasks.DeleteRequest(container_id="one"))


def restored(client, tmp_path, tar, **fields):
    rootfs = busybox(tmp_path)
    client.tasks.create(tasks.CreateRequest(container_id="one", rootfs=(rootfs,), checkpoint=tar, **fields))


def start(client):
    return client.tasks.start(tasks.StartRequest(container_id="one")).pid


def test_a_checkpoint_is_restored_at_the_start(daemon, client, tmp_path, program, tar):
    restored(client, tmp_path, tar)
    found = client.tasks.get(tasks.GetRequest(container_id="one"))
    assert (found.status, found.pid) == (Status.CREATED, 0)
    assert not client.tasks.list_pids(tasks.ListPidsRequest(container_id="one")).processes
    for fails in (lambda: client.tasks.kill(tasks.KillRequest(container_id="one", signal=9)), lambda: asked(client)):
        with pytest.raises(errors.FailedPrecondition):
            fails()
    daemon.kill()
    daemon.start()
    with daemon.client() as again:
        assert status(again) is Status.CREATED
        pid = start(again)
        assert program.with_name("runtime.restored").read_text() == "state\n"
        found = again.tasks.get(tasks.GetRequest(container_id="one"))
        assert (found.status, found.pid) == (Status.RUNNING, pid)
        assert not any((daemon.state / "tasks/default/one/checkpoint").iterdir())
        with pytest.raises(errors.FailedPrecondition, match="started already"):
            start(again)
        gone(again)


def test_its_streams_are_those_of_its_creation(client, tmp_path, tar):
    record = client.containers.get(containers.GetRequest(id="one"))
    spec = build.encode(build.with_args(build.default_spec("default", "one"), ("/bin/echo", "here")))
    changed = containers.UpdateRequest(container=replace(record, spec=spec), fields=["spec"])
    client.containers.update(changed)
    log = tmp_path / "log"
    restored(client, tmp_path, tar, stdio=Stdio(stdout=f"file://{log}"))
    start(client)
    assert client.tasks.wait(tasks.WaitRequest(container_id="one")).exit_status == 0
    assert log.read_text() == "here\n"


def test_a_restore_that_fails_can_be_tried_again(client, tmp_path, program, tar):
    restored(client, tmp_path, tar)
    program.with_name("runtime.fail").touch()
    said = rf"restore container one by runtime .*: {SAID}$"
    with pytest.raises(errors.Unknown, match=said):
        start(client)
    assert status(client) is Status.CREATED
    program.with_name("runtime.fail").unlink()
    assert start(client)
    assert status(client) is Status.RUNNING


def test_one_that_was_never_started_leaves_nothing(client, daemon, tmp_path, tar):
    restored(client, tmp_path, tar)
    with pytest.raises(errors.AlreadyExists):
        client.tasks.create(tasks.CreateRequest(container_id="one"))
    ended = client.tasks.delete(tasks.DeleteRequest(container_id="one"))
    assert (ended.pid, ended.exit_status) == (0, 0)
    assert not (daemon.state / "tasks/default/one").exists()
    with pytest.raises(errors.NotFound):
        status(client)


def test_what_is_no_checkpoint(client, daemon, tmp_path, tar):
    for wrong, error, said in (
        (replace(tar, media_type=SPEC), errors.InvalidArgument, "its media type is"),
        (replace(tar, size=1), errors.InvalidArgument, "bytes, not 1"),
        (replace(tar, digest="sha256:" + "0" * 64), errors.NotFound, "0000"),
    ):
        with pytest.raises(error, match=said):
            restored(client, tmp_path, wrong)
    with RemoteContent(client).writer("w") as writer:
        writer.write(b"x" * 1000)
        digest = writer.commit()
    with pytest.raises(errors.InvalidArgument, match="create task one: its checkpoint is no tar"):
        restored(client, tmp_path, replace(tar, digest=digest, size=1000))
    assert not (daemon.state / "tasks/default/one").exists()


# By ctr: a container as an image.


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    work = tmp_path_factory.mktemp("registry")
    with Registry(work / "registry") as registry:
        make_image(work, registry, "app:1")
        yield registry


def test_ctr_makes_an_image_of_a_container_and_back(daemon, program, registry):
    app = f"{registry.host}/app:1"
    daemon.ctr("images", "pull", "--plain-http", app)
    runs = ("sh", "-c", "echo x > /new; exec sleep 1000")
    daemon.ctr("run", "-d", "--runtime", program, "--label", "a=b", app, "c", *runs)
    while "/new" not in daemon.ctr("tasks", "exec", "--exec-id", "e", "c", "ls", "/new", check=False).stdout:
        time.sleep(0.05)
    said = daemon.ctr("containers", "checkpoint", "--rw", "--image", "--task", "c", "ck:1").stdout
    assert said == "ck:1\n"
    assert "RUNNING" in daemon.ctr("tasks", "ls").stdout
    assert "exists" in daemon.ctr("containers", "checkpoint", "c", "ck:1", check=False).stderr
    assert "ck:1" in daemon.ctr("images", "ls").stdout
    assert "ck:1" in daemon.ctr("images", "check", "--verify").stdout
    daemon.ctr("tasks", "rm", "-f", "c")
    daemon.ctr("containers", "rm", "c")
    refused = daemon.ctr("containers", "restore", "--live", "-d", "r", "ck:1", check=False)
    assert "name a runtime with --runtime" in refused.stderr
    live = ("--live", "--runtime", program, "-d")
    daemon.ctr("containers", "restore", "--rw", *live, "r", "ck:1")
    assert json.loads(daemon.ctr("containers", "info", "r").stdout)["image"] == app
    assert program.with_name("runtime.restored").read_text() == "state\n"
    assert daemon.ctr("tasks", "exec", "--exec-id", "e", "r", "cat", "/new").stdout == "x\n"
    daemon.ctr("images", "rm", app)
    daemon.ctr("leases", "create", "--id", "l")
    daemon.ctr("leases", "rm", "--sync", "l")
    daemon.ctr("containers", "restore", *live, "bare", "ck:1")  # of an image that its name alone kept
    assert json.loads(daemon.ctr("containers", "info", "bare").stdout)["image"] == "ck:1"
    ran = daemon.ctr("containers", "restore", "--runtime", "runc", "-d", "--rw", "again", "ck:1")
    assert ran.returncode == 0


def test_ctr_asks_for_what_is_there(daemon, program, registry):
    app = f"{registry.host}/app:1"
    daemon.ctr("images", "pull", "--plain-http", app)
    daemon.ctr("run", "-d", "--runtime", program, app, "c", "sleep", "1000")
    name = daemon.ctr("tasks", "checkpoint", "c").stdout.strip()
    assert name.startswith("containerd.io/checkpoint/c:")
    daemon.ctr("containers", "checkpoint", "--image", "c", "ck:2")
    for flags, ref, said in (
        (("--rw",), "ck:2", "made without --rw"),
        (("--live",), "ck:2", "made without --task"),
        ((), name, "made without --image"),
        ((), app, "it is no index"),
        ((), "nothing:1", "not found"),
    ):
        done = daemon.ctr("containers", "restore", "--runtime", "runc", *flags, "r", ref, check=False)
        assert done.returncode == 1
        assert said in done.stderr
    assert daemon.ctr("containers", "ls", "-q").stdout == "c\n"
    for args, said in ((("--rw", "nosuch"), "not found"), (("--task", "made"), "task made not found")):
        if args[1] == "made":
            daemon.ctr("containers", "create", app, "made", "true")
        done = daemon.ctr("containers", "checkpoint", *args, "ck:3", check=False)
        assert said in done.stderr
    assert "ck:3" not in daemon.ctr("images", "ls").stdout
