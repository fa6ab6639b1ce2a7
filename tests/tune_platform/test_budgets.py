"""Deadline, GPU hours and cost, as a user has them: `check` predicts, `show` tells, the run ends and can go on."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from tune_platform import Budget, SearchSpec, SpecError, Trainable, load, resume, run
from tune_platform.cli import main
from tune_platform.spec import Cost, load_spec


class Slow(Trainable):
    """Takes a hundredth of a second a step, and counts the steps that it has trained."""

    def setup(self, config: Any) -> None:
        self.count, self.steps = 0, config["steps"]

    def step(self) -> dict[str, Any]:
        time.sleep(0.01)
        self.count += 1
        return {"loss": 1.0 / self.count, "trained": self.count, "done": self.count >= self.steps}

    def save_checkpoint(self, directory: Path) -> None:
        (directory / "count").write_text(str(self.count))

    def load_checkpoint(self, directory: Path) -> None:
        self.count = int((directory / "count").read_text())


def spec_of(folder: Path, steps: int = 1000, **budget: Any) -> SearchSpec:
    return SearchSpec(
        trainable=Slow, param_space={"steps": steps}, metric="loss", mode="min", budget=Budget(trials=2, **budget),
        name="slow", storage=str(folder), backend="inline", progress="off",
    )  # fmt: skip


def cli(*words: str) -> Result:
    return CliRunner().invoke(main, list(words), catch_exceptions=False)


def test_a_run_ends_by_its_cost_with_all_saved_and_goes_on_when_it_is_extended(tmp_path: Path) -> None:
    second = Cost(limit=1.0, cpu=3600.0)  # one a second
    results = run(spec_of(tmp_path, cost=second))
    assert results.finish.status == "finished"
    assert results.finish.reason.startswith("the cost limit of 1 is reached; 2 trials wait")
    trial, _ = results.trials()  # the other waits for the first
    assert trial.status == "PENDING"
    assert trial.checkpoint is not None
    assert trial.step == trial.last["trained"] > 0
    spent = results.spent()
    assert spent is not None
    assert (spent.of, spent.gpu_hours, spent.ends) == ({"cost": 1.0}, 0.0, None)
    assert spent.cost == pytest.approx(spent.cpu_hours * 3600.0)
    shown = cli("show", "slow", "--storage", str(tmp_path))
    assert f"spent      cost {spent.cost:.3g} of 1" in shown.stdout
    told = json.loads(cli("show", "slow", "--storage", str(tmp_path), "--json").stdout)["spent"]
    assert (told["cost"], told["of"]) == (spent.cost, {"cost": 1.0})

    more = resume("slow", storage=tmp_path, spec=spec_of(tmp_path, cost=second), extend={"cost": 0.5}, progress="off")
    assert more.finish.reason.startswith("the cost limit of 1.5 is reached")
    after, _ = more.trials()
    assert after.step == after.last["trained"] > trial.step, "it went on from its checkpoint"
    again = load("slow", storage=tmp_path).spent()
    assert again is not None
    assert again.cost is not None
    assert again.cost > (spent.cost or 0.0)


def test_a_deadline_that_is_past_ends_a_run_and_another_one_has_it_go_on(tmp_path: Path) -> None:
    past = datetime.now(UTC) - timedelta(hours=1)
    results = run(spec_of(tmp_path, steps=5, deadline=past))
    assert f"the deadline {past:%Y-%m-%d %H:%M:%S} UTC is reached" in results.finish.reason
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    spec = spec_of(tmp_path, steps=5, deadline=past)
    more = resume("slow", storage=tmp_path, spec=spec, extend={"deadline": later}, progress="off")
    assert more.counts == {"COMPLETED": 2}


def test_check_says_how_long_the_budget_lasts(tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    budget = {"gpu_hours": 10, "cost": {"limit": 50, "gpu": 2.5, "cpu": 0.05}, "concurrency": 4}
    file.write_text(yaml.safe_dump(FILE | {"budget": budget, "resources": {"cpu": 2, "gpu": 0.5}}))
    said = cli("check", str(file)).output
    assert "budget      10 GPU hours last 5h 00m at 4 trials at a time" in said
    assert "budget      a cost of 50 lasts 9h 15m at 4 trials at a time, which cost 5.4 an hour" in said

    file.write_text(yaml.safe_dump(FILE | {"budget": {"gpu_hours": 10, "deadline": "2020-01-01 10:00"}}))
    said = cli("check", str(file)).output
    assert "trials hold no GPU (resources.gpu), so this never ends the search" in said
    assert "is past, so the search ends as soon as it begins" in said


FILE = {
    "version": 1, "entrypoint": "tune_platform.trainables.digits:DigitsTrainable",
    "objective": {"metric": "val_accuracy", "mode": "max"}, "space": {"lr": {"type": "float", "low": 0.1, "high": 1.0}},
}  # fmt: skip


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"gpu_hours": 0}, "gpu_hours: got 0; must be above 0"),
        ({"cost": {"limit": 5}}, "cost: no price is given: gpu or cpu, or both, say what an hour of one costs"),
        ({"cost": {"limit": -1, "cpu": 1}}, "cost.limit: got -1; must be above 0"),
        ({"cost": {"limit": 1, "gpus": 1}}, "unknown key (did you mean 'gpu'?); known: limit, gpu, cpu"),
        ({"cost": 50}, "keys and values are wanted: limit, gpu, cpu"),
        ({"deadline": "6h"}, "a date with a time is wanted"),
        ({"deadline": "2026-12-01"}, "a date with a time is wanted"),
        ({"dedline": "2026-12-01 10:00"}, "did you mean 'deadline'?"),
    ],
)
def test_what_cannot_be_meant_is_told(tmp_path: Path, budget: Any, message: str) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text(yaml.safe_dump(FILE | {"budget": budget}))
    with pytest.raises(SpecError) as error:
        load_spec(file)
    assert message in str(error.value)


def test_a_date_is_taken_as_yaml_reads_it_and_is_written_with_its_zone(tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text(yaml.safe_dump(FILE) + "budget: {deadline: 2026-12-01T18:00:00+01:00}\n")
    assert load_spec(file).budget.deadline == "2026-12-01T18:00:00+01:00"
    naive = Budget(deadline="2026-12-01 18:00").deadline
    assert naive == datetime(2026, 12, 1, 18).astimezone().isoformat()
    written = SearchSpec.from_dict(load_spec(file).to_dict())
    assert written.budget.deadline == "2026-12-01T18:00:00+01:00"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("gpu_hours=-1", "gpu_hours is '-1.0'; a number of hours from 0 on is wanted"),
        ("cost=much", "a number is wanted"),
        ("deadline=soon", "a date with a time is wanted"),
        ("gpus=1", "gpu_hours=H, cost=C or deadline=DATE is wanted"),
    ],
)
def test_an_extension_that_cannot_be_is_told(tmp_path: Path, more: str, message: str) -> None:
    found = CliRunner().invoke(main, ["resume", "slow", "--storage", str(tmp_path), "--extend", more])
    assert found.exit_code == 2
    assert message in " ".join(found.output.split())
