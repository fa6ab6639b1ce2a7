"""Where the user's own modules and files are found: the same in the driver and in every worker process.

An entrypoint's module is looked for in the folder that a command was started in before anything that is installed, and
before Python's own modules: what the tutorial calls wave.py is not the standard library's `wave`. Relative paths of
training code lead where they lead for the driver.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import NamedTuple

from tune_platform.errors import SpecError
from tune_platform.modules import search_like


class Surroundings(NamedTuple):
    """The working folder of a process, and its import path. An empty folder is not taken over."""

    folder: str
    path: list[str]

    def take(self) -> str:
        """Make this process's path and folder alike; return what cannot be, or nothing."""
        search_like(self.path)
        try:
            if self.folder:
                os.chdir(self.folder)
        except OSError as error:
            return f"{self.folder} ({error.strerror}); they run in {Path.cwd()}"
        return ""


def surroundings() -> Surroundings:
    """Return those of this process."""
    return Surroundings(str(Path.cwd()), _absolute_path())


def put_folder_first() -> None:
    """Have the working folder searched before Python's own modules, after the folder of the script that runs."""
    here = str(Path.cwd())
    path = _absolute_path()
    number = _first_of_python(path)
    if here not in path[:number]:
        sys.path.insert(1 if number and path[0] == _script_folder() else 0, here)


def check_name(module: str) -> None:
    """Raise SpecError where the user has a module of that name, and another of that name is what Python imports.

    That is so for what is part of Python's program, and for what has been imported already.
    """
    top = module.partition(".")[0]
    path = _absolute_path()
    spec = PathFinder.find_spec(top, path[: _first_of_python(path)])
    origin = spec.origin if spec is not None else None
    if origin is None:
        return  # there is none, or a folder without code
    loaded = sys.modules.get(top)
    if loaded is None and top not in sys.builtin_module_names:
        return
    found: ModuleSpec | None = getattr(loaded, "__spec__", None)
    file = getattr(loaded, "__file__", None) or (found.origin if found is not None else None)
    if file is not None and Path(file).resolve() == Path(origin).resolve():
        return
    whose = "one of Python's own modules" if top in sys.stdlib_module_names else f"another module ({file})"
    raise SpecError(
        f"{origin} cannot be imported as {top!r}: {whose} has that name and is in use already. Rename the file, and "
        "the entrypoint with it"
    )


def _absolute_path() -> list[str]:
    return [str(Path(entry).absolute()) for entry in sys.path]  # an empty one is the working folder


def _first_of_python(path: list[str]) -> int:
    """Return where Python's own entries begin; what comes before them are the user's."""
    archive = f"python{sys.version_info.major}{sys.version_info.minor}.zip"
    library = sysconfig.get_path("stdlib")
    for number, entry in enumerate(path):
        if entry == library or Path(entry).name == archive:
            return number
    return 0


def _script_folder() -> str:
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    return str(Path(script).absolute().parent) if script else ""
