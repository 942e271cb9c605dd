"""From flags to an OCI runtime spec. What of it is the host's (devices, profiles, files) is read here; a spec's own
rules are `spec.oci.build`'s."""

import argparse
import os
import socket
from collections.abc import Sequence

import msgspec

from ctr import apparmor, devices, output
from spec import errors, platforms
from spec.oci import arguments, build, runtime, seccomp


def register(parser: argparse.ArgumentParser) -> None:
    """Flags that say what the process is and may do."""
    _register_process(parser)
    _register_isolation(parser)
    _register_limits(parser)


def _register_process(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--tty", "-t", action="store_true", help="give it a terminal")
    add("--env", action="append", default=[], metavar="KEY=VALUE", help="a bare KEY takes the variable away")
    add("--env-file", action="append", default=[], metavar="FILE", help="one KEY=VALUE a line")
    add("--cwd", default="", metavar="DIR")
    add("--user", "-u", default="", metavar="USER[:GROUP]", help="names are looked up in the root filesystem")
    add("--hostname", default="")
    add("--mount", action="append", default=[], metavar="type=bind,src=A,dst=B,options=rbind:ro")
    add("--annotation", action="append", default=[], metavar="KEY=VALUE")


def _register_isolation(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--net-host", action="store_true", help="share the host's network")
    add("--with-ns", action="append", default=[], metavar="TYPE[:PATH]", help="join a namespace, or make one")
    add("--uidmap", default="", metavar="CONTAINER:HOST:LENGTH[,...]", help="a user namespace, with --gidmap")
    add("--gidmap", default="", metavar="CONTAINER:HOST:LENGTH[,...]")
    add("--read-only", action="store_true", help="a root filesystem that cannot be written")
    add("--rootfs-propagation", default="", metavar="private|shared|slave|unbindable", help="of mounts; with r, all")
    add("--privileged", action="store_true", help="all capabilities and devices")
    add("--privileged-without-host-devices", action="store_true", help="no nodes of the host's devices")
    add("--allow-new-privs", action="store_true")
    add("--cap-add", action="append", default=[], metavar="CAP")
    add("--cap-drop", action="append", default=[], metavar="CAP")
    add("--seccomp", action="store_true", help="filter system calls, by the default profile")
    add("--seccomp-profile", default="", metavar="FILE", help="by another (linux.seccomp of an OCI runtime spec)")
    add("--apparmor-default-profile", default="", metavar="NAME", help="load the default profile under that name")
    add("--apparmor-profile", default="", metavar="NAME", help="one that the kernel has")
    add("--device", action="append", default=[], metavar="PATH|VENDOR/CLASS=NAME", help="a node, or all in a directory")
    add("--gpus", action="append", default=[], metavar="N|all")
    add("--cdi-spec-dir", action="append", default=[], metavar="DIR", help="of descriptions of devices by name")


def _register_limits(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--cgroup", default="", metavar="PATH", help="instead of /NAMESPACE/CONTAINER")
    add("--memory-limit", type=int, default=0, metavar="BYTES")
    add("--pids-limit", type=int, default=0)
    add("--cpus", type=float, default=0.0)
    add("--cpu-quota", type=int, default=-1, metavar="MICROSECONDS", help="in each period")
    add("--cpu-period", type=int, default=0, metavar="MICROSECONDS")
    add("--cpu-burst", type=int, default=0, metavar="MICROSECONDS", help="of quota saved up")
    add("--cpu-shares", type=int, default=0)
    add("--cpuset-cpus", default="", metavar="0-2,7")
    add("--cpuset-mems", default="", metavar="0,1")
    add("--rlimit-nofile", default="", metavar="SOFT[:HARD]")
    add("--rdt-class", default="", metavar="NAME", help="of Intel's resource director")


def shaped(spec: runtime.Spec, args: argparse.Namespace) -> runtime.Spec:
    """`spec` as the flags change it. InvalidArgument for flags that contradict one another."""
    _check(args)
    spec = _identity(spec, args)
    spec = _isolation(spec, args)
    spec = _limits(spec, args)
    spec = _devices(spec, args)
    return _confinement(spec, args)


def _check(args: argparse.Namespace) -> None:
    for refused, why in (
        (args.seccomp_profile and not args.seccomp, "--seccomp-profile needs --seccomp"),
        (
            args.apparmor_profile and args.apparmor_default_profile,
            "--apparmor-profile and --apparmor-default-profile exclude one another",
        ),
        (
            args.privileged_without_host_devices and not args.privileged,
            "--privileged-without-host-devices needs --privileged",
        ),
        (
            args.cpus and (args.cpu_quota != -1 or args.cpu_period),
            "--cpus sets --cpu-quota and --cpu-period: give one or the others",
        ),
        (bool(args.uidmap) != bool(args.gidmap), "--uidmap and --gidmap come together"),
        (args.memory_limit < 0, "--memory-limit is negative"),
        (min(args.cpu_shares, args.cpu_period, args.cpu_burst) < 0, "a --cpu figure is negative"),
    ):
        if refused:
            raise errors.InvalidArgument(f"container {args.id}: {why}")


def _identity(spec: runtime.Spec, args: argparse.Namespace) -> runtime.Spec:
    for path in args.env_file:
        spec = build.with_env(spec, _variables(path))
    spec = build.with_env(spec, args.env)
    spec = build.with_mounts(spec, map(arguments.mount, args.mount))
    if args.tty:
        spec = build.with_terminal(spec)
    if args.cwd:
        spec = build.with_cwd(spec, args.cwd)
    if args.user:
        spec = build.with_user(spec, args.user)
    if args.hostname:
        spec = build.with_hostname(spec, args.hostname)
    annotations = output.parse_labels(args.annotation) | output.parse_labels(args.label)
    return build.with_annotations(spec, annotations) if annotations else spec


def _variables(path: str) -> list[str]:
    with open(path) as file:
        lines = [line.strip() for line in file]
    return [line for line in lines if line and not line.startswith("#")]


def _isolation(spec: runtime.Spec, args: argparse.Namespace) -> runtime.Spec:
    if args.net_host:
        spec = build.with_host_network(spec, socket.gethostname())
    for kind, path in map(arguments.namespace, args.with_ns):
        spec = build.with_namespace(spec, kind, path)
    if args.uidmap:
        uids, gids = arguments.mappings(args.uidmap), arguments.mappings(args.gidmap)
        spec = build.with_user_namespace(spec, uids, gids)
    if args.read_only:
        spec = build.with_readonly_root(spec)
    if args.rootfs_propagation:
        spec = build.with_root_propagation(spec, args.rootfs_propagation)
    if args.privileged:
        spec = build.with_privileged(spec, _held_capabilities())
    if args.allow_new_privs:
        spec = build.with_new_privileges(spec)
    if args.cap_add or args.cap_drop:
        spec = build.with_capabilities(spec, _expanded(args.cap_add), args.cap_drop)
    return spec


def _limits(spec: runtime.Spec, args: argparse.Namespace) -> runtime.Spec:
    if args.cgroup:
        spec = build.with_cgroup(spec, args.cgroup)
    if args.memory_limit:
        spec = build.with_memory_limit(spec, args.memory_limit)
    if args.pids_limit:
        spec = build.with_pids_limit(spec, args.pids_limit)
    if args.cpus:
        spec = build.with_cpus(spec, args.cpus)
    if cpu := _cpu(args):
        spec = build.with_cpu(spec, **cpu)
    if args.rlimit_nofile:
        limit = arguments.rlimit("RLIMIT_NOFILE", args.rlimit_nofile)
        spec = build.with_rlimit(spec, limit.type, limit.soft, limit.hard)
    return build.with_rdt_class(spec, args.rdt_class) if args.rdt_class else spec


def _cpu(args: argparse.Namespace) -> dict[str, int | str]:
    """Fields of `runtime.CPU` that were given."""
    numbers = {"shares": args.cpu_shares, "period": args.cpu_period, "burst": args.cpu_burst}
    sets = {"cpus": args.cpuset_cpus, "mems": args.cpuset_mems}
    found: dict[str, int | str] = {field: number for field, number in numbers.items() if number}
    if args.cpu_quota != -1:
        found["quota"] = args.cpu_quota
    return found | {field: arguments.cpuset(text) for field, text in sets.items() if text}


def _devices(spec: runtime.Spec, args: argparse.Namespace) -> runtime.Spec:
    if args.privileged and not args.privileged_without_host_devices:
        spec = devices.with_all_devices(spec)
    directories: Sequence[str] = args.cdi_spec_dir or devices.DIRECTORIES
    wanted = [*args.device, *devices.gpu_names(args.gpus, directories)] if args.gpus else args.device
    return devices.with_devices(spec, wanted, directories)


def _confinement(spec: runtime.Spec, args: argparse.Namespace) -> runtime.Spec:
    """Comes last: what seccomp lets through depends on the capabilities."""
    if args.apparmor_default_profile:
        apparmor.load_default(args.apparmor_default_profile)
    elif args.apparmor_profile:
        apparmor.require_loaded(args.apparmor_profile)
    if profile := args.apparmor_profile or args.apparmor_default_profile:
        spec = build.with_apparmor(spec, profile)
    if args.seccomp:
        spec = build.with_seccomp(spec, _seccomp(spec, args.seccomp_profile))
    return spec


def _seccomp(spec: runtime.Spec, path: str) -> runtime.Seccomp:
    """The profile in the file at `path`, or the default one."""
    if path:
        with open(path, "rb") as file:
            data = file.read()
        try:
            return msgspec.json.decode(data, type=runtime.Seccomp)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise errors.InvalidArgument(f"read the seccomp profile {path}: {exc}") from exc
    held = spec.process.capabilities if spec.process else None
    major, minor = (int("".join(filter(str.isdigit, part))) for part in os.uname().release.split(".")[:2])
    return seccomp.profile(platforms.default().architecture, held.bounding if held else (), (major, minor))


def _expanded(names: Sequence[str]) -> list[str]:
    """`ALL` is all that we hold: a runtime refuses to give what it has not."""
    return [cap for name in names for cap in (_held_capabilities() if name.upper() == "ALL" else [name])]


def _held_capabilities() -> list[str]:
    """Those in our bounding set: nobody can give away more than he may have."""
    with open("/proc/self/status") as status:
        mask = next(line.split()[1] for line in status if line.startswith("CapBnd:"))
    return build.capabilities_of(int(mask, 16))
