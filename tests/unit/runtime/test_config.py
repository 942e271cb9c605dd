"""What is read of a spec, and what is replaced in it."""

import json

import pytest

from daemon.runtime.config import read_process, read_spec, resolved_process, resolved_spec
from spec import errors
from spec.oci.users import Ids

SPEC = {
    "ociVersion": "1.2.0",
    "process": {"terminal": True, "user": {"username": "a:b", "umask": 18, "additionalGids": [7]}, "x": [{"y": 2.5}]},
    "root": {"path": "elsewhere", "readonly": True},
    "linux": {
        "cgroupsPath": "/a/b",
        "namespaces": [{"type": "pid"}, {"type": "network", "path": "/n"}],
        "gidMappings": [{"containerID": 1, "hostID": 5, "size": 9}, {"containerID": 0, "hostID": 1000, "size": 1}],
    },
    "future": {"unknown": None},
}
IDS = Ids(uid=5, gid=6, additional_gids=(6, 7))


def test_what_is_read():
    spec = read_spec(json.dumps(SPEC).encode(), "create task t")
    assert spec.process.terminal
    assert (spec.user.username, list(spec.user.additional_gids)) == ("a:b", [7])
    assert spec.private_pids
    assert spec.root_gid == 1000
    assert spec.cgroups_path == "/a/b"


@pytest.mark.parametrize(
    ("linux", "private"),
    [
        (None, False),
        ({}, False),
        ({"namespaces": None}, False),
        ({"namespaces": [{"type": "pid", "path": "/proc/1/ns/pid"}]}, False),
        ({"namespaces": [{"type": "mount"}]}, False),
        ({"namespaces": [{"type": "mount"}, {"type": "pid", "path": ""}]}, True),
    ],
)
def test_whether_pids_are_private(linux, private):
    spec = read_spec(json.dumps({"linux": linux}).encode(), "")
    assert spec.private_pids is private
    assert spec.root_gid is None
    assert spec.user.username == ""


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'"x"', b'{"process":[]}', b"\xff", b"[" * 100000, b'{"root":1}'])
def test_what_is_no_spec(text):
    with pytest.raises(errors.InvalidArgument, match="create task t"):
        read_spec(text, "create task t")


def test_what_is_no_process():
    with pytest.raises(errors.InvalidArgument):
        read_process(b'{"terminal": 1}', "exec")


def test_the_rest_of_a_spec_is_kept():
    document = json.loads(resolved_spec(json.dumps(SPEC).encode(), "rootfs", IDS))
    expected = json.loads(json.dumps(SPEC))
    expected["root"]["path"] = "rootfs"
    expected["process"]["user"] = {"uid": 5, "gid": 6, "additionalGids": [6, 7], "umask": 18}
    assert document == expected


def test_numbers_are_kept_to_the_digit():
    text = b'{"a":123456789012345678901234567890,"b":1.10,"root":{"path":"x","c":1e400}}'
    assert b"123456789012345678901234567890" in resolved_spec(text, "rootfs", None)
    assert b"1.10" in resolved_spec(text, "rootfs", None)


def test_a_spec_that_names_its_own_root_keeps_it():
    assert json.loads(resolved_spec(json.dumps(SPEC).encode(), "", None)) == SPEC
    assert json.loads(resolved_spec(b"{}", "rootfs", IDS)) == {"root": {"path": "rootfs"}}
    assert json.loads(resolved_spec(b'{"root":null}', "rootfs", None)) == {"root": {"path": "rootfs"}}


def test_another_cgroup():
    assert json.loads(resolved_spec(b'{"linux":{"a":1,"cgroupsPath":"/x"}}', "", None, "/p/x")) == {
        "linux": {"a": 1, "cgroupsPath": "/p/x"}
    }


def test_a_process_whose_user_is_known_is_not_touched():
    text = b'{ "user" : {"uid":1} }'
    assert resolved_process(text, None) == text
    assert json.loads(resolved_process(b'{"user":null}', IDS))["user"]["uid"] == 5
