"""Who may import whom, as the design has it; and no circle, neither between parts nor inside one.

Imports are read from the code, those inside functions too. What only type checkers see (`if TYPE_CHECKING`) counts for
the arrows between parts, but closes no circle.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = "tune_platform"
#: Folders at the top of the repository, which are imported inside the package.
INSIDE = ("searchers", "trainables")

#: What each part may import of ours, beside itself. A part is a module or a folder of the package; `store.checkpoints`
#: is the part of the store that workers have too, `cluster.address` needs no Ray, `protocol.seeds` derives all draws,
#: `ray_tune.session` is what workers have of it.
#: Some parts are on their way.
MAY: Mapping[str, set[str]] = {
    "errors": set(),
    "extras": {"errors"},
    "trainable": {"state"},  # the waist
    "state": set(),
    "modules": set(),
    "surroundings": {"errors", "modules"},
    "callbacks": {"errors"},
    "location": set(),  # where experiments lie; hides passwords
    "resources": {"errors"},
    "protocol": {"errors", "protocol.seeds", "resources"},
    "protocol.seeds": set(),
    "registry": {"errors", "extras", "protocol"},
    "space": {"errors", "protocol", "protocol.seeds"},
    "spec": {
        "callbacks",
        "cluster.address",
        "errors",
        "extras",
        "location",
        "modules",
        "protocol",
        "ray_tune.session",
        "registry",
        "resources",
        "space",
        "tracking",
        "trainable",
        "surroundings",
    },
    "engine": {"errors", "protocol", "protocol.seeds", "resources", "space", "store"},
    "schedulers": {"errors", "protocol", "protocol.seeds", "registry", "resources", "space"},
    "searchers": {"errors", "extras", "protocol", "protocol.seeds", "registry", "space"},
    "curves": {"errors", "extras", "location", "protocol", "space", "store"},
    "backends": {
        "cluster",
        "cluster.address",
        "distributed",
        "errors",
        "isolation",
        "modules",
        "protocol",
        "protocol.seeds",
        "ray_tune.session",
        "resources",
        "state",
        "store.checkpoints",
        "trainable",
        "surroundings",
    },
    "isolation": {"protocol"},
    "distributed": {
        "errors",
        "extras",
        "isolation",
        "protocol",
        "protocol.seeds",
        "resources",
        "surroundings",
        "trainable",
    },
    "store": {"errors", "extras", "location", "protocol", "resources", "store.checkpoints"},
    "store.checkpoints": {"errors", "extras", "protocol"},
    "cluster": {"cluster.address", "errors", "protocol", "resources"},
    "cluster.address": {"errors"},
    "progress": {"engine", "errors", "protocol", "results"},
    "results": {
        "cache",
        "errors",
        "location",
        "modules",
        "protocol",
        "ray_tune.session",
        "state",
        "store",
        "store.checkpoints",
        "trainable",
    },
    "plots": {"errors", "extras", "protocol", "results", "store"},
    "dashboard": {"errors", "extras", "plots", "protocol", "results", "space", "spec", "store"},
    "tracking": {"callbacks", "errors", "extras", "protocol"},
    "recording": {"engine", "errors", "protocol", "registry", "resources", "store"},
    "ray_tune": {
        "api",
        "callbacks",
        "distributed",
        "errors",
        "location",
        "protocol",
        "protocol.seeds",
        "ray_tune.session",
        "recording",
        "registry",
        "resources",
        "results",
        "schedulers",
        "space",
        "spec",
        "store",
        "trainable",
    },
    "ray_tune.session": {"trainable"},
    "integrations": {"api", "errors", "extras", "protocol", "protocol.seeds", "results", "space", "spec", "trainable"},
    "testing": {"engine", "errors", "protocol", "protocol.seeds", "registry", "resources", "space", "trainable"},
    "cache": set(),
    "trainables": {
        "cache",
        "distributed",
        "errors",
        "extras",
        "protocol",
        "protocol.seeds",
        "resources",
        "store.checkpoints",
        "trainable",
    },
    "claim": {"errors", "spec", "store", "warm_start"},
    "warm_start": {"errors", "protocol", "protocol.seeds", "space", "spec", "store"},
    "continuation": {"errors", "location", "protocol", "spec", "store"},
    # Here the parts are put together; the command line only shows what the engine knows.
    "engine_settings": {"engine", "protocol", "resources", "spec"},
    "api": {
        "callbacks",
        "claim",
        "continuation",
        "engine",
        "engine_settings",
        "errors",
        "location",
        "progress",
        "protocol",
        "protocol.seeds",
        "registry",
        "resources",
        "results",
        "spec",
        "store",
        "store.checkpoints",
        "surroundings",
        "tracking",
    },
    "simulation": {
        "api",
        "backends",
        "claim",
        "curves",
        "errors",
        "location",
        "protocol",
        "protocol.seeds",
        "resources",
        "spec",
    },
    "cli": {
        "api",
        "claim",
        "cluster",
        "cluster.address",
        "continuation",
        "curves",
        "dashboard",
        "errors",
        "extras",
        "integrations",
        "location",
        "plots",
        "progress",
        "protocol",
        "protocol.seeds",
        "recording",
        "results",
        "simulation",
        "space",
        "spec",
        "store",
        "version",
        "surroundings",
    },
}
#: Types of another part in a signature, which nobody needs at run time.
ONLY_TYPES = {("callbacks", "engine"), ("callbacks", "protocol"), ("trainable", "distributed"), ("protocol", "space")}
#: Files that may import Ray; the others reach it through these, for Ray is an extra and slow to import.
RAY = ("backends/ray", "backends/_ray", "distributed/ray", "cluster/", "ray_tune/")
#: The loop's decisions: a function of what they are told, without clocks, files, threads or draws.
PURE = ("controller", "queue", "replay", "retention", "settings", "shelf", "snapshot", "state", "supply", "trial")
IMPURE = {
    "datetime", "numpy", "optuna", "os", "pathlib", "random", "ray", "sqlalchemy", "threading", "time", "torch",
}  # fmt: skip


class Import(NamedTuple):
    """`module` is what is imported, `name` what is taken from it (a module too, or not)."""

    module: str
    name: str
    typing: bool
    deferred: bool


def files() -> dict[str, Path]:
    """Return all modules of ours by the name that they are imported by."""
    found = {}
    for top, prefix in [(PACKAGE, (PACKAGE,)), *((folder, (PACKAGE, folder)) for folder in INSIDE)]:
        for path in sorted((ROOT / top).rglob("*.py")):
            inner = path.relative_to(ROOT / top).with_suffix("").parts
            found[".".join([*prefix, *(part for part in inner if part != "__init__")])] = path
    return found


MODULES = files()


def imports_of(path: Path) -> list[Import]:
    """Return all imports of a file."""
    return list(_walk(ast.parse(path.read_text(encoding="utf-8")), False, False))


def _walk(node: ast.AST, typing: bool, deferred: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        yield from (Import(alias.name, "", typing, deferred) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute here"
        yield from (Import(str(node.module), alias.name, typing, deferred) for alias in node.names)
    elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        checkers_only = not ast.unparse(node.test).startswith("not ")
        for only, block in ((checkers_only, node.body), (not checkers_only, node.orelse)):
            for statement in block:
                yield from _walk(statement, only, deferred)
    else:
        inside = deferred or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(node):
            yield from _walk(child, typing, inside)


def target_of(found: Import) -> str | None:
    """Return the module of ours that an import leads to, if it is one of ours."""
    whole = f"{found.module}.{found.name}"
    return whole if whole in MODULES else found.module if found.module in MODULES else None


def part_of(module: str) -> str:
    """Return the part of the design that a module belongs to; none for the package itself."""
    _, *inner = module.split(".")
    if inner == ["protocol", "seeds"]:
        return "protocol.seeds"
    if inner == ["ray_tune", "session"]:
        return "ray_tune.session"
    if inner == ["cluster", "address"]:
        return "cluster.address"
    if inner[:1] == ["store"] and "checkpoint" in inner[-1]:
        return "store.checkpoints"
    return inner[0] if inner else ""


IMPORTS = {module: imports_of(path) for module, path in MODULES.items()}


@pytest.mark.parametrize("part", sorted({part_of(module) for module in MODULES} - {"", "__main__"}))
def test_a_part_imports_what_it_may(part: str) -> None:
    assert part in MAY, "a new part: say in MAY what it may import, and in the design what it is"
    wrong = []
    for module, found in IMPORTS.items():
        for each in found if part_of(module) == part else ():
            target = target_of(each)
            to = "" if target is None else part_of(target) or ("version" if each.name == "__version__" else "")
            allowed = to in MAY[part] or (each.typing and (part, to) in ONLY_TYPES)
            if target is not None and to != part and not allowed:
                wrong.append(f"{module} imports {target}")
    assert not wrong


def test_the_design_has_no_arrow_back() -> None:
    """The table itself has no circle, so that none can come between parts."""
    assert not circles({part: may & set(MAY) - {part} for part, may in MAY.items()})


def test_no_circle_of_imports() -> None:
    graph: dict[str, set[str]] = {}
    for module, found in IMPORTS.items():
        targets = {target for each in found if not each.typing and (target := target_of(each))}
        # To import a module is to import the packages around it, but not those that the importing one lies in.
        around = {
            outer for target in targets for outer in packages_around(target) if not f"{module}.".startswith(f"{outer}.")
        }
        graph[module] = (targets | around) - {module, PACKAGE}  # the package loads its names when they are used
    assert not circles(graph)


def packages_around(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts))]


def circles(graph: Mapping[str, set[str]]) -> list[Sequence[str]]:
    """Return a circle for each way back, found depth first."""
    found: list[Sequence[str]] = []
    done: set[str] = set()

    def visit(node: str, path: tuple[str, ...]) -> None:
        if node in path:
            found.append((*path[path.index(node) :], node))
        elif node not in done:
            for after in sorted(graph.get(node, ())):
                visit(after, (*path, node))
            done.add(node)

    for node in sorted(graph):
        visit(node, ())
    return found


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [("b", "c", "b")]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_only_the_ray_files_import_ray() -> None:
    wrong = {
        module
        for module, found in IMPORTS.items()
        for each in found
        if each.module.split(".")[0] == "ray"
        and not (each.deferred and module.startswith(f"{PACKAGE}.trainables."))  # theirs are studies, not the platform
        and not module.removeprefix(f"{PACKAGE}.").replace(".", "/").startswith(RAY)
    }
    assert not wrong


def test_the_core_is_pure() -> None:
    core = [f"{PACKAGE}.engine.{name}" for name in PURE]
    core += [module for module in MODULES if part_of(module) in ("protocol", "schedulers")]
    for module in [*core, f"{PACKAGE}.resources"]:
        # Schedulers compute with NumPy; what they draw comes from `protocol.seeds` alone.
        allowed = {"numpy"} if part_of(module) == "schedulers" else set()
        assert not {each.module.split(".")[0] for each in IMPORTS[module]} & (IMPURE - allowed), module


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        (PACKAGE, ("torch", "ray", "optuna", "numpy", "pandas", "sqlalchemy", "pydantic", "yaml")),
        (f"{PACKAGE}.trainable", ("torch", "ray", "optuna", "numpy", "pandas", "sqlalchemy", "pydantic")),
        (f"{PACKAGE}.backends._worker", ("torch", "ray", "optuna", "numpy", "pandas", "sqlalchemy", "pydantic")),
        (f"{PACKAGE}.registry", ("torch", "ray", "optuna", "numpy", "pandas", "sqlalchemy", f"{PACKAGE}.searchers")),
        (f"{PACKAGE}.spec", ("torch", "ray", "optuna", "pandas", "sqlalchemy", f"{PACKAGE}.engine")),
        (f"{PACKAGE}.results", ("torch", "ray", "optuna", f"{PACKAGE}.engine", f"{PACKAGE}.spec")),
    ],
)
def test_what_an_import_does_not_load(module: str, absent: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print([name for name in {absent} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
