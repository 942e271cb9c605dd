"""The unpacker against archives that mean harm: whatever they say, what they do stays below the root."""

import contextlib
import hashlib
import os
import random
import stat
import subprocess
import threading
import time
from pathlib import Path

import pytest

from pyx import walk
from pyx.unpack import Entangled, Exceeded, Malformed, Truncated, Unpacker
from tests.tarball import archive, entry, file, folder, hardlink, long_name, pax, sealed, symlink

pytestmark = pytest.mark.root


def unpack(root, data, step=None, **options):
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with Unpacker(fd, **options) as unpacker:
            for at in range(0, len(data), step or len(data) or 1):
                unpacker.feed(data[at : at + (step or len(data))])
            return unpacker.finish()
    finally:
        os.close(fd)


def listing(root):
    """All that a tree is, as text: names, kinds, modes, owners, times, links, contents."""
    found = []
    for base, folders, files in os.walk(root):
        folders.sort()
        for name in sorted(folders + files):
            path = os.path.join(base, name)
            info = os.lstat(path)
            what = os.readlink(path) if stat.S_ISLNK(info.st_mode) else ""
            if stat.S_ISREG(info.st_mode):
                what = hashlib.sha256(Path(path).read_bytes()).hexdigest()
            found.append((os.path.relpath(path, root), info.st_mode, info.st_uid, info.st_gid, info.st_nlink, what))
    return found


@pytest.fixture
def place(tmp_path):
    """A root to unpack into, beside a canary that must not change."""
    canary = tmp_path / "etc"
    canary.mkdir()
    (canary / "passwd").write_bytes(b"the host's\n")
    (canary / "passwd").chmod(0o400)
    (tmp_path / "victim").mkdir()
    root = tmp_path / "a" / "b" / "root"
    root.mkdir(parents=True)
    before = [listing(canary), listing(tmp_path / "victim"), sorted(os.listdir(tmp_path)), sorted(os.listdir("/"))]
    yield root
    after = [listing(canary), listing(tmp_path / "victim"), sorted(os.listdir(tmp_path)), sorted(os.listdir("/"))]
    assert after == before
    assert root.is_dir()
    assert not root.is_symlink()


MALFORMED = {
    "size -1": entry("x", size=-1),
    "size 2**63": entry("x", size=1 << 63),
    "size -2**64+1": sealed(entry("x")[:124] + b"\xff" * 4 + b"\0" * 7 + b"\1" + entry("x")[136:512]),
    "size in letters": sealed(entry("x")[:124] + b"0000000000z\0" + entry("x")[136:512]),
    "pax length 0": entry("p", "x", b"0 path=a\n"),
    "pax length beyond the body": entry("p", "x", b"99 path=a\n"),
    "pax record without =": entry("p", "x", b"9 pathaaa\n"[:9]),
    "pax record without newline": entry("p", "x", b"9 path=ab"),
    "nul in a pax path": pax(path=b"a\0b") + file("x"),
    "nul in a pax link": pax(linkpath=b"a\0b") + symlink("x", "y"),
    "pax size that is none": pax(size="1_0") + file("x"),
    "long name of 8 GiB": entry("././@LongLink", "L", size=8 << 30),
    "long link of 8 GiB": entry("././@LongLink", "K", size=8 << 30),
    "long name with a nul": entry("././@LongLink", "L", b"a\0b\0") + file("x"),
    "wrong checksum": sealed(bytes(file("x"))[:512])[:148] + b"0000001\0" + file("x")[156:512],
    "a lone block of zeros": bytes(512) + file("x"),
    "extended header, then the end": pax(path="a") + bytes(1024),
    "uid -1": file("x", uid=-1),
    "uid 2**32": file("x", uid=1 << 32),
    "uid 2**32-1": file("x", uid=(1 << 32) - 1),
    "gid -1": file("x", gid=-1),
    "gid 2**32": file("x", gid=1 << 32),
    "pax uid 2**32": pax(uid=1 << 32) + file("x"),
    "major -1": entry("x", "3", major=-1),
    "minor 2**32": entry("x", "4", minor=1 << 32),
    "sparse without a map": pax(GNU__sparse__major="1", GNU__sparse__realsize=9) + file("x"),
    "sparse without a size": pax(GNU__sparse__map="0,1") + file("x", b"1"),
    "sparse of version 2": pax(GNU__sparse__major="2") + file("x"),
    "sparse, more stored than mapped": pax(GNU__sparse__map="0,1", GNU__sparse__size=9) + file("x", b"12"),
    "sparse, behind the end": pax(GNU__sparse__map="8,2", GNU__sparse__size=9) + file("x", b"12"),
    "sparse, out of order": pax(GNU__sparse__map="4,1,0,1", GNU__sparse__size=9) + file("x", b"12"),
    "sparse, half a pair": pax(GNU__sparse__map="4,1,0", GNU__sparse__size=9) + file("x", b"1"),
    "sparse, size below zero": pax(GNU__sparse__map="4,-1", GNU__sparse__size=9) + file("x", b"1"),
    "sparse, size before offset": pax(GNU__sparse__numbytes="1", GNU__sparse__size=9) + file("x", b"1"),
    "unknown type": entry("x", "Z"),
    "path of 5000 bytes": pax(path="a/" * 2500 + "b") + file("x"),
    "a directory with a body": entry("x/", "\0", b"y" * 10),
    "hard link to a directory": folder("d") + hardlink("x", "d"),
    "hard link to dot-dot": hardlink("x", "d/.."),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed(place, case):
    with pytest.raises(Malformed):
        unpack(place, archive(MALFORMED[case]))
    assert not (place / "x").exists()


def test_bounds(place):
    with pytest.raises(Exceeded, match="extended header"):
        unpack(place, archive(entry("p", "x", size=2 << 20)))
    with pytest.raises(Exceeded, match="extended header") as caught:
        unpack(place, archive(file("a"), pax(path="b" * 100) + file("x")), meta=100)
    with pytest.raises(Exceeded, match="entries") as caught:
        unpack(place, archive(file("a"), file("b"), file("c")), entries=2)
    assert caught.value.entry == b"c"
    assert sorted(os.listdir(place)) == ["a", "b"]


@pytest.mark.parametrize(
    "data",
    [
        file("x", b"y" * 100, size=1000)[:700],
        file("x", b"y" * 1000)[:512],
        file("x")[:100],
        pax(path="a"),
        pax(path="a")[:600],
    ],
)
def test_truncated(place, data):
    with pytest.raises(Truncated):
        unpack(place, data)


@pytest.mark.parametrize("data", [b"", file("x", b"1"), file("x", b"1") + bytes(512), file("x", b"1")[:513]])
def test_ends_that_are_good_enough(place, data):
    unpack(place, data)


def test_what_comes_behind_the_end_is_passed_over(place):
    unpack(place, archive(file("x", b"1")) + b"garbage" * 1000)
    assert os.listdir(place) == ["x"]


def test_extended_headers_override(place):
    data = archive(
        pax(path="long/" + "n" * 200, size=3, uid=70000, gid=70001, mtime="1.5") + entry("short", "0", b"abc", size=0),
        long_name("gnu/" + "g" * 200) + file("short", b"1"),
        long_name("t" * 200, "K") + symlink("link", "short"),
        pax(linkpath="l" * 200) + symlink("link2", "short"),
        pax(path="first") + pax(path="second") + file("third", b"2"),
        entry("global", "g", b"13 path=evil\n") + file("plain", b"3"),
    )
    unpack(place, data)
    info = (place / "long" / ("n" * 200)).stat()
    assert (info.st_size, info.st_uid, info.st_gid, info.st_mtime_ns) == (3, 70000, 70001, 1_500_000_000)
    assert (place / "gnu" / ("g" * 200)).exists()
    assert os.readlink(place / "link") == "t" * 200
    assert os.readlink(place / "link2") == "l" * 200
    assert (place / "second").read_bytes() == b"2"
    assert (place / "plain").read_bytes() == b"3"
    assert not (place / "evil").exists()


def test_attributes(place):
    data = archive(
        folder("d", mode=0o1777, mtime=1000),
        pax(SCHILY__xattr__user__key=b"v\0w", SCHILY__xattr__trusted__overlay__opaque=b"y")
        + file("d/f", b"1", mode=0o4755, uid=5, gid=6, mtime=2000),
        pax(SCHILY__xattr__security__capability=bytes.fromhex("0100000200200000000000000000000000000000"))
        + file("d/ping", b"1", uid=5),
        entry("d/null", "3", major=1, minor=3, mode=0o666),
        entry("d/pipe", "6", mode=0o600),
        symlink("d/l", "f", uid=7, mtime=3000),
        file(b"d/\xff\xfe", b"bytes"),
    )
    old = os.umask(0o077)
    try:
        unpack(place, data)
    finally:
        os.umask(old)
    info = (place / "d/f").stat()
    assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid, info.st_mtime) == (0o4755, 5, 6, 2000)
    assert os.getxattr(place / "d/f", "user.key") == b"v\0w"
    assert "trusted.overlay.opaque" not in os.listxattr(place / "d/f")
    assert os.getxattr(place / "d/ping", "security.capability")
    assert (place / "d/null").stat().st_rdev == os.makedev(1, 3)
    assert stat.S_IMODE((place / "d/null").stat().st_mode) == 0o666
    assert stat.S_ISFIFO((place / "d/pipe").stat().st_mode)
    assert ((place / "d/l").lstat().st_uid, (place / "d/l").lstat().st_mtime) == (7, 3000)
    assert (stat.S_IMODE((place / "d").stat().st_mode), (place / "d").stat().st_mtime) == (0o1777, 1000)
    assert b"\xff\xfe" in os.listdir(os.fsencode(place / "d"))


def test_kinds_of_old(place):
    """V7's files and directories, contiguous files, ustar's prefix."""
    long_base = "b" * 100
    prefixed = bytearray(entry(long_base)[:512])
    prefixed[345:350] = b"p" * 5
    unpack(place, archive(entry("v7", "\0", b"1"), entry("d/", "\0"), entry("whole", "7", b"2"), sealed(prefixed)))
    assert (place / "v7").read_bytes() == b"1"
    assert (place / "d").is_dir()
    assert (place / "whole").read_bytes() == b"2"
    assert (place / "ppppp" / long_base).is_file()


def test_directories_of_every_spelling(place):
    names = ("a/b/c", "a/", "./d//e/", "/f/", "g/../h/.")
    unpack(place, archive(*(folder(name, mode=0o711) for name in names)))
    made = sorted(str(path.relative_to(place)) for path in place.rglob("*"))
    assert made == ["a", "a/b", "a/b/c", "d", "d/e", "f", "h"]
    assert stat.S_IMODE((place / "a").stat().st_mode) == 0o711


def test_names_of_255_bytes_and_not_one_more(place):
    unpack(place, archive(pax(path="n" * 255) + file("x", b"1")))
    assert (place / ("n" * 255)).read_bytes() == b"1"
    with pytest.raises(OSError, match="too long"):
        unpack(place, archive(pax(path="n" * 256) + file("x", b"1")))


def test_attributes_on_what_cannot_have_them_are_passed_over(place):
    mine = pax(SCHILY__xattr__user__key="v")
    unpack(place, archive(mine + symlink("l", "f"), mine + entry("pipe", "6"), mine + file("f", b"1")))
    assert os.listxattr(place / "l", follow_symlinks=False) == []
    assert os.listxattr(place / "pipe") == []
    assert os.getxattr(place / "f", "user.key") == b"v"
    unpack(place, archive(file("f", b"1")))
    assert os.listxattr(place / "f") == []  # an attribute is not the next entry's too


def test_a_filesystem_without_attributes(place):
    subprocess.run(["mount", "-t", "ramfs", "ramfs", place], check=True)
    try:
        unpack(place, archive(pax(SCHILY__xattr__user__key="v") + file("f", b"1", mode=0o4755, uid=9)))
        info = (place / "f").stat()
        assert (os.listxattr(place / "f"), stat.S_IMODE(info.st_mode), info.st_uid) == ([], 0o4755, 9)
    finally:
        subprocess.run(["umount", place], check=True)


def test_times_of_directories_outlast_what_is_written_into_them(place):
    unpack(place, archive(folder("d", mtime=5), folder("d/e", mtime=6), file("d/e/f", b"1"), file("d/g"),
                          symlink("l", "d"), folder("l/h", mtime=7), file("d/h/i"), folder("d", mtime=8)))  # fmt: skip
    assert [(place / name).stat().st_mtime for name in ("d", "d/e", "d/h")] == [8, 6, 7]


def test_times_out_of_this_world(place):
    far, past = (1 << 62), -(1 << 62)
    unpack(place, archive(file("far", mtime=far), file("past", mtime=past), pax(mtime="-0.5") + file("half")))
    assert (place / "far").stat().st_mtime > 1 << 31  # as far as the filesystem goes
    assert (place / "past").stat().st_mtime < 0
    assert (place / "half").stat().st_mtime_ns == -500_000_000


def test_what_is_there_is_replaced_or_merged(place):
    unpack(place, archive(folder("d", mode=0o700), file("d/keep", b"1"), file("f", b"1"), symlink("s", "f")))
    unpack(place, archive(folder("d", mode=0o755), folder("f"), file("f/in", b"2"), file("s", b"3")))
    assert (place / "d/keep").exists()
    assert stat.S_IMODE((place / "d").stat().st_mode) == 0o755
    assert (place / "f/in").read_bytes() == b"2"
    assert not (place / "s").is_symlink()
    unpack(place, archive(file("d", b"4")))
    assert (place / "d").read_bytes() == b"4"


def test_missing_parents_are_made_whatever_the_umask(place):
    old = os.umask(0o077)
    try:
        unpack(place, archive(file("a/b/c", b"1")))
    finally:
        os.umask(old)
    assert stat.S_IMODE((place / "a/b").stat().st_mode) == 0o755


def test_a_parent_that_is_a_file_is_an_error(place):
    unpack(place, archive(file("a", b"1")))
    with pytest.raises(NotADirectoryError):
        unpack(place, archive(file("a/b", b"1")))


@pytest.mark.parametrize("marker_first", [True, False])
def test_an_opaque_marker_spares_what_the_layer_has_itself(place, marker_first):
    lower = (folder("d"), file("d/old", b"1"), folder("d/sub"), file("d/sub/old", b"1"), file("keep", b"k"))
    unpack(place, archive(*lower))
    own = (file("d/new", b"2"), file("d/sub/new", b"2"), hardlink("d/link", "keep"))
    marker = (file("d/.wh..wh..opq"),)
    unpack(place, archive(folder("d"), *(marker + own if marker_first else own + marker)))
    assert sorted(os.listdir(place / "d")) == ["link", "new", "sub"]
    assert os.listdir(place / "d/sub") == ["new"]


@pytest.mark.parametrize("whiteout_first", [True, False])
def test_a_whiteout_spares_what_the_layer_has_itself(place, whiteout_first):
    """Image spec, whiteouts: they apply to the layers below only."""
    unpack(place, archive(folder("d"), file("d/old", b"1"), file("f", b"1")))
    own = (folder("d"), file("d/new", b"2"), file("f", b"2"))
    markers = (file(".wh.d"), file(".wh.f"))
    unpack(place, archive(*(markers + own if whiteout_first else own + markers)))
    assert os.listdir(place / "d") == ["new"]
    assert (place / "f").read_bytes() == b"2"


@pytest.mark.parametrize("last", [file(".wh.d"), file("d"), file(".wh..wh..opq")])
def test_a_tree_deeper_than_any_path_is_removed(place, last):
    """By links to links a layer gets far below where its names end."""
    deep = "/".join("d" * 1000)
    entries, base = [], ""
    for turn in range(3):
        entries += [pax(path=f"{base}{deep}/f") + file("x"), pax(linkpath=f"{base}{deep}") + symlink(f"l{turn}", "x")]
        base = f"l{turn}/"
    unpack(place, archive(*entries))
    unpack(place, archive(last))
    assert not (place / "d").is_dir()
    assert not any((place / f"l{turn}").exists() for turn in range(3))


def _clear(place):
    fd = os.open(place, os.O_RDONLY)
    for name in os.listdir(fd):
        walk.remove(fd, name)  # deeper than shutil.rmtree can go
    os.close(fd)


def test_nothing_is_followed_that_is_swapped_meanwhile(place, tmp_path):
    """Whoever could swap an entry for a link while it is made gains no mode, owner, time or attribute outside."""
    victim = tmp_path / "etc/passwd"
    (place / "bait").symlink_to(victim)
    unpack(place, archive(file("f", b"1")))
    before = victim.stat()
    done = threading.Event()

    def swap():
        while not done.is_set():
            for name in ("pipe", "f", "d", "null"):
                with contextlib.suppress(OSError):
                    os.rename(place / "bait", place / name)
                with contextlib.suppress(OSError):
                    (place / "bait").symlink_to(victim)

    swapper = threading.Thread(target=swap)
    swapper.start()
    mine = pax(SCHILY__xattr__user__key="v")
    entries = (mine + entry("pipe", "6", mode=0o666, uid=1), mine + file("f", b"2", mode=0o666, uid=1, mtime=9),
               mine + folder("d", mode=0o777, uid=1), entry("null", "3", major=1, minor=3, mode=0o666))  # fmt: skip
    try:
        for turn in range(1000):
            with contextlib.suppress(OSError):
                unpack(place, archive(entries[turn % len(entries)]))
    finally:
        done.set()
        swapper.join()
    after = victim.stat()
    assert (after.st_mode, after.st_uid, after.st_mtime_ns) == (before.st_mode, before.st_uid, before.st_mtime_ns)
    assert os.listxattr(victim) == []


def test_names_that_need_many_directories_are_cheap(place):
    deep = "/".join(["d"] * 1000)
    began = time.process_time()
    unpack(place, archive(*(pax(path=f"{n}/{deep}/f") + file("x") for n in range(5))))
    assert time.process_time() - began < 30  # a bound on work that was quadratic, not a measurement
    _clear(place)


SPARSE = [["--format=gnu"], *(["--format=posix", f"--sparse-version={one}"] for one in ("0.0", "0.1", "1.0"))]
HOLES = {
    "all hole": (0, 1 << 20),
    "ends in a hole": (1, 1 << 20),
    "begins with one": (0, 1 << 20, 3),
    "many": tuple(range(1, 80)),  # more than a header's pieces, and than a block's behind it
}


@pytest.mark.parametrize("holes", HOLES)
@pytest.mark.parametrize("argv", SPARSE, ids=" ".join)
def test_sparse_files(place, argv, holes):
    """As GNU tar writes them, in all its ways and in any chunks; holes stay holes."""
    source = place.parent / "source"
    source.mkdir()
    with open(source / "sparse", "wb") as out:
        for turn, size in enumerate(HOLES[holes]):
            if turn % 2:
                out.seek(4096 * size if size < 1 << 20 else size, os.SEEK_CUR)
            else:
                out.write(os.urandom(4096 * size))
        out.truncate(out.tell())
    (source / "after").write_bytes(b"1")
    data = subprocess.run(["tar", "-S", *argv, "-C", source, "-cf", "-", "sparse", "after"], check=True,
                          capture_output=True).stdout  # fmt: skip
    for step in (None, 1000, 1):
        if step == 1 and len(data) > 100_000:
            continue
        unpack(place, data, step)
        assert listing(place) == listing(source)
        assert (place / "sparse").stat().st_blocks <= (source / "sparse").stat().st_blocks + 16


def test_owners_are_shifted(place):
    maps = {"users": [(0, 100_000, 1000), (5000, 7, 1)], "groups": [(0, 200_000, 10)]}
    entries = (folder("d", uid=1, gid=2), file("d/f", b"1", uid=5000), symlink("d/l", "f", gid=9))
    unpack(place, archive(*entries), **maps)
    owners = [((place / name).lstat().st_uid, (place / name).lstat().st_gid) for name in ("d", "d/f", "d/l")]
    assert owners == [(100_001, 200_002), (7, 200_000), (100_000, 200_009)]
    for stranger in (file("x", uid=1000), file("x", gid=10)):
        with pytest.raises(Malformed, match="no map"):
            unpack(place, archive(stranger), **maps)


class Overlay:
    """An upper directory unpacked apart from what is below."""

    def __init__(self, root, prefix="trusted"):
        self.root = root
        self.opaque = f"{prefix}.overlay.opaque"

    def unpack(self, *entries):
        """What is implied."""
        fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with Unpacker(fd, self.opaque) as unpacker:
                unpacker.feed(archive(*entries))
                usage = unpacker.finish()
                assert usage[1] == walk.usage(fd)[1] - 1
                return unpacker.implied()
        finally:
            os.close(fd)

    def hidden(self):
        """Whiteouts and opaque directories."""
        found = []
        for path in sorted(self.root.rglob("*")):
            info = path.lstat()
            if stat.S_ISCHR(info.st_mode) and info.st_rdev == 0:
                found.append(str(path.relative_to(self.root)))
            elif stat.S_ISDIR(info.st_mode) and self.opaque in os.listxattr(path):
                assert os.getxattr(path, self.opaque) == b"y"
                found.append(f"{path.relative_to(self.root)}/")
        return found


WHITEOUT, OPAQUE = file("d/.wh.x", uid=3, gid=4), file("d/.wh..wh..opq")
OVERLAY = {
    # name: (entries, what they hide, what they imply)
    "whiteout": ((folder("d"), WHITEOUT), ["d/x"], [(b"d", False)]),
    "whiteout at the root": ((file(".wh.x"),), ["x"], []),
    "whiteout in what is implied": ((WHITEOUT,), ["d/x"], [(b"d", True)]),
    "whiteout twice": ((folder("d"), WHITEOUT, WHITEOUT), ["d/x"], [(b"d", False)]),
    "implied": ((file("a/b/c"),), [], [(b"a", True), (b"a/b", True)]),
    "implied, then stated": ((file("a/b/c"), folder("a"), folder("a/b")), [], [(b"a", False), (b"a/b", False)]),
    "stated": ((folder("a"), file("a/b")), [], []),
    "opaque": ((folder("d"), OPAQUE), ["d/"], []),
    "opaque twice": ((folder("d"), OPAQUE, OPAQUE), ["d/"], []),
    "opaque in what is implied": ((OPAQUE,), ["d/"], [(b"d", True)]),
    "no whiteout below opaque": ((folder("d"), OPAQUE, WHITEOUT), ["d/"], []),
    "no whiteout left below opaque": ((folder("d"), WHITEOUT, OPAQUE), ["d/"], []),
    "no whiteout deep below opaque": (
        (folder("d"), folder("d/e"), folder("d/e/f"), file("d/e/f/.wh.x"), OPAQUE, file("d/e/.wh.x"),
         file("d/g/.wh.x")), ["d/"], [],
    ),
    "new below opaque": ((folder("d"), OPAQUE, file("d/e/f")), ["d/"], []),
    "own file, whiteout": ((folder("d"), file("d/x"), WHITEOUT), [], []),
    "whiteout, own file": ((folder("d"), WHITEOUT, file("d/x")), [], [(b"d", False)]),
    "own folder, whiteout": ((folder("d"), folder("d/x"), WHITEOUT), ["d/x/"], []),
    "whiteout, own folder": ((folder("d"), WHITEOUT, folder("d/x")), ["d/x/"], [(b"d", False)]),
    "whiteout, new folder": ((folder("d"), WHITEOUT, file("d/x/y")), ["d/x/"], [(b"d", False)]),
    "whiteout below a whiteout": ((folder("d"), WHITEOUT, file("d/x/.wh.y")), ["d/x"], [(b"d", False)]),
    "whiteout below a file": ((file("d"), WHITEOUT), [], []),
    "file, then folder": ((file("d"), folder("d")), ["d/"], []),
    "folder, then file": ((folder("d"), WHITEOUT, file("d")), [], []),
    "AUFS's own": ((file(".wh..wh.plnk"), file("d/.wh..wh.aufs")), [], []),
}  # fmt: skip


@pytest.mark.parametrize("prefix", ["trusted", "user"])
@pytest.mark.parametrize("case", OVERLAY)
def test_overlays_own_form(place, case, prefix):
    entries, hidden, implied = OVERLAY[case]
    overlay = Overlay(place, prefix)
    assert overlay.unpack(*entries) == implied
    assert overlay.hidden() == hidden
    if "d/x" in hidden:
        assert ((place / "d/x").lstat().st_uid, (place / "d/x").lstat().st_gid) == (3, 4)


@pytest.mark.parametrize(
    "entries",
    [
        (hardlink("l", "below"),),
        (folder("d"), hardlink("l", "d/below")),
        (file(".wh.f"), hardlink("l", "f")),
        (file("d/f"), hardlink("l", "d")),
        (symlink("s", "/d"), file("s/f")),
        (symlink("s", "d"), file("s/.wh.x")),
        (symlink("s", "d"), folder("d"), file("d/f"), hardlink("l", "s/f")),
        (file(".wh..wh..opq"),),
        (file("a/b"), file("a")),
        (file("a/b"), file(".wh.a")),
        (folder("a"), file("a/b/c"), file("a/.wh..wh..opq")),
        tuple(file(f"{at}/f") for at in range(10_001)),
    ],
)
def test_what_needs_the_layers_below(place, entries):
    with pytest.raises(Entangled):
        Overlay(place).unpack(*entries)


def test_a_layer_cannot_make_overlays_own_things(place):
    with pytest.raises(PermissionError):
        Overlay(place).unpack(entry("x", "3"))
    steering = {f"SCHILY__xattr__{prefix}__overlay__opaque": "y" for prefix in ("trusted", "user")}
    Overlay(place).unpack(pax(**steering) + folder("d"), pax(**steering) + file("f"), entry("y", "3", major=1))
    assert os.listxattr(place / "d") == os.listxattr(place / "f") == []


def test_the_same_by_bytes_and_by_any_chunks(place):
    source = place.parent / "source"
    source.mkdir()
    subprocess.run(["cp", "-a", "/etc/default", "/etc/pam.d", source], check=True)
    argv = ["tar", "--format=pax", "-C", source, "-cf", "-", "."]
    data = subprocess.run(argv, check=True, capture_output=True).stdout
    whole, single, mixed = (place / name for name in ("whole", "single", "mixed"))
    for root in (whole, single, mixed):
        root.mkdir()
    unpack(whole, data)
    unpack(single, data, 1)
    fd = os.open(mixed, os.O_RDONLY)
    choose = random.Random(1)
    with Unpacker(fd) as unpacker:
        at = 0
        while at < len(data):
            size = choose.choice((1, 3, 511, 512, 513, 4096, 100_000))
            unpacker.feed(data[at : at + size])
            at += size
        unpacker.finish()
    os.close(fd)
    assert listing(whole) == listing(source)
    assert listing(single) == listing(whole)
    assert listing(mixed) == listing(whole)


NAMES = (
    "a", "b", "a/b", "a/b/c", "/etc", "../a", "a/../../b", "..", ".", "a/.wh.b", ".wh.a", "a/.wh..wh..opq", "l", "l/x",
)  # fmt: skip
TARGETS = ("/", "..", "../../..", "/etc", "../../../etc", "a", "a/b", "l", ".", "../../../../victim", "/victim")


@pytest.mark.parametrize("seed", range(150))
def test_random_archives_stay_inside(place, seed):
    """Links, whiteouts and files of hostile names in any order; the canary beside the root tells."""
    choose = random.Random(seed)
    entries = []
    for _ in range(choose.randrange(5, 60)):
        name = choose.choice(NAMES)
        kind = choose.randrange(5)
        if kind == 0:
            entries.append(folder(name))
        elif kind == 1:
            entries.append(symlink(name, choose.choice(TARGETS)))
        elif kind == 2:
            entries.append(hardlink(name, choose.choice((*TARGETS, "etc/passwd", "/etc/passwd"))))
        else:
            entries.append(file(name, b"x" * choose.randrange(2000)))
    for one in entries:  # one archive each, so that an error ends nothing but its entry
        try:
            unpack(place, archive(one))
        except (Malformed, OSError):
            continue
