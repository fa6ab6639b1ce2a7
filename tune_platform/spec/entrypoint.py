"""Entrypoints: `"module:name"` names a trainable that a file, a log or another machine can hold."""

from __future__ import annotations

import importlib
import pkgutil
import re
import shlex
import sys
import sysconfig
import traceback
from pathlib import Path
from typing import Any

from tune_platform.errors import MissingLibraryError, SpecError
from tune_platform.extras import how_to_install
from tune_platform.modules import entrypoint_today
from tune_platform.spec.trainables import check_trainable
from tune_platform.spec.values import hint
from tune_platform.surroundings import check_name, put_folder_first

ENTRYPOINT = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def load_entrypoint(entrypoint: str, folder: Path | None = None) -> Any:
    """Import what `"module:name"` names. Raises SpecError where it cannot be, or is no trainable.

    `folder`: that of the file which names it. Modules are not looked for there; an error tells of one that is.
    """
    put_folder_first()
    module_name, _, name = entrypoint_today(entrypoint).partition(":")
    try:
        check_name(module_name)
    except SpecError as error:
        raise SpecError(f"{entrypoint!r}: {error}") from None
    module = _import(module_name, entrypoint, folder)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            known = [word for word in vars(found) if not word.startswith("_")]
            where = f"module {module_name!r} ({_file_of(module)})" if found is module else repr(found)
            elsewhere = _in_folder(module_name, folder) if found is module else ""
            raise SpecError(f"{entrypoint!r}: {where} has no {part!r}{hint(part, known)}{elsewhere}")
        found = getattr(found, part)
    try:
        check_trainable(found)
    except SpecError as error:
        raise SpecError(f"{entrypoint!r}: {error}") from None
    return found


def entrypoint_of(trainable: Any) -> str | None:
    """Return the entrypoint that leads back to this very object, or None where there is none."""
    module, name = getattr(trainable, "__module__", None), getattr(trainable, "__qualname__", "")
    entrypoint = f"{module}:{name}"
    if module in (None, "__main__") or not ENTRYPOINT.fullmatch(entrypoint):
        return None
    found: Any = sys.modules.get(str(module))
    for part in name.split("."):
        found = getattr(found, part, None)
    return entrypoint if found is trainable else None


def _import(name: str, entrypoint: str, folder: Path | None) -> Any:
    try:
        return importlib.import_module(name)
    except MissingLibraryError as error:
        raise SpecError(f"{entrypoint!r}: {error}") from error
    except ModuleNotFoundError as error:
        missing = error.name or name
        if missing != name and not name.startswith(f"{missing}."):
            raise SpecError(
                f"{entrypoint!r}: importing {name!r} failed: it imports {missing!r}, which is not installed"
                f"{how_to_install(missing)}"
            ) from error
        parent = missing.rpartition(".")[0]
        raise SpecError(
            f"{entrypoint!r}: there is no module {missing!r}{hint(missing, _neighbours(parent))}; "
            f"modules are looked for in the present folder and among those installed{_in_folder(name, folder)}"
        ) from error
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        said = f"{type(error).__name__}: {error} ({frame.filename}:{frame.lineno})"
        raise SpecError(f"{entrypoint!r}: importing {name!r} failed: {said}") from error


def _file_of(module: Any) -> str:
    """Where a module was found, which may not be where its user thinks."""
    file = getattr(module, "__file__", None)
    if file is None:
        return "built in"
    pythons = module.__name__.partition(".")[0] in sys.stdlib_module_names
    return f"Python's own, {file}" if pythons and Path(file).is_relative_to(sysconfig.get_path("stdlib")) else str(file)


def _in_folder(name: str, folder: Path | None) -> str:
    """Say what to do where the module lies beside the file that names it, and that is not the present folder."""
    if folder is None or folder.resolve() == Path.cwd():
        return ""
    for file in (folder / name.replace(".", "/") / "__init__.py", folder / f"{name.replace('.', '/')}.py"):
        if file.is_file():
            there = shlex.quote(str(folder))
            return f"; {file} is there: run the command in its folder (cd {there}), or with PYTHONPATH={there}"
    return ""


def _neighbours(parent: str) -> list[str]:
    """The modules beside the one that is missing."""
    package = sys.modules.get(parent) if parent else None
    prefix = f"{parent}." if parent else ""
    return [prefix + module.name for module in pkgutil.iter_modules(getattr(package, "__path__", None))]
