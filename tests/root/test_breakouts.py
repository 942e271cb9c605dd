"""Hostile archives in every way to apply a layer: what they do stays below the root, and is the same."""

import gzip
import os

import pytest
import zstandard

from spec import errors
from tests.breakouts import KEPT, OTHERS, PUBLISHED, REFUSED, D, P
from tests.root.test_unpack import MALFORMED
from tests.tarball import archive, entry, file, folder, pax
from tests.ways import WAYS, Canary, Stack

pytestmark = pytest.mark.root


@pytest.fixture
def canary(tmp_path):
    made = Canary(tmp_path)
    yield made
    made.check()


@pytest.fixture(params=WAYS)
def stack(canary, request):
    return Stack(canary.place("stack"), request.param)


def test_all_of_them_are_here():
    assert len(PUBLISHED) == 34


@pytest.mark.parametrize("case", PUBLISHED | OTHERS)
def test_breakouts(canary, stack, case):
    below, entries, check = (PUBLISHED | OTHERS)[case]
    if below:
        stack.apply(*below)
    if callable(entries):
        entries = entries(str(canary.host))
    if check == REFUSED:
        with pytest.raises(errors.InvalidArgument):
            stack.apply(*entries)
        check = KEPT
    else:
        stack.apply(*entries)
    with stack.seen() as root:
        assert check(root)


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed(stack, case):
    stack.apply(D, P)
    with pytest.raises(errors.InvalidArgument):
        stack.apply(file("new", b"1"), MALFORMED[case])
    with stack.seen() as root:
        assert KEPT(root)
        assert not os.path.lexists(root / "x")


STEERING = ("opaque", "redirect", "metacopy", "whiteout", "origin", "nlink", "impure", "upper")


@pytest.mark.parametrize("space", ["trusted", "user"])
def test_a_layer_does_not_steer_the_overlay(stack, space):
    """Overlay's own attributes in an archive hide nothing, and lead nowhere."""
    stack.apply(D, P, folder("d"), file("d/f", b"1"), file("f", b"2"))
    for value in (b"y", b"x", b"/etc", b"", b"0"):
        own = pax(**{f"SCHILY__xattr__{space}__overlay__{name}": value for name in STEERING})
        stack.apply(own + folder("d"), own + file("g", b"3"), own + folder("etc"))
        with stack.seen() as root:
            assert sorted(os.listdir(root)) == ["d", "etc", "f", "g"]
            assert os.listdir(root / "d") == ["f"]
            assert (root / "g").read_bytes() == b"3"
            assert KEPT(root)


@pytest.mark.parametrize("name", ["f", "d", "d/f", "new"])
def test_a_layer_has_no_whiteout_devices(canary, name):
    """The kernel refuses them in a mounted overlay; no other way lets them through."""
    for way in {*WAYS} - {"bare"}:
        stack = Stack(canary.place(way), way)
        stack.apply(folder("d"), file("d/f", b"1"), file("f", b"2"))
        with pytest.raises(errors.PermissionDenied):
            stack.apply(entry(name, "3", major=0, minor=0))


def test_no_program_of_an_image_is_run(canary, stack):
    """Decompressors are part of this process (docker CVE-2014-9357, CVE-2026-41567)."""
    names = ("unpigz", "igzip", "xz", "gzip", "zstd")
    touch = f"#!/bin/sh\ntouch {canary.host}.run\n"
    stack.apply(*(file(f"{base}/{name}", touch) for base in ("bin", "usr/bin") for name in names))
    stack.apply_data(gzip.compress(archive(file("f", b"1"))))
    stack.apply_data(zstandard.compress(archive(file("f", b"2"))))
    assert not os.path.lexists(f"{canary.host}.run")
    with stack.seen() as root:
        assert (root / "f").read_bytes() == b"2"
