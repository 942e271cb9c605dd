"""Makes the object files that a frozen binary is linked from, in build/frozen/objects: one an extension module.

Ours are compiled anew; those of the packages in requirements.txt come from their source distributions; those of
Python that Debian ships as shared objects only come from Debian's source of the Python that is installed. The
interpreter itself is Debian's libpython3.11.a.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from keep import keep

ROOT = Path(__file__).resolve().parents[2]
FROZEN = ROOT / "build/frozen"
OBJECTS = FROZEN / "objects"
PYTHON = "python3.11"
PACKAGES = ("isal", "lmdb", "msgspec", "zstandard")  # those of requirements.txt that have extension modules
MODULES = {
    "_asyncio": ("_asynciomodule.c",),
    "_contextvars": ("_contextvarsmodule.c",),
    "_decimal": ("_decimal/_decimal.c", *(f"_decimal/libmpdec/{name}.c" for name in (
        "basearith", "constants", "context", "convolute", "crt", "difradix2", "fnt", "fourstep", "io", "mpalloc",
        "mpdecimal", "mpsignal", "numbertheory", "sixstep", "transpose"))),
    "_hashlib": ("_hashopenssl.c",),
    "_json": ("_json.c",),
    "_queue": ("_queuemodule.c",),
    "_ssl": ("_ssl.c",),
    "_typing": ("_typingmodule.c",),
    "mmap": ("mmapmodule.c",),
    "resource": ("resource.c",),
    "termios": ("termios.c",),
}  # fmt: skip
FLAGS = ("-O2", "-fPIC", "-fwrapv", "-DNDEBUG", "-fno-semantic-interposition", "-ffunction-sections", "-fdata-sections")
# As Python's setup.py has it.
DECIMAL = ("-DCONFIG_64=1", "-DHAVE_UINT128_T=1", "-DASM=1" if platform.machine() == "x86_64" else "-DANSI=1")


def run(*command: object, **options: object) -> None:
    subprocess.run([str(part) for part in command], check=True, **options)


def prefix_map() -> str:
    """No path of this machine in what is built."""
    return f"-ffile-prefix-map={ROOT}=."


def environment(objects: Path) -> dict[str, str]:
    """For setup scripts: compile as we do, and keep the objects."""
    return dict(
        os.environ,
        HOLDD_OBJECTS=str(objects),
        CC=f"sh {Path(__file__).parent / 'cc.sh'}",
        LDSHARED=f"{sys.executable} {Path(__file__).parent / 'keep.py'} gcc -shared",
        CFLAGS="-g0 -ffunction-sections -fdata-sections",
    )


def ours() -> None:
    temp = FROZEN / "temp"
    """Our own extension modules, as the source is now."""
    run(sys.executable, "setup.py", "-q", "build_ext", f"--build-temp={temp}", f"--build-lib={FROZEN}/lib.",
        cwd=ROOT, env=environment(OBJECTS))  # fmt: skip


def packages() -> None:
    pins = [
        line for line in (ROOT / "requirements.txt").read_text().splitlines() if line.partition("==")[0] in PACKAGES
    ]
    wheels = FROZEN / "wheels"
    run(sys.executable, "-m", "pip", "wheel", "-q", "--disable-pip-version-check", "--no-deps", "--no-cache-dir",
        f"--no-binary={','.join(PACKAGES)}", f"--wheel-dir={wheels}", *pins,
        cwd=FROZEN, env=environment(OBJECTS))  # fmt: skip


def pythons() -> None:
    modules = source() / "Modules"
    includes = [f"-I/usr/include/{PYTHON}", f"-I/usr/include/{PYTHON}/internal", f"-I{modules}"]
    includes += [f"-I{modules}/_decimal/libmpdec", f"-I{modules.parent}/Include"]
    for module, files in MODULES.items():
        parts = []
        for file in files:
            part = FROZEN / "temp" / f"{module}-{Path(file).stem}.o"
            run("gcc", "-c", *FLAGS, *DECIMAL, "-DPy_BUILD_CORE_MODULE", prefix_map(), *includes, modules / file,
                "-o", part)  # fmt: skip
            parts.append(str(part))
        keep(module, parts, OBJECTS)


def source() -> Path:
    """Python's source as Debian patches it: of the version installed, or else the nearest that the archive has."""
    at = FROZEN / "source"
    shutil.rmtree(at, ignore_errors=True)
    (at / "lists/partial").mkdir(parents=True)
    sources = at / "debian.sources"
    sources.write_text(_source_lists())
    apt = [f"-oDir::Etc::sourcelist={sources}", "-oDir::Etc::sourceparts=-", f"-oDir::State::lists={at}/lists"]
    apt += ["-oAPT::Sandbox::User=root"]
    run("apt-get", "-qq", *apt, "update")
    for version in _versions(apt):
        command = ["apt-get", "-qq", *apt, "source", f"{PYTHON}={version}"]
        done = subprocess.run(command, cwd=at, capture_output=True, check=False)
        if done.returncode == 0:
            return next(path for path in at.iterdir() if (path / "Modules").is_dir())
    raise SystemExit(f"freeze: no source of {PYTHON} can be had:\n{done.stderr.decode()}")


# A line of sources.list(5).
ONE_LINE = re.compile(r"deb\s+(?:\[(?P<options>.*?)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)\s+(?P<parts>.+)")


def _source_lists() -> str:
    """This machine's own lists, asking for sources."""
    etc = Path("/etc/apt")
    texts = [
        re.sub(r"^Types:.*$", "Types: deb-src", path.read_text(), flags=re.MULTILINE)
        for path in sorted(etc.glob("sources.list.d/*.sources"))
    ]
    for path in [etc / "sources.list", *sorted(etc.glob("sources.list.d/*.list"))]:
        for line in path.read_text().splitlines() if path.exists() else ():
            if match := ONE_LINE.match(line):
                options = dict(option.split("=", 1) for option in (match["options"] or "").split() if "=" in option)
                fields = {"Types": "deb-src", "URIs": match["uri"], "Suites": match["suite"]}
                fields |= {"Components": match["parts"]}
                fields |= {"Signed-By": options["signed-by"]} if "signed-by" in options else {}
                texts.append("".join(f"{field}: {value}\n" for field, value in fields.items()))
    return "\n\n".join(texts) + "\n"


def _versions(apt: list[str]) -> list[str]:
    show = subprocess.run(["apt-cache", *apt, "showsrc", PYTHON], check=True, capture_output=True, text=True).stdout
    installed = subprocess.run(
        ["dpkg-query", "-W", "-f", "${source:Version}", f"lib{PYTHON}-dev"], check=True, capture_output=True, text=True
    ).stdout
    return [installed, *reversed(re.findall(r"^Version: (\S+)", show, re.MULTILINE))]


def main() -> None:
    shutil.rmtree(FROZEN, ignore_errors=True)
    OBJECTS.mkdir(parents=True)
    (FROZEN / "temp").mkdir()
    packages()
    pythons()


if __name__ == "__main__":
    main()
