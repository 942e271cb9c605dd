"""What went wrong in other container engines and runtimes, tried on ours: a row a test, named by the advisory.

Rows of containerd's own advisories that are tested elsewhere, by their nature:
  registries and credentials: CVE-2020-15157, GHSA-f36w, CVE-2023-2253: unit/images, unit/spec/test_reference
  archives and layers: CVE-2021-32760, CVE-2025-47290, 28dbd84dc, 0205398ac, ec181a433, cf73e6873: root/test_breakouts,
    root/test_unpack, flow/test_hostile, fuzz
  archives of images: CVE-2023-25153: unit/images/test_archive
  documents of two meanings: CVE-2021-41190: unit/spec/oci/test_graph
  a shared list of variables: CVE-2021-21334: unit/spec/oci/test_build
  a cgroup with mapped users: CVE-2025-47291, and maps of 400 lines: CVE-2021-43784: test_run
  labels of an image: CVE-2026-53488: unit/spec/test_names, test_run
Rows that do not apply:
  CVE-2021-43816, CVE-2022-31030, CVE-2026-53495: of the CRI, which we do not serve; no output of a container is copied
  CVE-2026-50195, -53492, -53489: of checkpoint archives, which we do not take
  GHSA-pc3f, GHSA-78h2, CVE-2023-47108, CVE-2022-1996, GHSA-w32m: of libraries and protocols that we have not
  GHSA-rp3h: nothing was published of it
  CVE-2025-31133, -52565, -52881: of the runtime itself. A warning by version would be wrong where distributions mend
    old ones; that masks hold is tested by their effect, below.
"""

import contextlib
import hashlib
import json
import os
import shutil
import socket
import stat
import time
from pathlib import Path

import pytest

from spec import errors
from spec.api import containers, content, images, snapshots, tasks
from spec.oci.build import MASKED_PATHS, READONLY_PATHS
from spec.oci.image import Descriptor
from spec.records import Image
from tests.daemon import Daemon
from tests.e2e.test_run import MAPS, passable
from tests.registry import Registry, make_image

NAMESPACE = f"hard-{os.getpid()}"
RUNC = shutil.which("runc")
NOBODY = 65534
GC = "[gc]\npause_threshold = 0.0\nstartup_delay_s = 3600\n"  # blobs of variants are nobody's for a while

# An OCI runtime that notes what it was given, then is runc.
NOTING = """#!/usr/bin/python3 -IS
import os, sys
VERBS = "create", "start", "exec", "kill", "pause", "resume", "delete", "state"
verb = next(word for word in sys.argv if word in VERBS)
with open({notes!r} + "/fds", "a") as notes:
    for name in sorted(os.listdir("/proc/self/fd"), key=int):
        try:
            target = os.readlink("/proc/self/fd/" + name)
        except OSError:
            continue
        if int(name) != notes.fileno():
            notes.write(verb + " " + name + " " + target + "\\n")
if "--process" in sys.argv:
    with open(sys.argv[sys.argv.index("--process") + 1]) as process, open({notes!r} + "/process", "w") as copy:
        copy.write(process.read())
os.execv({runc!r}, ["runc", *sys.argv[1:]])
"""


class Own(Daemon):
    """One that works in our namespace."""

    def ctr(self, *args, namespace=NAMESPACE, **options):
        return super().ctr(*args, namespace=namespace, **options)

    def client(self, namespace=NAMESPACE):
        return super().client(namespace)

    def variant(self, **config):
        """The image with fields of its configuration changed; its name."""
        name = f"{self.ref}-{hashlib.sha256(repr(config).encode()).hexdigest()[:12]}"
        with self.client() as client:
            target = client.images.get(images.GetRequest(name=self.ref)).target
            manifest = self.document(target.digest)
            document = self.document(manifest["config"]["digest"])
            document["config"] |= config
            manifest["config"] |= self.blob(document)
            blob = self.blob(manifest)
            descriptor = Descriptor(media_type=target.media_type, **blob)
            with contextlib.suppress(errors.AlreadyExists):
                client.images.create(images.CreateRequest(image=Image(name=name, target=descriptor)))
        return name

    def document(self, digest):
        return json.loads(self.ctr("content", "get", digest).stdout)

    def blob(self, document):
        data = json.dumps(document).encode()
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        with self.client() as client:
            try:
                client.content.info(content.InfoRequest(digest=digest))
            except errors.NotFound:
                self.ctr("content", "ingest", digest, text=False, stdin=None, input=data)
        return {"digest": digest, "size": len(data)}

    def shell(self, image, command, *flags, id="c"):
        """The finished `ctr run` of a shell in a container of that image, or of that directory."""
        where = (image,) if isinstance(image, str) else ("--rootfs", image)
        return self.ctr("run", "--rm", *flags, *where, id, "/bin/sh", "-c", command, check=False)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    work = tmp_path_factory.mktemp("hardening")
    with passable() as directory, Registry(work / "registry") as registry, Own(directory, GC) as daemon:
        make_image(work, registry, "plain:1")
        daemon.ref = f"{registry.host}/plain:1"
        daemon.ctr("images", "pull", "--plain-http", daemon.ref)
        yield daemon


@pytest.fixture
def tree(tmp_path):
    """A root filesystem as a directory, for what no image would hold."""
    root = tmp_path / "tree"
    for name in ("bin", "proc", "dev", "sys", "run", "etc", "tmp"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for name in ("sh", "id", "ls", "cat", "touch", "sleep", "stat", "grep", "readlink", "wc", "true", "tr"):
        (root / "bin" / name).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\ndaemon:x:1:1::/:/bin/sh\nguest:x:405:100::/:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\ndaemon:x:1:\nwheel:x:10:root\nusers:x:100:\n")
    return root


@pytest.fixture
def victim(tmp_path):
    """A directory of the host that nothing may touch."""
    folder = tmp_path / "victim"
    folder.mkdir()
    (folder / "kept").write_text("kept\n")
    before = sorted(os.listdir(folder)), folder.stat().st_mtime_ns, (folder / "kept").read_text()
    yield folder
    assert (sorted(os.listdir(folder)), folder.stat().st_mtime_ns, (folder / "kept").read_text()) == before


@contextlib.contextmanager
def running(shared, id, *flags, source=None):
    shared.ctr("run", "-d", *flags, source or shared.ref, id, "sleep", "1000")
    try:
        yield id
    finally:
        shared.ctr("tasks", "rm", "-f", id, check=False)
        shared.ctr("containers", "rm", id, check=False)


def settled(measure, before):
    """Wait until what is measured is no more than before."""
    deadline = time.monotonic() + 20
    while (now := measure()) > before:
        assert time.monotonic() < deadline, (now, before)
        time.sleep(0.02)


def descriptors(shared):
    return len(os.listdir(f"/proc/{shared.process.pid}/fd"))


def threads(shared):
    return len(os.listdir(f"/proc/{shared.process.pid}/task"))


# Of the daemon.


def test_cve_2020_15257_no_socket_that_a_container_could_reach(shared, tree):
    id = "a" * 76
    namespace = f"n{os.getpid()}".ljust(76, "n")
    shared.ctr("run", "-d", "--net-host", "--rootfs", tree, id, "/bin/sleep", "1000", namespace=namespace)
    try:
        assert not [line for line in Path("/proc/net/unix").read_text().splitlines() if "@" in line and "holdd" in line]
        ours = [path for path in shared.state.rglob("*") if path.is_socket()]
        assert len(ours) >= 2
        assert {stat.S_IMODE(path.stat().st_mode) for path in ours} == {0o600}
    finally:
        shared.ctr("tasks", "rm", "-f", id, namespace=namespace, check=False)
        shared.ctr("containers", "rm", id, namespace=namespace)


@pytest.mark.parametrize("umask", [0o000, 0o077], ids=["000", "077"])
def test_cve_2021_41103_cve_2024_25621_directories_are_closed(tmp_path, tree, umask):
    for name in ("root", "state"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o777)  # as an earlier version may have left it
    expected = {"root": 0o700, "state": 0o711, "state/tasks": 0o711, f"state/tasks/{NAMESPACE}/c": 0o700}
    before = os.umask(umask)
    try:
        with Own(tmp_path) as daemon:
            daemon.ctr("run", "-d", "--rootfs", tree, "c", "/bin/sleep", "1000")
            modes = {name: stat.S_IMODE((tmp_path / name).stat().st_mode) for name in expected}
            below = [str(path) for path in daemon.root.rglob("*") if path.lstat().st_mode & 0o7022 and path.is_dir()]
    finally:
        os.umask(before)
    assert modes == expected
    assert below == []


def test_cve_2022_23471_execs_that_never_start_leave_nothing(shared):
    with running(shared, "execs"):
        with shared.client() as client:
            record = client.containers.get(containers.GetRequest(id="execs"))
            process = json.loads(record.spec)["process"] | {"args": ["/none/such"], "terminal": True}
            before = None
            for number in range(40):
                if number == 10:
                    before = descriptors(shared), threads(shared)
                request = tasks.ExecRequest(
                    container_id="execs", exec_id="e", spec=json.dumps(process).encode(), stdio={"terminal": True}
                )
                client.tasks.exec(request)
                with pytest.raises(errors.Unknown, match="/none/such"):
                    client.tasks.start(tasks.StartRequest(container_id="execs", exec_id="e"))
                client.tasks.delete_process(tasks.DeleteProcessRequest(container_id="execs", exec_id="e"))
        settled(lambda: descriptors(shared), before[0])
        settled(lambda: threads(shared), before[1])


def test_cve_2025_64329_attaching_to_what_is_silent_leaves_nothing(shared):
    with running(shared, "silent", "-t"):
        before = descriptors(shared), threads(shared)
        for _ in range(50):
            with shared.client() as client:
                _, fds = client.tasks.attach(tasks.AttachRequest(container_id="silent"))
                for fd in fds:
                    os.close(fd)
        settled(lambda: descriptors(shared), before[0])
        settled(lambda: threads(shared), before[1])


# Of images.


def test_cve_2022_23648_volumes_of_an_image_are_not_made(shared):
    image = shared.variant(Volumes={"/../../etc": {}, "/data": {}})
    done = shared.shell(image, "test -e /data || echo none; grep -c shadow /etc/passwd; ls /etc | grep -c shadow")
    assert done.stdout == "none\n0\n0\n"


USERS = [
    ("-1000", None), ("2147483648", None), ("9" * 36, None), (f"0:{'9' * 36}", None), ("405:2147483648", None),
    ("4294967295", None), ("4294967296", None), ("0:-1", None), ("root:none", None), ("stranger", None),
    ("1_0", None), ("user:", None), (":user", None), ("a:b:c", None),
    ("0", "0 0"), ("root:root", "0 0"), ("user", "1000 1000"), ("user:extra", "1000 2000"), ("405:100", "405 100"),
    ("2147483647:2147483647", "2147483647 2147483647"), ("1234", "1234 0"), ("", "0 0"), ("+5", "5 0"),
]  # fmt: skip


@pytest.mark.parametrize(("user", "shown"), USERS, ids=[user[:20] or "none" for user, _ in USERS])
def test_cve_2024_40635_cve_2026_46680_user_of_an_image(shared, user, shown):
    done = shared.shell(shared.variant(User=user), "echo $(id -u) $(id -g)")
    assert done.stdout.strip() == (shown or "")
    if shown is None:
        assert done.returncode == 1
        assert (user.rpartition(":")[2] or user)[:20] in done.stderr
        assert "c" not in shared.ctr("snapshots", "ls", "-q").stdout.split()


@pytest.mark.parametrize(
    ("name", "line", "shown"),
    [
        ("4294967296", "4294967296:x:0:0::/:/bin/sh", None),
        ("big", "big:x:4294967295:0::/:/bin/sh", None),
        ("big", "big:x:4294967296:0::/:/bin/sh", None),
        ("big", "big:x:1:4294967295::/:/bin/sh", None),
        ("big", "big:x:4294967294:0::/:/bin/sh", "4294967294"),
    ],
)
def test_cve_2026_46680_ids_in_passwd(shared, tree, name, line, shown):
    (tree / "etc/passwd").write_text(f"{line}\n")
    done = shared.shell(tree, "id -u", "--user", name)
    assert done.stdout.strip() == (shown or "")
    assert shown is not None or "out of range" in done.stderr


@pytest.mark.parametrize(
    ("user", "added", "shown"),
    [
        ("root", [], {0, 10}), ("root", [1, 1234], {0, 1, 10, 1234}), ("1234", [], {0}), ("1234:1234", [], {1234}),
        ("1234", [1234], {0, 1234}), ("daemon", [], {1}), ("daemon", [1234], {1, 1234}),
    ],
)  # fmt: skip
def test_cve_2023_25173_groups(shared, tree, tmp_path, user, added, shown):
    document = json.loads(shared.ctr("run", "--dump-config", "--user", user, "--rootfs", tree, "c", "id", "-G").stdout)
    document["process"]["user"]["additionalGids"] = added
    (tmp_path / "config").write_text(json.dumps(document))
    done = shared.ctr("run", "--rm", "--config", tmp_path / "config", "--rootfs", tree, "c")
    assert set(map(int, done.stdout.split())) == shown


def fifo(path):
    os.mkfifo(path)


def link_to_fifo(path):
    os.mkfifo(path.with_name("pipe"))
    path.symlink_to("pipe")


def bound(path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


def device(path):
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))


def huge(path):
    with path.open("wb") as file:
        file.truncate(100 << 30)


def circle(path):
    path.symlink_to(path.name)


@pytest.mark.parametrize("name", ["passwd", "group"])
@pytest.mark.parametrize("kind", [fifo, link_to_fifo, bound, device, huge, circle])
def test_cve_2026_47262_files_of_users_that_are_none(shared, tree, name, kind):
    path = tree / "etc" / name
    path.unlink()
    if kind is bound:
        here = os.getcwd()
        os.chdir(path.parent)  # a socket's address is short
        try:
            bound(Path(name))
        finally:
            os.chdir(here)
    else:
        kind(path)
    done = shared.shell(tree, "true", "--user", "guest:users")
    assert done.returncode == 1
    assert f"/etc/{name}" in done.stderr


@pytest.mark.parametrize(
    ("link", "target"),
    [("etc/passwd", "/store/passwd"), ("etc", "/store"), ("etc", "../../store"), ("etc", "..")],
)
def test_cve_2026_47262_links_that_stay_inside(shared, tree, link, target):
    for where in ("store", "."):
        (tree / where).mkdir(exist_ok=True)
        (tree / where / "passwd").write_text("inside:x:77:0::/:/bin/sh\n")
    if link == "etc":
        shutil.rmtree(tree / "etc")
    else:
        (tree / link).unlink()
    (tree / link).symlink_to(target)
    assert shared.shell(tree, "id -u", "--user", "inside").stdout == "77\n"


# Of the runtime beside us.


def test_cve_2019_5736_the_runtime_is_not_written(shared, tree):
    before = hashlib.sha256(Path(RUNC).read_bytes()).digest()
    (tree / "bin/exe").write_text("#!/proc/self/exe\n")
    (tree / "bin/exe").chmod(0o755)
    for program in ("/proc/self/exe", "/bin/exe"):
        shared.ctr("run", "--rm", "--rootfs", tree, "c", program, check=False)
    with running(shared, "host") as id:
        shared.ctr("tasks", "exec", "--exec-id", "e", id, "/proc/self/exe", check=False)
        written = shared.ctr("tasks", "exec", "--exec-id", "e", id, "sh", "-c", "echo x > /proc/self/exe", check=False)
        assert written.returncode != 0
    assert hashlib.sha256(Path(RUNC).read_bytes()).digest() == before


def test_cve_2024_21626_no_descriptor_reaches_the_runtime(shared, tree, tmp_path):
    noting = tmp_path / "noting"
    noting.write_text(NOTING.format(notes=str(tmp_path), runc=RUNC))
    noting.chmod(0o755)
    for flags in ((), ("-t",)):
        with running(shared, "noted", "--runtime", noting, *flags) as id:
            shared.ctr("tasks", "exec", "--exec-id", "e", *flags, id, "true")
            shared.ctr("tasks", "pause", id)
            shared.ctr("tasks", "resume", id)
            shared.ctr("tasks", "kill", "-s", "KILL", "--all", id)
            shared.ctr("tasks", "wait", id, check=False)
    seen = {}
    for line in (tmp_path / "fds").read_text().splitlines():
        verb, number, target = line.split(" ", 2)
        seen.setdefault(verb, set()).add((int(number), target))
    assert {"create", "start", "exec", "pause", "resume", "kill", "delete"} <= set(seen)
    for verb, held in seen.items():
        assert {number for number, _ in held} == {0, 1, 2}, (verb, held)
        assert not any(str(shared.directory) in target for _, target in held), (verb, held)


def test_cve_2016_9962_no_descriptor_reaches_a_container(shared):
    with running(shared, "bare") as id:
        for place in ("/proc/1/fd", "/proc/$$/fd"):
            argv = ("tasks", "exec", "--exec-id", "e", id, "sh", "-c", f"ls {place}; true")
            assert shared.ctr(*argv).stdout.split() == ["0", "1", "2"]


def test_cve_2024_21626_a_working_directory_that_is_a_descriptor(shared, tmp_path):
    (tmp_path / "secret").write_text("of the host\n")
    up = "../" * 20
    for number in range(3, 14):
        for where in ("self", "1", "thread-self"):
            image = shared.variant(WorkingDir=f"/proc/{where}/fd/{number}")
            done = shared.shell(image, f"cat {up}{str(tmp_path / 'secret').lstrip('/')}")
            assert "of the host" not in done.stdout
            assert done.returncode != 0


def test_podman_cve_2025_9566_a_working_directory_behind_a_link(shared, tree, victim, tmp_path):
    (tree / "behind").symlink_to(victim)
    done = shared.shell(tree, "touch x; pwd", "--cwd", "/behind/made/here")
    assert done.returncode != 0 or str(victim) in done.stdout  # there, but below the root


@pytest.mark.parametrize("flags", [(), ("--privileged",), MAPS], ids=["", "privileged", "mapped"])
@pytest.mark.parametrize("name", ["proc", "sys", "dev"])
def test_cve_2019_16884_cve_2026_41579_a_mount_point_that_is_a_link(shared, tree, victim, name, flags):
    (tree / name).rmdir()
    (tree / name).symlink_to(victim)
    tree.parent.chmod(0o711)
    done = shared.shell(tree, "touch /dev/x /proc/x /sys/x; true", *flags)
    assert done.returncode == 1
    assert f"/{name} of the root filesystem is a symbolic link" in done.stderr


def test_cve_2021_30465_a_target_that_is_a_link(shared, tree, victim, tmp_path):
    (tmp_path / "given").mkdir()
    (tmp_path / "given/file").write_text("given\n")
    (tree / "mnt").symlink_to(victim)
    done = shared.shell(tree, "cat /mnt/file", "--mount", f"type=bind,src={tmp_path}/given,dst=/mnt,options=rbind:ro")
    assert done.returncode != 0 or done.stdout == "given\n"


def test_cve_2022_24769_cve_2022_29162_nothing_is_inherited(shared):
    capabilities = "grep -E 'Cap(Inh|Amb)' /proc/self/status | tr -d '\\t\\n'"
    none = "CapInh:0000000000000000CapAmb:0000000000000000"
    for flags in ((), ("--cap-add", "ALL"), ("--privileged",), ("--user", "user", "--cap-add", "NET_ADMIN")):
        with running(shared, "caps", *flags) as id:
            assert shared.ctr("tasks", "exec", "--exec-id", "e", id, "sh", "-c", capabilities).stdout == none
            assert none in shared.shell(shared.ref, capabilities, *flags).stdout


def test_cve_2023_25809_no_cgroup_is_mounted(shared):
    done = shared.shell(shared.ref, "grep -c cgroup /proc/mounts; mkdir /sys/fs/cgroup/x 2>/dev/null || echo refused")
    assert done.stdout == "0\nrefused\n"


def test_ghsa_7ww5_4wqc_m92c_masked_and_read_only_paths(shared):
    masked, readonly = " ".join(MASKED_PATHS), " ".join(READONLY_PATHS)
    script = f"""
        for path in {masked}; do
            if test -d $path; then ls -A $path; elif test -e $path; then head -c 1 $path; fi
        done
        echo end
        for path in {readonly}; do
            if test -d $path; then touch $path/x; else echo > $path; fi 2>/dev/null && echo $path
        done
        echo end"""
    assert shared.shell(shared.ref, script).stdout == "end\nend\n"


def test_cve_2026_30892_the_runtime_gets_numbers(shared, tmp_path):
    noting = tmp_path / "noting"
    noting.write_text(NOTING.format(notes=str(tmp_path), runc=RUNC))
    noting.chmod(0o755)
    with running(shared, "numbers", "--runtime", noting) as id:
        assert shared.ctr("tasks", "exec", "--exec-id", "e", "--user", "user", id, "id", "-u").stdout == "1000\n"
        given = json.loads((tmp_path / "process").read_text())["user"]
        assert given == {"uid": 1000, "gid": 1000, "additionalGids": [1000, 2000]}
        for user in ("stranger", "2147483648", "4294967296", "-1"):
            argv = ("tasks", "exec", "--exec-id", "e", "--user", user, id, "true")
            done = shared.ctr(*argv, check=False)
            assert done.returncode != 0
            assert user in done.stderr


def test_cve_2025_24965_no_configuration_is_read_from_the_root(shared, tree):
    for name in ("config.json", ".holdd", "task.json", "init.pid"):
        (tree / name).write_text("1\n")
    assert shared.shell(tree, "cat /config.json").stdout == "1\n"


# Commands at the wrong time, and of the wrong form.


@pytest.mark.parametrize("signal", [0, -1, 65, 1 << 31, 1 << 40])
def test_signals_that_are_none(shared, signal):
    with running(shared, "signals") as id, shared.client() as client:
        with pytest.raises(errors.InvalidArgument):
            client.tasks.kill(tasks.KillRequest(container_id=id, signal=signal))
        assert shared.ctr("tasks", "kill", "-s", signal, id, check=False).returncode in (1, 2)


def test_a_task_that_has_ended_takes_no_command(shared):
    shared.ctr("run", "-d", shared.ref, "ended", "true")
    try:
        shared.ctr("tasks", "wait", "ended")
        with shared.client() as client:
            for call, request in (
                (client.tasks.exec, tasks.ExecRequest(container_id="ended", exec_id="e", spec=b'{"args":["true"]}')),
                (client.tasks.start, tasks.StartRequest(container_id="ended")),
                (client.tasks.pause, tasks.PauseRequest(container_id="ended")),
                (client.tasks.resume, tasks.ResumeRequest(container_id="ended")),
            ):
                with pytest.raises(errors.FailedPrecondition, match="ended"):
                    call(request)
            with pytest.raises(errors.NotFound, match="ended"):
                client.tasks.kill(tasks.KillRequest(container_id="ended", signal=9))
    finally:
        shared.ctr("tasks", "rm", "ended")
        shared.ctr("containers", "rm", "ended")


def test_what_runs_is_not_deleted(shared):
    with running(shared, "alive") as id, shared.client() as client:
        with pytest.raises(errors.FailedPrecondition, match="alive"):
            client.tasks.delete(tasks.DeleteRequest(container_id=id))
        assert shared.ctr("containers", "rm", id, check=False).returncode == 1
        assert client.tasks.get(tasks.GetRequest(container_id=id)).pid > 0


@pytest.mark.parametrize("id", ["..", ".", "../../x", "/x", "a/b", "a\0b", "", "a" * 77, ".hidden", "-x"])
def test_ids_that_would_leave_the_state_directory(shared, id):
    with running(shared, "within") as within, shared.client() as client:
        with pytest.raises(errors.InvalidArgument):
            client.tasks.exec(tasks.ExecRequest(container_id=within, exec_id=id, spec=b'{"args":["true"]}'))
        with pytest.raises((errors.NotFound, errors.InvalidArgument)):
            client.tasks.create(tasks.CreateRequest(container_id=id))
        with pytest.raises((errors.NotFound, errors.InvalidArgument)):
            client.snapshots.mounts(snapshots.MountsRequest(snapshotter="overlayfs", key=id))
