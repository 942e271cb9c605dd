"""OCI runtimes as users meet them: what is told of them, their options, their errors."""

import json
import shutil
import subprocess
import time
from pathlib import Path

import msgspec
import pytest

from daemon.runtime import living
from spec import errors
from spec.api.introspection import PluginInfoRequest, ServerRequest
from spec.records import RuntimeInfo
from tests import cgroups
from tests.containers import busybox
from tests.daemon import BIN, Daemon

RUNTIME = "io.holdd.runtime.v1"
CONFIG = """
[runtimes.crun]
path = "crun"
[runtimes.sandboxed]
path = "runsc"
args = ["--platform=ptrace", "--network=none"]
"""
VERBS = ("create", "start", "exec", "pause", "resume", "kill", "delete")
V1 = not cgroups.is_v2()

# A runtime that says it is runc of some version, notes how it was called, and is runc otherwise.
NOTING = """#!/bin/sh
echo "$@" >> {notes}
case $1 in --version) echo "runc version {version}"; exit 0 ;; features) exit 1 ;; esac
exec runc "$@"
"""
# A runtime that can do nothing that needs telling.
UNABLE = """#!/bin/sh
case $1 in features) echo '{"ociVersionMin": "1.0.0", "linux": {}}'; exit 0 ;; esac
exec runc "$@"
"""


def noting(path, version="9.9.9"):
    path.write_text(NOTING.format(notes=f"{path}.notes", version=version))
    path.chmod(0o755)
    return path


def notes(path):
    return Path(f"{path}.notes").read_text().splitlines()


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    directory = tmp_path_factory.mktemp("runtimes")
    with Daemon(directory, CONFIG) as daemon:
        daemon.tree = busybox(directory).source
        yield daemon


def run(daemon, id, *flags, command=("true",), **options):
    return daemon.ctr("run", "--rm", "--rootfs", *flags, daemon.tree, id, *command, **options)


def test_what_a_runtime_tells_of_itself(shared):
    told = json.loads(shared.ctr("plugins", "inspect-runtime").stdout)
    said = subprocess.run(["runc", "--version"], capture_output=True, text=True, check=True).stdout
    assert f"runc version {told['version']['version']}\n" in said
    assert told["version"]["revision"] in said
    assert (told["name"], told["path"]) == ("runc", shutil.which("runc"))
    features = subprocess.run(["runc", "features"], capture_output=True, check=False)
    if features.returncode == 0:
        assert told["features"] == json.loads(features.stdout)
        assert told["annotations"] == told["features"].get("annotations", {})
    flags = ("--runtime", told["path"], "--runc-root", "/r")
    by_path = json.loads(shared.ctr("plugins", "inspect-runtime", *flags).stdout)
    assert by_path == told | {"name": told["path"], "options": {"root": "/r"}}


@pytest.mark.parametrize("name", ["crun", "sandboxed"])
def test_a_runtime_without_features(shared, name):
    program = {"sandboxed": "runsc"}.get(name, name)
    if not shutil.which(program):
        pytest.skip(f"no {program} on this host")
    told = json.loads(shared.ctr("plugins", "inspect-runtime", "--runtime", name).stdout)
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    assert f"{program} version {told['version']['version']}\n" in said
    has = subprocess.run([program, "features"], capture_output=True, check=False).returncode == 0
    assert (told["features"] is not None) == has


def test_runtimes_that_tell_nothing(shared, tmp_path):
    def asked(runtime):
        done = shared.ctr("plugins", "inspect-runtime", "--runtime", runtime, check=False)
        assert done.returncode == 1
        return done.stderr

    silent = tmp_path / "silent"
    silent.write_text("#!/bin/sh\necho no such flag >&2\nexit 2\n")
    silent.chmod(0o755)
    assert asked(silent) == f"ctr: ask runtime {silent} for its version: no such flag\n"
    assert asked("/no/such") == "ctr: runtime '/no/such' not found: no executable '/no/such'\n"
    assert "it is not in the configuration" in asked("other")
    strange = tmp_path / "strange"
    strange.write_text("#!/bin/sh\nhead -c 1000000 /dev/urandom\n")
    strange.chmod(0o755)
    told = json.loads(shared.ctr("plugins", "inspect-runtime", "--runtime", strange).stdout)
    assert told["features"] is None
    assert told["warnings"] == []
    assert not (shared.state / "probe").exists()


def test_plugins_that_tell_nothing_more(tmp_path):
    config = 'disabled_plugins = ["io.holdd.snapshotter.v1.native"]\n'
    with Daemon(tmp_path, config) as daemon, daemon.client() as client:

        def info(type, id, **options):
            return client.introspection.plugin_info(PluginInfoRequest(type=type, id=id, **options))

        with pytest.raises(errors.NotFound, match=r"plugin io\.holdd\.none\.v1\.x not found"):
            info("io.holdd.none.v1", "x")
        with pytest.raises(errors.FailedPrecondition, match="disabled by configuration"):
            info("io.holdd.snapshotter.v1", "native")
        with pytest.raises(errors.Unimplemented, match="has no more to tell"):
            info("io.holdd.snapshotter.v1", "overlayfs")
        with pytest.raises(errors.InvalidArgument, match="options"):
            info(RUNTIME, "tasks", options=msgspec.Raw(b"\x01"))
        reply = info(RUNTIME, "tasks")
        assert msgspec.msgpack.decode(reply.extra, type=RuntimeInfo).name == "runc"
        assert reply.plugin.exports["runtimes"] == "runc"


def test_old_runtimes_are_warned_of(tmp_path):
    old, new = noting(tmp_path / "old", "1.1.11"), noting(tmp_path / "new", "9.9.9")
    config = f'default_runtime = "new"\n[runtimes.old]\npath = "{old}"\n[runtimes.new]\npath = "{new}"\n'
    config += f'[runtimes.none]\npath = "/no/such"\n[runtimes.runc]\npath = "{new}"\n'
    with Daemon(tmp_path, config) as daemon:
        daemon.says(f"{old} is runc 1.1.11, older than the releases that fixed CVE-2024-21626 (1.1.12)")
        with daemon.client() as client:
            found = {row.id: row for row in client.introspection.server(ServerRequest()).deprecations}
        assert {id for id in found if "runtime" in id} == {"io.holdd.warning/runtime-old"}
        assert f"{old} is runc 1.1.11" in daemon.ctr("deprecations", "ls").stdout
        told = json.loads(daemon.ctr("plugins", "inspect-runtime", "--runtime", "old").stdout)
        assert told["warnings"] == [found["io.holdd.warning/runtime-old"].message]
        daemon.ctr("plugins", "inspect-runtime", "--runtime", "new")
        daemon.says("runtime none: runtime 'none' not found")
    for path in (old, new):  # asked once, whoever wanted to know
        assert notes(path) == ["--version", "features"]


def test_options_outlive_the_daemon(tmp_path):
    program, roots = noting(tmp_path / "program"), tmp_path / "roots"
    own = tmp_path / "own.toml"
    own.write_text(f'path = "{program}"\nargs = ["--debug"]\nno_new_keyring = true\n')
    with Daemon(tmp_path) as daemon:
        daemon.tree = busybox(tmp_path).source
        flags = ("--runtime-config-path", own, "--runc-root", roots, "--no-pivot")
        daemon.ctr("run", "-d", "--rootfs", *flags, daemon.tree, "one", "sleep", "1000")
        assert (roots / "default" / "one").is_dir()
        daemon.kill()
        own.unlink()
        daemon.start()
        daemon.ctr("tasks", "exec", "--exec-id", "e", "one", "true")
        daemon.ctr("tasks", "pause", "one")
        daemon.ctr("tasks", "resume", "one")
        daemon.ctr("tasks", "kill", "--all", "-s", "KILL", "one")
        daemon.ctr("tasks", "wait", "one", check=False)
        daemon.ctr("tasks", "rm", "one", check=False)
        assert not (roots / "default" / "one").exists()
        told = json.loads(daemon.ctr("containers", "info", "one").stdout)["runtime"]
        assert told["options"] == {"config_path": str(own), "root": str(roots), "no_pivot_root": True}
        again = daemon.ctr("tasks", "start", "one", check=False)
        assert str(own) in again.stderr
    calls = [line.split() for line in notes(program)]
    assert set(VERBS) <= {word for words in calls for word in words}
    for words in calls:
        assert words[:3] == ["--debug", "--root", str(roots / "default")]
    create = next(words for words in calls if "create" in words)
    assert {"--no-pivot", "--no-new-keyring"} <= set(create)


def test_options_of_one_start(shared, tmp_path):
    program = noting(tmp_path / "program")
    shared.ctr("containers", "create", "--rootfs", "--runtime", program, shared.tree, "pivot", "true")
    for flags in ((), ("--no-pivot",)):
        shared.ctr("tasks", "start", *flags, "pivot")
    creates = [line for line in notes(program) if " create " in line]
    assert ["--no-pivot" in line for line in creates] == [False, True]
    assert json.loads(shared.ctr("containers", "info", "pivot").stdout)["runtime"]["options"] is None
    shared.ctr("containers", "rm", "pivot")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--runtime", "x/runc"), "not in the configuration"),
        (("--runtime-config-path", "/no/such.toml"), "/no/such.toml: no such file or directory"),
        (("--runc-binary", "no-such-runc"), "no executable 'no-such-runc'"),
    ],
)
def test_options_that_cannot_be(shared, flags, said):
    done = run(shared, "wrong", *flags, check=False)
    assert done.returncode == 1
    assert said.lower() in done.stderr.lower()
    assert shared.ctr("containers", "ls", "-q").stdout == ""


def test_mounts_of_mapped_ids_need_a_runtime_that_maps_them(shared, tmp_path):
    document = json.loads(run(shared, "spec", "--dump-config").stdout)
    ids = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    document["mounts"].append(
        {"destination": "/mapped", "type": "none", "source": shared.tree, "options": ["bind"], "uidMappings": ids,
         "gidMappings": ids}
    )  # fmt: skip
    config = tmp_path / "config.json"
    config.write_text(json.dumps(document))
    unable = tmp_path / "unable"
    unable.write_text(UNABLE)
    unable.chmod(0o755)
    done = shared.ctr("run", "--rm", "--config", config, "--runtime", unable, "mapped", check=False)
    assert done.stderr == f"ctr: create task mapped: runtime '{unable}' ({unable}) does not map ids of mounts\n"
    assert not (shared.state / "tasks/default/mapped").exists()


@pytest.mark.parametrize("runtime", ["runc", "crun", "sandboxed"])
def test_a_life_by_each_runtime_of_this_host(shared, runtime, tmp_path):
    if not shutil.which({"sandboxed": "runsc"}.get(runtime, runtime)):
        pytest.skip(f"no {runtime} on this host")
    flags = ("--runtime", runtime)
    tried = run(shared, "tried", *flags, check=False)
    if V1 and "hybrid" in tried.stderr:
        pytest.skip(f"{runtime} refuses this host's cgroups; tests/vm runs it")
    shared.ctr("run", "-d", "--rootfs", *flags, shared.tree, "life", "sleep", "1000")
    assert shared.ctr("tasks", "exec", "--exec-id", "e", "life", "sh", "-c", "echo $((6*7))").stdout == "42\n"
    assert shared.ctr("tasks", "exec", "--exec-id", "f", "life", "sh", "-c", "exit 3", check=False).returncode == 3
    shared.ctr("tasks", "pause", "life")
    assert "PAUSED" in shared.ctr("tasks", "ls").stdout
    shared.ctr("tasks", "resume", "life")
    shared.ctr("tasks", "kill", "-s", "KILL", "life")
    assert shared.ctr("tasks", "wait", "life", check=False).returncode == 137
    shared.ctr("tasks", "rm", "life", check=False)
    shared.ctr("containers", "rm", "life")


# Fails to create and to exec as some runtimes do: telling why in the log, on standard error, or in both.
TELLING = """#!/bin/sh
before=
for word; do
    case $before in --log) log=$word ;; esac
    case $word in create|exec|state) verb=${{verb:-$word}} ;; esac
    id=$word
    before=$word
done
case $verb in
create|exec|state) ;;
*) exec runc "$@" ;;
esac
[ $verb != exec ] && [ $id != told-none ] && [ -e "$0.works" ] && exec runc "$@"
{how}
exit 1
"""
LOGS, PRINTS = """echo '{"level":"error","msg":"so it is"}' >> $log""", "echo so it is >&2"


@pytest.mark.parametrize("how", [LOGS, PRINTS, f"{LOGS}; {PRINTS}"], ids=["logs", "prints", "both"])
def test_what_a_runtime_says_is_told_once(shared, tmp_path, how):
    program = tmp_path / "telling"
    program.write_text(TELLING.format(how=how))
    program.chmod(0o755)
    for flags in ((), ("--null-io",), ("-t",)):
        done = run(shared, "told", "--runtime", program, *flags, check=False)
        seen = done.stdout + done.stderr
        assert done.returncode == 1
        assert f"create container told by runtime '{program}'" in seen
        assert seen.count("so it is") == (0 if flags == ("--null-io",) and how == PRINTS else 1), seen
    (tmp_path / "telling.works").touch()
    shared.ctr("run", "-d", "--rootfs", "--runtime", program, shared.tree, "told", "sleep", "1000")
    done = shared.ctr("tasks", "exec", "--exec-id", "e", "told", "true", check=False)
    assert done.stderr.count("so it is") == 1
    shared.ctr("tasks", "rm", "--force", "told", check=False)
    shared.ctr("containers", "rm", "told")


def test_a_missing_command_is_told_once(shared):
    done = run(shared, "none", command=("no-such-command",), check=False)
    assert done.stderr.count("no-such-command") == 1
    assert done.stderr.endswith("ctr: create container none by runtime 'runc': it failed\n")


# Hangs in the call that the file beside it names, and says so.
HANGING = """#!/bin/sh
for word; do
    case " $(cat "$0.hangs" 2>/dev/null) " in *" $word "*) touch "$0.hanging"; sleep 1000; exit 0 ;; esac
done
exec runc "$@"
"""
LIVED = {
    "create": ("run", "--rootfs", "-d", "--runtime", "slow", "TREE", "one", "sleep", "1000"),
    "start": ("tasks", "start", "-d", "one"),
    "exec": ("tasks", "exec", "--exec-id", "e", "one", "true"),
    "pause": ("tasks", "pause", "one"),
    "delete": ("tasks", "rm", "one"),
}


@pytest.mark.parametrize("verb", LIVED)
def test_a_daemon_is_killed_while_its_runtime_hangs(tmp_path, verb):
    program = tmp_path / "slow"
    program.write_text(HANGING)
    program.chmod(0o755)
    hangs, hanging = Path(f"{program}.hangs"), Path(f"{program}.hanging")
    with Daemon(tmp_path, f'[runtimes.slow]\npath = "{program}"\ntimeout_s = 20\n') as daemon:
        tree = busybox(tmp_path).source
        if verb == "start":
            daemon.ctr("containers", "create", "--rootfs", "--runtime", "slow", tree, "one", "sleep", "1000")
        elif verb != "create":
            daemon.ctr(*(tree if word == "TREE" else word for word in LIVED["create"]))
        if verb == "delete":
            daemon.ctr("tasks", "kill", "-s", "KILL", "one")
            daemon.ctr("tasks", "wait", "one", check=False)
        hangs.write_text(verb)
        argv = [BIN / "ctr", "--address", daemon.address, *(tree if word == "TREE" else word for word in LIVED[verb])]
        with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as asking:
            try:
                until(hanging.exists)
                daemon.kill()
                assert asking.wait(30) == 1
            finally:
                asking.kill()
        hangs.unlink()
        daemon.start()
        listed = daemon.ctr("tasks", "ls").stdout.splitlines()[1:]
        assert bool(listed) == (verb != "create")
        if verb == "pause":
            assert "RUNNING" in listed[0]
        if listed:
            daemon.ctr("tasks", "rm", "--force", "one", check=False)
        if verb != "create":
            daemon.ctr("containers", "rm", "one")
        assert daemon.ctr("tasks", "ls", "-q").stdout == ""
        assert not list((daemon.state / "tasks").glob("*/*"))
        assert not list((daemon.state / "runc").glob("*/*"))
        assert not [pid for pid in living.children(1) if str(program) in living.arguments(pid)]
        daemon.tree = tree
        run(daemon, "two", "--runtime", "slow")


def until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)
