"""Replay: one trial goes through the schedule of hyperparameters that a population has found (Jaderberg et al., 2017).

What PBT finds is a schedule, not a config: the configs under which the weights of its winner were trained, in order.
At each step where the config changes the trial saves, and goes on from its own state with the next config.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from tune_platform.errors import SpecError
from tune_platform.protocol.configs import from_json, to_json
from tune_platform.protocol.reports import Config, Report
from tune_platform.protocol.scheduler import TrialView
from tune_platform.protocol.verdicts import Clone, Decisions
from tune_platform.schedulers.fifo import FIFO

_EXPORT = "`tune-platform lineage EXPERIMENT TRIAL --export FILE.yaml` writes one"


class Replay(FIFO):
    """Change the config of every trial at the steps of a schedule.

    policy: the schedule, as `results.schedule(trial)` returns it: dicts with `from` (the step after which the config
    holds: 0 first, then rising), `config` and, where it is known, `trial`, whose it was; or the path of a YAML file
    with them. The trial begins with the first config. Raises SpecError.
    """

    name = "replay"
    #: It goes on from its own checkpoint.
    needs_checkpoints = True

    def __init__(self, *, policy: Any) -> None:
        rows = _read(policy) if isinstance(policy, str) or hasattr(policy, "__fspath__") else policy
        if not isinstance(rows, (list, tuple)) or not rows or not all(_is_row(row) for row in rows):
            raise SpecError(
                "replay: policy must be a list of {from: STEP, config: {...}}, or a YAML file with one; got "
                f"{rows!r}"[:200]
                + f". {_EXPORT}"
            )
        self._rows = [dict(row) for row in rows]
        starts = [row["from"] for row in self._rows]
        if starts[0] != 0 or any(after <= before for before, after in pairwise(starts)):
            raise SpecError(f"replay: the steps (from) must begin with 0 and rise, got {starts}")
        self._configs: list[Config] = [from_json(row["config"]) for row in self._rows]

    @property
    def start_points(self) -> tuple[Config, ...]:
        """The config that the search begins with."""
        return (self._configs[0],)

    def until(self, trial: TrialView) -> tuple[float | None, bool]:
        """Return the step of the next change, and save there."""
        step = trial.last.step if trial.last else 0
        return self._next(step), True

    def on_report(self, trial: TrialView, report: Report) -> Decisions:
        """Where another config is due, go on with it."""
        index = max(index for index, row in enumerate(self._rows) if row["from"] <= report.step)
        due = self._configs[index]
        changes = _changes(trial.config, due)
        if index == 0 or not changes:
            return None
        whose = f", as trial {self._rows[index]['trial']} did" if "trial" in self._rows[index] else ""
        reason = f"{', '.join(changes)} at step {self._rows[index]['from']}{whose}"
        config = {**trial.config, **due}
        return Clone(source=trial.number, config=config, until=self._next(report.step), save=True, reason=reason)

    def to_spec(self) -> Mapping[str, Any]:
        """Return the name and the schedule itself, by which `make_scheduler` builds it again without the file."""
        return {"name": self.name, "policy": [{**row, "config": to_json(row["config"])} for row in self._rows]}

    def describe(self) -> Mapping[str, Any]:
        """Return the schedule."""
        return {"policy": self.to_spec()["policy"]}

    def _next(self, step: int) -> float | None:
        return next((float(row["from"]) for row in self._rows if row["from"] > step), None)


def _read(path: Any) -> Any:
    """Read the file, once: from then on the schedule is part of the scheduler, and of the spec that is stored."""
    import yaml

    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123 (schedulers import nothing that knows of files)
            return yaml.safe_load(file)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise SpecError(f"replay: the policy {str(path)!r} cannot be read: {error}. {_EXPORT}") from error


def _is_row(row: Any) -> bool:
    if not isinstance(row, Mapping) or not isinstance(row.get("config"), Mapping):
        return False
    return isinstance(row.get("from"), int) and not isinstance(row["from"], bool)


def _changes(before: Config, after: Config) -> list[str]:
    """Say what is different in the config that is due."""
    have, wanted = to_json(before), to_json(after)
    return [f"{key} {_short(have.get(key))} -> {_short(wanted[key])}" for key in wanted if have.get(key) != wanted[key]]


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
