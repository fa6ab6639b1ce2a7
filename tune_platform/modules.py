"""Modules by the names that entrypoints give; loads nothing else, for every worker imports it.

The folders `trainables` and `searchers` are imported as `tune_platform.trainables` and `tune_platform.searchers`. Files
and stores of the first release name them without the package in front, and go on to: unless users have a package of
that name, with that module, of their own.
"""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path

#: What entrypoints of the first release call by their own name.
MOVED = ("trainables", "searchers")


def module_name(name: str) -> str:
    """Return the name that a module is imported by today; nothing is imported."""
    top, *inner = name.split(".")
    if top not in MOVED:
        return name
    folders = _users_folders(top)
    here = f"{__package__}.{name}"
    if folders is None or (not _has(folders, top, inner) and _has([str(_ours(top))], here, inner)):
        return here
    return name


def entrypoint_today(entrypoint: str) -> str:
    """Return "module:name" with the name that its module is imported by today; other text as it is."""
    module, colon, name = entrypoint.partition(":")
    return f"{module_name(module)}{colon}{name}"


def search_like(path: Sequence[str]) -> None:
    """Look for modules where the process with this `sys.path` does.

    What it looks at before the standard library (a script's folder, PYTHONPATH) comes first here too; the rest is
    looked at after all that this process has.
    """
    library = sysconfig.get_path("stdlib")
    ahead = list(takewhile(lambda folder: folder != library and not folder.endswith(".zip"), path))
    own = [folder for folder in sys.path if folder not in ahead]
    sys.path[:] = [*ahead, *own, *(folder for folder in path if folder not in ahead and folder not in own)]


def _ours(top: str) -> Path:
    return Path(__file__).parent / top


def _users_folders(top: str) -> Sequence[str] | None:
    """Return where the modules of the user's own package lie (nowhere for a single file); None where there is none.

    In a checkout of the repository the platform's folders lie on the import path too: those are not the user's.
    """
    loaded = sys.modules.get(top)
    spec: ModuleSpec | None = getattr(loaded, "__spec__", None) if loaded else find_spec(top)
    if loaded is None and spec is None:
        return None
    found = list(getattr(loaded, "__path__", None) or (spec.submodule_search_locations if spec else None) or [])
    own = [folder for folder in found if Path(folder).resolve() != _ours(top).resolve()]
    return own if own or not found else None


def _has(folders: Sequence[str], package: str, inner: Sequence[str]) -> bool:
    """Whether a package whose modules lie in `folders` has the module `inner` names, by looking at files only."""
    for part in inner:
        package = f"{package}.{part}"
        if package in sys.modules:
            folders = list(getattr(sys.modules[package], "__path__", ()))
            continue
        spec = PathFinder.find_spec(package, folders)
        if spec is None:
            return False
        folders = list(spec.submodule_search_locations or ())
    return True
