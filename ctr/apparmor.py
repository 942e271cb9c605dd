"""AppArmor profiles: whether the kernel takes them, and loading the default one."""

import os
import shutil
import subprocess

from spec import errors
from spec.oci import apparmor

ENABLED = "/sys/module/apparmor/parameters/enabled"
LOADED = "/sys/kernel/security/apparmor/profiles"  # lines of "name (mode)"
ABI = "/etc/apparmor.d/abi/3.0"
LOAD_SECONDS = 30.0


def require() -> None:
    """FailedPrecondition where the kernel has no AppArmor: a container that asks for a profile must not run without."""
    try:
        with open(ENABLED) as file:
            enabled = file.read().startswith("Y")
    except FileNotFoundError:
        enabled = False
    if not enabled:
        raise errors.FailedPrecondition("this kernel has no AppArmor, or it is switched off")


def load_default(name: str) -> None:
    """Have the kernel know the default profile under that name, if it does not yet."""
    text = apparmor.profile(name, abi=os.path.exists(ABI))
    require()
    with open(LOADED) as file:
        if any(line.rpartition(" (")[0] == name for line in file):
            return
    parser = shutil.which("apparmor_parser")
    if parser is None:
        raise errors.FailedPrecondition(f"loading AppArmor profile {name}: there is no apparmor_parser")
    done = subprocess.run(
        [parser, "-Kr"], input=text, capture_output=True, text=True, timeout=LOAD_SECONDS, check=False
    )
    if done.returncode:
        raise errors.Unknown(f"loading AppArmor profile {name}: {(done.stderr or done.stdout).strip()[:200]}")
