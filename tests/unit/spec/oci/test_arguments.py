import pytest

from spec import errors
from spec.oci import arguments, build, runtime

SPEC = build.default_spec("ns", "c1")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "type=bind,src=/a,dst=/b,options=rbind:ro",
            runtime.Mount(type="bind", source="/a", destination="/b", options=("rbind", "ro")),
        ),
        ("type=tmpfs,destination=/t", runtime.Mount(type="tmpfs", destination="/t")),
        ("source=/a=b,target=/b", runtime.Mount(type="bind", source="/a=b", destination="/b")),
        ('"src=/with,comma",dst=/b', runtime.Mount(type="bind", source="/with,comma", destination="/b")),
        ('dst=/b,"src=/a""b"', runtime.Mount(type="bind", source='/a"b', destination="/b")),
        (
            "dst=/b,options=size=1k:mode=700",
            runtime.Mount(type="bind", destination="/b", options=("size=1k", "mode=700")),
        ),
    ],
)
def test_mounts(text, expected):
    assert arguments.mount(text) == expected
    assert build.with_mounts(SPEC, [expected]).mounts == (*SPEC.mounts, expected)


@pytest.mark.parametrize(
    "text",
    ["", "ro", "src=/a", "dst=", "dst=rel", "dst=/b,colour=red", 'dst="/b', "dst=/b,", '"dst=/b"x', '"' * 50_001],
)
def test_bad_mounts(text):
    with pytest.raises(errors.InvalidArgument):
        arguments.mount(text)


def test_mappings():
    found = arguments.mappings("0:100000:65536,65536:4294967294:1")
    assert [(m.container_id, m.host_id, m.size) for m in found] == [(0, 100000, 65536), (65536, 4294967294, 1)]


@pytest.mark.parametrize(
    "text",
    ["", "0:0", "0:0:-1", "0:0:1:1", "a:0:1", "0:0:4294967297", "0:0:" + "9" * 5000, "0:0:1,", "0:0:٣", "0:0:0",
     "1:0:4294967296", "0:0:1\n"],
)  # fmt: skip
def test_bad_mappings(text):
    with pytest.raises(errors.InvalidArgument, match="id map"):
        arguments.mappings(text)


@pytest.mark.parametrize(("text", "soft", "hard"), [("1", 1, 1), ("0:0", 0, 0), ("10:2000", 10, 2000)])
def test_rlimits(text, soft, hard):
    assert arguments.rlimit("RLIMIT_CORE", text) == runtime.Rlimit(type="RLIMIT_CORE", soft=soft, hard=hard)


@pytest.mark.parametrize("text", ["", ":", "1:", ":1", "-1", "1:2:3", "a", "1:b", "9" * 5000, "٣"])
def test_bad_rlimits(text):
    with pytest.raises(errors.InvalidArgument, match="RLIMIT_CORE"):
        arguments.rlimit("RLIMIT_CORE", text)


@pytest.mark.parametrize("text", ["0", "0-2", "0,2", "0-2,7,9-10"])
def test_cpusets(text):
    assert arguments.cpuset(text) == text


@pytest.mark.parametrize("text", ["", "-1", "0-", "a", "0,", "0 1", "0-1-2", "1\n", "٣"])
def test_bad_cpusets(text):
    with pytest.raises(errors.InvalidArgument, match="set"):
        arguments.cpuset(text)


def test_namespaces():
    assert arguments.namespace("network:/run/netns/a:b") == ("network", "/run/netns/a:b")
    assert arguments.namespace("cgroup") == ("cgroup", "")
    for text in ("", ":/x", "pid:"):
        with pytest.raises(errors.InvalidArgument, match="namespace"):
            arguments.namespace(text)
