"""Searchers, schedulers and backends by name: those that are built in, and those of installed packages.

A package offers its own as entry points of the groups `tune_platform.searchers`, `tune_platform.schedulers` and
`tune_platform.backends`: `name = "module:factory"`, where the factory's keyword arguments are the options. Nothing is
imported before it is asked for by name.
"""

from __future__ import annotations

import functools
import inspect
import logging
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any, cast

from tune_platform.errors import SpecError, did_you_mean
from tune_platform.extras import how_to_install
from tune_platform.protocol.backend import Backend
from tune_platform.protocol.checks import check_backend, check_scheduler, check_searcher
from tune_platform.protocol.scheduler import Scheduler
from tune_platform.protocol.searcher import Searcher


@dataclass(frozen=True, slots=True)
class Registry:
    """The parts of one kind, by name.

    `builtin` are entry points too; here they also work where the installed metadata is older than the code. `options`
    are those of built-in parts that are too slow to import for a look at their arguments. `check` raises SpecError for
    an object that is no such part. `wrap` says which objects of other libraries are made such parts, and by which
    "module:factory".
    """

    what: str
    builtin: Mapping[str, str]
    check: Callable[[Any, Sequence[str]], None]
    options: Mapping[str, Sequence[str]] = field(default_factory=dict)
    wrap: Sequence[tuple[Callable[[Any], bool], str]] = ()

    @property
    def group(self) -> str:
        """The group of entry points."""
        return f"tune_platform.{self.what}s"

    def names(self) -> list[str]:
        """Return every name there is, the built-in ones first."""
        return [*self.builtin, *sorted({entry.name for entry in self._installed()} - set(self.builtin))]

    def factory(self, name: str) -> Callable[..., Any]:
        """Import what builds the part of that name. Raises SpecError for an unknown name, or where that fails."""
        return self._load(name, self._entry(name))

    def _load(self, name: str, entry: EntryPoint) -> Callable[..., Any]:
        try:
            with warnings.catch_warnings():
                # In a notebook Ray, and what Optuna draws progress bars with, ask for widgets that nothing here draws.
                warnings.filterwarnings("ignore", message="IProgress not found")
                logging.getLogger("ray.widgets.util").setLevel(logging.WARNING)
                return cast(Callable[..., Any], entry.load())
        except ModuleNotFoundError as error:
            missing = f"{error.name!r}, which is not installed{how_to_install(error.name)}"
            raise SpecError(f"{self.what} {name!r} needs {missing}") from error
        except Exception as error:
            where = f"{entry.value} cannot be loaded"
            raise SpecError(f"{self.what} {name!r}: {where}: {type(error).__name__}: {error}") from error

    def check_options(self, name: str, given: Mapping[str, Any]) -> None:
        """Raise SpecError for an unknown name, and for the first option that the part of that name does not have."""
        if name in self.options:
            self._check_known(name, given, self.options[name])
        else:
            self._check_signature(name, self.factory(name), given)

    def build(self, part: Any, **options: Any) -> Any:
        """Return the part of that name, or class, built with `options`; an object is returned as it is.

        Raises SpecError for unknown names and options, for values that the part refuses, and for an object that is no
        such part.
        """
        if isinstance(part, (str, type)):
            name = part if isinstance(part, str) else part.__name__
            factory = self.factory(part) if isinstance(part, str) else part
            self._check_signature(name, factory, options)
            try:
                built = factory(**options)
            except TypeError as error:
                raise SpecError(f"{self.what} {name!r}: {error}") from error
            if isinstance(part, type) and any(accepts(built) for accepts, _ in self.wrap):
                return self.build(built)
        elif maker := next((where for accepts, where in self.wrap if accepts(part)), None):
            name = type(part).__name__
            built = self._load(name, EntryPoint(name, maker, self.group))(part, **options)
            if isinstance(built, str):
                return self.build(built)
        elif options:
            raise SpecError(f"options {sorted(options)} go with a {self.what}'s name; got the object {part!r}")
        else:
            built = part
        self.check(built, self.names())
        return built

    def _entry(self, name: str) -> EntryPoint:
        if name in self.builtin:
            return EntryPoint(name, self.builtin[name], self.group)
        for entry in self._installed():
            if entry.name == name:
                return entry
        names = self.names()
        raise SpecError(f"there is no {self.what} {name!r}{did_you_mean(name, names)}; known: {', '.join(names)}")

    def _installed(self) -> Sequence[EntryPoint]:
        return _entry_points(self.group, tuple(sys.path))

    def _check_signature(self, name: str, factory: Callable[..., Any], given: Mapping[str, Any]) -> None:
        parameters = inspect.signature(factory).parameters
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            self._check_known(name, given, list(parameters))
        needed = [key for key, one in parameters.items() if one.default is one.empty and one.kind is one.KEYWORD_ONLY]
        if missing := [key for key in needed if key not in given]:
            example = ", ".join(f"{key}: ..." for key in missing)
            raise SpecError(f"{self.what} {name!r} needs {' and '.join(missing)}: {{name: {name}, {example}}}")

    def _check_known(self, name: str, given: Mapping[str, Any], known: Sequence[str]) -> None:
        for key in given:
            if key not in known:
                raise SpecError(
                    f"{self.what} {name!r} has no option {key!r}{did_you_mean(key, known)}; "
                    f"its options: {', '.join(known) or 'none'}"
                )


@functools.cache
def _entry_points(group: str, path: tuple[str, ...]) -> Sequence[EntryPoint]:
    """The entry points of the packages on that path: to read all their metadata takes some 20 ms."""
    return tuple(entry_points(group=group))


def _is_sampler(part: Any) -> bool:
    return hasattr(part, "sample_relative") and hasattr(part, "sample_independent")  # Optuna's BaseSampler


def _is_ray(module: str) -> Callable[[Any], bool]:
    """Say whether an object's class is, or derives from, one of that module of Ray Tune's."""
    return lambda part: any(base.__module__.startswith(module) for base in type(part).__mro__)


SEARCHERS = Registry(
    "searcher",
    {
        "random": "tune_platform.searchers.random:RandomSearcher",
        "grid": "tune_platform.searchers.grid:GridSearcher",
        "optuna": "tune_platform.searchers.optuna:OptunaSearcher",
        "tpe": "tune_platform.searchers.samplers:tpe",
        "gp": "tune_platform.searchers.samplers:gp",
        "cmaes": "tune_platform.searchers.samplers:cmaes",
        "nsgaii": "tune_platform.searchers.samplers:nsgaii",
        "nsgaiii": "tune_platform.searchers.samplers:nsgaiii",
        "qmc": "tune_platform.searchers.samplers:qmc",
        "bohb": "tune_platform.searchers.bohb:BOHB",
        "screen": "tune_platform.searchers.screen:Screen",
        "evolution": "tune_platform.searchers.evolution:Evolution",
        "cqr": "tune_platform.searchers.cqr:CQR",
        "forest": "tune_platform.searchers.forest:Forest",
        "portfolio": "tune_platform.searchers.portfolio:Portfolio",
        "bo": "tune_platform.searchers.bo:BO",
        "mfes": "tune_platform.searchers.mfes:MFES",
        "dehb": "tune_platform.searchers.dehb:DEHB",
        "turbo": "tune_platform.searchers.turbo:TuRBO",
        "priorband": "tune_platform.searchers.priorband:PriorBand",
    },
    check_searcher,
    wrap=(
        (_is_sampler, "tune_platform.searchers.optuna:OptunaSearcher"),
        (_is_ray("ray.tune.search."), "tune_platform.ray_tune.their_searcher:TheirSearcher"),
    ),
)
#: The longer names are Ray Tune's spellings of the same.
SCHEDULERS = Registry(
    "scheduler",
    {
        "asha": "tune_platform.schedulers.asha:ASHA",
        "async_hyperband": "tune_platform.schedulers.async_hyperband:AsyncHyperBand",
        "asynchyperband": "tune_platform.schedulers.async_hyperband:AsyncHyperBand",
        "fifo": "tune_platform.schedulers.fifo:FIFO",
        "freeze_thaw": "tune_platform.schedulers.freeze_thaw:FreezeThaw",
        "hyperband": "tune_platform.schedulers.hyperband:HyperBand",
        "median": "tune_platform.schedulers.median:MedianStopping",
        "median_stopping_rule": "tune_platform.schedulers.median:MedianStopping",
        "medianstopping": "tune_platform.schedulers.median:MedianStopping",
        "mf_pbt": "tune_platform.schedulers.mf_pbt:MFPBT",
        "mo_asha": "tune_platform.schedulers.mo_asha:MOASHA",
        "pasha": "tune_platform.schedulers.pasha:PASHA",
        "pb2": "tune_platform.schedulers.pb2:PB2",
        "pbt": "tune_platform.schedulers.pbt:PBT",
        "pbt_replay": "tune_platform.schedulers.replay:Replay",
        "replay": "tune_platform.schedulers.replay:Replay",
        "successive_halving": "tune_platform.schedulers.successive_halving:SuccessiveHalving",
    },
    check_scheduler,
    wrap=((_is_ray("ray.tune.schedulers."), "tune_platform.ray_tune.their_scheduler:scheduler_from"),),
)
BACKENDS = Registry(
    "backend",
    {
        "ray": "tune_platform.backends.ray:RayBackend",
        "inline": "tune_platform.backends.inline:InlineBackend",
    },
    check_backend,
    options={
        "ray": (
            "address",
            "num_cpus",
            "num_gpus",
            "grace_s",
            "idle_s",
            "refresh_s",
            "connect_s",
            "autoscale",
            "weight",
            "priority",
        ),
        "inline": ("num_cpus", "num_gpus", "custom", "gang"),
    },
)


def make_searcher(searcher: Any, **options: Any) -> Searcher:
    """Return a searcher of a name, of a class, or the object itself; a sampler of Optuna is wrapped. See `build`."""
    return cast(Searcher, SEARCHERS.build(searcher, **options))


def make_scheduler(scheduler: Any, **options: Any) -> Scheduler:
    """Return a scheduler of a name, of a class, or the object itself. See `Registry.build`."""
    return cast(Scheduler, SCHEDULERS.build(scheduler, **options))


def make_backend(backend: Any, **options: Any) -> Backend:
    """Return a backend of a name, of a class, or the object itself. See `Registry.build`."""
    return cast(Backend, BACKENDS.build(backend, **options))


def repeated_searcher(searcher: Searcher, times: int) -> Searcher:
    """Return a searcher that tries each config of another one so many times, and tells it the mean."""
    entry = EntryPoint("replicated", "tune_platform.searchers.replicated:Replicated", SEARCHERS.group)
    return cast(Searcher, entry.load()(searcher, times))
