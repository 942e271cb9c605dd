"""Flags that say which OCI runtime runs a container, and with which options."""

import argparse
import os

import msgspec

from spec.base import pack
from spec.records import RuntimeOptions, RuntimeRef


def register(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    names = "a configured runtime's name, or one in the daemon's PATH, or an absolute path"
    add("--runtime", default="", help=f"{names}; else the namespace's default")
    add("--runtime-config-path", default="", metavar="FILE", help="TOML with keys of [runtimes.NAME], for it alone")
    add("--runc-binary", default="", metavar="PATH", help="instead of the runtime's")
    add("--runc-root", default="", metavar="DIR", help="where the runtime keeps its state")
    add("--runc-systemd-cgroup", action="store_true", help="cgroups by systemd")


def reference(args: argparse.Namespace) -> RuntimeRef:
    """What the flags say, and `--no-pivot` where a command has it. Files are the daemon's to open: by absolute path."""
    options = RuntimeOptions(
        binary_name=_absolute(args.runc_binary) if "/" in args.runc_binary else args.runc_binary,
        root=_absolute(args.runc_root),
        systemd_cgroup=args.runc_systemd_cgroup,
        no_pivot_root=getattr(args, "no_pivot", False),
        config_path=_absolute(args.runtime_config_path),
    )
    return RuntimeRef(name=args.runtime, options=packed(options))


def packed(options: RuntimeOptions) -> msgspec.Raw:
    """As a RuntimeRef has them; as if there were none when all are the defaults."""
    return RuntimeRef(name="").options if options == RuntimeOptions() else msgspec.Raw(pack(options))


def _absolute(path: str) -> str:
    return os.path.abspath(path) if path else ""
