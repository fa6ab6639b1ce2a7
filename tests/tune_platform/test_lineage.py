"""Who went on from whose checkpoint, in a real search under PBT and by hand."""

from __future__ import annotations

import functools
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import tune_platform
from tune_platform import PBT, SearchSpec, Trainable, load, run, uniform
from tune_platform.cli import main
from tune_platform.errors import SpecError
from tune_platform.results.lineage import Lineage, Segment
from tune_platform.spec.checking import check
from tune_platform.store.records import LogRow


class Sum(Trainable):
    """Adds up its rate: the loss tells with which rates its weights were trained."""

    def setup(self, config: dict[str, Any]) -> None:
        self.rate, self.total, self.now = config["rate"], 0.0, 0

    def step(self) -> dict[str, float] | None:
        if self.now == 12:
            return None
        self.now += 1
        self.total += self.rate
        return {"loss": -self.total}

    def save_checkpoint(self, directory: Path) -> None:
        (directory / "state.json").write_text(json.dumps([self.total, self.now]))

    def load_checkpoint(self, directory: Path) -> None:
        self.total, self.now = json.loads((directory / "state.json").read_text())


class Forgetful(Trainable):
    def setup(self, config: dict[str, Any]) -> None:
        self.now = 0

    def step(self) -> dict[str, float]:
        self.now += 1
        return {"loss": 1.0}


def spec(folder: Path, trainable: Any = Sum, **options: Any) -> SearchSpec:
    return SearchSpec(
        name="family",
        trainable=trainable,
        param_space={"rate": uniform(0, 1), "fixed": 3},
        metric="loss",
        mode="min",
        num_samples=6,
        scheduler=PBT(interval=3, quantile=0.34, synchronous=True, max=12),
        backend={"name": "inline", "num_cpus": 6},
        storage=str(folder),
        **options,
    )


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("family")
    run(spec(folder))
    return folder


def test_a_schedule_explains_the_weights(family: Path) -> None:
    """What each trial reports at its end is the sum of its schedule: rates times steps."""
    results = load("family", storage=family)
    found = results.family()
    assert len(found.clones) >= 6
    for trial in results.trials():
        segments = found.schedule(trial.number)
        assert (segments[0].first, segments[-1].last, segments[-1].trial) == (0, None, trial.number)
        total = 0.0
        for segment in segments:
            total += segment.config["rate"] * ((trial.step if segment.last is None else segment.last) - segment.first)
        assert trial.last["loss"] == pytest.approx(-total)
        assert all(one.last == other.first for one, other in itertools.pairwise(segments))


def test_the_table_of_clones(family: Path) -> None:
    frame = load("family", storage=family).lineage()
    assert list(frame.columns) == [
        "trial", "step", "source", "source_step", "time", "reason", "config/rate", "config/fixed"
    ]  # fmt: skip
    assert (frame["step"] == frame["source_step"]).all(), "a generation is judged at once"
    assert frame["reason"].str.contains(r"cloned from trial \d at step \d+ \(generation").all()


def test_the_command(family: Path) -> None:
    tree = CliRunner().invoke(main, ["lineage", "family", "--storage", str(family)]).output
    clones = load("family", storage=family).family().clones
    assert f"-> trial {clones[0].trial} at step 3" in tree
    assert "rate 0." in tree
    shown = CliRunner().invoke(main, ["lineage", "family", str(clones[-1].trial), "--storage", str(family)]).output
    head = shown.splitlines()[0].split()
    assert head == ["from", "step", "to", "trial", "rate"], "what never changes is left out"
    given = CliRunner().invoke(main, ["lineage", "family", "--json", "--storage", str(family)]).output
    assert [one["source"] for one in json.loads(given)] == [clone.source for clone in clones]


def test_show_says_generation_and_parent(family: Path) -> None:
    results = load("family", storage=family)
    clone = results.family().clones[-1]
    number = clone.trial
    generation = results.family().generation(number)
    assert generation == len(results.family().schedule(number)) - 1 >= 1

    def call(*words: str) -> str:
        return CliRunner().invoke(main, ["show", "family", *words, "--storage", str(family)]).output

    text = call(str(number))
    assert f"generation  {generation}\n" in text
    assert (
        f"parent      trial {clone.source}, its weights of step {clone.source_step} taken at step {clone.step}\n"
        in text
    )
    given = json.loads(call("--json"))["trials"]
    assert {one["trial"]: one["parent"] for one in given}[number] == clone.source
    assert json.loads(call(str(number), "--json"))["generation"] == generation
    table = call().split("\n\n")[1].splitlines()
    head = table[0].replace("best loss", "best_loss").split()
    [row] = [line.split() for line in table[1:] if line.split()[0] == str(number)]
    assert (row[head.index("generation")], row[head.index("parent")]) == (str(generation), str(clone.source))
    first = next(trial for trial in results.family().trials if results.family().parent(trial) is None)
    assert "generation  0\nparent      -\n" in call(str(first))


def test_a_trial_that_does_not_exist(family: Path) -> None:
    done = CliRunner().invoke(main, ["lineage", "family", "77", "--storage", str(family)])
    assert done.exit_code != 0
    assert "77" in done.output


def verdict(seq: int, trial: int, step: int, source: int, config: Any) -> LogRow:
    data = {"verdict": "clone", "step": step, "source": source, "config": config, "reason": "r"}
    return LogRow(seq, 0.0, "verdict", trial, data)


def test_by_hand() -> None:
    """Trial 1 takes from 0 at step 4; 0 then from 2; 2 takes from 1: each as it was then."""

    def reported(trial: int, step: int) -> LogRow:
        return LogRow(0, 0.0, "reported", trial, {"saved": [[trial, step, "uri", 0]]})

    rows = [LogRow(n + 1, 0.0, "suggested", n, {"config": {"x": n}}) for n in range(3)]
    rows += [reported(0, 4), verdict(5, 1, 5, 0, {"x": 10}), reported(2, 6), verdict(7, 0, 7, 2, {"x": 20})]
    rows += [reported(1, 8), verdict(9, 2, 9, 1, {"x": 30})]
    found = Lineage(rows)
    assert found.schedule(1) == [Segment(0, 0, 4, {"x": 0}), Segment(1, 5, None, {"x": 10})]
    assert found.schedule(0) == [Segment(2, 0, 6, {"x": 2}), Segment(0, 7, None, {"x": 20})]
    assert found.schedule(2) == [
        Segment(0, 0, 4, {"x": 0}), Segment(1, 5, 8, {"x": 10}), Segment(2, 9, None, {"x": 30})
    ]  # fmt: skip


def test_trials_that_cannot_save_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"with PBT trials go on from checkpoints, but Forgetful saves none"):
        run(spec(tmp_path, Forgetful))
    assert not list(tmp_path.iterdir()), "nothing was started"


def plain(config: dict[str, Any]) -> None:
    for step in range(1, 5):
        tune_platform.report({"loss": config["rate"] * step})


def by_another(config: dict[str, Any]) -> None:
    told = tune_platform.report
    for step in range(1, 5):
        told({"loss": config["rate"] * step})


def saving(config: dict[str, Any]) -> None:
    for step in range(1, 5):
        tune_platform.report({"loss": config["rate"] * step}, checkpoint=step)


def test_a_function_that_reports_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        SpecError, match=r"with PBT trials go on from checkpoints, but plain reports none: write report"
    ):
        run(spec(tmp_path, functools.partial(plain)))
    assert not list(tmp_path.iterdir()), "nothing was started"
    check(spec(tmp_path, saving))


def test_one_of_which_it_cannot_be_seen_is_told_of_afterwards(tmp_path: Path) -> None:
    run(spec(tmp_path, by_another))
    done = CliRunner().invoke(main, ["lineage", "family", "--storage", str(tmp_path)])
    assert "went on from another's checkpoint: none has any; write report(metrics, checkpoint=state)" in done.output


def test_no_clones_is_said(tmp_path: Path) -> None:
    one = spec(tmp_path)
    run(one.model_copy(update={"scheduler": "fifo"}))
    done = CliRunner().invoke(main, ["lineage", "family", "--storage", str(tmp_path)])
    assert "its scheduler makes no clones" in done.output
