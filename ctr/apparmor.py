"""AppArmor profiles: whether the kernel takes them, and loading the default one."""

import os

from spec import errors
from spec.oci import apparmor

ENABLED = "/sys/module/apparmor/parameters/enabled"
LOADED = "/sys/kernel/security/apparmor/profiles"  # lines of "name (mode)"
ABI = "/etc/apparmor.d/abi/3.0"
PARSER = "apparmor_parser"


def require() -> None:
    """FailedPrecondition where the kernel has no AppArmor: a container that asks for a profile must not run without."""
    try:
        with open(ENABLED) as file:
            enabled = file.read().startswith("Y")
    except FileNotFoundError:
        enabled = False
    if not enabled:
        raise errors.FailedPrecondition("this kernel has no AppArmor, or it is switched off")


def require_loaded(name: str) -> None:
    """NotFound for a profile that the kernel does not have; a runtime would not name it."""
    require()
    if not _is_loaded(name):
        raise errors.NotFound(f"AppArmor profile {name[:100]} not found: the kernel has none of that name")


def load_default(name: str) -> None:
    """Have the kernel know the default profile under that name, if it does not yet."""
    text = apparmor.profile(name, abi=os.path.exists(ABI))
    require()
    if not _is_loaded(name):
        _load(name, text)


def _is_loaded(name: str) -> bool:
    with open(LOADED) as file:
        return any(line.rpartition(" (")[0] == name for line in file)


def _load(name: str, text: str) -> None:
    """By the parser, which says on standard error what is wrong."""
    source = os.memfd_create(f"profile-{name}", os.MFD_CLOEXEC)
    try:
        os.write(source, text.encode())
        os.lseek(source, 0, os.SEEK_SET)
        argv = [PARSER, "--skip-cache", "--replace"]
        try:
            pid = os.posix_spawnp(PARSER, argv, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, source, 0)])
        except FileNotFoundError as exc:
            raise errors.FailedPrecondition(f"loading AppArmor profile {name}: there is no {PARSER}") from exc
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    finally:
        os.close(source)
    if status:
        raise errors.Unknown(f"loading AppArmor profile {name}: {PARSER} ended with status {status}")
