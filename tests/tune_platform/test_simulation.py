"""`simulate`: real searches on a virtual clock over curves that are known, from Python and the command line."""

from __future__ import annotations

import csv
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from tune_platform import Budget, SearchSpec, SpecError, run, simulate, uniform
from tune_platform.cli import main
from tune_platform.curves.experiment import table_of
from tune_platform.curves.table import CurveTable
from tune_platform.resources import Resources
from tune_platform.simulation import Conditions
from tune_platform.space import Space

SPEC = """\
version: 1
name: toy
entrypoint: benchmarks.null:simulated
objective: {metric: loss, mode: min}
space: {x: {type: float, low: 0, high: 1}}
schedule: {name: asha, resource: epoch, max: 4, eta: 2}
budget: {trials: 12}
"""


def train(config: dict[str, Any]) -> Any:
    for step in range(1, 5):
        yield {"loss": config["x"] + 1 / step, "epoch": step}


def table() -> CurveTable:
    """A hundred configs; config x has the loss x + 1 / epoch, and each epoch takes 2 seconds."""
    xs = np.linspace(0, 1, 101)
    return CurveTable(
        space=Space({"x": uniform(0, 1)}),
        metric="loss",
        mode="min",
        configs=[{"x": float(x)} for x in xs],
        values={"loss": (xs[:, None] + 1 / np.arange(1, 5)).astype(np.float32)},
        seconds=np.full((101, 4), 2.0, dtype=np.float32),
        resource="epoch",
        name="line",
    )


def spec(**changes: Any) -> SearchSpec:
    given = {"param_space": {"x": uniform(0, 1)}, "metric": "loss", "mode": "min", "budget": Budget(trials=12)}
    return SearchSpec(trainable=train, **{**given, **changes})


def test_time_and_what_workers_were_busy() -> None:
    """12 trials of 4 steps of 2 seconds: 96 seconds of work on however many workers."""
    for workers, seconds in ((1, 96), (4, 24), (256, 8)):
        (found,) = simulate(spec(), table(), conditions=Conditions(workers=workers, price=3600))
        assert (found.trials, found.steps, found.seconds, found.busy) == (12, 48, seconds, 96)
        assert found.cost == 96 * 1
        assert sum(found.ends.values()) == 12
        assert found.best[-1] == (found.best[-1][0], found.value)
        assert found.reached(found.value or 0, "min") == found.best[-1][0]
        assert found.at(1.9) is None


def test_gpu_hours_cost_and_a_deadline_end_it_on_the_virtual_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a limit: 96 seconds of one trial after the other, or 24 on four workers."""
    four = Conditions(workers=4)
    two_gpus = {"resources": Resources(cpu=1, gpu=2), "grace": 0.0}

    def ended(budget: Budget, **more: Any) -> Any:
        (found,) = simulate(spec(**{"budget": budget, **more}), table(), conditions=four)
        return found

    assert ended(Budget(trials=12, gpu_hours=1.0), **two_gpus).trials == 12, "192 GPU seconds are 0.053 hours"
    # Four trials at a time hold 8 GPUs: 80 GPU seconds are 10 seconds, of a whole search of 24.
    short = ended(Budget(gpu_hours=80 / 3600), **two_gpus)
    assert short.seconds <= 10
    assert short.busy == pytest.approx(40)
    assert any("GPU hours" in reason for reason in short.ends)
    # An hour of a CPU costs 360, so that four of them are 0.4 a second.
    priced = ended(Budget(cost={"limit": 4.0, "cpu": 360.0}), grace=0.0)
    assert priced.busy == pytest.approx(40)
    monkeypatch.setattr("tune_platform.simulation.time", SimpleNamespace(time=lambda: 1e9))
    dated = ended(Budget(deadline=datetime.fromtimestamp(1e9 + 10, UTC).isoformat()), grace=0.0)
    assert dated.busy == pytest.approx(40)
    assert any("deadline" in reason for reason in dated.ends)


def test_budgets_that_cannot_be_simulated_are_refused() -> None:
    for budget, more, why in (
        (Budget(gpu_hours=1.0), {}, "hold no GPU"),
        (Budget(gpu_hours=1.0), {"resources": lambda config: Resources(gpu=1)}, "a function of the config"),
        (Budget(deadline=(datetime.now(UTC) - timedelta(seconds=5)).isoformat()), {}, "has passed"),
    ):
        with pytest.raises(SpecError, match=why):
            simulate(spec(budget=budget, **more), table())


def test_start_up_failures_and_stragglers_take_time() -> None:
    plain, slow, late, broken = (
        simulate(spec(), table(), conditions=Conditions(workers=12, **given))[0]
        for given in ({}, {"stragglers": 1.0, "slowdown": 3.0}, {"start_up": 5.0}, {"failures": 0.2})
    )
    assert (plain.seconds, slow.seconds, late.seconds) == (8, 24, 13)
    assert broken.busy > plain.busy


def test_the_same_seed_gives_the_same_run() -> None:
    wanted = spec(searcher="random", scheduler={"name": "asha", "max": 4, "eta": 2, "resource": "epoch"}, seed=3)
    first, second = (simulate(wanted, table(), seeds=3) for _ in range(2))
    assert first == second
    assert [each.seed for each in first] == [3, 4, 5]
    assert first[0].best != first[1].best
    assert any(reason.startswith("STOPPED: rung #") for reason in first[0].ends)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": "los"}, "no values of 'los'"),
        ({"param_space": {"y": uniform(0, 1)}}, "has no parameter 'y'"),
        ({"metric": ["loss", "epoch"]}, "several objectives"),
        ({"num_samples": -1, "budget": Budget()}, "the search has no end"),
        ({"scheduler": {"name": "asha", "max": 4, "resource": "hours"}}, "counts in 'hours'"),
    ],
)
def test_what_cannot_be_simulated(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        simulate(spec(**changes), table())


def test_an_experiment_of_ones_own(tmp_path: Path) -> None:
    """Trials that were stopped go on as the nearest one did that was not."""
    asha = {"name": "asha", "max": 4, "eta": 2, "resource": "epoch"}
    mine = spec(name="mine", backend="inline", storage=str(tmp_path), scheduler=asha, budget=Budget(trials=6))
    results = run(mine, progress="off")
    assert results.counts["STOPPED"] > 0
    known = table_of("mine", storage=tmp_path)
    assert known.resource == "epoch"
    x = np.array([config["x"] for config in known.configs])
    np.testing.assert_allclose(known.values["loss"], x[:, None] + 1 / np.arange(1, 5), rtol=1e-5)
    assert (known.seconds >= 0).all()
    (found,) = simulate(spec(scheduler={**asha, "eta": 4}), known, conditions=Conditions(workers=16))
    assert found.trials == 12
    assert found.value is not None
    assert found.value == pytest.approx(x.min() + 1 / 4)


def test_the_command(tmp_path: Path) -> None:
    (tmp_path / "toy.yaml").write_text(SPEC)
    table().save(tmp_path / "line.npz")
    words = ["simulate", str(tmp_path / "toy.yaml"), "--curves", str(tmp_path / "line.npz"), "--workers", "2"]
    words += ["--workers", "12", "--vary", "schedule.eta=2,4", "--seeds", "2"]
    files = ["--csv", str(tmp_path / "a.csv"), "--png", str(tmp_path / "a.png")]
    done = CliRunner().invoke(main, [*words, *files])
    assert done.exit_code == 0, done.output
    assert "toy, schedule.eta=4, 12 workers" in done.stdout
    assert "medians of 2 seeds" in done.stdout
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader((tmp_path / "a.csv").read_text().splitlines()))
    assert {(row["search"], row["seed"]) for row in rows} >= {("toy, schedule.eta=2, 2 workers", "1")}
    found = json.loads(CliRunner().invoke(main, [*words, "--json"]).stdout)
    assert len(found) == 4
    assert all(len(runs) == 2 and runs[0]["trials"] == 12 for runs in found.values())


def test_the_command_says_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "toy.yaml").write_text(SPEC)
    words = ["simulate", str(tmp_path / "toy.yaml"), "--storage", str(tmp_path), "--curves"]
    for curves, message in (("nothing", "nor an experiment"), ("no.npz", "no such file of learning curves")):
        done = CliRunner().invoke(main, [*words, curves])
        assert done.exit_code == 2
        assert message in done.stderr


def test_several_specs_are_compared_in_one_call(tmp_path: Path) -> None:
    """Each spec is a row, a band and lines of the CSV; two of one name are told apart by their files."""
    table().save(tmp_path / "line.npz")
    words = ["simulate"]
    for name, text in (
        ("halving", SPEC.replace("toy", "halving")),
        ("plain", SPEC.replace("toy", "plain").replace("name: asha, resource: epoch, max: 4, eta: 2", "name: fifo")),
        ("again", SPEC.replace("toy", "plain").replace("trials: 12", "trials: 5")),
    ):
        (tmp_path / f"{name}.yaml").write_text(text)
        words.append(str(tmp_path / f"{name}.yaml"))
    words += ["--curves", str(tmp_path / "line.npz"), "--seeds", "2", "--csv", str(tmp_path / "all.csv")]
    found = json.loads(CliRunner().invoke(main, [*words, "--json"]).stdout)
    again = f"{tmp_path / 'again.yaml'}: plain"
    assert list(found) == ["halving", "plain", again]
    assert [runs[0]["trials"] for runs in found.values()] == [12, 12, 5]
    assert found["halving"][0]["steps"] < found["plain"][0]["steps"] == 48
    rows = list(csv.DictReader((tmp_path / "all.csv").read_text().splitlines()))
    assert {row["search"] for row in rows} == {"halving", "plain", again}
    assert {row["seed"] for row in rows} == {"0", "1"}


def test_between_the_rows_a_surrogate_answers(tmp_path: Path) -> None:
    """Of three rows nearest knows three values; the trees know many, none below the best."""
    few = CurveTable(
        space=Space({"x": uniform(0, 1)}), metric="loss", mode="min", configs=[{"x": 0.1}, {"x": 0.5}, {"x": 0.9}],
        values={"loss": np.array([[1, 0.5], [3, 2], [9, 8]], dtype=np.float32)},
        seconds=np.ones((3, 2), dtype=np.float32),
    )  # fmt: skip
    few.save(tmp_path / "few.npz")
    (tmp_path / "toy.yaml").write_text(SPEC.replace("resource: epoch, max: 4", "max: 2"))
    values = {}
    for between in ("nearest", "surrogate"):
        words = ["simulate", str(tmp_path / "toy.yaml"), "--curves", str(tmp_path / "few.npz"), "--workers", "1"]
        words += ["--csv", str(tmp_path / "few.csv"), "--between", between]
        done = CliRunner().invoke(main, words)
        assert done.exit_code == 0, done.output
        values[between] = [
            float(row["best"]) for row in csv.DictReader((tmp_path / "few.csv").read_text().splitlines())
        ]
    assert set(values["nearest"]) <= {1, 0.5, 3, 2, 9, 8}
    assert not set(values["surrogate"]) <= {1, 0.5, 3, 2, 9, 8}
    assert min(values["surrogate"]) >= 0.5 - 1e-9


@pytest.mark.parametrize(
    "schedule",
    [
        {"name": "asha", "type": "promotion", "max": 4, "eta": 2},
        {"name": "pbt", "interval": 1, "mutations": {"x": uniform(0, 1)}},
    ],
)
def test_checkpoints_of_a_simulation_are_names_that_nobody_deletes(
    schedule: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    simulate(spec(scheduler=schedule), table())
    assert not caplog.records
