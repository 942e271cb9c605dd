"""Users of containers: containerd's tables of what is resolved to what, and what is refused."""

import pytest

from spec import errors
from spec.oci.users import Ids, group_id, resolve

PASSWD = b"""\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/:/bin/false
guest:x:405:100:guest:/dev/null:/sbin/nologin
4294967296:x:0:0::/:/bin/sh
2147483648:x:0:0::/:/bin/sh
1000:x:0:0::/:/bin/sh
last:x:4294967294:4294967294::/:
over:x:4294967295:0::/:
wrap:x:4294967296:0::/:
overgroup:x:7:4294967296::/:
worded:x:zero:0::/:
short:x:5
"""
GROUP = b"""\
root:x:0:
daemon:x:1:daemon
wheel:x:10:root, alice
users:x:100:games
audio:x:18:guest,root2
extra:x:19:guest
huge:x:4294967295:
last:x:4294967294:
1001:x:0:
"""


@pytest.mark.parametrize(
    ("user", "extra", "expected"),
    [
        ("root", (), (0, 0, (0, 10))),
        ("root", (1, 1234), (0, 0, (0, 1, 1234, 10))),
        ("0", (), (0, 0, (0, 10))),
        ("root:root", (), (0, 0, (0, 10))),
        ("guest", (), (405, 100, (100, 18, 19))),
        ("guest:users", (), (405, 100, (100, 18, 19))),
        ("405:100", (), (405, 100, (100, 18, 19))),
        ("405", (), (405, 100, (100, 18, 19))),
        ("1234", (), (1234, 0, (0,))),
        ("1234:1234", (), (1234, 1234, (1234,))),
        ("1234", (1234,), (1234, 0, (0, 1234))),
        ("1234:audio", (), (1234, 18, (18,))),
        ("daemon", (), (1, 1, (1,))),
        ("daemon", (1234,), (1, 1, (1, 1234))),
        ("2147483647:2147483647", (), (2**31 - 1, 2**31 - 1, (2**31 - 1,))),
        ("last", (), (2**32 - 2, 2**32 - 2, (2**32 - 2,))),
        ("007", (), (7, 0, (0,))),
    ],
)
def test_who_is_who(user, extra, expected):
    uid, gid, additional = expected
    if user == "007":
        # uid 7 is there, with a group that cannot be: only a text without it falls back to group 0
        with pytest.raises(errors.InvalidArgument):
            resolve(user, PASSWD, GROUP, extra)
        assert resolve(user, b"", b"", extra) == Ids(uid=uid, gid=gid, additional_gids=additional)
        return
    assert resolve(user, PASSWD, GROUP, extra) == Ids(uid=uid, gid=gid, additional_gids=additional)


@pytest.mark.parametrize(
    "user",
    [
        "-1000", "-0", "2147483648", "9" * 36, "9" * 100000, f"0:{'9' * 36}", "405:2147483648", "4294967295",
        "4294967296", "18446744073709551616", "over", "wrap", "overgroup", "root:huge", "worded",
    ],
)  # fmt: skip
def test_ids_out_of_range_are_never_names(user):
    with pytest.raises(errors.InvalidArgument, match="out of range"):
        resolve(user, PASSWD, GROUP)


@pytest.mark.parametrize("user", ["", ":", "root:", ":0", "a:b:c", "nobody", "guest:nobody", "short", "x" * 100])
def test_what_is_nobody(user):
    with pytest.raises(errors.InvalidArgument):
        resolve(user, PASSWD, GROUP)


def test_a_number_is_a_number_whatever_passwd_says():
    assert resolve("1000", PASSWD, GROUP).uid == 1000
    assert group_id("1001", GROUP) == 1001


def test_without_any_file():
    assert resolve("5:6", b"", b"") == Ids(uid=5, gid=6, additional_gids=(6,))
    with pytest.raises(errors.InvalidArgument, match="no 'root'"):
        resolve("root", b"", b"")


def test_the_first_line_wins():
    assert resolve("a", b"a:x:1:2::/:\na:x:3:4::/:\n", b"").uid == 1


def test_odd_lines_are_passed_over():
    text = b"\n# a:x:9:9\n+::::\n\0\0\0\n\xff\xfe:x:1:1:\na:x:1:2"
    assert resolve("a", text, b"a:x\n:::\n") == Ids(uid=1, gid=2, additional_gids=(2,))


def test_a_group_that_is_named_after_the_user_is_not_supplementary():
    assert resolve("a", b"a:x:1:2::/:", b"a:x:3:a\nb:x:4:a").additional_gids == (2, 4)
