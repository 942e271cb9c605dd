"""An AppArmor profile for containers as text, equal in meaning to containerd's (apparmor.d(5)). Loads none."""

from spec import errors

# Who may send signals to what is confined: those outside, the runtimes, and itself.
_SENDERS = ("unconfined", "runc", "crun", "holdd", "rootlesskit")

# Below /proc a container writes to what is its processes' own, and to kernel.shm* of its IPC namespace; below /sys to
# cgroups. AppArmor has no exceptions from a denial, so that each pattern spells out what differs from the one spared.
_DENIED = """\
  deny @{PROC}/* w,
  deny @{PROC}/{[^1-9],[^1-9][^0-9],[^1-9s][^0-9y][^0-9s],[^1-9][^0-9][^0-9][^0-9]*}/** w,
  deny @{PROC}/sys/[^k]** w,
  deny @{PROC}/sys/kernel/{?,??,[^s][^h][^m]**} w,
  deny @{PROC}/sysrq-trigger rwklx,
  deny @{PROC}/kcore rwklx,
  deny mount,
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
"""


def profile(name: str, abi: bool = False) -> str:
    """The profile under that name; with `abi`, bound to version 3.0 of the kernel's features.

    All is allowed that is not named, since capabilities, namespaces and seccomp
    already bound it. InvalidArgument for a name that would need quoting.
    """
    check_name(name)
    head = ["abi <abi/3.0>,"] if abi else []
    rules = [
        "network,", "capability,", "file,", "umount,",
        *(f"signal (receive) peer={sender}," for sender in _SENDERS),
        f"signal (send,receive) peer={name},",
        f"ptrace (trace,read,tracedby,readby) peer={name},",
    ]  # fmt: skip
    lines = [*head, "#include <tunables/global>", "", f"profile {name} flags=(attach_disconnected,mediate_deleted) {{"]
    lines += ["  #include <abstractions/base>", "", *(f"  {rule}" for rule in rules), ""]
    return "\n".join(lines) + "\n" + _DENIED + "}\n"


def check_name(name: str) -> str:
    """`name`, if a profile may be called so: letters, digits and `._-` only. InvalidArgument."""
    if not name.isascii() or not name or not all(c.isalnum() or c in "._-" for c in name) or name.startswith("-"):
        raise errors.InvalidArgument(f"AppArmor profile {name[:100]!r} must be letters, digits, '.', '_' and '-'")
    return name
