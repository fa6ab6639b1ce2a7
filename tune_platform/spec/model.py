"""`SearchSpec`: everything that decides a search, validated and immutable.

Python code gives live objects (functions, searchers, domains); a file gives plain values. `docs/spec.md`
describes every key. Nothing is imported or started before `check` or `load_trainable` is called.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainValidator,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from tune_platform.callbacks import check_callbacks
from tune_platform.errors import SpecError
from tune_platform.location import Location, default_storage
from tune_platform.modules import entrypoint_today
from tune_platform.protocol.configs import from_json
from tune_platform.registry import repeated_searcher
from tune_platform.resources import Resources
from tune_platform.spec.agreement import contradictions, memory_to_grow, repeated
from tune_platform.spec.blocks import Budget
from tune_platform.spec.checking import check
from tune_platform.spec.defaults import FIFO, RANDOM, default_scheduler, default_searcher
from tune_platform.spec.entrypoint import load_entrypoint
from tune_platform.spec.options import NOT_IN_FINGERPRINT, Duplicates, Shared
from tune_platform.spec.parts import (
    Samples,
    build_backend,
    build_scheduler,
    build_searcher,
    build_space,
    check_start_points,
    take_backend,
    take_resources,
    take_retries,
    take_trainable,
)
from tune_platform.spec.trainables import check_workers
from tune_platform.spec.values import (
    Count,
    Natural,
    describe,
    hint,
    problems_of,
    spec_error,
    text,
)
from tune_platform.spec.words import in_python_words

if TYPE_CHECKING:
    from tune_platform.protocol.backend import Backend
    from tune_platform.protocol.scheduler import Scheduler
    from tune_platform.protocol.searcher import Searcher
    from tune_platform.space import Space


def check_storage(location: Any) -> Location:
    """Return a directory with `~` filled in, or a database URL. Raises SpecError."""
    if isinstance(location, Mapping) and len(location) == 1 and set(location) <= {"path", "url"}:
        (location,) = location.values()  # as in a file
    if isinstance(location, Path):
        location = str(location)
    if not isinstance(location, str) or not location.strip():
        raise SpecError(f"got {describe(location)}; a directory or a database URL is wanted")
    return Location(location if "://" in location else Path(location).expanduser())


def _many(value: Any) -> Any:
    """A list of names becomes a tuple; one name stays one."""
    if isinstance(value, str) and value:
        return text(value)
    if isinstance(value, Sequence) and value and all(isinstance(name, str) and text(name) for name in value):
        if len(set(value)) < len(value):
            return value[0] if len(set(value)) == 1 else tuple(value)
        return tuple(value)
    raise SpecError(f"got {describe(value)}; a name is wanted, or several in a list")


def _names_or_read(value: Any) -> Any:
    if isinstance(value, Mapping) or value in ((), []):
        return value
    names = _many(value)
    return (names,) if isinstance(names, str) else names


def _check_modes(value: Any) -> Any:
    modes = [value] if isinstance(value, str) else list(value) if isinstance(value, Sequence) else [value]
    for mode in modes:
        if mode not in ("min", "max"):
            raise SpecError(f"got {describe(mode)}; allowed: min, max{hint(str(mode), ('min', 'max'))}")
    return value if isinstance(value, str) else tuple(modes)


def _part_in_words(part: Any) -> str:
    if not isinstance(part, Mapping):
        return str(part)
    return f"{part['name']}, " + ", ".join(f"{key} {value:g}" for key, value in part.items() if key != "name")


def _functions(value: Any) -> Any:
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,)


#: How often each config is tried with `duplicates: replicate`, where the spec does not say.
REPLICATES = 3


class SearchSpec(Shared):
    """One search: what is tried, how it is judged, who goes on, and with how much.

    Raises SpecError, with all that is wrong, when it is built. The arguments are described in `docs/spec.md`.
    """

    trainable: Annotated[Any, AfterValidator(take_trainable)] = Field(examples=["entrypoint: my_module:train"])
    param_space: Any = Field(default_factory=dict)
    metric: Annotated[str | Sequence[str], BeforeValidator(_many)] = Field(examples=['metric="val_loss"'])
    mode: Annotated[str | Sequence[str], BeforeValidator(_check_modes)] = Field(examples=['mode="min"'])
    constraints: Annotated[tuple[Any, ...], BeforeValidator(_functions)] = ()
    searcher: Any = None
    scheduler: Any = None
    num_samples: Samples | None = None
    start_points: Annotated[Sequence[Mapping[str, Any]], BeforeValidator(_functions)] = ()
    max_concurrent: Count | None = None
    prefetch: Natural | None = None
    duplicates: Duplicates | None = None
    replicates: Count | None = None
    #: Names of earlier experiments; in the spec of one that was begun, what was read of each.
    warm_start: Annotated[tuple[str, ...] | Mapping[str, Any], BeforeValidator(_names_or_read)] = ()
    budget: Annotated[Budget, BeforeValidator(lambda value: value or {})] = Budget()
    resources: Annotated[Any, AfterValidator(take_resources)] = Resources()
    retries: Annotated[Mapping[str, Any], BeforeValidator(take_retries)] = Field(
        default_factory=lambda: take_retries({})
    )
    seed: Natural = 0
    storage: Annotated[str, PlainValidator(check_storage)] = Field(default_factory=default_storage)
    backend: Annotated[Any, AfterValidator(take_backend)] = "ray"
    callbacks: Annotated[tuple[Any, ...], BeforeValidator(check_callbacks)] = ()

    if not TYPE_CHECKING:  # type checkers see the fields

        def __init__(self, **values: Any) -> None:
            try:
                super().__init__(**in_python_words(values))
            except ValidationError as error:
                raise spec_error(problems_of(error, type(self)), "SearchSpec") from None
            except SpecError as error:
                raise SpecError(f"SearchSpec: {error}") from None

    #: What was chosen because the spec does not name it, with the reason: "searcher", "scheduler".
    _chosen: dict[str, str] = PrivateAttr(default_factory=dict)
    #: Of the file that it was read from.
    _folder: Path | None = PrivateAttr(default=None)

    # -------------------------------------------------------------------------------------- validation

    @field_validator("param_space")
    @classmethod
    def _space_is_sound(cls, value: Any) -> Any:
        build_space(value).check_values()
        return value

    @field_validator("constraints")
    @classmethod
    def _constraints_are_sound(cls, value: tuple[Any, ...], info: ValidationInfo) -> tuple[Any, ...]:
        if value and "param_space" in info.data:
            build_space(info.data["param_space"], value)
        return value

    @field_validator("start_points")
    @classmethod
    def _start_points_fit(cls, value: Any, info: ValidationInfo) -> Any:
        if value and "param_space" in info.data:
            check_start_points(build_space(info.data["param_space"]), value)
        return value

    @field_validator("searcher")
    @classmethod
    def _searcher_exists(cls, value: Any) -> Any:
        if value is not None:
            build_searcher(value)
        return value

    @field_validator("scheduler")
    @classmethod
    def _scheduler_exists(cls, value: Any) -> Any:
        if value is not None:
            build_scheduler(value)
        return value

    @model_validator(mode="after")
    def _parts_agree(self) -> SearchSpec:
        self._choose()
        problems = contradictions(
            self.metrics, self.modes, self.make_scheduler(), target=self.budget.target, stop=self.stop
        )
        problems += repeated(self.duplicates, self.replicates, self.metrics, self.make_scheduler())
        if isinstance(self.resources, Resources):
            problems += memory_to_grow(self.retries, self.resources.custom)
        if problems:
            raise SpecError("; ".join(f"{problem.where}: {problem.text}" for problem in problems))
        return self

    def _choose(self, *, steps: float | None = None) -> None:
        """Fill in the searcher and the scheduler that are left out; `steps`: of a trial to its end."""
        left_out = [part for part in ("scheduler", "searcher") if getattr(self, part) is None]
        for part in left_out:  # while one is looked for, the other and the number of trials can be asked for
            self.__dict__[part] = FIFO if part == "scheduler" else RANDOM
        if "scheduler" in left_out:
            self.__dict__["scheduler"], self._chosen["scheduler"] = default_scheduler(self, steps=steps)
        if "searcher" in left_out:
            self.__dict__["searcher"], self._chosen["searcher"] = default_searcher(self)

    def chosen(self) -> list[str]:
        """Say what was chosen because the spec names none, and why: a line for each part."""
        words = {"scheduler": ("schedule", self.scheduler), "searcher": ("search", self.searcher)}
        return [f"{words[part][0]}: {_part_in_words(words[part][1])} ({why})" for part, why in self._chosen.items()]

    def for_steps(self, steps: float) -> SearchSpec:
        """Return the spec with what it names no part for chosen once more, for trials of so many steps."""
        found = self.model_copy(update=dict.fromkeys(self._chosen))
        found._chosen = {}
        found._choose(steps=steps)
        return found

    def with_warm_start(self, begun: Mapping[str, Any]) -> SearchSpec:
        """Return the spec with what was read of earlier experiments when the one of that spec (`to_dict`) was begun."""
        found = (begun.get("search") or {}).get("warm_start")
        same = isinstance(found, Mapping) and list(found) == list(self.warm_start)
        return self.model_copy(update={"warm_start": found}) if same else self

    def warmth(self) -> list[str]:
        """Say what was read of earlier experiments: a line for each."""
        if not isinstance(self.warm_start, Mapping):
            return []
        return [
            f"warm start: {len(found['configs'])} trials of {name}"
            + (f" without {', '.join(found['left_out'])}, not of this space" if found["left_out"] else "")
            for name, found in self.warm_start.items()
        ]

    def as_begun(self, begun: Mapping[str, Any]) -> SearchSpec:
        """Return the spec with the parts that were chosen when the experiment of that spec (`to_dict`) was begun.

        An experiment keeps what it has, even where another would be chosen today.
        """
        from tune_platform.spec.reading import chosen_parts

        found = chosen_parts(begun, tuple(self._chosen))
        mine = self.with_warm_start(begun).model_copy(update=found)
        mine._chosen = {part: why for part, why in self._chosen.items() if part not in found}
        return mine

    def check(self) -> list[str]:
        """Check all that can be known before the start: the trainable is imported, the space sampled.

        Returns warnings. Raises SpecError with everything that is wrong.
        """
        return check(self)

    # -------------------------------------------------------------------------------------- what it means

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the metrics; one, unless the search has several objectives."""
        return (self.metric,) if isinstance(self.metric, str) else tuple(self.metric)

    @property
    def modes(self) -> tuple[str, ...]:
        """`min` or `max` for each metric; a single mode holds for all."""
        modes = (self.mode,) if isinstance(self.mode, str) else tuple(self.mode)
        return modes * len(self.metrics) if len(modes) == 1 else modes

    @functools.cached_property
    def space(self) -> Space:
        """The search space with its constraints."""
        return build_space(self.param_space, self.constraints)

    @property
    def trials(self) -> int | None:
        """How many trials there will be at most, or None without a limit.

        As in Ray Tune `num_samples` counts passes over the grid. Without it, a search that has another limit
        (a budget of trials or time, a target, the grid searcher) goes on until there; any other is one pass.
        """
        samples = self.num_samples
        if samples is None:
            budget = self.budget.model_dump(exclude={"failures"})
            limited = any(limit is not None for limit in budget.values())
            goes_on = self.searcher == "grid" and self.times == 1  # one that repeats has no end of its own
            samples = -1 if limited or goes_on else 1
        limits = [self.budget.trials] if self.budget.trials else []
        if samples != -1:
            everything = hasattr(self._searcher(), "passes")
            limits.append(samples * self.space.grid_points(everything=everything).total * self.times)
        return min(limits, default=None)

    def resources_for(self, config: Mapping[str, Any]) -> Resources:
        """Return what a trial with `config` holds. Raises SpecError for what a function must not return."""
        if isinstance(self.resources, Resources):
            return self.resources
        found = take_resources(self.resources(config))
        if not isinstance(found, Resources):
            raise SpecError(
                f"resources: the function returned {describe(found)}; Resources(cpu=..., gpu=...) is wanted"
            )
        if found.workers > 1:
            check_workers(self.load_trainable(), found.workers)
        return found

    @property
    def times(self) -> int:
        """How often each config is tried: more than once with `duplicates: replicate`."""
        return (self.replicates or REPLICATES) if self.duplicates == "replicate" else 1

    def make_searcher(self) -> Searcher:
        """Build the searcher (or return the object given), not set up yet."""
        searcher = self._searcher()
        return repeated_searcher(searcher, self.times) if self.duplicates == "replicate" else searcher

    def _searcher(self) -> Searcher:
        searcher = build_searcher(self.searcher)
        if self.num_samples is not None and hasattr(searcher, "passes"):
            searcher.passes = max(self.num_samples, 1)
        if hasattr(searcher, "duplicates"):
            wanted = "avoid" if self.duplicates == "replicate" else self.duplicates
            searcher.duplicates = wanted or self._default_duplicates(searcher)
        if self.warm_start and not hasattr(searcher, "warm"):
            learners = "bohb, cqr, forest and evolution"
            raise SpecError(f"search.warm_start: {type(searcher).__name__} learns nothing of others; {learners} do")
        if isinstance(self.warm_start, Mapping):
            read = [found["configs"] for found in self.warm_start.values()]
            searcher.warm = [list(map(from_json, configs)) for configs in read]  # type: ignore[attr-defined]
        return searcher

    def _default_duplicates(self, searcher: Searcher) -> Literal["allow", "avoid"]:
        """A searcher that learns avoids them, but in a grid: its passes are counted by `num_samples`."""
        return "allow" if searcher.lookahead is None or self.space.grid_points().total > 1 else "avoid"

    def make_scheduler(self) -> Scheduler:
        """Build the scheduler (or return the object given), not set up yet.

        One with a `prepare` is given the space, the metrics and their modes. Raises SpecError where these do not fit.
        """
        scheduler = build_scheduler(self.scheduler)
        if (prepare := getattr(scheduler, "prepare", None)) is not None:
            prepare(self.space, self.metrics, self.modes)
        return scheduler

    def make_backend(self) -> Backend:
        """Build the backend (or return the object given), not started yet."""
        return build_backend(self.backend)

    def load_trainable(self) -> Any:
        """Return the class or function, importing an entrypoint. Raises SpecError when that fails."""
        return load_entrypoint(self.trainable, self._folder) if isinstance(self.trainable, str) else self.trainable

    def read_from(self, file: str | Path) -> SearchSpec:
        """Return the spec, which knows now the file that it was read from: errors may tell of what lies beside it."""
        self._folder = Path(file).parent
        return self

    # -------------------------------------------------------------------------------------- as data

    def to_dict(self) -> dict[str, Any]:
        """Return the spec as JSON values, in the file's form; what has no such form is {"python": name}."""
        from tune_platform.spec.writing import to_dict

        return to_dict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SearchSpec:
        """Build the spec that `to_dict` wrote. Raises SpecError, also where it held objects of Python."""
        from tune_platform.spec.reading import arguments_of, document_of

        return cls(**arguments_of(*document_of(data)))

    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits that differ where a resumed search could decide otherwise.

        Functions count by name: a change in their code is not seen.
        """
        data = {key: value for key, value in _today(self.to_dict()).items() if key not in NOT_IN_FINGERPRINT}
        return hashlib.sha256(json.dumps(_canonical(data), sort_keys=True).encode()).hexdigest()[:16]

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """Say where this spec parts from one that `to_dict` wrote: "schedule.eta: 3 here, 4 there"."""
        from tune_platform.spec.values import leaves

        mine, theirs = leaves(_today(self.to_dict())), leaves(_today(other))
        return [
            f"{key}: {mine.get(key)!r} here, {theirs.get(key)!r} there"
            for key in dict.fromkeys([*mine, *theirs])
            if key.split(".")[0] not in NOT_IN_FINGERPRINT and mine.get(key) != theirs.get(key)
        ]

    def added_choices(self, other: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Return the values that lists of choices have at their end here, and not in a spec that `to_dict` wrote.

        By the parameter's name; empty where nothing was added, or where the spaces differ in anything else.
        """
        from tune_platform.spec.growth import added_choices

        mine, theirs = self.to_dict()["space"], other.get("space", {})
        found = added_choices(_as_ever(mine), _as_ever(theirs)) or {}
        return {name: found[name] for name in sorted(found)}


def _today(data: Mapping[str, Any]) -> dict[str, Any]:
    """Call the trainable by today's name, which an older spec may not; write tuples and objects as older ones do.

    What an older one could not say has its default.
    """
    return {
        "on_bad_metric": "fail",
        **{
            key: entrypoint_today(value) if key == "entrypoint" and isinstance(value, str) else _as_ever(value)
            for key, value in data.items()
        },
    }


def _as_ever(value: Any) -> Any:
    if isinstance(value, list):
        return [_as_ever(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    match value:
        case {"$tuple": list(items), **rest} if not rest:
            return _as_ever(items)
        case {"$object": name, **rest} if not rest:
            return {"python": name}
        case {"$dict": list(pairs), **rest} if not rest:
            return {str(key): _as_ever(item) for key, item in pairs}
    return {key: _as_ever(item) for key, item in value.items()}


def _canonical(value: Any) -> Any:
    """Write 1.0 as 1, which is the same value in another spelling."""
    if isinstance(value, Mapping):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
