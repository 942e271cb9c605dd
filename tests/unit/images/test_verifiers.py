"""Image verifiers: programs that pass, reject, hang, chatter, crash, or are none."""

import json
import os
import stat
import time

import pytest

from daemon.images.verifiers import LIMIT, BinDir
from daemon.kit.cancel import Token
from spec import errors
from spec.oci.image import OCI_MANIFEST, Descriptor

TARGET = Descriptor(media_type=OCI_MANIFEST, digest="sha256:" + "1" * 64, size=7)
NAME = "example.org/a:1"
PASS = "exit 0"


@pytest.fixture
def programs(tmp_path):
    """`programs(name=script, ...)`: the directory they are in."""
    directory = tmp_path / "bin"

    def make(**scripts):
        directory.mkdir(exist_ok=True)
        for name, script in scripts.items():
            path = directory / name
            path.write_text(f"#!/bin/sh\n{script}\n")
            path.chmod(0o755)
        return str(directory)

    return make


def verify(directory, most=10, timeout_s=10.0, cancel=None):
    BinDir(directory, most, timeout_s).verify(NAME, TARGET, cancel)


def test_what_it_is_told(programs, tmp_path):
    verify(programs(a=f'printf "%s\\n" "$@" > {tmp_path}/args; cat > {tmp_path}/stdin'))
    args = (tmp_path / "args").read_text().splitlines()
    assert args == [
        "-name", NAME, "-digest", TARGET.digest, "-stdin-media-type", "application/vnd.oci.descriptor.v1+json"
    ]  # fmt: skip
    given = json.loads((tmp_path / "stdin").read_bytes())
    assert given == {"mediaType": OCI_MANIFEST, "digest": TARGET.digest, "size": 7}


def test_the_first_that_rejects_decides(programs, tmp_path):
    directory = programs(a=PASS, b="echo not signed; echo by us; exit 3", c=f"touch {tmp_path}/asked")
    with pytest.raises(errors.PermissionDenied, match=f"verifier b: {NAME}.*{TARGET.digest}.*: not signed by us$"):
        verify(directory)
    assert not (tmp_path / "asked").exists()


def test_one_that_rejects_without_a_word(programs):
    with pytest.raises(errors.PermissionDenied, match=r"rejected with exit status 9$"):
        verify(programs(a="exit 9"))


def test_who_is_asked(programs, tmp_path):
    verify(str(tmp_path / "none"))
    verify(programs())
    directory = programs(a=PASS, b="exit 1")
    verify(directory, most=1)
    verify(directory, most=0)
    with pytest.raises(errors.PermissionDenied):
        verify(directory, most=-1)


def test_one_that_hangs(programs, tmp_path):
    """It is ended, with what it started."""
    began = time.monotonic()
    with pytest.raises(errors.FailedPrecondition, match=r"verifier a.*no verdict within 0.3 s: thinking"):
        verify(programs(a=f"echo thinking; sleep 1000 & echo $! > {tmp_path}/pid; wait"), timeout_s=0.3)
    assert time.monotonic() - began < 100
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 30
    while running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_one_that_leaves_its_output_to_another(programs):
    verify(programs(a="sleep 1000 & exit 0"))


def test_one_that_nobody_waits_for(programs):
    token = Token()
    token.cancel("enough")
    with pytest.raises(errors.Canceled, match="enough"):
        verify(programs(a="sleep 1000"), cancel=token)


@pytest.mark.parametrize("stream", [1, 2])
def test_one_that_prints_megabytes(programs, stream):
    flood = f"head -c 5000000 /dev/zero | tr '\\0' x >&{stream}; exit"
    verify(programs(a=f"{flood} 0"))
    with pytest.raises(errors.PermissionDenied) as failed:
        verify(programs(a=f"{flood} 1"))
    assert len(failed.value.message) < LIMIT + 1000
    assert failed.value.message.endswith("x" * 1000 if stream == 1 else "status 1")


def test_what_it_prints_is_harmless(programs):
    with pytest.raises(errors.PermissionDenied) as failed:
        verify(programs(a=r"printf 'a\033[2Jb\377\nc'; exit 1"))
    assert failed.value.message.endswith(": a?[2Jb\N{REPLACEMENT CHARACTER} c")


def test_one_that_crashes(programs):
    with pytest.raises(errors.FailedPrecondition, match="no verdict: Segmentation fault"):
        verify(programs(a="kill -SEGV $$"))


@pytest.mark.parametrize("spoil", ["mode", "kind", "format"])
def test_one_that_cannot_be_run(programs, spoil):
    directory = programs(a=PASS)
    path = os.path.join(directory, "a")
    if spoil == "mode":
        os.chmod(path, stat.S_IRUSR)
    else:
        os.unlink(path)
        if spoil == "kind":
            os.mkdir(path)
        else:
            with open(path, "w") as file:
                file.write("no program")
            os.chmod(path, 0o755)
    with pytest.raises(errors.FailedPrecondition, match=r"verifier a.*cannot be run"):
        verify(directory)


def test_a_directory_that_is_none(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.Error, match="image verifiers of"):
        verify(str(tmp_path / "file"))
