"""What PyInstaller calls a target: one static executable of what its analysis found.

The interpreter and all extension modules are linked in; the byte code of all modules lies in the read-only data, as
Python's own frozen modules do. So there is nothing to unpack, no loader and no library of the host.
"""

import marshal
import os
from pathlib import Path

from keep import initialiser
from objects import FROZEN, OBJECTS, PYTHON, prefix_map, run

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
CONFIG = next(Path("/usr/lib", PYTHON).glob("config-*"))
# Of Python's extension modules those that its library has, and that anything here may import.
WITHIN = (
    "_abc", "_ast", "_bisect", "_blake2", "_codecs", "_collections", "_csv", "_datetime", "_functools", "_heapq",
    "_imp", "_io", "_locale", "_md5", "_opcode", "_operator", "_pickle", "_posixsubprocess", "_random", "_sha1",
    "_sha256", "_sha3", "_sha512", "_signal", "_socket", "_sre", "_stat", "_statistics", "_string", "_struct",
    "_symtable", "_thread", "_tokenize", "_tracemalloc", "_warnings", "_weakref", "array", "atexit", "binascii",
    "builtins", "cmath", "errno", "faulthandler", "fcntl", "gc", "grp", "itertools", "marshal", "math", "posix",
    "pwd", "select", "sys", "time", "unicodedata", "zlib",
)  # fmt: skip
INIT = {"_warnings": "_PyWarnings_Init", "marshal": "PyMarshal_Init", "builtins": None, "sys": None}
LIBRARIES = ("-lssl", "-lcrypto", "-lz", "-lm")
COMPILE = ("-O2", "-g0", prefix_map(), f"-I/usr/include/{PYTHON}")
LINK = ("-Wl,--gc-sections", "-Wl,-s", "-Wl,-z,pack-relative-relocs", "-Wl,--build-id=none", "-Wl,-z,noexecstack",
        "-Wl,--wrap=__libc_dlopen_mode", "-Wl,--wrap=_PyConfig_InitPathConfig")  # fmt: skip


def link(analysis: object, out: Path, command: str, *, pie: bool, documented: tuple[str, ...] = ()) -> None:
    """Link `out` of a PyInstaller Analysis of boot.py that was made with noarchive; it calls `main` of the module
    `command`.

    With `pie` the kernel loads it at random addresses, for which 65,000 of them are put right at each start: 5 ms.
    The modules in `documented` keep their docstrings. SystemExit for what cannot be linked in.
    """
    extensions = _extensions(analysis)
    code = _code(analysis, command)
    for module in documented:
        code[module] = (_compiled(f"{module.replace('.', '/')}.py"), False)
    code["spec.version"] = (_compiled("spec/version.py", _version()), False)
    work = FROZEN / "linked" / out.name
    work.mkdir(parents=True, exist_ok=True)
    _tables(work, code, extensions)
    out.parent.mkdir(parents=True, exist_ok=True)
    kind = ("-static-pie", f"-I{work}") if pie else ("-static", "-no-pie", f"-I{work}")
    objects = [OBJECTS / f"{module}.o" for module in extensions]
    python = CONFIG / f"lib{PYTHON}{'-pic' if pie else ''}.a"
    run("gcc", *kind, *COMPILE, HERE / "main.c", work / "modules.S", *objects, python, *LIBRARIES, *LINK,
        f"-Wl,-Map={work}/map", "-o", f"{out}.new")  # fmt: skip
    Path(f"{out}.new").replace(out)  # the one before may be running


def _compiled(path: str, more: str = "") -> bytes:
    """The byte code of a source file, `more` put after it, with its docstrings."""
    return marshal.dumps(compile((ROOT / path).read_text() + more, path, "exec", optimize=1))


def _version() -> str:
    """What the environment has the binary say of itself, as more of spec/version.py."""
    names = {"VERSION": "HOLDD_VERSION", "REVISION": "HOLDD_REVISION"}
    return "".join(f"{name} = {os.environ[key]!r}\n" for name, key in names.items() if key in os.environ)


def _extensions(analysis: object) -> list[str]:
    """The extension modules to link in besides Python's own."""
    have = {path.stem for path in OBJECTS.glob("*.o")}
    wanted = {
        path.split("lib-dynload/")[-1].split(".cpython-")[0].replace("/", ".") for path, _, kind in analysis.binaries
        if kind == "EXTENSION"
    }  # fmt: skip
    if unknown := wanted - have:
        raise SystemExit(f"freeze: no object files of {', '.join(sorted(unknown))}")
    return sorted(wanted)


def _code(analysis: object, command: str) -> dict[str, tuple[bytes, bool]]:
    """By module its marshalled code, and whether it is a package."""
    found = {}
    for place, path, _ in analysis.datas:
        if not place.endswith(".pyc"):
            continue
        module = place.removesuffix(".pyc").replace("/", ".")
        package = module.endswith(".__init__")
        found[module.removesuffix(".__init__")] = (Path(path).read_bytes()[16:], package)
    boot = (HERE / "boot.py").read_text().replace("COMMAND", repr(command))
    found["__main__"] = (marshal.dumps(compile(boot, "boot.py", "exec", optimize=2)), False)
    return found


def _tables(work: Path, code: dict[str, tuple[bytes, bool]], extensions: list[str]) -> None:
    """The modules' bytes, and the two tables that Python looks them up in."""
    blob, rows = bytearray(), []
    for module, (marshalled, package) in sorted(code.items()):
        rows.append(f'    {{"{module}", CODE + {len(blob)}, {len(marshalled)}, {int(package)}, 0}},')
        blob += marshalled
    inits = {module: initialiser(module) for module in extensions}
    inits |= {module: INIT.get(module, f"PyInit_{module}") for module in WITHIN}
    lines = ["extern const unsigned char CODE[];"]
    lines += [f"extern PyObject *{init}(void);" for init in inits.values() if init]
    lines += ["static const struct _frozen FROZEN[] = {", *rows, "    {0}};"]
    lines += ["struct _inittab _PyImport_Inittab[] = {"]
    lines += [f'    {{"{module}", {init or 0}}},' for module, init in sorted(inits.items())]
    lines += ["    {0}};"]
    (work / "modules.h").write_text("\n".join(lines) + "\n")
    (work / "modules.bin").write_bytes(blob)
    (work / "modules.S").write_text(
        f'.section .rodata\n.global CODE\n.balign 16\nCODE:\n.incbin "{work}/modules.bin"\n'
        '.section .note.GNU-stack,"",@progbits\n'
    )
