"""Our searchers in a plain `ray.tune.Tuner`: `TuneConfig(search_alg=as_searcher("bohb"))`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cloudpickle
from ray.tune.search import Searcher as RaySearcher

from tune_platform.errors import SpecError
from tune_platform.protocol.reports import finite
from tune_platform.protocol.searcher import RUNGS, Outcome, PastTrial, Searcher
from tune_platform.spec.parts import build_searcher, build_space

#: The iterations at which Ray Tune's own schedulers judge trials most often, and a searcher is told of a value: powers.
_ETA = 3


class AsSearcher(RaySearcher):  # type: ignore[misc]
    """One of our searchers behind Ray Tune's interface; `as_searcher` makes it.

    It is told of each trial's value at the iterations 1, 3, 9, ... and at its last one, which are its rungs: Ray Tune
    does not say where its scheduler judges. `save` writes what it has suggested and heard; `restore` tells the searcher
    again, which then suggests what it would have.
    """

    def __init__(self, searcher: Any, space: Any, metric: str | None, mode: str | None, seed: int) -> None:
        super().__init__(metric=metric, mode=mode)
        self._metric, self._mode = metric, mode
        self._given, self._space, self._seed = searcher, space, seed
        self._searcher: Searcher | None = None
        self._fixed: dict[str, Any] = {}
        self._numbers: dict[str, int] = {}
        self._past: list[PastTrial] = []
        self._curves: dict[str, list[tuple[float, float]]] = {}
        if metric and mode and space is not None:
            self._begin()

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **_: Any) -> bool:
        """Take what the Tuner says of the search: its `param_space` is the space, where none was given."""
        if self._searcher is not None:
            return not config and (metric, mode) in ((None, None), (self.metric, self.mode))
        self._metric, self._mode = metric or self._metric, mode or self._mode
        if self._space is None:
            self._space = config
        self._begin()
        return True

    def _begin(self) -> None:
        if not self._metric or self._mode not in ("min", "max"):
            raise SpecError(
                f"as_searcher: metric: got {self._metric!r}, mode: got {self._mode!r}; give both to TuneConfig, "
                "mode as 'min' or 'max'"
            )
        searcher = build_searcher(self._given)
        searcher.setup(build_space(self._space), mode=[self._mode], seed=self._seed)
        searcher.restore(self._past)
        self._searcher = searcher

    def suggest(self, trial_id: str) -> Any:
        """Return a config, or FINISHED where there is nothing more to try."""
        if self._searcher is None:
            raise SpecError("as_searcher: give param_space to the Tuner, or space= to as_searcher")
        number = len(self._past)
        suggestion = self._searcher.ask(number)
        if suggestion is None:
            return RaySearcher.FINISHED
        self._numbers[trial_id] = number
        self._past.append(PastTrial(number, suggestion.config, suggestion.memo))
        return dict(suggestion.config)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Note the value at this iteration."""
        self._note(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell the searcher how the trial ended."""
        number = self._numbers.get(trial_id)
        if number is None or self._searcher is None:
            return
        if result:
            self._note(trial_id, result)
        curve = self._curves.pop(trial_id, [])
        values = [value for _, value in curve]
        outcome = Outcome(
            status="failed" if error else "completed",
            value=(max if self._mode == "max" else min)(values) if values else None,
            step=int(curve[-1][0]) if curve else 0,
            values=(values[-1],) if values else (),
            config=self._past[number].config,
            resource=curve[-1][0] if curve else 0.0,
            rungs=tuple(_rungs(curve)),
        )
        self._past[number] = replace(self._past[number], outcome=outcome)
        self._searcher.tell(number, outcome)

    def _note(self, trial_id: str, result: Mapping[str, Any]) -> None:
        value, step = finite(result.get(self._metric or "")), finite(result.get("training_iteration"))
        curve = self._curves.setdefault(trial_id, [])
        if value is not None and step is not None and (not curve or step > curve[-1][0]):
            curve.append((step, value))

    def save(self, checkpoint_path: str) -> None:
        """Write all that was suggested and heard."""
        known = (self._space, self._metric, self._mode, self._seed, self._numbers, self._past, self._curves)
        Path(checkpoint_path).write_bytes(cloudpickle.dumps(known))

    def restore(self, checkpoint_path: str) -> None:
        """Take over what `save` wrote. Trials that were running then count as such until they are told of."""
        known = cloudpickle.loads(Path(checkpoint_path).read_bytes())
        self._space, self._metric, self._mode, self._seed, self._numbers, self._past, self._curves = known
        if self._space is not None and self._metric:
            self._begin()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_searcher": None}  # it is made again, and told

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._space is not None and self._metric:
            self._begin()


def as_searcher(
    searcher: Any, space: Any = None, *, metric: str | None = None, mode: str | None = None, seed: int = 0
) -> AsSearcher:
    """Return a `search_alg` for `ray.tune.TuneConfig` out of one of ours: an object, a name, or {name: ...}.

    `space` is one of ours or of Ray Tune's; without it, it is the Tuner's `param_space`. Raises SpecError where the
    searcher or the space is none, or where they do not fit.
    """
    build_searcher(searcher)
    return AsSearcher(searcher, space, metric, mode, seed)


def _rungs(curve: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the values at the powers of `_ETA` (or the first after each), and the last."""
    found: list[tuple[float, float]] = []
    level = 1.0
    for step, value in curve[:-1]:
        if step >= level:
            found.append((step, value))
            while level <= step:
                level *= _ETA
    return (found + curve[-1:])[-RUNGS:]
