"""Who may import what: the arrows of the design."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import tune_platform

ROOT = Path(tune_platform.__file__).parent.parent


def imports_of(path: Path, *, lazy: bool = True) -> set[str]:
    """The modules that a file imports; without `lazy`, only those that importing it loads."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()

    def walk(node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return
        if not lazy and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            return
        for child in ast.iter_child_nodes(node):
            walk(child)

    walk(tree)
    return found


def files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def roots(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


#: What has no clock, does no I/O and draws nothing.
PURE = ("controller", "state", "replay", "supply", "trial", "queue", "shelf", "retention", "settings", "snapshot")
IMPURE = {
    "datetime", "logging", "numpy", "optuna", "os", "pathlib", "random", "ray", "sqlalchemy", "threading", "time",
    "torch",
}  # fmt: skip


def test_the_core_is_pure() -> None:
    core = [ROOT / f"tune_platform/engine/{name}.py" for name in PURE]
    vocabulary = [path for path in files("tune_platform/protocol") if path.name != "seeds.py"]
    for path in [*core, *vocabulary, *files("tune_platform/schedulers"), ROOT / "tune_platform/resources.py"]:
        assert not roots(imports_of(path)) & IMPURE, path


ARROWS = {
    "tune_platform/schedulers": ("backends", "store", "engine.controller", "engine.runner", "space", "spec"),
    "searchers": ("tune_platform.backends", "tune_platform.store", "tune_platform.schedulers", "engine.controller"),
    "tune_platform/backends": ("schedulers", "searchers", "engine.controller", "engine.runner", "store.sql"),
    "tune_platform/store": ("engine.controller", "engine.runner", "schedulers", "searchers", "backends"),
    "tune_platform/space": ("engine", "store", "backends", "schedulers", "searchers"),
    "tune_platform/dashboard": ("engine", "backends", "schedulers"),
}


@pytest.mark.parametrize("folder", ARROWS)
def test_imports_follow_the_arrows(folder: str) -> None:
    for path in files(folder):
        for name in imports_of(path):
            if name.startswith(("tune_platform.", "searchers")):
                inner = name.removeprefix("tune_platform.")
                for banned in ARROWS[folder]:
                    target = banned.removeprefix("tune_platform.")
                    assert inner != target, f"{path}: {name}"
                    assert not inner.startswith(f"{target}."), f"{path}: {name}"


def test_only_the_ray_files_import_ray() -> None:
    for folder in ("tune_platform", "searchers"):
        for path in files(folder):
            if "ray" not in path.stem and "ray_tune" not in path.parts:
                assert "ray" not in roots(imports_of(path, lazy=False)), path


def test_the_waist_imports_nothing_of_ours_but_the_errors() -> None:
    for path in (ROOT / "tune_platform/trainable.py", *files("tune_platform/space")):
        for name in imports_of(path):
            if name.startswith("tune_platform."):
                assert name.startswith(("tune_platform.errors", "tune_platform.space")), f"{path}: {name}"
