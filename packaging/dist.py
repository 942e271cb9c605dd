"""Puts the two programs and what belongs to them where they go: below a prefix, into an archive, into a Debian package.

    python packaging/dist.py install DESTDIR PREFIX
    python packaging/dist.py archive DIRECTORY         holdd-VERSION-linux-ARCHITECTURE.tar.gz and its .sha256sum
    python packaging/dist.py deb DIRECTORY             holdd_VERSION_ARCHITECTURE.deb

`--binaries` names the directory that has `holdd` and `ctr` (dist). Archive and package are the same to the byte for the
same programs and SOURCE_DATE_EPOCH, which is the last commit's time unless the environment has it.
"""

import argparse
import datetime
import gzip
import hashlib
import io
import os
import platform
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import manual

from ctr.commands.completion import SHELLS
from spec.version import VERSION

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
SUMS = "share/doc/holdd/SHA256SUMS"
COMPLETIONS = {
    "bash": "share/bash-completion/completions/ctr",
    "zsh": "share/zsh/site-functions/_ctr",
    "fish": "share/fish/vendor_completions.d/ctr.fish",
}
DEBIAN = COMPLETIONS | {"zsh": "share/zsh/vendor-completions/_ctr"}
CONFIGURATION = "/etc/holdd/config.toml"
DOCUMENTS = (
    "README.md", "CHANGELOG.md", "docs/upkeep.md", "docs/client.md", "spec/PROTOCOL.md", "packaging/grafana.json",
)  # fmt: skip


class File(NamedTuple):
    content: bytes
    mode: int = 0o644


def epoch():
    """Seconds since 1970 that files and pages are dated by."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given is None:
        argv = ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        given = done.stdout.strip() or "0"
    return int(given)


def files(binaries, prefix, completions=COMPLETIONS):
    """What there is to install, by paths below `prefix`, which units and scripts name."""
    date = datetime.datetime.fromtimestamp(epoch(), datetime.UTC)
    found = {f"bin/{name}": File((binaries / name).read_bytes(), 0o755) for name in ("holdd", "ctr")}
    for unit in ("holdd.service", "holdd.socket"):
        found[f"lib/systemd/system/{unit}"] = File((HERE / unit).read_bytes().replace(b"@PREFIX@", prefix.encode()))
    for shell, path in completions.items():
        found[path] = File(SHELLS[shell].encode())
    for name, text in manual.pages(date).items():
        found[f"share/man/man{name[-1]}/{name}.gz"] = File(gzip.compress(text.encode(), mtime=0))
    for path in DOCUMENTS:
        found[f"share/doc/holdd/{Path(path).name}"] = File((ROOT / path).read_bytes())
    return found


def whole(binaries, prefix):
    """`files`, with an example of a configuration, what removes them again, and their checksums."""
    found = files(binaries, prefix)
    found["share/doc/holdd/config.toml"] = File(manual.example().encode())
    found["lib/holdd/uninstall"] = File(_script("uninstall.sh"), 0o755)
    sums = "".join(f"{hashlib.sha256(file.content).hexdigest()}  {path}\n" for path, file in sorted(found.items()))
    return found | {SUMS: File(sums.encode())}


def install(binaries, destination, prefix):
    """Each file replaces what is there in one step: a daemon that runs goes on with what it was started from."""
    for path, file in whole(binaries, prefix).items():
        target = Path(f"{destination}{prefix}") / path
        target.parent.mkdir(parents=True, exist_ok=True)
        new = target.with_name(f".{target.name}.new")
        new.write_bytes(file.content)
        new.chmod(file.mode)
        new.rename(target)


def archive(binaries, directory):
    """To be unpacked at /usr/local; its path."""
    path = directory / f"holdd-{VERSION}-linux-{ARCHITECTURE}.tar.gz"
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, file in sorted(whole(binaries, "/usr/local").items()):
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.mtime = len(file.content), file.mode, epoch()
            tar.addfile(info, io.BytesIO(file.content))
    path.write_bytes(gzip.compress(packed.getvalue(), mtime=0))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_name(f"{path.name}.sha256sum").write_text(f"{digest}  {path.name}\n")
    return path


def deb(binaries, directory):
    """Its path."""
    path = directory / f"holdd_{VERSION}_{ARCHITECTURE}.deb"
    content = {f"/usr/{name}": file for name, file in files(binaries, "/usr", DEBIAN).items()}
    content[CONFIGURATION] = File(manual.example().encode())
    content["/DEBIAN/conffiles"] = File(f"{CONFIGURATION}\n".encode())
    size = sum(len(file.content) for file in content.values()) // 1024
    content["/DEBIAN/md5sums"] = File(
        "".join(
            f"{hashlib.md5(file.content, usedforsecurity=False).hexdigest()}  {name[1:]}\n"
            for name, file in sorted(content.items())
            if not name.startswith(("/DEBIAN", "/etc"))
        ).encode()
    )
    values = {"VERSION": VERSION, "ARCHITECTURE": ARCHITECTURE, "SIZE": str(size)}
    content["/DEBIAN/control"] = File(_script("debian/control", **values))
    for script in ("preinst", "postinst", "prerm", "postrm"):
        content[f"/DEBIAN/{script}"] = File(_script(f"debian/{script}"), 0o755)
    with tempfile.TemporaryDirectory() as root:
        os.chmod(root, 0o755)
        for name, file in content.items():
            target = Path(root + name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.content)
            target.chmod(file.mode)
        argv = ["dpkg-deb", "--root-owner-group", "-Zxz", "--build", root, str(path)]
        env = os.environ | {"SOURCE_DATE_EPOCH": str(epoch())}
        subprocess.run(argv, env=env, stdout=subprocess.DEVNULL, check=True)
    return path


def _script(name, **values):
    """One of ours, with its @WORDS@ replaced."""
    diverted = ("bin/ctr", "share/man/man8/ctr.8.gz", DEBIAN["bash"], DEBIAN["zsh"])
    values |= {"RUNNING": (HERE / "running.sh").read_text(), "DIVERTED": " ".join(f"/usr/{path}" for path in diverted)}
    return re.sub(r"@([A-Z]+)@", lambda found: values[found[1]], (HERE / name).read_text()).encode()


def main():
    parser = argparse.ArgumentParser(description="Install or pack holdd.")
    parser.add_argument("--binaries", type=Path, default=ROOT / "dist", metavar="DIR")
    verbs = parser.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("install")
    one.add_argument("destdir", metavar="DESTDIR")
    one.add_argument("prefix", metavar="PREFIX")
    for verb in ("archive", "deb"):
        verbs.add_parser(verb).add_argument("directory", type=Path, metavar="DIRECTORY")
    args = parser.parse_args()
    if args.verb == "install":
        if not args.prefix.startswith("/"):
            parser.error(f"PREFIX {args.prefix!r} is not an absolute path")
        install(args.binaries, args.destdir, args.prefix.rstrip("/"))
    else:
        args.directory.mkdir(parents=True, exist_ok=True)
        print({"archive": archive, "deb": deb}[args.verb](args.binaries, args.directory))


if __name__ == "__main__":
    main()
