"""Completion of what the daemon knows: ids and names, for each shell the same."""

import os
import shlex
import subprocess

import pytest

from tests.containers import container
from tests.daemon import BIN
from tests.fake import Fake

BASH = """
source <(ctr completion bash)
COMP_LINE=%s COMP_POINT=${#COMP_LINE} COMP_WORDS=(%s) COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_ctr
printf '%%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def offered(daemon):
    """What is offered for the end of a line, by `ctr` itself and in bash, which takes a colon for the end of a word."""
    env = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "HOLDD_ADDRESS": daemon.address}

    def offered(line, words):
        asked = daemon.ctr("completion", "candidates", *line.split(" "), env=env).stdout.splitlines()
        script = BASH % (shlex.quote(line), words)
        bash = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, check=True)
        return [each.split("\t")[0] for each in asked], bash.stdout.split()

    return offered


def test_what_there_is(daemon, offered):
    with Fake() as fake, daemon.client() as client, daemon.client("other") as other:
        fake.image("1", {"bin/true": b""})
        name = f"{fake.host}/app:1"
        daemon.ctr("images", "pull", name)
        container(client, "web-1", "/bin/true")
        container(client, "web-2", "/bin/true")
        container(other, "elsewhere", "/bin/true", namespace="other")
        assert offered("ctr containers rm web", "ctr containers rm web") == (["web-1", "web-2"],) * 2
        assert offered("ctr -n other c rm ", "ctr -n other c rm ''") == (["elsewhere"],) * 2
        assert offered("ctr -n ot", "ctr -n ot") == (["other"],) * 2
        host, port, tag = name.split(":")
        typed = f"{host}:{port}:"
        whole, in_bash = offered(f"ctr images rm {typed}", f"ctr images rm {host} : {port} :")
        assert (whole, in_bash) == ([name], [tag])
        assert offered(f"ctr run {host}", f"ctr run {host}") == ([name], [name])
