import os

import pytest

from daemon.runtime import roots
from spec import errors


def check(path):
    root = os.open(path, os.O_PATH | os.O_DIRECTORY)
    try:
        roots.check(root, "create task c")
    finally:
        os.close(root)


def test_directories_and_nothing_at_all(tmp_path):
    check(tmp_path)
    for name in roots.DIRECTORIES:
        (tmp_path / name).mkdir()
    check(tmp_path)


@pytest.mark.parametrize("name", ["dev", "proc", "sys"])
@pytest.mark.parametrize("target", ["/", "other", "/none/such"])
def test_links(tmp_path, name, target):
    (tmp_path / "other").mkdir()
    (tmp_path / name).symlink_to(target)
    with pytest.raises(errors.InvalidArgument, match=f"create task c: /{name} of"):
        check(tmp_path)
