"""Stacks of directories, as mounts say them."""

import pytest

from daemon.diff import stacks
from spec.types import Mount


def bind(source, *options):
    return Mount(type="bind", source=source, options=options)


def overlay(*options):
    return Mount(type="overlay", source="overlay", options=options)


RO = ("ro", "rbind")
UPPER = ("workdir=/w", "upperdir=/u")


@pytest.mark.parametrize(
    ("lower", "upper", "expected"),
    [
        ([bind("/a", *RO)], [overlay(*UPPER, "lowerdir=/a")], ("/u", "trusted.overlay.")),
        ([bind("/a", *RO)], [overlay(*UPPER, "lowerdir=/a", "index=off", "userxattr")], ("/u", "user.overlay.")),
        ([overlay("lowerdir=/b:/a")], [overlay(*UPPER, "lowerdir=/b:/a", "volatile")], ("/u", "trusted.overlay.")),
        ([bind("/a", *RO)], [overlay("lowerdir=/b:/a")], ("/b", "trusted.overlay.")),
        ([overlay("lowerdir=/b:/a")], [overlay("lowerdir=/c:/b:/a")], ("/c", "trusted.overlay.")),
        # Other layers, or more than one.
        ([bind("/b", *RO)], [overlay(*UPPER, "lowerdir=/a")], None),
        ([bind("/a", *RO)], [overlay("lowerdir=/c:/b:/a")], None),
        ([bind("/a", *RO)], [overlay(*UPPER, "lowerdir=/b:/a")], None),
        ([overlay("lowerdir=/b:/a")], [overlay("lowerdir=/b:/a")], None),
        ([bind("/a", *RO)], [bind("/b", *RO)], None),
        ([bind("/a", *RO)], [bind("/a", "rw", "rbind")], None),
        # No plain stacks.
        ([], [overlay(*UPPER, "lowerdir=/a")], None),
        ([bind("/a", *RO)], [], None),
        ([bind("/a", *RO), bind("/x", *RO)], [overlay(*UPPER, "lowerdir=/a")], None),
        ([bind("/a", *RO, "uidmap=0:1:2", "gidmap=0:1:2")], [overlay(*UPPER, "lowerdir=/a")], None),
        ([bind("/a", *RO)], [overlay(*UPPER, "lowerdir=/a", "uidmap=0:1:2", "gidmap=0:1:2")], None),
        ([bind("/a", *RO)], [overlay(*UPPER)], None),
        ([bind("/a", *RO)], [overlay(*UPPER, "lowerdir=/a::/data")], None),
        ([bind("/a:b", *RO)], [overlay(*UPPER, "lowerdir=/a\\:b")], None),
        ([Mount(type="ext4", source="/a")], [overlay(*UPPER, "lowerdir=/a")], None),
    ],
)
def test_the_directory_on_top(lower, upper, expected):
    assert stacks.top(lower, upper) == expected


@pytest.mark.parametrize(
    ("mount", "options"),
    [
        (overlay("workdir=/w", "upperdir=/u", "lowerdir=/b:/a", "index=off"), ("lowerdir=/u:/b:/a", "index=off")),
        (overlay("lowerdir=/b:/a", "workdir=/w", "upperdir=/u:v\\w"), ("lowerdir=/u\\:v\\\\w:/b:/a",)),
        (overlay("lowerdir=/b:/a"), ("lowerdir=/b:/a",)),
        (bind("/a", "rw", "rbind"), ("rbind", "ro")),
        (bind("/a", "ro", "rbind"), ("rbind", "ro")),
        (Mount(type="ext4", source="/dev/x"), ("ro",)),
    ],
)
def test_read_only(mount, options):
    (made,) = stacks.read_only([mount])
    assert made.options == options
    assert (made.type, made.source) == (mount.type, mount.source)
