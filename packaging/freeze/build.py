"""`make freeze`: our extension modules compiled as they are now, then each binary as its recipe says.

    python packaging/freeze/build.py [--dist DIR] [NAME...]

HOLDD_VERSION and HOLDD_REVISION in the environment are what the binaries say of themselves, else spec/version.py's.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from objects import FROZEN, ROOT, ours

NAMES = ("ctr", "holdd")
SAME = {"SOURCE_DATE_EPOCH": "0", "PYTHONHASHSEED": "0"}  # so that each build of one commit is the same to the byte


def freeze(name: str, dist: Path) -> None:
    """`dist/name`. SystemExit with all that PyInstaller said when it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "PyInstaller", "--clean", "-y", f"--workpath={FROZEN}/work", f"--distpath={dist}",
         f"packaging/{name}.spec"],
        cwd=ROOT, env=os.environ | SAME, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"{done.stdout}\nfreeze: no {name}")
    print(f"{dist / name}: {(dist / name).stat().st_size / 1e6:.1f} MB")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dist", type=Path, default=ROOT / "dist", metavar="DIR")
    parser.add_argument("names", nargs="*", default=NAMES)
    args = parser.parse_args()
    ours()
    for name in args.names:
        freeze(name, args.dist.absolute())


if __name__ == "__main__":
    main()
