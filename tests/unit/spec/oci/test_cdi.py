import json

import pytest

from spec import errors
from spec.oci import build, cdi, runtime

SPEC = build.default_spec("ns", "c1")


def document(kind="a.b/c", devices=("one",), path="/etc/cdi/x.json", rank=0, **general):
    described = [{"name": name, "containerEdits": {"env": [f"DEVICE={name}"]}} for name in devices]
    data = json.dumps({"cdiVersion": "1.0.0", "kind": kind, "devices": described, "containerEdits": general})
    return cdi.Found(path, rank, cdi.decode(data.encode(), path))


@pytest.mark.parametrize("name", ["nvidia.com/gpu=0", "a/b=c", "v-1.x/c_d=a:b.c-d", "A/B=0"])
def test_names(name):
    assert cdi.is_name(name)


@pytest.mark.parametrize(
    "name", ["", "/dev/null", "a/b", "a/b=", "/b=c", "a/=c", "1a/b=c", "a/b=c/d", "a/b=c\n", "a./b=c", "ä/b=c"]
)
def test_names_that_are_none(name):
    assert not cdi.is_name(name)


def test_what_is_general_comes_once():
    found = [document(devices=("one", "two"), env=["ALL=1"])]
    edits = cdi.edits(found, ["a.b/c=two", "a.b/c=one", "a.b/c=two"])
    assert [list(edit.env) for edit in edits] == [["ALL=1"], ["DEVICE=two"], ["DEVICE=one"]]


def test_a_later_directory_hides_an_earlier_one():
    low, high = document(path="/low", env=["LOW=1"]), document(path="/high", rank=1, env=["HIGH=1"])
    assert cdi.edits([low, high], ["a.b/c=one"])[0].env == ["HIGH=1"]
    with pytest.raises(errors.FailedPrecondition, match="/low and /other"):
        cdi.edits([low, document(path="/other")], ["a.b/c=one"])
    for missing in ("a.b/c=three", "x/c=one"):
        with pytest.raises(errors.NotFound, match=missing):
            cdi.edits([low], [missing])


def test_edits_are_applied():
    edits = cdi.Edits(
        env=("A=1",),
        device_nodes=(
            cdi.DeviceNode(path="/dev/x", type="c", major=9, minor=1, permissions="r", file_mode=0o600, uid=7),
            cdi.DeviceNode(path="/dev/y", gid=8),
            cdi.DeviceNode(path="/dev/p", type="p"),
        ),
        mounts=(cdi.MountEdit(host_path="/h", container_path="/run", options=("ro",)),),
        hooks=(cdi.HookEdit(hook_name="createContainer", path="/hook", args=("hook", "x"), timeout=3),),
        intel_rdt=runtime.IntelRdt(clos_id="gold"),
        additional_gids=(5, 6),
    )
    nodes = {"/dev/y": runtime.Device(path="/other", type="b", major=8, minor=0, file_mode=0o660, uid=0, gid=6)}
    spec = cdi.applied(SPEC, edits, nodes)
    assert spec.linux.devices == (
        runtime.Device(path="/dev/x", type="c", major=9, minor=1, file_mode=0o600, uid=7),
        runtime.Device(path="/dev/y", type="b", major=8, minor=0, file_mode=0o660, uid=0, gid=8),
        runtime.Device(path="/dev/p", type="p"),
    )
    rules = spec.linux.resources.devices[len(SPEC.linux.resources.devices) :]
    assert [(rule.major, rule.minor, rule.access) for rule in rules] == [(9, 1, "r"), (8, 0, "rwm")]
    assert [mount.source for mount in spec.mounts if mount.destination == "/run"] == ["/h"]
    assert len(spec.mounts) == len(SPEC.mounts)
    assert spec.hooks.create_container == (runtime.Hook(path="/hook", args=("hook", "x"), timeout=3),)
    assert spec.linux.intel_rdt.clos_id == "gold"
    assert spec.process.user.additional_gids == (5, 6)
    assert spec.process.env == ("A=1",)
    assert cdi.applied(SPEC, cdi.Edits(), {}) == SPEC
    with pytest.raises(errors.InvalidArgument, match="nonsense"):
        cdi.applied(SPEC, cdi.Edits(hooks=(cdi.HookEdit(hook_name="nonsense", path="/x"),)), {})


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"cdiVersion":1,"kind":"a/b"}', b"\xff", b"[" * 10_000])
def test_descriptions_that_cannot_be_read(data):
    with pytest.raises(errors.InvalidArgument, match="/etc/cdi/x"):
        cdi.decode(data, "/etc/cdi/x")
