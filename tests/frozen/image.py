"""An image of one static busybox, as an archive."""

import subprocess
from pathlib import Path

from tests.containers import busybox


def archive_of(directory, name):
    """The path of a tar of an OCI layout below `directory`, whose image is `name`."""
    directory = Path(directory, "image")
    busybox(directory)
    layout = directory / "oci"
    for argv in (
        ["umoci", "init", "--layout", layout],
        ["umoci", "new", "--image", f"{layout}:one"],
        ["umoci", "insert", "--image", f"{layout}:one", directory / "rootfs", "/"],
        ["skopeo", "--insecure-policy", "copy", "-q", f"oci:{layout}:one", f"oci-archive:{directory}/one.tar:{name}"],
    ):
        subprocess.run(argv, check=True, capture_output=True)
    return directory / "one.tar"
