"""What `make install` and `make dist` make: it is whole, the same each time, well formed, and goes away again, but not
from under containers that run."""

import datetime
import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from daemon import config, settings
from spec.api import tasks
from spec.version import VERSION
from tests import packaging
from tests.containers import busybox, ended, started

DIST = packaging.PACKAGING / "dist.py"
DAMAGED = 65


def run(*argv, **options):
    options = {"capture_output": True, "text": True, "check": True, "stdin": subprocess.DEVNULL} | options
    return subprocess.run([str(word) for word in argv], **options)


@pytest.fixture
def binaries(tmp_path):
    """Programs of the checkout, which start as fast as scripts do."""
    directory = tmp_path / "binaries"
    directory.mkdir()
    for name in ("holdd", "ctr"):
        (directory / name).write_text(f'#!/bin/sh\nexec {Path(sys.executable).parent / name} "$@"\n')
    return directory


@pytest.fixture
def dist(binaries):
    return lambda *args, **options: run(sys.executable, DIST, "--binaries", binaries, *args, **options)


@pytest.fixture
def manual():
    return packaging.manual()


def unpacked(archive, directory):
    directory.mkdir(parents=True)
    run("tar", "-xzf", archive, "-C", directory)
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def test_the_archive(dist, tmp_path):
    one, two = (Path(dist("archive", tmp_path / name).stdout.strip()) for name in ("one", "two"))
    assert one.name == f"holdd-{VERSION}-linux-amd64.tar.gz"
    assert one.read_bytes() == two.read_bytes()
    run("sha256sum", "-c", f"{one.name}.sha256sum", cwd=one.parent)
    found = unpacked(one, tmp_path / "usr/local")
    assert {
        "bin/holdd", "bin/ctr", "lib/systemd/system/holdd.service", "lib/systemd/system/holdd.socket",
        "share/bash-completion/completions/ctr", "share/zsh/site-functions/_ctr",
        "share/fish/vendor_completions.d/ctr.fish", "share/man/man8/ctr.8.gz", "share/man/man8/holdd.8.gz",
        "share/man/man5/holdd-config.toml.5.gz", "share/doc/holdd/config.toml", "share/doc/holdd/SHA256SUMS",
    } <= found  # fmt: skip
    checked = run("sha256sum", "-c", "share/doc/holdd/SHA256SUMS", cwd=tmp_path / "usr/local").stdout.splitlines()
    assert {line.removesuffix(": OK") for line in checked} == found - {"share/doc/holdd/SHA256SUMS"}
    assert run(tmp_path / "usr/local/bin/ctr", "--version").stdout == f"ctr {VERSION}\n"


def test_the_package(dist, tmp_path):
    one, two = (Path(dist("deb", tmp_path / name).stdout.strip()) for name in ("one", "two"))
    assert hashlib.sha256(one.read_bytes()).digest() == hashlib.sha256(two.read_bytes()).digest()
    assert run("dpkg-deb", "-f", one, "Package", "Version", "Architecture").stdout.split()[1::2] == [
        "holdd", VERSION, "amd64",
    ]  # fmt: skip
    run("dpkg-deb", "-R", one, tmp_path / "root")
    run("md5sum", "--quiet", "-c", "DEBIAN/md5sums", cwd=tmp_path / "root")
    assert (tmp_path / "root/DEBIAN/conffiles").read_text() == "/etc/holdd/config.toml\n"
    for script in ("preinst", "postinst", "prerm", "postrm"):
        run("sh", "-n", tmp_path / "root/DEBIAN" / script)
        assert os.access(tmp_path / "root/DEBIAN" / script, os.X_OK)
    owners = {line.split()[1] for line in run("dpkg-deb", "-c", one).stdout.splitlines()}
    assert owners == {"root/root"}


def test_units(dist, tmp_path):
    dist("install", "", tmp_path / "opt")
    units = [tmp_path / "opt/lib/systemd/system" / name for name in ("holdd.service", "holdd.socket")]
    done = run("systemd-analyze", "verify", "--man=no", *units, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    service = units[0].read_text()
    assert f"ExecStart={tmp_path}/opt/bin/holdd\n" in service
    assert f"RestartPreventExitStatus={DAMAGED}\n" in service


def left(directory):
    return [path for path in directory.rglob("*") if not path.is_dir()]


def test_what_was_installed_is_uninstalled(dist, tmp_path):
    destination = tmp_path / "destination"
    for _ in range(2):  # the second time over the first
        dist("install", destination, "/usr/local")
    (destination / "usr/local/bin/other").touch()
    assert not list(destination.rglob(".*.new"))
    said = run("sh", destination / "usr/local/lib/holdd/uninstall", tmp_path / "state").stdout
    assert "/etc/holdd and /var/lib/holdd are left" in said
    assert left(destination) == [destination / "usr/local/bin/other"]


def test_nothing_is_uninstalled_from_under_containers(dist, daemon, tmp_path):
    dist("install", "", tmp_path / "opt")
    uninstall = tmp_path / "opt/lib/holdd/uninstall"
    before = left(tmp_path / "opt")
    with daemon.client() as client:
        started(client, "alive", busybox(tmp_path), "/bin/sleep", "1000")
        started(client, "dead", busybox(tmp_path), "/bin/true")
        client.tasks.wait(tasks.WaitRequest(container_id="dead"))
    daemon.kill()
    done = run("sh", uninstall, daemon.state, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("holdd: not removed, for these containers run: default/alive\n")
    assert left(tmp_path / "opt") == before
    daemon.start()
    with daemon.client() as client:
        client.tasks.kill(tasks.KillRequest(container_id="alive", signal=9))
        assert ended(client, "alive") == 137
    run("sh", uninstall, daemon.state)
    assert not left(tmp_path / "opt")


# Manual pages and the example.


def every(command, path=()):
    yield (*path, command.names[0]), command
    for inner in command.commands:
        yield from every(inner, (*path, command.names[0]))


def plain(page):
    """A page's text, without its markup."""
    return re.sub(r"\\f[A-Z]", "", page.replace("\\-", "-").replace("\\&", "").replace("\\(ti", "~"))


def test_every_verb_and_flag_has_its_place_in_the_manual(manual):
    for whole, page in ((manual.ctr(), "ctr.8"), (manual.holdd(), "holdd.8")):
        text = plain(manual_pages(manual)[page])
        sections = dict(re.findall(r"^\.SS (.*)\n((?:(?!\.S[SH]).*\n)*)", text, re.M))
        for path, command in every(whole):
            section = sections[" ".join(path[1:])] if path[1:] else text
            for flag in command.flags:
                if "--help" not in flag.names:
                    assert re.search(rf"^{re.escape(', '.join(flag.names))}\b", section, re.M), (path, flag)
            for name in command.names[1:]:
                assert name in section


def test_every_key_has_its_place_in_the_manual(manual):
    text = plain(manual_pages(manual)["holdd-config.toml.5"])
    tables = dict(re.findall(r"^\.SH (.*)\n((?:(?!\.SH).*\n)*)", text, re.M))
    for path, kind in settings.keys(config.Config):
        if not settings.section_of(kind) and not settings.entries_of(kind):
            table = f"[{settings.dotted(path[:-1])}]" if path[1:] else "TOP LEVEL"
            assert f"\n{path[-1]} = " in tables[table], path
    assert "\npath = required\n" in tables["[runtimes.NAME]"]


def manual_pages(manual):
    return manual.pages(datetime.date(2026, 1, 2))


@pytest.mark.parametrize("lint", [("mandoc", "-Tlint", "-Wwarning"), ("groff", "-ww", "-man", "-Tutf8", "-z")])
def test_manual_pages_are_well_formed(manual, tmp_path, lint):
    assert shutil.which(lint[0]), f"{lint[0]} is not installed"
    for name, text in manual_pages(manual).items():
        (tmp_path / name).write_text(text)
        done = run(*lint, tmp_path / name, check=False)
        assert (done.returncode, done.stdout + done.stderr) == (0, ""), name


def test_the_example_changes_nothing_and_shows_everything(manual, tmp_path):
    path = tmp_path / "config.toml"
    path.write_text(manual.example())
    assert config.load(str(path), {}) == config.Config()
    path.write_text(re.sub(r"^# (\[|\w+ = )", r"\1", manual.example(), flags=re.M))
    shown = config.load(str(path), {})
    assert set(shown.runtimes) == {"crun"}
    assert set(shown.proxy_plugins) == set(shown.stream_processors) == {"mine"}
    added = [("stream_processors", "mine"), ("runtimes", "crun"), ("proxy_plugins", "mine")]
    assert config.changed(config.Config(), shown) == added
