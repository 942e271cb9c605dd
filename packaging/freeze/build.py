"""`make freeze`: our extension modules compiled anew, then each binary as its recipe says."""

import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from objects import FROZEN, ROOT, ours


def main() -> None:
    ours()
    for name in ("ctr", "holdd"):
        log = FROZEN / f"{name}.log"
        with open(log, "w") as output:
            done = subprocess.run(
                [sys.executable, "-m", "PyInstaller", "--clean", "-y", f"--workpath={FROZEN}/work",
                 f"--distpath={ROOT}/dist", f"packaging/{name}.spec"],
                cwd=ROOT, stdout=output, stderr=output,
            )  # fmt: skip
        if done.returncode:
            sys.exit(f"{log.read_text()}\nfreeze: no {name}")
        print(f"dist/{name}: {(ROOT / 'dist' / name).stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
