"""What `best()` says and gives: metrics and checkpoint of the best step, tables with the right types."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.tune_platform.cli.conftest import SPEC, START, fill
from tune_platform import (
    ASHA,
    CheckpointError,
    CheckpointPolicy,
    Results,
    SearchSpec,
    SpecError,
    Trainable,
    get_checkpoint,
    load,
    report,
    run,
)
from tune_platform.results import Checkpoint
from tune_platform.store.checkpoints import CheckpointStorage
from tune_platform.store.sql import SqlExperiment, open_store

VALUES = (10.0, 4.0, 10.0)


def dips(config: dict[str, Any]) -> None:
    saved = get_checkpoint()
    first = saved.load()["step"] + 1 if saved else 1
    for step, value in enumerate(VALUES, 1):
        if step >= first:
            report({"loss": value, "twice": 2 * value}, checkpoint={"step": step, "weights": (value,)})


def ends_in_nan(config: dict[str, Any]) -> None:
    for value in (10.0, 4.0, float("nan")):
        report({"loss": value})


class Dips(Trainable):
    def setup(self, config: dict[str, Any]) -> None:
        self.at = 0

    def step(self) -> Mapping[str, Any]:
        self.at += 1
        return {"loss": VALUES[self.at - 1], "done": self.at == len(VALUES)}

    def save_checkpoint(self, directory: Path) -> None:
        (directory / "at.txt").write_text(f"{self.at}")

    def load_checkpoint(self, directory: Path) -> None:
        self.at = int((directory / "at.txt").read_text())


Search = Callable[..., Results]


@pytest.fixture
def search(tmp_path: Path) -> Search:
    def go(trainable: Any = Dips, **given: Any) -> Results:
        policy = CheckpointPolicy(**given.pop("checkpoint", {}))
        return run(
            SearchSpec(
                **{"name": "dips", "trainable": trainable, "param_space": {"x": 1}, "metric": "loss", "mode": "min",
                   "checkpoint": policy, "storage": str(tmp_path / "results"), "backend": "inline", **given}
            ),
            progress="off",
        )  # fmt: skip

    return go


def write(place: Path, fill: Callable[[SqlExperiment], None]) -> Results:
    with open_store(place) as store, store.create("digits", SPEC, created=START) as experiment:
        fill(experiment)
    return Results("digits", storage=place)


# ------------------------------------------------------------------------------------------ metrics


def test_the_metrics_of_best_are_those_of_the_best_step(search: Search) -> None:
    results = search(dips)
    best = results.best()
    assert (best.best, best.best_step, best.step) == (4.0, 2, 3)
    assert best.metrics == {"loss": 4.0, "twice": 8.0}
    assert best.last == {"loss": 10.0, "twice": 20.0}
    assert results[0] == results.trials()[0] == best
    last = results.best("last")
    assert (last.best, last.best_step, last.metrics) == (10.0, 3, {"loss": 10.0, "twice": 20.0})
    most = results.best(metric="twice", mode="max")
    assert (most.best, most.best_step, most.metrics) == (20.0, 1, {"loss": 10.0, "twice": 20.0})


def test_a_late_nan_does_not_hide_the_best(search: Search) -> None:
    best = search(ends_in_nan).best()
    assert (best.best, best.best_step, best.metrics) == (4.0, 2, {"loss": 4.0})


def test_of_several_objectives_the_last_values_count(search: Search) -> None:
    results = search(dips, metric=["loss", "twice"], mode="min")
    assert results[0].metrics == results[0].last == results.pareto()[0].metrics == {"loss": 10.0, "twice": 20.0}
    assert results.best().metrics == {"loss": 4.0, "twice": 8.0}


def test_a_frame_has_the_best_report_or_the_last(search: Search) -> None:
    results = search(dips)
    assert results.dataframe()["metrics/loss"].to_list() == [4.0]
    assert results.dataframe(scope="last")["metrics/loss"].to_list() == [10.0]
    assert results.dataframe()["best"].to_list() == results.dataframe(scope="last")["best"].to_list() == [4.0]
    with pytest.raises(SpecError, match="scope"):
        results.dataframe(scope="all")  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------ checkpoints


def test_the_checkpoint_is_that_of_the_best_step(search: Search) -> None:
    results = search(checkpoint={"every": 1, "keep_best": 1})
    best = results.best()
    assert [kept.step for kept in best.checkpoints] == [2, 3]
    assert best.checkpoint is not None
    assert (best.checkpoint.step, best.checkpoint.nearest_to) == (2, None)
    assert results.checkpoint(0).step == 2
    assert results.checkpoint(0, step=3).step == 3


def test_else_it_is_the_nearest_which_says_so(search: Search) -> None:
    kept = search(checkpoint={"every": 3}).best().checkpoint
    assert kept is not None
    assert (kept.step, kept.nearest_to) == (3, 2)
    assert "nearest_to=2" in repr(kept)


def test_keep_best_alone_saves_each_new_best(search: Search) -> None:
    best = search(checkpoint={"keep_best": 1}).best()
    assert best.checkpoint is not None
    assert [kept.step for kept in best.checkpoints] == [2]
    assert best.checkpoint.load().at == 2


def test_keep_best_with_every_saves_when_every_says(search: Search) -> None:
    assert [kept.step for kept in search(checkpoint={"every": 3, "keep_best": 1}).best().checkpoints] == [3]


def test_keep_last_of_zero_is_refused_with_what_to_write() -> None:
    with pytest.raises(Exception, match=r"keep_last.*got 0; must be at least 1.*null.*keep_best") as caught:
        SearchSpec(trainable=dips, metric="loss", mode="min", checkpoint={"keep_last": 0})  # type: ignore[arg-type]
    assert isinstance(caught.value, SpecError)


def test_a_checkpoint_is_a_directory_of_the_users_own_files(search: Search) -> None:
    kept = search(checkpoint={"every": 1, "keep_best": 1}).best().checkpoint
    assert isinstance(kept, os.PathLike)
    assert os.listdir(kept) == ["at.txt"]  # noqa: PTH208
    assert (kept / "at.txt").read_text() == "2"
    assert [path.name for path in kept.iterdir()] == ["at.txt"]
    assert Path(kept) == kept.path
    assert str(kept) == str(kept.path)


def test_load_gives_back_what_a_function_saved(search: Search) -> None:
    kept = search(dips, checkpoint={"keep_best": 1}).best().checkpoint
    assert kept is not None
    assert kept.load() == {"step": 2, "weights": (4.0,)}


def test_load_gives_an_object_of_a_class(search: Search, tmp_path: Path) -> None:
    search(checkpoint={"keep_best": 1})
    kept = load("dips", storage=tmp_path / "results").best().checkpoint
    assert kept is not None
    loaded = kept.load(Dips)
    assert isinstance(loaded, Dips)
    assert (loaded.at, loaded.config) == (2, {"x": 1})
    assert loaded.step()["loss"] == 10.0


def test_load_of_files_that_it_does_not_know_says_which(search: Search, tmp_path: Path) -> None:
    def strange(config: dict[str, Any]) -> None:
        folder = tmp_path / "made"
        folder.mkdir()
        (folder / "model.bin").write_text("?")
        report({"loss": 1.0}, checkpoint=folder)

    kept = search(strange).best().checkpoint
    assert kept is not None
    with pytest.raises(CheckpointError, match=r"holds model\.bin, which load\(\) cannot read"):
        kept.load()


def test_a_damaged_checkpoint_is_not_loaded(search: Search) -> None:
    kept = search(checkpoint={"every": 1}).best().checkpoint
    assert kept is not None
    (kept / "at.txt").write_text("9")
    with pytest.raises(CheckpointError, match="SHA-256"):
        kept.load()


def test_a_remote_checkpoint_is_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNE_PLATFORM_CACHE", str(tmp_path / "cache"))
    storage = CheckpointStorage("memory://bucket/digits")
    ref = storage.save(0, 2, 1, lambda directory: (directory / "state.json").write_text('{"a": 1}'))
    kept = Checkpoint(0, 2, ref.uri, ref.bytes)
    assert kept.load() == {"a": 1}
    assert kept.path.is_relative_to(tmp_path / "cache")
    assert kept.path == kept.path
    assert len(list((tmp_path / "cache" / "checkpoints").iterdir())) == 1
    other = storage.save(0, 2, 1, lambda directory: (directory / "state.json").write_text('{"a": 2}'))
    assert Checkpoint(0, 2, other.uri).load() == {"a": 2}


def test_a_search_that_saves_in_an_object_store(
    search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNE_PLATFORM_CACHE", str(tmp_path / "cache"))
    search(checkpoint={"keep_best": 1, "storage": "memory://bucket"})
    kept = load("dips", storage=tmp_path / "results").best().checkpoint
    assert kept is not None
    assert kept.uri.startswith("memory://bucket/dips/")
    assert not (tmp_path / "cache").exists(), "nothing is fetched before it is needed"
    assert kept.load().at == 2, "by the entrypoint, too"
    assert (kept / "at.txt").is_relative_to(tmp_path / "cache")


def test_tensors_come_back_on_the_cpu(search: Search) -> None:
    torch = pytest.importorskip("torch")

    def trains(config: dict[str, Any]) -> None:
        report({"loss": 1.0}, checkpoint={"weights": torch.ones(2), "epoch": 3})

    kept = search(trains).best().checkpoint
    assert kept is not None
    assert os.listdir(kept) == ["state.pt"]  # noqa: PTH208
    state = kept.load()
    assert (state["weights"].tolist(), state["weights"].device.type, state["epoch"]) == ([1.0, 1.0], "cpu", 3)


@pytest.mark.parametrize(("version", "name"), [(3, "fifo"), (3, "population"), (4, "promotion")])
def test_checkpoints_of_older_stores_are_directories_too(tmp_path: Path, version: int, name: str) -> None:
    assets = Path(__file__).parents[1] / "assets"
    shutil.copytree(assets / f"version_{version}" / name, tmp_path / name)
    best = load(name, storage=tmp_path).best()
    assert best.metrics["loss"] == best.best
    assert best.created.tzinfo is not None
    assert best.checkpoint is not None
    assert (best.checkpoint.step == best.best_step) == (best.checkpoint.nearest_to is None)
    assert "manifest.json" not in os.listdir(best.checkpoint)  # noqa: PTH208
    assert best.checkpoint.path.parent.joinpath("manifest.json").is_file(), "it lies where it lay"


# ------------------------------------------------------------------------------------------ types


def test_times_are_datetimes(tmp_path: Path) -> None:
    results = write(tmp_path, fill)
    start = datetime.fromtimestamp(START, UTC)
    assert results[0].created == start
    assert results[0].ended == start + timedelta(seconds=31)
    assert results[3].ended is None
    assert results.why(1)[0].time == start + timedelta(seconds=1)
    frame = results.dataframe()
    assert frame["created"][0].to_pydatetime() == start
    assert str(frame["started"].dtype) == str(frame["ended"].dtype) == "datetime64[us, UTC]"
    assert results.dataframe(reports=True)["time"][0].to_pydatetime() == start + timedelta(seconds=10)
    empty = write(tmp_path / "empty", lambda experiment: None).dataframe()
    assert str(empty["ended"].dtype) == "datetime64[us, UTC]"


def gaps(experiment: SqlExperiment) -> None:
    from tune_platform.store.records import TrialRow

    configs: list[dict[str, Any]] = [{"layers": 3, "big": 10**30, "flag": True}, {"x": 0.5}]
    rows = [TrialRow(trial=n, status="RUNNING", config=config) for n, config in enumerate(configs)]
    experiment.append([], (), rows)


def test_whole_numbers_with_gaps_stay_whole(tmp_path: Path) -> None:
    frame = write(tmp_path, gaps).dataframe()
    assert str(frame["config/layers"].dtype) == "Int64"
    assert str(frame["config/flag"].dtype) == "boolean"
    assert str(frame["best_step"].dtype) == "Int64"
    text = frame.to_csv(index=False)
    assert ",3," in text
    assert "3.0" not in text
    assert str(10**30) in text
    back = pd.read_csv(io.StringIO(text))
    assert back["config/x"].isna().to_list() == [True, False]


def test_exports_have_them_too(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from tune_platform.cli import main

    write(tmp_path, gaps)
    base = ["export", "digits", "--storage", str(tmp_path), "--format"]
    records = json.loads(CliRunner().invoke(main, [*base, "json"]).stdout)
    assert [record["config/layers"] for record in records] == [3, None]
    assert records[0]["created"] == "1970-01-01T00:00:00+00:00"
    assert records[0]["ended"] is None
    assert ",3," in CliRunner().invoke(main, [*base, "csv"]).stdout
    file = tmp_path / "out.parquet"
    assert CliRunner().invoke(main, [*base, "parquet", "-o", str(file)]).exit_code == 0
    frame = pd.read_parquet(file)
    assert str(frame["config/layers"].dtype) == "Int64"
    assert frame["created"][0].tzinfo is not None


# ------------------------------------------------------------------------------------------ notebooks


def test_results_and_trials_show_themselves_in_a_notebook(tmp_path: Path) -> None:
    results = write(tmp_path, fill)
    text = results._repr_html_()
    assert "<b>digits</b>" in text
    assert text.count("<tr>") == 5
    assert text.index("0.93125") < text.index("0.125"), "the best comes first"
    one = results[2]._repr_html_()
    assert "ValueError: the loss exploded" in one
    assert "config/lr" in one


def test_nothing_of_the_users_is_taken_for_html(tmp_path: Path) -> None:
    from tune_platform.store.records import TrialRow

    row = TrialRow(trial=0, status="FAILED", config={"<i>x": "<script>"}, error="<b>no</b>")
    results = write(tmp_path, lambda experiment: experiment.append([], (), [row]))
    for text in (results._repr_html_(), results[0]._repr_html_()):
        assert "<script>" not in text
        assert "<i>" not in text
        assert "<b>no" not in text


@pytest.mark.parametrize(
    ("ending", "steps"),
    [
        ({}, [3]),  # by itself
        ({"stop": {"step": 2}}, [2]),
        ({"scheduler": ASHA(max=2), "num_samples": 1}, [2]),
        ({"scheduler": ASHA(max=3, eta=3), "num_samples": 2}, [3, 1]),  # the second of the rung is stopped
    ],
)
def test_a_checkpoint_at_the_end_is_written_whatever_ended_the_trial(
    search: Search, ending: dict[str, Any], steps: list[int]
) -> None:
    found = search(checkpoint={"at_end": True}, **ending)
    assert [trial.checkpoint and trial.checkpoint.step for trial in found] == steps
    assert [trial.step for trial in found] == steps
