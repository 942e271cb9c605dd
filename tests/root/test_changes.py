"""Differences of trees: the plain twin that must agree, and an overlay's upper directory against the walk of both."""

import os
import random
import resource
import shutil
import stat
import subprocess
from contextlib import contextmanager

import pytest

from daemon.kit import mounting
from pyx.changes import Changes, Unclear
from spec.types import Mount

pytestmark = pytest.mark.root

MARKS = "trusted.overlay."


@contextmanager
def opened(path):
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def changes(lower, upper, overlay=""):
    """[(kind, path)] between descriptors."""
    found = []
    with Changes(lower, upper, overlay) as walk:
        while records := walk.read():
            assert records.endswith(b"\0")
            found += [(chr(record[0]), os.fsdecode(record[1:])) for record in records[:-1].split(b"\0")]
        assert walk.read() == b""
    return found


def between(lower, upper):
    with opened(lower) as there, opened(upper) as here:
        return changes(there, here)


def plain(lower, upper, at=""):
    """The twin: containerd's rules (features 7.4) in plain Python."""
    here = sorted(os.listdir(upper / at), key=os.fsencode) if (upper / at).is_dir() else []
    there = sorted(os.listdir(lower / at), key=os.fsencode) if (lower / at).is_dir() else []
    if (upper / at).is_symlink():
        here = []
    if (lower / at).is_symlink():
        there = []
    for name in sorted({*here, *there}, key=os.fsencode):
        path = os.path.join(at, name)
        if name not in here:
            yield "D", path
            continue
        info = os.lstat(upper / path)
        if name not in there:
            yield "A", path
        elif not same(lower / path, upper / path):
            yield "M", path
        elif info.st_nlink > 1 and not stat.S_ISDIR(info.st_mode):
            yield "U", path
        if stat.S_ISDIR(info.st_mode):
            yield from plain(lower, upper, path)


def same(lower, upper):
    one, two = os.lstat(lower), os.lstat(upper)
    if one[:3] == two[:3]:
        return True  # one inode
    if (one.st_mode, one.st_uid, one.st_gid, one.st_rdev) != (two.st_mode, two.st_uid, two.st_gid, two.st_rdev):
        return False
    if stat.S_ISDIR(one.st_mode):
        return True
    if one.st_size != two.st_size or one.st_mtime_ns // 10**9 != two.st_mtime_ns // 10**9:
        return False
    exact = one.st_mtime_ns % 10**9 and two.st_mtime_ns % 10**9
    if exact and one.st_mtime_ns != two.st_mtime_ns:
        return False
    if stat.S_ISLNK(one.st_mode):
        return os.readlink(lower) == os.readlink(upper)
    if not stat.S_ISREG(one.st_mode):
        return True
    return capability(lower) == capability(upper) and (exact or lower.read_bytes() == upper.read_bytes())


def capability(path):
    try:
        return os.getxattr(path, "security.capability")
    except OSError:
        return None


CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")  # cap_net_raw, revision 2
KINDS = ["folder", "file", "file", "touch", "link", "hard", "fifo", "device", "mode", "gone", "cap"]
NAMES = ["a", "b", "b-", "b.c", "c", "\N{SNOWMAN}", os.fsdecode(b"\xff\xfe")]


def grow(path, chance, steps=60):
    """Change a tree at random."""
    for _ in range(steps):
        folders = [folder for folder, _, _ in os.walk(path)]
        folder = chance.choice(folders)
        place = os.path.join(folder, chance.choice(NAMES))
        kind = chance.choice(KINDS)
        if kind in ("folder", "file", "link", "fifo", "device", "hard", "gone"):
            remove(place)
        if kind == "folder":
            os.mkdir(place)
        elif kind == "file":
            with open(place, "wb") as file:
                file.write(chance.randbytes(chance.choice([0, 1, 1, 300_000])))
            os.utime(place, ns=(1, chance.choice([10**9, 10**9 + 1, 2 * 10**9])))
        elif kind == "touch" and os.path.isfile(place):
            os.utime(place, ns=(1, chance.choice([10**9, 10**9 + 1, 2 * 10**9])))
        elif kind == "link":
            os.symlink(chance.choice("xy"), place)
            os.utime(place, ns=(1, 10**9), follow_symlinks=False)
        elif kind == "hard":
            files = [os.path.join(base, name) for base, _, names in os.walk(path) for name in names]
            if files:
                os.link(chance.choice(files), place, follow_symlinks=False)
        elif kind == "fifo":
            os.mkfifo(place)
        elif kind == "device":
            os.mknod(place, 0o600 | stat.S_IFCHR, os.makedev(1, chance.choice([3, 5])))
        elif kind == "mode" and os.path.exists(place):
            os.chmod(place, chance.choice([0o700, 0o755]))
        elif kind == "cap" and os.path.isfile(place) and not os.path.islink(place):
            os.setxattr(place, "security.capability", CAPABILITY)


def remove(place):
    if os.path.isdir(place) and not os.path.islink(place):
        shutil.rmtree(place)
    elif os.path.lexists(place):
        os.unlink(place)


def duplicate(source, target):
    subprocess.run(["cp", "-a", source, target], check=True)


@pytest.mark.parametrize("seed", range(20))
def test_the_plain_twin_agrees(tmp_path, seed):
    chance = random.Random(seed)
    lower, upper = tmp_path / "lower", tmp_path / "upper"
    lower.mkdir()
    grow(lower, chance)
    duplicate(lower, upper)
    assert {kind for kind, _ in between(lower, upper)} <= {"U"}
    grow(upper, chance, 20)
    assert between(lower, upper) == list(plain(lower, upper))


@pytest.mark.parametrize("seed", range(20))
def test_an_overlays_upper_directory_says_what_the_walk_of_both_says(tmp_path, seed):
    chance = random.Random(seed)
    for name in ("bottom", "middle", "upper", "work", "merged"):
        (tmp_path / name).mkdir()
    grow(tmp_path / "bottom", chance)
    below = str(tmp_path / "bottom")
    if seed % 2:  # of two layers, where opaque directories and whiteouts meet others
        options = [f"lowerdir={below}", f"upperdir={tmp_path / 'middle'}", f"workdir={tmp_path / 'work'}"]
        with attached(options, tmp_path / "merged"):
            grow(tmp_path / "merged", chance, 20)
        below = f"{tmp_path / 'middle'}:{below}"
    options = [f"lowerdir={below}", f"upperdir={tmp_path / 'upper'}", f"workdir={tmp_path / 'work'}"]
    with attached(options, tmp_path / "merged"):
        grow(tmp_path / "merged", chance, 20)
    with mounting.opened([lower_of(below)]) as there:
        with opened(tmp_path / "upper") as here:
            fast = changes(there, here, MARKS)
        with mounting.opened([overlay(f"lowerdir={tmp_path / 'upper'}:{below}")]) as here:
            slow = changes(there, here)
    assert fast == [change for change in slow if change[0] != "U" or change in fast]
    assert {"A", "M", "D"} & {kind for kind, _ in fast}


def overlay(*options):
    index = ["index=off"] if os.path.exists("/sys/module/overlay/parameters/index") else []
    return Mount(type="overlay", source="overlay", options=[*options, *index])


def lower_of(layers):
    if ":" in layers:
        return overlay(f"lowerdir={layers}")
    return Mount(type="bind", source=layers, options=("ro", "rbind"))


@contextmanager
def attached(options, target):
    mounting.attach([overlay(*options)], str(target))
    try:
        yield
    finally:
        mounting.detach(str(target))


def test_without_a_lower_tree_all_is_added(tmp_path):
    (tmp_path / "d/e").mkdir(parents=True)
    (tmp_path / "d-").touch()
    with opened(tmp_path) as here:
        assert changes(-1, here) == [("A", "d"), ("A", "d/e"), ("A", "d-")]


@pytest.mark.parametrize(
    ("mark", "value"), [("redirect", b"/x"), ("metacopy", b""), ("opaque", b"x"), ("whiteout", b"y")]
)
def test_what_only_the_overlay_can_tell(tmp_path, mark, value):
    lower, upper = tmp_path / "lower", tmp_path / "upper"
    (upper / "d/e").mkdir(parents=True)
    (upper / "d/f").touch()
    lower.mkdir()
    os.setxattr(upper / ("d/f" if mark in ("metacopy", "whiteout") else "d/e"), MARKS + mark, value)
    with opened(lower) as there, opened(upper) as here:
        with pytest.raises(Unclear, match=r"d/[ef]"):
            changes(there, here, MARKS)
        assert len(changes(there, here, "user.overlay.")) == 3  # whose marks they are not
        assert len(changes(there, here)) == 3


def test_an_opaque_directory_hides_all_that_is_below(tmp_path):
    lower, upper = tmp_path / "lower", tmp_path / "upper"
    for name in ("d/gone/x", "d/kept/gone", "d/kept/f"):
        (lower / name).mkdir(parents=True)
    (upper / "d/kept/f").mkdir(parents=True)
    os.mknod(upper / "d/gone", stat.S_IFCHR, 0)  # a whiteout that hides nothing more
    os.setxattr(upper / "d", MARKS + "opaque", b"y")
    with opened(lower) as there, opened(upper) as here:
        assert changes(there, here, MARKS) == [("D", "d/gone"), ("D", "d/kept/gone")]


def test_a_whiteout_of_nothing_is_nothing(tmp_path):
    lower, upper = tmp_path / "lower", tmp_path / "upper"
    lower.mkdir()
    upper.mkdir()
    os.mknod(upper / "gone", stat.S_IFCHR, 0)
    with opened(lower) as there, opened(upper) as here:
        assert changes(there, here, MARKS) == []
        assert changes(there, here) == [("A", "gone")]  # where it is a device as any other


def test_a_path_that_nobody_could_name(tmp_path):
    """Removing one is well; who walks into it is told."""
    lower, upper = tmp_path / "lower", tmp_path / "upper"
    lower.mkdir()
    upper.mkdir()
    with opened(upper) as here:
        at = os.dup(here)
        for _ in range(300):
            os.mkdir("0123456789abcdef", dir_fd=at)
            below = os.open("0123456789abcdef", os.O_RDONLY | os.O_CLOEXEC, dir_fd=at)
            os.close(at)
            at = below
        os.close(at)
        with opened(lower) as there:
            assert changes(here, there) == [("D", "0123456789abcdef")]
            with pytest.raises(OSError, match="too long") as caught:
                changes(there, here)
            assert caught.value.filename.startswith("0123456789abcdef/")


def test_depth_costs_no_descriptors(tmp_path):
    """At its end, both trees have more directories above than a process may have descriptors here."""
    deep = "d/" * 400
    for name in ("lower", "upper"):
        subprocess.run(["mkdir", "-p", tmp_path / name / deep], check=True)
    (tmp_path / "upper" / deep / "f").touch()
    (tmp_path / "upper/e").touch()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, before[1]))
    try:
        assert between(tmp_path / "lower", tmp_path / "upper") == [("A", f"{deep}f"), ("A", "e")]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        subprocess.run(["rm", "-r", tmp_path / "lower", tmp_path / "upper"], check=True)  # pytest could not


def test_blocks_of_records(tmp_path):
    names = [f"{number:05}{'x' * 100}" for number in range(3000)]
    for name in names:
        (tmp_path / name).touch()
    with opened(tmp_path) as here, Changes(-1, here) as walk:
        blocks = []
        while records := walk.read():
            blocks.append(records)
    assert len(blocks) > 3
    assert b"".join(blocks) == b"".join(b"A%s\0" % name.encode() for name in names)


def test_closed(tmp_path):
    with opened(tmp_path) as here:
        walk = Changes(-1, here)
        walk.close()
        walk.close()
        with pytest.raises(ValueError, match="closed"):
            walk.read()
    with Changes(-1, -1) as walk, pytest.raises(OSError, match="descriptor"):
        walk.read()
