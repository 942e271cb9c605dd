import json

import msgspec
import pytest

from spec import errors
from spec.base import to_json
from spec.oci import runtime

# Every key of the runtime spec's config.md and config-linux.md that we keep, by its name there.
WHOLE = {
    "ociVersion": "1.2.0",
    "process": {
        "terminal": True, "consoleSize": {"height": 1, "width": 2},
        "user": {"uid": 4294967295, "gid": 1, "umask": 63, "additionalGids": [5, 6], "username": "u:g"},
        "args": ["a"], "env": ["A=b"], "cwd": "/c",
        "capabilities": {
            "bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "inheritable": ["CAP_KILL"],
            "permitted": ["CAP_KILL"], "ambient": ["CAP_KILL"],
        },
        "rlimits": [{"type": "RLIMIT_CORE", "hard": 18446744073709551615, "soft": 0}],
        "noNewPrivileges": True, "apparmorProfile": "p", "oomScoreAdj": -5, "selinuxLabel": "l",
        "scheduler": {
            "policy": "SCHED_DEADLINE", "nice": 1, "priority": 2, "flags": ["SCHED_FLAG_RECLAIM"], "runtime": 3,
            "deadline": 4, "period": 5,
        },
        "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 0},
        "execCPUAffinity": {"initial": "0", "final": "1"},
    },
    "root": {"path": "rootfs", "readonly": True},
    "hostname": "h", "domainname": "d",
    "mounts": [{
        "destination": "/m", "type": "bind", "source": "/s", "options": ["ro", "idmap"],
        "uidMappings": [{"containerID": 0, "hostID": 1, "size": 2}],
        "gidMappings": [{"containerID": 0, "hostID": 1, "size": 2}],
    }],
    "hooks": {
        name: [{"path": "/h", "args": ["h"], "env": ["A=b"], "timeout": 0}]
        for name in ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
    },
    "annotations": {"a": "b"},
    "linux": {
        "uidMappings": [{"containerID": 0, "hostID": 1, "size": 4294967295}],
        "gidMappings": [{"containerID": 0, "hostID": 1, "size": 2}],
        "sysctl": {"net.core.somaxconn": "1"},
        "resources": {
            "devices": [{"allow": True, "type": "c", "major": 1, "minor": 0, "access": "r"}],
            "memory": {
                "limit": 0, "reservation": 1, "swap": -1, "kernel": 1, "kernelTCP": 1, "swappiness": 0,
                "disableOOMKiller": False, "useHierarchy": True, "checkBeforeUpdate": True,
            },
            "cpu": {
                "shares": 1, "quota": -1, "burst": 0, "period": 1, "realtimeRuntime": 1, "realtimePeriod": 1,
                "cpus": "0-1", "mems": "0", "idle": 0,
            },
            "pids": {"limit": 0},
            "blockIO": {
                "weight": 10, "leafWeight": 10,
                "weightDevice": [{"major": 8, "minor": 0, "weight": 1, "leafWeight": 1}],
                "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 0}],
                "throttleWriteBpsDevice": [{"major": 8, "minor": 0, "rate": 1}],
                "throttleReadIOPSDevice": [{"major": 8, "minor": 0, "rate": 1}],
                "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 1}],
            },
            "hugepageLimits": [{"pageSize": "2MB", "limit": 0}],
            "network": {"classID": 0, "priorities": [{"name": "eth0", "priority": 0}]},
            "rdma": {"mlx5_1": {"hcaHandles": 0, "hcaObjects": 1}},
            "unified": {"memory.high": "1"},
        },
        "cgroupsPath": "/c", "namespaces": [{"type": "pid"}, {"type": "network", "path": "/n"}],
        "devices": [{"path": "/d", "type": "c", "major": 1, "minor": 3, "fileMode": 0, "uid": 0, "gid": 0}],
        "seccomp": {
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "architectures": ["SCMP_ARCH_X86_64"],
            "flags": ["SECCOMP_FILTER_FLAG_LOG"], "listenerPath": "/l", "listenerMetadata": "m",
            "syscalls": [{
                "names": ["a"], "action": "SCMP_ACT_ALLOW", "errnoRet": 0,
                "args": [{"index": 0, "value": 18446744073709551615, "valueTwo": 2, "op": "SCMP_CMP_MASKED_EQ"}],
            }],
        },
        "rootfsPropagation": "slave", "maskedPaths": ["/m"], "readonlyPaths": ["/r"], "mountLabel": "l",
        "intelRdt": {
            "closID": "c", "l3CacheSchema": "s", "memBwSchema": "s", "enableCMT": True, "enableMBM": True,
        },
        "personality": {"domain": "LINUX32", "flags": ["x"]},
        "timeOffsets": {"boottime": {"secs": 1, "nanosecs": 2}},
    },
}  # fmt: skip


def test_every_key_comes_back_as_it_went():
    assert json.loads(to_json(runtime.decode(json.dumps(WHOLE).encode()))) == WHOLE


def test_every_field_is_in_that_document():
    """So that a new field is also a new line there."""

    def missing(value, path):
        if isinstance(value, msgspec.Struct):
            for field in msgspec.structs.fields(value):
                held = getattr(value, field.name)
                if field.encode_name not in msgspec.to_builtins(value):
                    yield f"{path}.{field.encode_name}"
                yield from missing(held, f"{path}.{field.encode_name}")
        elif isinstance(value, list | tuple) and value:
            yield from missing(value[-1], path)
        elif isinstance(value, dict):
            for held in value.values():
                yield from missing(held, path)

    assert list(missing(runtime.decode(json.dumps(WHOLE).encode()), "")) == []


def test_zeroes_that_the_spec_requires_are_written():
    process = runtime.Process(rlimits=(runtime.Rlimit(type="RLIMIT_CORE"),))
    assert json.loads(to_json(process)) == {"rlimits": [{"type": "RLIMIT_CORE", "hard": 0, "soft": 0}]}
    assert json.loads(to_json(runtime.Resources(pids=runtime.Pids()))) == {"pids": {"limit": 0}}


def test_no_capabilities_is_not_nothing_said():
    assert json.loads(to_json(runtime.Process(capabilities=runtime.Capabilities()))) == {"capabilities": {}}


def test_what_is_not_said_is_not_written():
    assert to_json(runtime.Spec()) == b"{}"


def test_unknown_keys_are_passed_over():
    assert runtime.decode(b'{"vm":{"x":1},"hostname":"h"}') == runtime.Spec(hostname="h")


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"[]",
        b'{"process":{"user":{"uid":-1}}}',
        b'{"process":{"user":{"uid":4294967296}}}',
        b'{"process":{"user":{"gid":1.5}}}',
        b'{"process":{"user":{"additionalGids":[-1]}}}',
        b'{"process":{"args":"sh"}}',
        b'{"linux":{"uidMappings":[{"containerID":0,"hostID":0,"size":-1}]}}',
        b'{"mounts":[{"source":"/x"}]}',
        b'{"hostname":"\xff"}',
        b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_bad_documents(bad):
    with pytest.raises(errors.InvalidArgument, match="OCI runtime spec"):
        runtime.decode(bad)
