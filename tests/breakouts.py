"""Archives that mean to leave their root, as rows; what becomes of each is the same in every way to apply it.

PUBLISHED are the 34 that every unpacker is held against (containerd's archive tests); OTHERS are the advisories'.
"""

import os

from tests.tarball import file, folder, hardlink, symlink

PASSWD = b"root:x:0:0\n"
REFUSED = "refused"  # instead of a check: an InvalidArgument, and nothing is deleted

D = folder("etc")
P = file("/etc/passwd", PASSWD)
L = hardlink("localpasswd", "/etc/passwd")
INSIDE = hardlink("/localetc/localpasswd", "/etc/passwd")
ELSEWHERE = hardlink("localpasswd", "/localetc/passwd")


def holds(path, content):
    """The file at `path` has this content."""
    return lambda root: (root / path).is_file() and (root / path).read_bytes() == content


def same(path):
    """`path` is another name of etc/passwd, whose content is its own."""
    return lambda root: (root / path).samefile(root / "etc/passwd") and holds("etc/passwd", PASSWD)(root)


def differs(path, content):
    """`path` is no name of etc/passwd, and has this content."""
    return lambda root: holds(path, content)(root) and holds("etc/passwd", PASSWD)(root) and not same(path)(root)


def gone(*paths):
    return lambda root: not any(os.path.lexists(root / path) for path in paths)


def points(path, target):
    """`path` is a symbolic link of this text."""
    return lambda root: os.readlink(root / path) == target


def each(*checks):
    return lambda root: all(check(root) for check in checks)


KEPT = holds("etc/passwd", PASSWD)
BROKEN_IN = holds("etc/unbroken", b"x")


def _whiteout(name):
    return (D, P), (file(name),), REFUSED


# name: (layer below, layer, check of the root or REFUSED)
PUBLISHED = {
    "SymlinkAbsolute": ((), (D, symlink("localetc", "/etc"), file("/localetc/unbroken", "x")), BROKEN_IN),
    "SymlinkUpAndOut": (
        (), (D, folder("dummy"), symlink("localetc", "/dummy/../etc"), file("/localetc/unbroken", "x")), BROKEN_IN,
    ),
    "SymlinkMultipleAbsolute": (
        (), (D, folder("dummy"), symlink("/dummy/etc", "/etc"), symlink("localetc", "/dummy/etc"),
             file("/dummy/etc/unbroken", "x")), BROKEN_IN,
    ),
    "SymlinkMultipleRelative": (
        (), (D, folder("dummy"), symlink("/dummy/etc", "/etc"), symlink("localetc", "./dummy/etc"),
             file("/dummy/etc/unbroken", "x")), BROKEN_IN,
    ),
    "SymlinkEmptyFile": (
        (), (D, file("etc/emptied", "notempty"), symlink("localetc", "/etc"), file("/localetc/emptied", "")),
        holds("etc/emptied", b""),
    ),
    "HardlinkRelative": (
        (), (D, P, folder("breakouts"), symlink("breakouts/d1", "../../etc"),
             hardlink("breakouts/mypasswd", "/breakouts/d1/passwd")), same("breakouts/mypasswd"),
    ),
    "HardlinkDownAndOut": (
        (), (D, P, folder("breakouts"), folder("downandout"), symlink("breakouts/d1", "../downandout/../../etc"),
             hardlink("breakouts/mypasswd", "/breakouts/d1/passwd")), same("breakouts/mypasswd"),
    ),
    "HardlinkAbsolute": ((), (D, P, symlink("localetc", "/etc"), ELSEWHERE), same("localpasswd")),
    "HardlinkRelativeLong": (
        (), (D, P, symlink("localetc", "../../../../../../../etc"), ELSEWHERE), same("localpasswd"),
    ),
    "HardlinkRelativeUpAndOut": (
        (), (D, P, symlink("localetc", "upandout/../../../etc"), folder("upandout"), ELSEWHERE), same("localpasswd"),
    ),
    "HardlinkDirectRelative": (
        (), (D, P, hardlink("localpasswd", "../../../../../etc/passwd")), same("localpasswd"),
    ),
    "HardlinkDirectAbsolute": ((), (D, P, L), same("localpasswd")),
    "SymlinkParentDirectory": ((), (D, P, symlink("..", "/etc/"), L), same("localpasswd")),
    "SymlinkEmptyFilename": ((), (D, P, symlink("", "/etc/"), L), same("localpasswd")),
    "SymlinkParentRelative": ((), (D, P, symlink("localetc/sub/..", "/etc/"), INSIDE), same("etc/localpasswd")),
    "SymlinkSlashEnded": ((), (D, P, folder("localetc/"), INSIDE), same("localetc/localpasswd")),
    "SymlinkOverrideDirectory": (
        (D, P, folder("/localetc")), (symlink("localetc", "/etc"), INSIDE),
        each(same("etc/localpasswd"), points("localetc", "/etc")),
    ),
    "SymlinkOverrideDirectoryRelative": (
        (D, P, folder("/localetc")), (symlink("localetc", "../../etc"), INSIDE),
        each(same("etc/localpasswd"), points("localetc", "../../etc")),
    ),
    "DirectoryOverrideSymlink": (
        (D, P, symlink("localetc", "/etc")), (folder("/localetc"), INSIDE),
        each(same("localetc/localpasswd"), gone("etc/localpasswd")),
    ),
    "DirectoryOverrideSymlinkAndHardlink": (
        (D, P, symlink("localetc", "etc"), hardlink("localetc/localpasswd", "etc/passwd")),
        (folder("/localetc"), file("/localetc/localpasswd", "different")),
        each(differs("localetc/localpasswd", b"different"), same("etc/localpasswd")),
    ),
    "WhiteoutRootParent": _whiteout(".wh..."),
    "WhiteoutParent": _whiteout("etc/.wh..."),
    "WhiteoutRoot": _whiteout(".wh.."),
    "WhiteoutCurrentDirectory": _whiteout("etc/.wh.."),
    "WhiteoutSymlink": (
        (D, P, symlink("localetc", "/etc")), (file(".wh.localetc"),), each(gone("localetc", ".wh.localetc"), KEPT),
    ),
    "WhiteoutSymlinkPath": (
        (D, P, file("etc/whitedout"), symlink("localetc", "/etc")), (file("localetc/.wh.whitedout"),),
        each(gone("etc/whitedout", "etc/.wh.whitedout"), KEPT, points("localetc", "/etc")),
    ),
    "WhiteoutDirectoryName": (
        (D, P), (file(".wh.etc/somefile", "non-empty"),), each(holds(".wh.etc/somefile", b"non-empty"), KEPT),
    ),
    "WhiteoutDeadSymlinkParent": (
        (D, P, symlink("localetc", "/dne")), (file("localetc/.wh.etc"),),
        each(KEPT, gone("dne"), points("localetc", "/dne")),
    ),
    "WhiteoutRelativePath": ((D, P), (file("dne/../.wh.etc"),), gone("etc", "dne", ".wh.etc")),
    "SymlinkOverridePath": (
        (), (folder("foo"), folder("foo/tmp"), file("foo/tmp/X", "012"), symlink("foo", "/"),
             file("foo/tmp/X", "345"), folder("foo"), folder("foo/tmp"), file("foo/tmp/X", "678")),
        each(holds("foo/tmp/X", b"678"), holds("tmp/X", b"345")),
    ),
    "HardlinkSymlinkBeforeCreateTarget": (
        (), (D, symlink("localpasswd", "/etc/passwd"), hardlink("localpasswd-dup", "localpasswd"), P),
        each(points("localpasswd-dup", "/etc/passwd"), KEPT),
    ),
    "HardlinkSymlinkRelative": (
        (), (D, P, symlink("passwdlink", "../../../../etc/passwd"), hardlink("localpasswd", "/passwdlink")),
        points("localpasswd", "../../../../etc/passwd"),
    ),
    "HardlinkSymlinkAbsolute": (
        (), (D, P, symlink("passwdlink", "/etc/passwd"), hardlink("localpasswd", "/passwdlink")),
        points("localpasswd", "/etc/passwd"),
    ),
    # a function of a path of the host, to a file of mode 0400 that is watched
    "HardlinkSymlinkChmod": (
        (), lambda host: (D, P, symlink("ep", host), hardlink("sketchylink", "ep", mode=0o777)), KEPT,
    ),
}  # fmt: skip

OTHERS = {
    # umoci, CVE-2021-29136: the root became a link, and the next layer was written to where it led
    **{
        f"RootAsSymlink {name!r}": ((symlink(name, "/victim"),), (file("x", "1"),), holds("x", b"1"))
        for name in (".", "/", "./", "//", "", "a/..", "..", "../.")
    },
    # go-archive, CVE-2026-17106: the check followed the text, the kernel the links; and what its mending broke
    "LinksInARow": (
        (), (folder("a"), symlink("a/l", ".."), symlink("a/l/m", "/"), file("a/l/m/X", "1")), holds("X", b"1"),
    ),
    "LinksInARowBelow": (
        (folder("a"), symlink("a/l", ".."), symlink("a/l/m", "/")), (file("a/l/m/X", "1"),), holds("X", b"1"),
    ),
    "HardlinkAbsoluteBelow": ((D, P), (L,), same("localpasswd")),
    # oras-go, CVE-2026-85731: one link hides the next
    "ChainOfThree": (
        (), (symlink("one", "two"), symlink("two", "three"), symlink("three", "../../../victim"), file("one/X", "1")),
        holds("victim/X", b"1"),
    ),
    "ChainOfThreeBelow": (
        (symlink("one", "two"), symlink("two", "three"), symlink("three", "../../../victim")), (file("one/X", "1"),),
        holds("victim/X", b"1"),
    ),
    "ChainOfThreeLinked": (
        (D, P), (symlink("one", "two"), symlink("two", "three"), symlink("three", "../../../etc"),
                 hardlink("localpasswd", "one/passwd")), same("localpasswd"),
    ),
    # a hard link checked as one path and made as another (oras-go, GHSA-fxhp-mv3v-67qp)
    "HardlinkThroughNewSymlink": (
        (D, P, folder("d"), file("d/passwd", "mine")),
        (symlink("d", "../../etc"), hardlink("localpasswd", "d/passwd")), same("localpasswd"),
    ),
    "WhiteoutOfNothing": _whiteout(".wh."),
    "WhiteoutOfNothingBelow": _whiteout("etc/.wh."),
    "OpaqueThroughSymlink": (
        (D, P, folder("d"), file("d/f", "1"), symlink("l", "/d")), (file("l/.wh..wh..opq"),),
        each(gone("d/f"), KEPT, points("l", "/d")),
    ),
    "OpaqueOfDeadSymlink": (
        (D, P, symlink("l", "/dne")), (file("l/.wh..wh..opq"),), each(KEPT, gone("dne"), points("l", "/dne")),
    ),
    "OpaqueRoot": ((D, P, file("f", "1")), (file(".wh..wh..opq"), file("x", "2")), each(gone("etc", "f"),
                   holds("x", b"2"))),
    "WhiteoutThenBack": (
        (folder("d"), file("d/old", "1"), file("f", "1")),
        (file(".wh.d"), file(".wh.f"), folder("d"), file("d/new", "2"), file("f", "2")),
        each(gone("d/old"), holds("d/new", b"2"), holds("f", b"2")),
    ),
    "BackThenWhiteout": (
        (folder("d"), file("d/old", "1"), file("f", "1")),
        (folder("d"), file("d/new", "2"), file("f", "2"), file(".wh.d"), file(".wh.f")),
        each(gone("d/old"), holds("d/new", b"2"), holds("f", b"2")),
    ),
    "FileOverTree": (
        (folder("d"), folder("d/e"), file("d/e/f", "1")), (file("d", "2"), folder("d"), file("d/g", "3")),
        each(gone("d/e", "d/e/f"), holds("d/g", b"3")),
    ),
    "SymlinkOverTree": (
        (D, P, folder("d"), folder("d/e"), file("d/e/f", "1")), (symlink("d", "/etc"), file("d/g", "3")),
        each(points("d", "/etc"), holds("etc/g", b"3"), KEPT),
    ),
    "SymlinkMovedAside": (
        (D, P, symlink("d", "/etc")), (file(".wh.d"), file("d/g", "3")),
        each(gone("etc/g"), holds("d/g", b"3"), KEPT),
    ),
}  # fmt: skip
