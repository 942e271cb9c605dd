"""The mount calls one by one, against a real kernel; the errors they raise, and descriptors that nobody inherits."""

import errno
import fcntl
import os
import stat

import pytest

from pyx import mount as calls

pytestmark = pytest.mark.root

AT_FDCWD = -100
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_PRIVATE, MS_SHARED = 0x1, 0x20, 0x1000, 1 << 18, 1 << 20
MNT_DETACH, UMOUNT_NOFOLLOW = 2, 8


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    return path


@pytest.fixture
def tmpfs():
    """`tmpfs(attributes, size=...)`: a detached one."""
    made = []

    def make(attributes=0, **parameters):
        context = calls.fsopen("tmpfs")
        try:
            for key, value in parameters.items():
                calls.fsconfig(context, calls.FSCONFIG_SET_STRING, key, value)
            calls.fsconfig(context, calls.FSCONFIG_CMD_CREATE)
            made.append(calls.fsmount(context, attributes))
        finally:
            os.close(context)
        return made[-1]

    yield make
    for fd in made:
        os.close(fd)


def entry(path):
    """The fields of the topmost mount at `path` in mountinfo: its own options, optional fields, type."""
    with open("/proc/self/mountinfo") as table:
        lines = [line.split() for line in table]
    found = [fields for fields in lines if fields[4] == str(path)]
    if not found:
        return None
    fields = found[-1]
    dash = fields.index("-")
    return set(fields[5].split(",")), fields[6:dash], fields[dash + 1]


def raises(number):
    """The OSError with that errno, and only it."""
    return pytest.raises(OSError, check=lambda exc: exc.errno == number)


@pytest.mark.parametrize("kind", [str, os.fsencode], ids=["text", "bytes"])
def test_mount_and_umount(folder, kind):
    calls.mount("tmpfs", kind(str(folder)), "tmpfs", 0, "size=8k,mode=700")
    try:
        assert entry(folder)[2] == "tmpfs"
        assert os.statvfs(folder).f_blocks * os.statvfs(folder).f_frsize == 8192
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    finally:
        calls.umount2(kind(str(folder)))
    assert entry(folder) is None


def test_a_bind_is_read_only_by_a_second_call(folder, tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    calls.mount(str(folder), str(target), "", MS_BIND | MS_RDONLY)
    try:
        (target / "a").touch()  # MS_RDONLY is ignored at first, mount(2) says
        calls.mount("", str(target), "", MS_REMOUNT | MS_BIND | MS_RDONLY)
        with raises(errno.EROFS):
            (target / "b").touch()
        (folder / "b").touch()
    finally:
        calls.umount2(str(target))


def test_a_page_of_options_is_never_cut(folder):
    """The kernel would read one page and drop the rest in silence."""
    page = os.sysconf("SC_PAGE_SIZE")
    fits = f"size={'0' * (page - 8)}4k"
    assert len(fits) == page - 1
    calls.mount("tmpfs", str(folder), "tmpfs", 0, fits)
    assert os.statvfs(folder).f_blocks == 1
    calls.umount2(str(folder))
    with raises(errno.E2BIG):
        calls.mount("tmpfs", str(folder), "tmpfs", 0, fits + ",")
    assert entry(folder) is None


def test_a_mount_that_is_used_goes_when_it_is_let_go(folder):
    calls.mount("tmpfs", str(folder), "tmpfs", 0)
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with raises(errno.EBUSY):
            calls.umount2(str(folder))
        calls.umount2(str(folder), MNT_DETACH)
        assert entry(folder) is None
        assert os.listdir(fd) == []
    finally:
        os.close(fd)


def test_umount_need_not_follow(folder, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(folder)
    calls.mount("tmpfs", str(folder), "tmpfs", 0)
    with raises(errno.EINVAL):
        calls.umount2(str(link), UMOUNT_NOFOLLOW)
    assert entry(folder) is not None
    calls.umount2(str(link))
    assert entry(folder) is None


def test_a_detached_filesystem_is_attached_by_its_descriptor(folder, tmpfs):
    fd = tmpfs(size="12k", mode="711")
    assert os.fstatvfs(fd).f_blocks * os.fstatvfs(fd).f_frsize == 12288
    os.mkdir("inside", dir_fd=fd)
    assert entry(folder) is None
    calls.move_mount(fd, AT_FDCWD, str(folder))
    try:
        assert os.listdir(folder) == ["inside"]
        assert entry(folder)[2] == "tmpfs"
    finally:
        calls.umount2(str(folder), MNT_DETACH)


def test_attaching_below_a_folder_and_at_it(folder, tmpfs):
    (folder / "a").mkdir()
    at = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        calls.move_mount(tmpfs(), at, "a")
        assert entry(folder / "a") is not None
        calls.umount2(str(folder / "a"), MNT_DETACH)
        calls.move_mount(tmpfs(), at, "", calls.MOVE_MOUNT_F_EMPTY_PATH | calls.MOVE_MOUNT_T_EMPTY_PATH)
        assert entry(folder) is not None
        calls.umount2(str(folder), MNT_DETACH)
    finally:
        os.close(at)


@pytest.mark.parametrize(
    ("attribute", "option"),
    [
        (calls.MOUNT_ATTR_RDONLY, "ro"),
        (calls.MOUNT_ATTR_NOSUID, "nosuid"),
        (calls.MOUNT_ATTR_NODEV, "nodev"),
        (calls.MOUNT_ATTR_NOEXEC, "noexec"),
        (calls.MOUNT_ATTR_NOATIME, "noatime"),
        (calls.MOUNT_ATTR_NODIRATIME, "nodiratime"),
    ],
)
def test_attributes_when_made_and_when_changed(folder, tmpfs, attribute, option):
    atime = attribute & calls.MOUNT_ATTR__ATIME
    for fd in (tmpfs(attribute), tmpfs()):
        calls.mount_setattr(fd, "", calls.AT_EMPTY_PATH, attribute, calls.MOUNT_ATTR__ATIME if atime else 0)
        calls.move_mount(fd, AT_FDCWD, str(folder))
        assert option in entry(folder)[0]
        calls.umount2(str(folder), MNT_DETACH)


def test_clearing_an_attribute(folder, tmpfs):
    fd = tmpfs(calls.MOUNT_ATTR_RDONLY | calls.MOUNT_ATTR_NOEXEC)
    with raises(errno.EROFS):
        os.mkdir("a", dir_fd=fd)
    calls.mount_setattr(fd, "", calls.AT_EMPTY_PATH, 0, calls.MOUNT_ATTR_RDONLY)
    os.mkdir("a", dir_fd=fd)
    calls.move_mount(fd, AT_FDCWD, str(folder))
    assert "noexec" in entry(folder)[0]
    calls.umount2(str(folder), MNT_DETACH)


def test_propagation(folder, tmpfs):
    fd = tmpfs()
    calls.move_mount(fd, AT_FDCWD, str(folder))
    try:
        calls.mount_setattr(AT_FDCWD, str(folder), 0, propagation=MS_SHARED)
        assert [field for field in entry(folder)[1] if field.startswith("shared:")]
        calls.mount_setattr(AT_FDCWD, str(folder), 0, propagation=MS_PRIVATE)
        assert not entry(folder)[1]
    finally:
        calls.umount2(str(folder), MNT_DETACH)


@pytest.mark.parametrize("recursive", [True, False])
def test_a_clone_with_or_without_what_is_below(folder, tmpfs, recursive):
    (folder / "below").mkdir()
    calls.move_mount(tmpfs(), AT_FDCWD, str(folder / "below"))
    (folder / "below/inside").mkdir()
    try:
        flags = calls.OPEN_TREE_CLONE | (calls.AT_RECURSIVE if recursive else 0)
        fd = calls.open_tree(AT_FDCWD, str(folder), flags)
        try:
            below = os.open("below", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
            try:
                assert os.listdir(below) == (["inside"] if recursive else [])
            finally:
                os.close(below)
        finally:
            os.close(fd)
    finally:
        calls.umount2(str(folder / "below"), MNT_DETACH)


def test_descriptors_are_not_inherited(folder, tmpfs):
    found = [calls.fsopen("tmpfs"), calls.open_tree(AT_FDCWD, str(folder), calls.OPEN_TREE_CLONE)]
    try:
        for fd in (*found, tmpfs()):
            assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    finally:
        for fd in found:
            os.close(fd)


def test_overlay_layers_one_by_one(tmp_path):
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "who").write_text(name)
        (tmp_path / name / name).touch()
    context = calls.fsopen("overlay")
    try:
        for name in ("one", "two", "three"):  # uppermost first
            calls.fsconfig(context, calls.FSCONFIG_SET_STRING, "lowerdir+", str(tmp_path / name))
        calls.fsconfig(context, calls.FSCONFIG_CMD_CREATE)
        fd = calls.fsmount(context)
    finally:
        os.close(context)
    try:
        root = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        try:
            assert sorted(os.listdir(root)) == ["one", "three", "two", "who"]
            who = os.open("who", os.O_RDONLY, dir_fd=root)
            assert os.read(who, 9) == b"one"
            os.close(who)
        finally:
            os.close(root)
    finally:
        os.close(fd)


def test_an_error_has_the_kernels_words():
    """fsopen(2): the context keeps them, and is good for another parameter."""
    context = calls.fsopen("tmpfs")
    try:
        with pytest.raises(OSError, match="nosuch") as caught:
            calls.fsconfig(context, calls.FSCONFIG_SET_STRING, "nosuch", "x")
        assert caught.value.errno == errno.EINVAL
        calls.fsconfig(context, calls.FSCONFIG_SET_STRING, "size", "4k")
        long = "x" * (calls.FSCONFIG_STRING_MAX + 1)
        with raises(errno.EINVAL):
            calls.fsconfig(context, calls.FSCONFIG_SET_STRING, "source", long)
    finally:
        os.close(context)


def test_errors_bear_their_number_and_name(folder, tmp_path):
    missing = str(tmp_path / "missing")
    for call, number in [
        (lambda: calls.mount("tmpfs", missing, "tmpfs", 0), errno.ENOENT),
        (lambda: calls.mount("x", str(folder), "nosuchfs", 0), errno.ENODEV),
        (lambda: calls.umount2(missing), errno.ENOENT),
        (lambda: calls.umount2(str(folder)), errno.EINVAL),
        (lambda: calls.fsopen("nosuchfs"), errno.ENODEV),
        (lambda: calls.open_tree(AT_FDCWD, missing, calls.OPEN_TREE_CLONE), errno.ENOENT),
        (lambda: calls.fsmount(-1), errno.EBADF),
        (lambda: calls.move_mount(-1, AT_FDCWD, str(folder)), errno.EBADF),
        (lambda: calls.mount_setattr(AT_FDCWD, missing, 0, calls.MOUNT_ATTR_RDONLY), errno.ENOENT),
    ]:
        with pytest.raises(OSError) as caught:  # noqa: PT011 (its number is looked at below)
            call()
        assert caught.value.errno == number
    with pytest.raises(FileNotFoundError, match="missing"):
        calls.umount2(missing)


@pytest.mark.parametrize("where", ["source", "target", "type", "data"])
def test_a_nul_ends_no_argument(folder, where):
    arguments = {"source": "tmpfs", "target": str(folder), "type": "tmpfs", "data": "size=4k"}
    arguments[where] += "\0more"
    with pytest.raises(ValueError, match="null"):
        calls.mount(arguments["source"], arguments["target"], arguments["type"], 0, arguments["data"])
    assert entry(folder) is None
