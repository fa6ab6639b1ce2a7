"""The Python examples: their specs hold, and a few trials of them run."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.distributed import SPEC, resources
from tune_platform import Budget, Resources, run
from tune_platform.backends.inline import InlineBackend


def test_the_distributed_search_is_valid() -> None:
    SPEC.check()
    assert resources({"workers": 4}) == Resources(cpu=0.5, workers=4)


@pytest.mark.slow
def test_the_distributed_search_keeps_to_its_budget_of_bytes(tmp_path: Path) -> None:
    space = {**SPEC.param_space, "updates": 300}
    changes = {"backend": InlineBackend(num_cpus=2), "budget": Budget(trials=5), "storage": str(tmp_path)}
    results = run(SPEC.model_copy(update={**changes, "param_space": space}))
    assert len(results.trials()) == 5
    assert all(trial.status in ("COMPLETED", "STOPPED") for trial in results.trials())
    reports = results.dataframe(reports=True)
    before_last = reports.sort_values("step").groupby("trial")["metrics/bytes_sent"].apply(lambda sent: sent[:-1].max())
    assert (before_last.dropna() < 20e6).all()
    assert {trial.config["workers"] for trial in results.trials()} <= {2, 4}
    assert results.best().best is not None
    assert results.best().best > 0.8  # type: ignore[operator]
