"""A drop-in for Ray Tune's `Tuner`: the same arguments, run by `tune_platform.run`."""

from __future__ import annotations

import dataclasses
import importlib
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from tune_platform.api import load, resume, run
from tune_platform.callbacks import Callback
from tune_platform.errors import ExperimentError, SpecError, did_you_mean
from tune_platform.location import default_storage
from tune_platform.ray_tune.callbacks import RayCallbacks
from tune_platform.ray_tune.configs import CheckpointConfig, FailureConfig, RunConfig, TuneConfig, plain
from tune_platform.ray_tune.mutations import mutations_of, with_mutated
from tune_platform.ray_tune.restoring import stored_spec
from tune_platform.ray_tune.result_grid import ResultGrid
from tune_platform.ray_tune.schedulers import scheduler_of
from tune_platform.ray_tune.searchers import search_of, with_grids
from tune_platform.ray_tune.session import is_ray_class
from tune_platform.ray_tune.settings import CHDIR, check_kinds, check_refused, check_settings
from tune_platform.ray_tune.stopping import Diverged, Stopping
from tune_platform.ray_tune.trial_files import trial_files
from tune_platform.resources import Resources
from tune_platform.spec import Budget, CheckpointPolicy, SearchSpec
from tune_platform.spec.parts import DEFAULT_RETRIES, build_scheduler
from tune_platform.trainable import ANONYMOUS_METRIC

_LOG = logging.getLogger("tune_platform")
_FOR_EVER = 1_000_000
#: What stands for a metric where none is named.
_STEP = "training_iteration"
#: Seconds that no trial lasts.
_NEVER = 1e15
#: How a path may begin that is one of this machine.
_FILE = "file://"


class Tuner:
    """Runs `trainable` as Ray Tune's Tuner would: `fit()` returns a `ResultGrid`.

    `trainable` is a function, a subclass of Ray Tune's Trainable or of ours, or a name given to `register_trainable`.
    `tune_config` and `run_config` are this package's or Ray Tune's own objects. `backend` and `seed` are as in
    `SearchSpec`; `resources` of each trial, such as {"cpu": 2}, go before what `with_resources` asks.
    Raises SpecError for what cannot be done, naming what to do instead.
    """

    def __init__(
        self,
        trainable: Any = None,
        *,
        param_space: Any = None,
        tune_config: Any = None,
        run_config: Any = None,
        backend: Any = "ray",
        seed: int | None = None,
        resources: Any = None,
    ) -> None:
        self._restored: str | None = None
        self._retry_failed = False
        self._results: ResultGrid | None = None
        check_kinds(tune_config=tune_config, run_config=run_config)
        tune, where = plain(tune_config, TuneConfig), plain(run_config, RunConfig)
        self._objective = _objective(tune)
        self._raises = str(plain(where.failure_config, FailureConfig).fail_fast).lower() == "raise"
        self.spec = _spec_of(trainable, param_space, tune, where, backend, seed, resources)

    def fit(self) -> ResultGrid:
        """Run the search to its end, or go on with a restored one; return what came of it.

        With FailureConfig(fail_fast="raise") a trial's failure is raised, as a TrialError with its traceback.
        """
        if self._restored is None:
            results = run(self.spec)
        else:
            spec = self.spec
            results = resume(self._restored, storage=spec.storage, spec=spec, retry_failed=self._retry_failed)
        if results.finish.status == "failed":
            _LOG.warning("the search has ended early: %s", results.finish.reason)
        self._results = ResultGrid(results, *self._objective)
        if self._raises and self._results.errors:
            raise self._results.errors[0]
        return self._results

    def get_results(self) -> ResultGrid:
        """Return what came of `fit`, or of the restored experiment so far. Raises ExperimentError before either."""
        if self._results is None and self._restored is not None:
            results = load(self._restored, storage=self.spec.storage)
            self._results = ResultGrid(results, *self._objective)
        if self._results is None:
            raise ExperimentError("there are no results yet: call fit() first")
        return self._results

    @classmethod
    def restore(
        cls,
        path: str,
        trainable: Any,
        resume_unfinished: bool = True,
        resume_errored: bool = False,
        restart_errored: bool = False,
        param_space: Any = None,
        storage_filesystem: Any = None,
        *,
        tune_config: Any = None,
        run_config: Any = None,
        **options: Any,
    ) -> Tuner:
        """Return a Tuner that goes on with the experiment in the folder `path`.

        Its settings are read from there. What only Python can hold, such as a function that stops or a callback, is not
        kept: then give `param_space`, `tune_config` and `run_config` again, the same ones.
        Raises ExperimentError where there is no experiment, SpecError for what cannot be done.
        """
        if not cls.can_restore(path, storage_filesystem):
            raise ExperimentError(f"there is no experiment to go on with in {path}")
        if not resume_unfinished:
            raise SpecError("resume_unfinished=False: trials that have not ended go on here; stop them by number")
        folder = Path(str(path).removeprefix(_FILE)).expanduser().absolute()
        storage = str(folder.parent)
        if restart_errored and (kept := _failed_with_checkpoints(folder.name, storage)):
            raise SpecError(
                f"restart_errored=True: trial {kept[0]} has failed and has a checkpoint, from which it goes on here: a "
                "report that is made is never taken back. Give resume_errored=True, or search anew under another name"
            )
        if tune_config is None and run_config is None:
            made = cls.__new__(cls)
            made._results, made._raises = None, False
            made.spec = stored_spec(folder.name, storage, registered(trainable), param_space, resources_of)
            made.spec = made.spec.model_copy(update={"callbacks": tuple(trial_files(storage)), **options})
            named = made.spec.metric != _STEP
            made._objective = (made.spec.metric, made.spec.mode) if named else (None, None)
        else:
            placed = dataclasses.replace(run_config or RunConfig(), name=folder.name, storage_path=storage)
            made = cls(trainable, param_space=param_space, tune_config=tune_config, run_config=placed, **options)
        made._restored, made._retry_failed = folder.name, resume_errored or restart_errored
        return made

    @classmethod
    def can_restore(cls, path: str, storage_filesystem: Any = None) -> bool:
        """Whether there is an experiment in the folder `path`. Raises SpecError for another file system."""
        check_refused("Tuner.restore", {"storage_filesystem": storage_filesystem})
        folder = Path(str(path).removeprefix(_FILE)).expanduser().absolute()
        try:
            load(folder.name, storage=folder.parent)
        except ExperimentError:
            return False
        return True


def _failed_with_checkpoints(name: str, storage: str) -> list[int]:
    return [trial.number for trial in load(name, storage=storage).trials(status="FAILED") if trial.checkpoints]


def _objective(tune: Any) -> tuple[Any, Any]:
    """Return the metric and the mode, which Ray Tune takes from any of three places."""
    search, scheduler = search_of(tune.search_alg), tune.scheduler
    metric = tune.metric or search.metric or getattr(scheduler, "_metric", None)
    return metric, tune.mode or search.mode or getattr(scheduler, "_mode", None)


def _spec_of(
    trainable: Any, param_space: Any, tune: Any, run_config: Any, backend: Any, seed: int | None, resources: Any
) -> SearchSpec:
    check_settings(tune, run_config)
    search = search_of(tune.search_alg)
    scheduler = tune.scheduler
    metric, mode = _objective(tune)
    space = (param_space if param_space else search.space) or {}
    if mutated := mutations_of(scheduler):
        space = with_mutated(space, mutated)
    samples = -1 if tune.num_samples is None else tune.num_samples
    failure = plain(run_config.failure_config, FailureConfig)
    options: dict[str, Any] = {}
    if run_config.name:
        options["name"] = run_config.name
    if seed is not None or search.seed is not None:
        options["seed"] = seed if seed is not None else search.seed
    if concurrent := tune.max_concurrent_trials or search.max_concurrent:
        options["max_concurrent"] = concurrent
    if run_config.verbose == 0 or run_config.progress_reporter is not None:
        options["progress"] = "off"  # a reporter shows it in its own way
    retries = _FOR_EVER if failure.max_failures < 0 else failure.max_failures
    found = registered(trainable)
    stop = stop_of(run_config.stop, metric if mode == "min" else None)
    rule = scheduler_of(scheduler)
    if stop.stopper is not None:
        rule = Stopping(build_scheduler(rule), stop.stopper)
    seconds = tune.time_budget_s if stop.seconds is None else stop.seconds
    storage = run_config.storage_path or default_storage()
    if str(storage).startswith(_FILE):
        storage = str(storage).removeprefix(_FILE)
    callbacks = _callbacks(found, tune, run_config, str(storage), samples)
    return SearchSpec(
        trainable=found,
        param_space=space,
        metric=metric or (ANONYMOUS_METRIC if mode and (tune.search_alg or scheduler) else _STEP),
        mode=mode or "max",
        searcher=search.searcher,
        start_points=with_grids(search.start_points, space),
        scheduler=rule,
        num_samples=samples,
        budget=Budget(time=seconds, failures=0 if failure.fail_fast else _FOR_EVER),
        resources=resources_of(found) if resources is None else _resources(resources),
        retries=dict.fromkeys(DEFAULT_RETRIES, retries) if retries else DEFAULT_RETRIES,
        stop=dict(stop.conditions),
        checkpoint=_policy(plain(run_config.checkpoint_config, CheckpointConfig), metric, mode),
        storage=storage,
        callbacks=tuple(callbacks),
        if_exists="new",
        on_bad_metric="ignore",
        backend=backend,
        own_folder=bool(int(os.environ.get(CHDIR, "1"))),
        **options,
    )


def _callbacks(trainable: Any, tune: Any, run_config: Any, storage: str, samples: int) -> list[Callback]:
    """Return our callbacks as they are, one that calls Ray Tune's and names trials as was asked, and one for files."""
    given = [*(run_config.callbacks or ()), *_of_environment()]
    theirs = [each for each in given if not isinstance(each, Callback)]
    names, folders = tune.trial_name_creator, tune.trial_dirname_creator
    ours: list[Callback] = [each for each in given if isinstance(each, Callback)]
    reporter = None if run_config.verbose == 0 else run_config.progress_reporter
    if theirs or names or folders or reporter is not None:
        name = getattr(trainable, "__name__", "trainable")
        ours.append(
            RayCallbacks(
                theirs,
                storage=storage,
                trainable=name,
                samples=samples,
                stop=run_config.stop,
                names=names,
                folders=folders,
                reporter=reporter,
                objective=(tune.metric, tune.mode),
            )
        )
    return [*ours, *trial_files(storage, theirs)]


def _of_environment() -> list[Any]:
    """Return the callbacks that Ray Tune's RAY_TUNE_CALLBACKS names: all but our Recorder, which has its work done."""
    if not os.environ.get("RAY_TUNE_CALLBACKS"):
        return []
    from ray.tune.utils.callback import _initialize_env_callbacks

    return [each for each in _initialize_env_callbacks() if type(each).__name__ != "Recorder"]


def registered(trainable: Any) -> Any:
    """Return what was given to `register_trainable` by a name; anything else as it is. Raises SpecError if unknown.

    RLlib gives its algorithms their names when it is imported, which is done for a name that is not known yet.
    """
    if not isinstance(trainable, str) or ":" in trainable:
        return trainable
    from ray.tune.registry import TRAINABLE_CLASS, _global_registry

    missing = ""
    if not _global_registry.contains(TRAINABLE_CLASS, trainable):
        try:
            importlib.import_module("ray.rllib")._register_all()
        except ImportError as error:
            missing = f"; RLlib's names need its package (pip install 'ray[rllib]'): {error}"
    if not _global_registry.contains(TRAINABLE_CLASS, trainable):
        known = {name for kind, name in (*_global_registry._to_flush, *_global_registry._registered)}
        raise SpecError(
            f"there is no trainable {trainable!r}{did_you_mean(trainable, sorted(known))}: "
            f"register_trainable({trainable!r}, ...) names one{missing}"
        )
    found = _global_registry.get(TRAINABLE_CLASS, trainable)
    # A function was made a class of Ray Tune's, which runs it in a thread of its own with a session of its own.
    return found._function if hasattr(found, "_function") else found


def resources_of(trainable: Any) -> Resources | Callable[[Mapping[str, Any]], Resources]:
    """Return what `with_resources`, or a class's `default_resource_request`, asks for each trial; else one CPU."""
    asked = getattr(trainable, "_resources", None)
    if asked is None and is_ray_class(trainable):
        asked = trainable.default_resource_request
        if asked.__module__.startswith("ray.tune."):
            return Resources()
    if asked is None:
        return Resources()
    return (
        (lambda config: _resources(asked(config))) if callable(asked) and not _is_factory(asked) else _resources(asked)
    )


def _is_factory(value: Any) -> bool:
    return type(value).__name__ == "PlacementGroupFactory"


def _resources(asked: Any) -> Resources:
    if asked is None:
        return Resources()
    if isinstance(asked, Resources):
        return asked
    if _is_factory(asked):
        bundles = [dict(bundle) for bundle in asked.bundles if bundle]
        if len(bundles) > 1:
            raise SpecError(
                f"a PlacementGroupFactory of {len(bundles)} bundles: a trial of several workers is written "
                "Resources(workers=...) here, with a distributed trainable (docs/distributed.md)"
            )
        asked = bundles[0] if bundles else {}
        asked = {"CPU": 0.0, **asked}
    amounts = {str(name): float(amount) for name, amount in asked.items()}
    cpu = amounts.pop("CPU", amounts.pop("cpu", 1.0))
    gpu = amounts.pop("GPU", amounts.pop("gpu", 0.0))
    return Resources(cpu=cpu, gpu=gpu, custom={name: amount for name, amount in amounts.items() if amount})


class _Stop(NamedTuple):
    """Conditions to stop, seconds for the whole search, and what is asked after each report."""

    conditions: Mapping[str, float] = MappingProxyType({})
    seconds: float | None = None
    stopper: Any = None


def stop_of(stop: Any, minimised: str | None = None) -> _Stop:
    """Return Ray Tune's `stop` as ours: a dict, one of its stoppers, or a function `(trial_id, result) -> bool`.

    A limit to the metric that is `minimised`, at which a trial has diverged, is asked for after each report.
    """
    if stop is None or type(stop).__name__ == "NoopStopper":
        return _Stop()
    if isinstance(stop, Mapping):
        names = {"training_iteration": "step"}
        limits = {names.get(str(name), str(name)): float(value) for name, value in stop.items() if name != "done"}
        diverged = limits.pop(str(minimised), None)
        return _Stop(limits, stopper=None if diverged is None else Diverged(str(minimised), diverged))
    if type(stop).__name__ == "MaximumIterationStopper":
        return _Stop({"step": float(stop._max_iter)})
    if type(stop).__name__ == "TimeoutStopper":
        return _Stop(seconds=float(stop._timeout_seconds))
    if not callable(stop):
        raise SpecError(f"RunConfig(stop={stop!r}): a dict, a Stopper or a function of trial_id and result is wanted")
    return _Stop({"time_total_s": _NEVER}, stopper=stop)  # so that results have it


def _policy(given: Any, metric: str | None, mode: str | None) -> CheckpointPolicy:
    score, order = given.checkpoint_score_attribute, given.checkpoint_score_order or "max"
    options: dict[str, Any] = {"every": given.checkpoint_frequency or 0, "at_end": bool(given.checkpoint_at_end)}
    if score is None:
        return CheckpointPolicy(keep_last=given.num_to_keep, **options)
    if (score, order) != (metric, mode or "max"):
        raise SpecError(
            f"CheckpointConfig(checkpoint_score_attribute={score!r}, checkpoint_score_order={order!r}): here the best "
            f"checkpoints are those of the search's own metric, {metric!r} ({mode})"
        )
    return CheckpointPolicy(keep_best=given.num_to_keep, **options)
