"""What runtimes print about themselves, and which versions something is known against."""

import pytest

from daemon.runtime import facts

RUNC = b"runc version 1.1.5+ds1\ncommit: 1.1.5+ds1-1+deb12u1\nspec: 1.0.2-dev\ngo: go1.19.8\nlibseccomp: 2.5.4\n"
CRUN = b"crun version 1.8.1\ncommit: f8a096be\nrundir: /run/crun\nspec: 1.0.0\n+SYSTEMD +SELINUX\n"
KATA = b"kata-runtime  : 3.2.0\n   commit   : abc\n   OCI specs: 1.0.2-dev\n"


@pytest.mark.parametrize(
    ("output", "name", "version", "revision"),
    [
        (RUNC, "runc", "1.1.5+ds1", "1.1.5+ds1-1+deb12u1"),
        (CRUN, "crun", "1.8.1", "f8a096be"),
        (b"runsc version release-20240101.0\nspec: 1.1.0-rc.1\n", "runsc", "release-20240101.0", ""),
        (KATA, "kata-runtime", "3.2.0", "abc"),
        (b"warning: x\n\nyouki version 0.5.3\ncommit: 1\n", "youki", "0.5.3", "1"),
        (b"", "", "", ""),
        (b"\xff\xfe\n\x00", "", "", ""),
    ],
)
def test_what_programs_print_for_their_version(output, name, version, revision):
    found, told = facts.version(output)
    assert (found, told.version, told.revision) == (name, version, revision)


@pytest.mark.parametrize(
    ("output", "document", "maps"),
    [
        (b'{"ociVersionMin":"1.0.0","linux":{"mountExtensions":{"idmap":{"enabled":true}}}}', True, True),
        (b'level=warning\n{"ociVersionMin":"1.0.0","linux":{"mountExtensions":{"idmap":{}}}}\n', True, False),
        (b'{"ociVersionMin":"1.0.0","linux":null}', True, False),
        (b'{"other":1}', False, False),
        (b"unknown command", False, False),
        (b"[]", False, False),
        (b"{\xff}", False, False),
        (b"[" * 5000 + b"{" * 5000 + b"}", False, False),
        (b"", False, False),
    ],
)
def test_what_programs_print_as_their_features(output, document, maps):
    text, read = facts.features(output)
    assert bool(text) == document
    assert text in output
    assert read.maps_mounts == maps


@pytest.mark.parametrize(
    ("name", "version", "known", "absent"),
    [
        ("runc", "1.1.11", {"CVE-2024-21626", "CVE-2025-31133"}, {"CVE-2023-28642"}),
        ("runc", "1.1.5+ds1", {"CVE-2024-21626"}, {"CVE-2023-27561"}),
        ("runc", "1.1.12", {"CVE-2024-45310"}, {"CVE-2024-21626"}),
        ("runc", "1.1.14", {"CVE-2025-52565"}, {"CVE-2024-45310"}),
        ("runc", "1.2.0-rc.2", {"CVE-2024-45310"}, {"CVE-2024-21626"}),
        ("runc", "1.2.0-rc.3", {"CVE-2025-52881"}, {"CVE-2024-45310"}),
        ("runc", "1.2.7", {"CVE-2025-31133"}, set()),
        ("runc", "1.2.8", {"CVE-2026-41579"}, {"CVE-2025-31133"}),
        ("runc", "1.3.2", {"CVE-2025-31133"}, set()),
        ("runc", "1.3.3", set(), {"CVE-2025-31133"}),
        ("runc", "1.4.0-rc.2", {"CVE-2025-31133"}, set()),
        ("runc", "1.4.0", {"CVE-2026-41579"}, {"CVE-2025-31133"}),
        ("runc", "1.0.0-rc6", {"CVE-2019-5736"}, set()),
        ("runc", "1.0.0-rc10", {"CVE-2021-30465"}, {"CVE-2019-5736", "CVE-2019-19921"}),
        ("runc", "v1.1.11-dev", {"CVE-2024-21626"}, set()),
        ("crun", "1.8.1", {"CVE-2025-24965"}, {"CVE-2022-27650"}),
        ("crun", "1.4", {"CVE-2022-27650"}, set()),
    ],
)
def test_what_is_known_against_a_version(name, version, known, absent):
    found = {advisory.id for advisory in facts.advisories(name, version)}
    assert known <= found
    assert not absent & found
    assert name in facts.warning(name, "/p", version)


@pytest.mark.parametrize(
    ("name", "version"),
    [("runc", "1.4.3"), ("runc", "1.3.6"), ("runc", "2.0.0"), ("runc", "unknown"), ("runc", ""), ("", "1.0.0"),
     ("other", "0.0.1"), ("runsc", "release-20240101.0"), ("crun", "1.27")],
)  # fmt: skip
def test_nothing_is_known_against_others(name, version):
    assert facts.advisories(name, version) == []
    assert facts.warning(name, "/p", version) == ""


def test_every_fix_is_a_version_and_they_rise():
    for known in facts.ADVISORIES.values():
        for advisory in known:
            numbers = [facts._numbers(fix) for fix in advisory.fixed]
            assert None not in numbers
            assert numbers == sorted(numbers)
