"""What is served from a process of its own, when it cannot be; how it fares is for the contract suite and e2e."""

import socket

import pytest

from daemon.serve import main, serve
from spec import errors


def test_one_that_is_not_offered_here(tmp_path, capsys):
    assert main(["--address", str(tmp_path / "sock"), "--root", str(tmp_path / "root"), "btrfs"]) == 1
    assert "on no btrfs" in capsys.readouterr().err


def test_one_that_is_unknown(capsys):
    with pytest.raises(SystemExit):
        main(["--address", "/a", "--root", "/b", "zfs"])
    assert "invalid choice: 'zfs'" in capsys.readouterr().err


def test_an_address_where_somebody_answers(tmp_path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "sock"))
        listener.listen()
        with pytest.raises(errors.AlreadyExists, match="another daemon answers"):
            serve(str(tmp_path / "sock"))
