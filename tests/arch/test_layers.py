"""The laws of the house (ARCHITECTURE.md): which module may import which, held against every import there is."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
ISLANDS = ("metadata", "content", "snapshots", "diff", "images", "runtime", "events", "metrics", "gc", "restart")
RANK = {"kit": 1, "client": 2, **dict.fromkeys(ISLANDS, 3), "scoped": 4, "flows": 5, "services": 6, "transport": 7}
SEEN_FROM = {"scoped": {"metadata"}, "services": {"metadata"}}  # the one island visible above its layer
TOPS = ("spec", "pyx", "daemon", "ctr")
# Where processes begin and where everything is joined: they know everyone.
ROOF = tuple(
    f"daemon.{name}"
    for name in ("assembly", "lifecycle", "__main__", "command", "serve", "fsck", "rebuild", "upkeep")
)


def imports(path, module):
    """Every import: at the top, in functions, under TYPE_CHECKING."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def under(module, *roots):
    return any(module == root or module.startswith(root + ".") for root in roots)


def rank(module):
    top, *rest = module.split(".")
    if top in ("spec", "pyx"):
        return 0
    if top == "ctr":
        return 9
    return RANK.get(rest[0], 8) if rest else 0


def problems(module, dep):
    m, d = module.split("."), dep.split(".")
    if d[0] not in TOPS or dep == "daemon":
        return
    if (m[0] == "spec" and d[0] != "spec") or (m[0] == "pyx" and d[0] != "pyx"):
        yield "the ground imports nothing"
    elif m[0] == "ctr":
        if d[0] != "ctr" and d[0] != "spec" and not under(dep, "daemon.client"):
            yield "ctr sees spec and daemon.client"
    elif rank(dep) > rank(module):
        yield "upward"
    elif m[0] == d[0] == "daemon" and len(d) > 1 and d[1] in ISLANDS and d[1] != m[1] and module not in ROOF:
        if d[1] not in SEEN_FROM.get(m[1], ()):
            yield "a bridge between islands"
    elif m[:2] == ["daemon", "flows"] and d[0] == "daemon" and d[1] not in ("kit", "flows"):
        yield "flows see ports only"


def graph():
    found = {}
    for top in TOPS:
        for path in sorted((ROOT / top).rglob("*.py")):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            found[module] = set(imports(path, module))
    return found


GRAPH = graph()


def test_every_arrow_points_down():
    arrows = [(module, dep) for module, deps in GRAPH.items() for dep in deps]
    bad = [f"{module} -> {dep}: {why}" for module, dep in arrows for why in problems(module, dep)]
    assert not bad, "\n".join(bad)


def test_there_is_no_cycle():
    state, bad = {}, []

    def visit(module, trail):
        state[module] = "open"
        for dep in GRAPH[module]:
            dep = dep if dep in GRAPH else dep.rpartition(".")[0]
            if dep == module or dep not in GRAPH:
                continue
            if state.get(dep) == "open":
                bad.append("cycle: " + " -> ".join([*trail, module, dep]))
            elif dep not in state:
                visit(dep, [*trail, module])
        state[module] = "done"

    for module in GRAPH:
        if module not in state:
            visit(module, [])
    assert not bad, "\n".join(bad)


def test_the_rules_find_what_they_are_for():
    assert list(problems("daemon.content.local", "daemon.metadata.store")) == ["a bridge between islands"]
    assert list(problems("daemon.kit.atomic", "daemon.content.local")) == ["upward"]
    assert list(problems("spec.types", "daemon.kit")) == ["the ground imports nothing"]
    assert list(problems("ctr.cli", "daemon.kit.log")) == ["ctr sees spec and daemon.client"]
    assert list(problems("daemon.flows.pull", "daemon.scoped.content")) == ["flows see ports only"]
    assert not list(problems("daemon.services.images", "daemon.metadata.tables"))


@pytest.mark.parametrize("island", ISLANDS)
def test_each_island_imports_alone(island):
    modules = [module for module in GRAPH if under(module, f"daemon.{island}")]
    code = f"import sys\nfor m in {modules!r}: __import__(m)\n" + (
        f"print([m for m in sys.modules if m.startswith('daemon.') and m.split('.')[1] in {ISLANDS!r}"
        f" and m.split('.')[1] != {island!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_every_package_is_a_docstring():
    for top in TOPS:
        for path in (ROOT / top).rglob("__init__.py"):
            if path.parent == ROOT / "daemon" / "client":
                continue
            body = ast.parse(path.read_text()).body
            assert len(body) == 1, path
            assert ast.get_docstring(ast.parse(path.read_text())), path
    assert not (ROOT / "packaging" / "__init__.py").exists()


def test_spec_does_no_io():
    """spec imports msgspec and the pure part of the standard library."""
    allowed = {
        "__future__", "abc", "base64", "binascii", "bisect", "collections", "contextlib", "dataclasses", "datetime",
        "enum", "errno", "functools", "hashlib", "heapq", "ipaddress", "itertools", "json", "math", "msgspec",
        "operator", "platform",
        "re",
        "signal", "spec", "string", "struct", "textwrap", "types", "typing", "unicodedata", "urllib",
    }  # fmt: skip
    used = {dep.split(".")[0] for module, deps in GRAPH.items() if under(module, "spec") for dep in deps}
    assert used <= allowed, used - allowed
