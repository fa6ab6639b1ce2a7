"""`tune.run`, the older way to start Ray Tune, as arguments of a `Tuner`, and what it returns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tune_platform.api import load
from tune_platform.errors import SpecError, did_you_mean
from tune_platform.location import default_storage
from tune_platform.ray_tune.configs import CheckpointConfig, FailureConfig, RunConfig, TuneConfig
from tune_platform.ray_tune.nesting import flat
from tune_platform.ray_tune.result_grid import Result, ResultGrid
from tune_platform.ray_tune.session import trial_id
from tune_platform.ray_tune.settings import check_refused, refused_names
from tune_platform.ray_tune.tuner import Tuner

if TYPE_CHECKING:
    import pandas as pd

#: Arguments that have a place of the same name.
_TUNE = (
    "metric",
    "mode",
    "search_alg",
    "scheduler",
    "num_samples",
    "max_concurrent_trials",
    "time_budget_s",
    "reuse_actors",
    "trial_name_creator",
    "trial_dirname_creator",
)
_RUN = (
    "name",
    "storage_path",
    "storage_filesystem",
    "sync_config",
    "verbose",
    "stop",
    "callbacks",
    "progress_reporter",
    "log_to_file",
    "checkpoint_config",
)
_TUNER = ("backend", "seed")
_OWN = ("config", "resources_per_trial", "max_failures", "fail_fast", "resume", "raise_on_failed_trial")
#: Values of `resume`: whether an experiment must be there, and whether its failed trials are tried again.
_RESUME = {
    True: (True, False),
    "LOCAL": (True, False),
    "LOCAL+ERRORED": (True, True),
    "AUTO": (False, False),
    "AUTO+ERRORED": (False, True),
}


class Trial(Result):
    """A `Result` with what scripts ask of Ray Tune's Trial."""

    @property
    def last_result(self) -> dict[str, Any]:
        """The last report."""
        return self.metrics

    @property
    def trial_id(self) -> str:
        """Its number, as text."""
        return trial_id(self._trial.number)

    @property
    def status(self) -> str:
        """TERMINATED, ERROR, or as it stands."""
        return "ERROR" if self.error is not None else "TERMINATED" if self.metrics.get("done") else self._trial.status

    @property
    def local_path(self) -> str:
        """Its folder."""
        return self.path


class ExperimentAnalysis:
    """What `run` returns: Ray Tune's names for the best trial and the tables; `grid` is the same as a `ResultGrid`.

    Made of a `ResultGrid`, or of the path of an experiment's folder (ExperimentError where there is none).
    """

    def __init__(
        self, experiment: ResultGrid | str, *, default_metric: str | None = None, default_mode: str | None = None
    ) -> None:
        if not isinstance(experiment, ResultGrid):
            folder = Path(experiment).expanduser().absolute()
            experiment = ResultGrid(load(folder.name, storage=folder.parent), default_metric, default_mode)
        self.grid = experiment
        self.default_metric, self.default_mode = experiment._metric, experiment._mode

    @property
    def trials(self) -> list[Trial]:
        """All trials, by number."""
        return [_trial(each) for each in self.grid]

    @property
    def best_trial(self) -> Trial:
        """The trial with the best last report. Raises as `ResultGrid.get_best_result` does."""
        return self.get_best_trial()

    @property
    def best_config(self) -> dict[str, Any]:
        """The config of the best trial."""
        return self.best_trial.config

    @property
    def best_result(self) -> dict[str, Any]:
        """The last report of the best trial."""
        return self.best_trial.metrics

    @property
    def best_result_df(self) -> pd.DataFrame:
        """The last report of the best trial as a table of one row, by its trial_id."""
        import pandas as pd

        return pd.DataFrame.from_records([flat(self.best_result)], index="trial_id")

    @property
    def best_checkpoint(self) -> Any:
        """The newest checkpoint of the best trial; None where it has none."""
        return self.best_trial.checkpoint

    @property
    def results(self) -> dict[str, dict[str, Any]]:
        """The last report of each trial that made one, by trial_id."""
        return {metrics["trial_id"]: metrics for each in self.grid if (metrics := each.metrics)}

    @property
    def results_df(self) -> pd.DataFrame:
        """One row per trial: its last report."""
        return self.grid.get_dataframe()

    @property
    def experiment_path(self) -> str:
        """The experiment's folder."""
        return self.grid.experiment_path

    def dataframe(self, metric: str | None = None, mode: str | None = None) -> pd.DataFrame:
        """Return one row per trial: its last report, or the one with the best value of a metric."""
        return self.grid.get_dataframe(metric, mode)

    @property
    def trial_dataframes(self) -> dict[str, pd.DataFrame]:
        """One row per report, by the trial's folder."""
        return {each.path: each.metrics_dataframe for each in self.grid}

    @property
    def best_dataframe(self) -> pd.DataFrame:
        """One row per report of the best trial."""
        return self.best_trial.metrics_dataframe

    def get_all_configs(self, prefix: bool = False) -> dict[str, dict[str, Any]]:
        """Return each config by the trial's folder; with `prefix` its names begin with "config/"."""
        begin = "config/" if prefix else ""
        return {each.path: {f"{begin}{name}": value for name, value in each.config.items()} for each in self.grid}

    def get_best_checkpoint(self, trial: Result, metric: str | None = None, mode: str | None = None) -> Any:
        """Return the trial's checkpoint whose report has the best value; None where it has none."""
        metric, mode = metric or self.default_metric, mode or self.default_mode
        if metric is None or mode is None:
            raise ValueError("get_best_checkpoint needs a metric and a mode")
        return trial.get_best_checkpoint(metric, mode)

    def get_last_checkpoint(
        self, trial: Result | None = None, metric: str = "training_iteration", mode: str = "max"
    ) -> Any:
        """Return the newest checkpoint of a trial, or of the best one by this metric; None where it has none."""
        return (trial or self.get_best_trial(metric, mode)).checkpoint

    def get_best_trial(self, metric: str | None = None, mode: str | None = None, scope: str = "last") -> Trial:
        """Return the best trial; see `ResultGrid.get_best_result`."""
        return _trial(self.grid.get_best_result(metric, mode, scope))

    def get_best_config(
        self, metric: str | None = None, mode: str | None = None, scope: str = "last"
    ) -> dict[str, Any]:
        """Return the config of the best trial; see `ResultGrid.get_best_result`."""
        return self.get_best_trial(metric, mode, scope).config


def _trial(result: Result) -> Trial:
    return Trial(result._results, result._trial)


def run(run_or_experiment: Any, **options: Any) -> ExperimentAnalysis:
    """Run a search with the arguments of Ray Tune's `tune.run`; `backend` and `seed` are as in `Tuner`.

    Raises SpecError for what is not supported, naming what to do instead, and Ray Tune's TuneError where a trial has
    failed and `raise_on_failed_trial` is not False.
    """
    _check(options)
    options = {**options, **_named(options)}
    failure = FailureConfig(options.get("max_failures", 0), options.get("fail_fast", False))
    run_config = RunConfig(**_part(options, _RUN), failure_config=failure)
    run_config.checkpoint_config = run_config.checkpoint_config or CheckpointConfig()
    settings = {
        "param_space": options.get("config"),
        "tune_config": TuneConfig(**_part(options, _TUNE)),
        "run_config": run_config,
        # Not by with_resources, which would mark the function for good.
        "resources": _unfolded(options.get("resources_per_trial")),
        **_part(options, _TUNER),
    }
    grid = _tuner(run_or_experiment, settings, run_config, options.get("resume")).fit()
    if grid.num_errors and options.get("raise_on_failed_trial", True):
        from ray.tune import TuneError

        raise TuneError(f"{grid.num_errors} of {len(grid)} trials failed; the first: {grid.errors[0]}")
    return ExperimentAnalysis(grid)


def _check(options: Mapping[str, Any]) -> None:
    check_refused("tune.run", options)
    known = (*_TUNE, *_RUN, *_TUNER, *_OWN)
    for name in options:
        if name not in known and name not in refused_names("tune.run"):
            raise SpecError(f"tune.run has no argument {name!r}{did_you_mean(name, known)}")


def _named(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scheduler and the search algorithm that are given by Ray Tune's names, as its objects."""
    named: dict[str, Any] = {}
    if isinstance(options.get("scheduler"), str):
        from ray.tune.schedulers import create_scheduler

        try:
            named["scheduler"] = create_scheduler(options["scheduler"])
        except (ImportError, ValueError) as error:
            raise SpecError(f"tune.run(scheduler={options['scheduler']!r}): {error}") from error
    if isinstance(options.get("search_alg"), str):
        from ray.tune.search import create_searcher

        try:
            named["search_alg"] = create_searcher(options["search_alg"])
        except (AssertionError, ImportError, ValueError) as error:  # its library is missing, or it is unknown
            raise SpecError(f"tune.run(search_alg={options['search_alg']!r}): {error}") from error
    return named


def _unfolded(asked: Any) -> Any:
    """Return an older form of resources as the present one: custom ones beside the others."""
    if not isinstance(asked, Mapping):
        return asked
    return {
        **{name: each for name, each in asked.items() if name != "custom_resources"},
        **asked.get("custom_resources", {}),
    }


def _tuner(trainable: Any, settings: dict[str, Any], run_config: RunConfig, resume: Any) -> Tuner:
    if resume is None or resume is False:
        return Tuner(trainable, **settings)
    if resume not in _RESUME:
        allowed = ", ".join(map(repr, (False, *_RESUME)))
        raise SpecError(f"tune.run(resume={resume!r}) is not supported; allowed: {allowed}")
    if not run_config.name:
        raise SpecError(f"tune.run(resume={resume!r}) needs the name of the experiment: give name=...")
    must, errored = _RESUME[resume]
    path = str(Path(run_config.storage_path or default_storage()) / run_config.name)
    if not must and not Tuner.can_restore(path):
        return Tuner(trainable, **settings)
    return Tuner.restore(path, trainable, resume_errored=errored, **settings)


def _part(options: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: options[name] for name in names if name in options}
