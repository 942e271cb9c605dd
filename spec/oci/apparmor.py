"""An AppArmor profile for containers as text, equal in meaning to containerd's (apparmor.d(5)). Loads none."""

from spec import errors

# Who may send signals to what is confined: those outside, the runtimes, and itself.
_SENDERS = ("unconfined", "runc", "crun", "holdd", "rootlesskit")

# Below /proc a container writes to what is its processes' own, and to kernel/shm* of its IPC namespace; below /sys to
# cgroups. A denial has no exceptions, so each pattern spells out what differs from the one spared; its classes leave
# out the slash, or they would reach into what is below.
_FOLDERS = (
    "[^1-9/]", "[^1-9/][^0-9/]", "[^1-9s/][^0-9/][^0-9/]", "s[^0-9y/][^0-9/]", "sy[^0-9s/]",
    "[^1-9/][^0-9/][^0-9/][^0-9/]*",
)  # fmt: skip
_DENIED = (
    "@{PROC}/* w",
    f"@{{PROC}}/{{{','.join(_FOLDERS)}}}/** w",
    "@{PROC}/sys/[^k]** w",
    "@{PROC}/sys/k[^e]** w",
    "@{PROC}/sys/kernel/{?,??,[^s]**,s[^h]**,sh[^m]**} w",
    "@{PROC}/sysrq-trigger rwklx",
    "@{PROC}/kcore rwklx",
    "mount",
    "/sys/[^f/]*/** wklx",
    "/sys/f[^s/]*/** wklx",
    "/sys/fs/[^c/]*/** wklx",
    "/sys/fs/c[^g/]*/** wklx",
    "/sys/fs/cg[^r/]*/** wklx",
    "/sys/firmware/** rwklx",
    "/sys/devices/virtual/powercap/** rwklx",
    "/sys/kernel/security/** rwklx",
)


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
    return "\n".join([*lines, *(f"  deny {denied}," for denied in _DENIED), "}", ""])


def check_name(name: str) -> str:
    """`name`, if a profile may be called so: letters, digits and `._-` only. InvalidArgument."""
    if not name.isascii() or not name or not all(c.isalnum() or c in "._-" for c in name) or name.startswith("-"):
        raise errors.InvalidArgument(f"AppArmor profile {name[:100]!r} must be letters, digits, '.', '_' and '-'")
    return name
