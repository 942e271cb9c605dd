"""What mounts write to."""

import pytest

from daemon.diff import upper
from spec.types import Mount


@pytest.mark.parametrize(
    ("type", "options", "path"),
    [
        ("overlay", ("workdir=/w", "upperdir=/u", "lowerdir=/l"), "/u"),
        ("overlay", ("lowerdir=/l:/m",), ""),
        ("aufs", ("br:/u=rw:/l=ro+wh", "dio"), "/u"),
        ("aufs", ("ro", "br:/l=ro+wh:/m=ro+wh"), ""),
        ("bind", ("rw", "rbind"), ""),
    ],
)
def test_branch(type, options, path):
    mount = Mount(type=type, source="none", options=options)
    assert upper.branch([mount]) == path
    assert upper.branch([mount, mount]) == ""
