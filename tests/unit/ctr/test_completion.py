"""What is offered for a word, and that each shell's script offers it."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ctr import cli, grammar
from ctr.commands.completion import SHELLS
from ctr.completion import candidates


def texts(line):
    return [candidate.text for candidate in candidates(line.split(" "))]


def test_nouns_verbs_flags_and_values():
    assert texts("im") == ["images"]
    assert texts("images pul") == texts("i pul") == texts("-n other --debug image pul") == ["pull"]
    assert texts("run --seccomp") == ["--seccomp", "--seccomp-profile"]
    assert texts("tasks metrics --format ") == ["table", "json"]
    assert texts("tasks metrics --format=j") == ["--format=json"]
    assert texts("--addr") == ["--address"]
    assert texts("run --env-file ") == texts("run --env-file=x") == texts("images import ") == [":files"]
    assert texts("containers create --cwd ") == [":directories"]
    assert texts("run image c /bin/l") == [":files"]
    assert texts("nosuch ") == [":files"]
    assert texts("images mount image ") == [":directories"]
    assert texts("tasks exec --exec-id ") == []
    assert candidates(["images", "pu"])[0].help == "pull an image from a registry and unpack it"


def test_no_daemon_is_no_error(tmp_path):
    assert texts(f"--address {tmp_path}/none tasks rm ") == []


def every(command, path=()):
    yield path, command
    for inner in command.commands:
        yield from every(inner, (*path, inner.names[0]))


def test_every_verb_and_flag_is_offered():
    for noun in cli.NOUNS:
        whole = grammar.command(cli.command(noun)[1], (noun.name,), noun.help)
        for path, command in every(whole, (noun.name,)):
            typed = " ".join(path)
            assert set(texts(f"{typed} -")) == {name for flag in command.flags for name in flag.names}
            if command.commands:
                assert texts(f"{typed} ") == [inner.names[0] for inner in command.commands]


@pytest.fixture
def shell(tmp_path):
    """`ctr` on PATH, as completion scripts call it."""
    ctr = tmp_path / "bin/ctr"
    ctr.parent.mkdir()
    ctr.write_text(f"#!/bin/sh\nexec {sys.executable} -m ctr.cli \"$@\"\n")
    ctr.chmod(0o755)
    root = Path(__file__).parents[3]
    env = os.environ | {"PATH": f"{ctr.parent}:{os.environ['PATH']}", "PYTHONPATH": str(root), "HOME": str(tmp_path)}

    def run(*argv):
        options = {"env": env, "cwd": tmp_path, "capture_output": True, "text": True, "timeout": 60}
        return subprocess.run(argv, check=True, **options).stdout

    return run


@pytest.mark.parametrize("name", SHELLS)
def test_scripts_are_well_formed(shell, tmp_path, name):
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    (tmp_path / "script").write_text(shell("ctr", "completion", name))
    shell(name, "-n", str(tmp_path / "script"))


BASH = """
source <(ctr completion bash)
compopt() { :; }
COMP_LINE=%s COMP_POINT=${#COMP_LINE}
%s
_ctr
printf '%%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("line", "words", "offered"),
    [
        ("ctr im", "ctr im", ["images"]),
        ("ctr images pull --pl", "ctr images pull --pl", ["--plain-http", "--platform"]),
        ("ctr tasks metrics --format=", "ctr tasks metrics --format =", ["table", "json"]),
        ("ctr tasks metrics --format=j", "ctr tasks metrics --format = j", ["json"]),
        ("ctr images import some", "ctr images import some", ["some file.tar"]),
        ("ctr run --env-file=some", "ctr run --env-file = some", ["some file.tar"]),
    ],
)
def test_bash(shell, tmp_path, line, words, offered):
    (tmp_path / "some file.tar").touch()
    words = f"COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))"
    assert shell("bash", "-c", BASH % (shlex.quote(line), words)).splitlines() == offered


@pytest.mark.parametrize(
    ("line", "offered"),
    [("ctr im", "images\tmanage images"), ("ctr images pull --pla", "--plain-http\tspeak http"), ("ctr i", "images\t")],
)
def test_fish(shell, line, offered):
    if shutil.which("fish") is None:
        pytest.skip("fish is not installed")
    said = shell("fish", "--no-config", "-c", f"ctr completion fish | source; complete -C {shlex.quote(line)}")
    assert any(each.startswith(offered) for each in said.splitlines()), said
