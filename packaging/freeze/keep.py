"""A linker for setup scripts (LDSHARED) that keeps what it links: each extension module becomes one object file too.

`keep.py COMPILER -shared OBJECTS... -o DIR/lib.X/PACKAGE/MODULE.TAG.so` links that, and writes
`$HOLDD_OBJECTS/PACKAGE.MODULE.o`, in which all symbols are local but for `PyInit_PACKAGE__MODULE`: two modules may
bundle the same library, or be of one name in two packages.
"""

import os
import subprocess
import sys
from pathlib import Path


def initialiser(module: str) -> str:
    """The C function that makes `module`, as it is named in its object file."""
    return "PyInit_" + module.replace(".", "__")


def keep(module: str, parts: list[str], objects: Path) -> None:
    """Join `parts`, object files and archives, to one object file of `module` in `objects`."""
    target = objects / f"{module}.o"
    init = f"PyInit_{module.rpartition('.')[2]}"
    subprocess.run(["ld", "-r", "-o", target, *parts], check=True)
    rename = [f"--redefine-sym={init}={initialiser(module)}", f"--keep-global-symbol={initialiser(module)}"]
    subprocess.run(["objcopy", "--strip-debug", *rename, target], check=True)


def module_of(output: str) -> str:
    """The dotted name of the extension module at a path like `build/lib.linux-x86_64/pyx/walk.cpython-311.so`."""
    parts = Path(output).parts
    below = max(i for i, part in enumerate(parts) if part.startswith("lib.")) + 1
    return ".".join([*parts[below:-1], parts[-1].split(".")[0]])


def main(argv: list[str]) -> None:
    subprocess.run(argv, check=True)
    output = argv[argv.index("-o") + 1]
    parts = [part for part in argv if part.endswith((".o", ".a"))]
    keep(module_of(output), parts, Path(os.environ["HOLDD_OBJECTS"]))


if __name__ == "__main__":
    main(sys.argv[1:])
