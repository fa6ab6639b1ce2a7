"""What must hold on the store after each kill."""

from __future__ import annotations

from benchmarks.faults.scene import Scene
from benchmarks.faults.search import follow


def violations(scene: Scene) -> list[str]:
    """Return what is wrong with the store, a line each."""
    from tune_platform.api import check_up

    found = check_up(scene.name, storage=scene.storage)
    with scene.open() as experiment, experiment.frozen():
        configs = {trial.trial: trial.config for trial in experiment.trials()}
        last: dict[int, tuple[int, float, int]] = {}
        for report in experiment.reports():
            step, value, trained = last.get(report.trial, (0, configs[report.trial]["x"], 0))
            if report.step != step + 1:
                found.append(f"trial {report.trial}: report {report.step} follows on {step}")
            # A clone goes on from another's weights: there the steps alone are known.
            now, mine = report.metrics["trained"], report.metrics["loss"]
            if scene.name != "pbt" and (now != trained + 1 or abs(mine - follow(value, now)) > 1e-12):
                found.append(f"trial {report.trial}: report {report.step} does not follow from the one before")
            last[report.trial] = report.step, mine, now
        failed = [trial.trial for trial in experiment.trials(status="FAILED")]
    return found + [f"trial {number} failed, by no fault of its own" for number in failed]
