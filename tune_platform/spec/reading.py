"""From a file, or its data, to the arguments of a SearchSpec: all problems at once, each with its line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from tune_platform.errors import SpecError
from tune_platform.protocol.configs import from_json
from tune_platform.spec.agreement import contradictions, memory_to_grow, repeated
from tune_platform.spec.defaults import FIFO
from tune_platform.spec.file import Schedule, Search, SpecFile
from tune_platform.spec.options import OPTIONS
from tune_platform.spec.parts import (
    build_scheduler,
    build_searcher,
    build_space,
    check_start_points,
    take_backend,
    take_resources,
)
from tune_platform.spec.strict_yaml import Document, KeyPath, with_lines
from tune_platform.spec.values import Problem, live_objects, problems_of, spec_error
from tune_platform.spec.words import in_file_words

#: Keys of the search block that are the spec's own, not the searcher's options.
_SEARCH_KEYS = tuple(option.file.partition(".")[2] for option in OPTIONS if option.file.startswith("search."))


def document_of(data: Mapping[str, Any]) -> tuple[Document, str]:
    """Take a spec's file form as a document, with its title. Raises SpecError where only Python could hold it."""
    if live := live_objects(data):
        raise SpecError(
            f"the spec holds objects of Python that cannot be built from data: {', '.join(live)}; "
            "to resume, pass the same SearchSpec again"
        )
    return Document(dict(data), {}, []), str(data.get("name") or "spec")


def arguments_of(document: Document, title: str) -> dict[str, Any]:
    """Return a document's content as the arguments of SearchSpec; messages name its lines.

    Raises SpecError with everything that is wrong.
    """
    document = in_file_words(document)
    problems, file = list(document.problems), None
    try:
        file = SpecFile.model_validate(document.data)
    except ValidationError as error:
        problems += [_with_one_objective(problem, document.data) for problem in problems_of(error, SpecFile)]
    problems += _check_parts(document.data, {problem.path[0] for problem in problems if len(problem.path) == 1})
    if file is not None and not problems:
        scheduler = build_scheduler(_part(file.schedule) or FIFO)  # one that is chosen agrees
        problems = contradictions(
            [objective.metric for objective in file.objective],
            [objective.mode for objective in file.objective],
            scheduler,
            target=next((o.target for o in file.objective if o.target is not None), None),
            stop=file.stop,
        )
        problems += memory_to_grow(file.retries.model_dump(exclude_none=True), file.resources.custom)
        metrics = [objective.metric for objective in file.objective]
        problems += repeated(file.search.duplicates, file.search.replicates, metrics, scheduler)
        problems += _unfit_scheduler(scheduler, file)
    if problems or file is None:
        shown = [_as_written(problem, document.written) for problem in _without_echoes(problems)]
        raise spec_error(with_lines(shown, document.lines), title)
    return _arguments(file)


def _arguments(file: SpecFile) -> dict[str, Any]:
    """Return the file's content as the arguments of SearchSpec."""
    values: dict[str, Any] = {"budget": {}}
    for option in OPTIONS:
        take = _FORMS.get(option.file)
        value = take(file) if take else _at(file, option.file)
        block, _, inner = option.python.partition(".")
        if inner:
            values[block][inner] = value
        else:
            values[block] = value
    if values["storage"] is None:
        del values["storage"]  # the environment's, or the default
    return values


def _at(file: SpecFile, key: str) -> Any:
    found: Any = file
    for part in key.split("."):
        found = getattr(found, part)
    return found


def _objectives(file: SpecFile, word: str) -> Any:
    found = tuple(getattr(objective, word) for objective in file.objective)
    return found if len(found) > 1 else found[0]


def _space_of(file: SpecFile) -> Any:
    from tune_platform.space.files import space_from_dict

    return space_from_dict(file.space)


#: What has another form in Python than in the file.
_FORMS: Mapping[str, Callable[[SpecFile], Any]] = {
    "objective.metric": lambda file: _objectives(file, "metric"),
    "objective.mode": lambda file: _objectives(file, "mode"),
    "objective.target": lambda file: file.objective[0].target,
    "space": _space_of,
    "constraints": lambda file: tuple(file.constraints),
    "search.initial": lambda file: tuple(map(from_json, file.search.initial)),
    "search.warm_start": lambda file: file.search.warm_start or (),
    "search": lambda file: _part(file.search, _SEARCH_KEYS),
    "schedule": lambda file: _part(file.schedule),
    "resources": lambda file: take_resources(file.resources.model_dump()),
    "retries": lambda file: file.retries.model_dump(exclude_none=True),
    "storage": lambda file: file.storage.url or file.storage.path,
    "backend": lambda file: {key: value for key, value in file.backend.model_dump().items() if value is not None},
}


def chosen_parts(begun: Mapping[str, Any], parts: Sequence[str]) -> dict[str, Any]:
    """Return the named parts ("searcher", "scheduler") of a spec's file form, where it holds them as data."""
    found = {}
    for part, key, ours in (("searcher", "search", _SEARCH_KEYS), ("scheduler", "schedule", ())):
        block = begun.get(key)
        if part in parts and isinstance(block, Mapping) and block.get("name"):
            options = {name: value for name, value in block.items() if name not in (*ours, "name")}
            found[part] = {"name": block["name"], **options} if options else block["name"]
    return found


def _part(block: Search | Schedule, ours: tuple[str, ...] = ()) -> Any:
    """Return a part's name, with its options where there are any; None where it is left out."""
    options = {key: value for key, value in block.model_dump().items() if key not in (*ours, "name")}
    return {"name": block.name, **options} if options else block.name


def _named(block: Mapping[str, Any], key: str) -> None:
    """Raise SpecError for options of nobody."""
    if block:
        raise SpecError(
            f"{', '.join(map(str, block))}: whose? Give the name too, such as {key}: {{name: {_EXAMPLES[key]}, ...}}"
        )


_EXAMPLES = {"search": "tpe", "schedule": "asha"}


class _Findings(list[Problem]):
    def check(self, path: KeyPath, check: Callable[..., Any], *arguments: Any, cut: str = "") -> Any:
        """Return what `check` returns; an error becomes a problem at `path`, without the beginning `cut`."""
        try:
            return check(*arguments)
        except SpecError as error:
            self.append(Problem(path, str(error).removeprefix(cut)))
            return None


def _check_parts(data: Mapping[str, Any], broken: set[str | int]) -> list[Problem]:
    """Check what `SpecFile` takes as it is: the space, and the options of searcher, scheduler and backend."""
    found = _Findings()
    for key, check, ours in (
        ("search", build_searcher, _SEARCH_KEYS),
        ("schedule", build_scheduler, ()),
        ("backend", take_backend, ()),
    ):
        block = data.get(key)
        if isinstance(block, dict) and isinstance(block.get("name"), str):
            block = {name: value for name, value in block.items() if name not in ours}
        elif isinstance(block, dict) and block.get("name") is None and key in _EXAMPLES:
            found.check(
                (key,), _named, {name: value for name, value in block.items() if name not in (*ours, "name")}, key
            )
            continue
        elif key == "backend" and isinstance(block, dict) and block.get("name") is None:
            block = {**block, "name": "ray"}
        elif not isinstance(block, str):
            continue
        found.check((key,), check, block)
    space = data.get("space", {})
    if isinstance(space, dict) and "space" not in broken:
        found += _check_space(space, data)
    return found


def _unfit_scheduler(scheduler: Any, file: SpecFile) -> list[Problem]:
    """Return what a scheduler has against the space or the objectives, such as a mutation of no parameter."""
    found = _Findings()
    if (prepare := getattr(scheduler, "prepare", None)) is not None:
        metrics, modes = ([getattr(each, word) for each in file.objective] for word in ("metric", "mode"))
        found.check(("schedule",), prepare, build_space(_space_of(file), file.constraints), metrics, modes)
    return found


def _check_space(space: Mapping[str, Any], data: Mapping[str, Any]) -> list[Problem]:
    """Check the parameters one by one, then their conditions, then what refers to them."""
    from tune_platform.space.files import space_from_dict

    found = _Findings()
    param_space = {
        key: found.check(("space", str(key)), space_from_dict, value, str(key), cut=f"{key}: ")
        for key, value in space.items()
    }
    built = found.check(("space",), build_space, param_space) if not found else None
    if built is None:
        return found
    for index, rule in enumerate(_list(data.get("constraints"))):
        if isinstance(rule, str):
            found.check(("constraints", index), build_space, param_space, [rule])
    search = data.get("search")
    for index, point in enumerate(_list(search.get("initial")) if isinstance(search, dict) else []):
        if isinstance(point, dict):
            read = found.check(("search", "initial", index), from_json, point)
            found.check(("search", "initial", index), check_start_points, built, [read or {}], cut="[0]: ")
    return found


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _with_one_objective(problem: Problem, data: Mapping[str, Any]) -> Problem:
    """Undo, in a path, the list that one objective was put into."""
    path = problem.path
    if path[:2] == ("objective", 0) and not isinstance(data.get("objective"), list):
        path = ("objective", *path[2:])
    return Problem(path, problem.text)


def _as_written(problem: Problem, written: Mapping[KeyPath, KeyPath]) -> Problem:
    """Put the words of whoever wrote the file into a path."""
    path = problem.path
    for length in range(len(path), 0, -1):
        if path[:length] in written:
            return Problem((*written[path[:length]], *path[length:]), problem.text)
    return problem


def _without_echoes(problems: Sequence[Problem]) -> list[Problem]:
    """Leave out what only follows from an earlier problem with the same key, such as text misread by YAML."""
    kept: list[Problem] = []
    for problem in problems:
        path = problem.path
        echoes = (other.path[: len(path)] == path for other in kept if len(path) > 1 or len(other.path) == 1)
        if not any(echoes):
            kept.append(problem)
    return kept
