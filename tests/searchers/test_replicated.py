"""`search.duplicates: replicate`: configs are repeated with other seeds, and searcher and results go by the mean."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from tune_platform import Budget, SearchSpec, SpecError, get_context, load, load_spec, report, resume, run
from tune_platform.cli.app import main
from tune_platform.protocol.searcher import Outcome, PastTrial, Searcher, Suggestion
from tune_platform.registry import make_searcher, repeated_searcher
from tune_platform.space import Space, choice, uniform
from tune_platform.testing.searchers import SearcherContract

SIX = {"a": choice([1, 2, 3]), "b": choice(["x", "y"])}


class Heard:
    """A searcher that notes what it is told."""

    synchronous = True
    lookahead: int | None = 0

    def setup(self, space: Space, **rest: Any) -> None:
        self.space = space
        self.told: list[tuple[int, Outcome]] = []

    def ask(self, number: int) -> Any:
        return Suggestion({"x": number / 100}, {"n": number})

    def observe(self, number: int, config: Mapping[str, Any]) -> None:
        self.space.flatten(config)

    def tell(self, number: int, outcome: Outcome) -> None:
        self.told.append((number, outcome))

    def restore(self, past: Sequence[PastTrial]) -> None:
        self.past = past


def heard(times: int = 3) -> tuple[Heard, Any]:
    inner = Heard()
    searcher: Any = repeated_searcher(inner, times)
    searcher.setup(Space({"x": uniform(0, 1)}), mode=["min"], seed=0)
    return inner, searcher


def done(value: float, *rungs: tuple[float, float], status: str = "completed") -> Outcome:
    return Outcome(status, value, len(rungs), (value,), None, rungs[-1][0], rungs)


def test_each_config_is_tried_so_often_and_told_once_with_the_mean() -> None:
    inner, searcher = heard()
    configs = [searcher.ask(number).config["x"] for number in range(6)]
    assert configs == [0.0, 0.0, 0.0, 0.01, 0.01, 0.01]
    for number, value in enumerate((1.0, 2.0, 6.0)):
        searcher.tell(number, done(value, (1.0, value + 1), (3.0, value)))
    assert [number for number, _ in inner.told] == [0, 0, 0]
    assert [outcome.status for _, outcome in inner.told] == ["paused", "paused", "completed"]
    last = inner.told[-1][1]
    assert last.value == 3.0
    assert last.rungs == ((1.0, 4.0), (3.0, 3.0))
    assert last.resource == 3.0


def test_a_rung_that_only_some_reached_does_not_count() -> None:
    inner, searcher = heard(2)
    for number in range(2):
        searcher.ask(number)
    searcher.tell(0, done(0.1, (1.0, 0.5), (3.0, 0.1)))
    searcher.tell(1, done(0.9, (1.0, 0.9), status="stopped"))
    told = inner.told[-1][1]
    assert told.status == "stopped"
    assert told.rungs == ((1.0, 0.7),)
    assert told.resource == 1.0


def test_failed_repeats_do_not_count_and_a_worst_one_does() -> None:
    inner, searcher = heard(2)
    for number in range(6):
        searcher.ask(number)
    searcher.tell(0, Outcome("failed", None, 0))
    searcher.tell(1, done(0.4, (1.0, 0.4)))
    assert inner.told[-1][1].value == 0.4
    searcher.tell(2, Outcome("failed", None, 0))
    searcher.tell(3, Outcome("failed", None, 2))
    assert inner.told[-1][1].status == "failed"
    searcher.tell(4, done(0.4, (1.0, 0.4)))
    searcher.tell(5, Outcome("stopped", None, 1, worst=True))
    assert inner.told[-1][1].worst
    assert inner.told[-1][1].value is None


@pytest.mark.parametrize("name", ["random", "grid", "bohb", "tpe", "screen"])
def test_a_space_that_is_used_up_goes_on_with_the_good_ones_least_repeated_first(name: str) -> None:
    searcher = repeated_searcher(_avoiding(name), 2)
    space = Space(SIX)
    searcher.setup(space, mode=["min"], seed=0)
    tried: Counter[str] = Counter()
    generator = np.random.default_rng(0)
    for number in range(30):
        suggestion = searcher.ask(number)
        assert suggestion is not None
        key = json.dumps(suggestion.config, sort_keys=True)
        tried[key] += 1
        if number == 11:
            assert set(tried.values()) == {2}
            assert len(tried) == 6
        value = float(suggestion.config["a"]) + 0.01 * generator.random()
        searcher.tell(number, done(value, (1.0, value)))
    good = [count for key, count in tried.items() if json.loads(key)["a"] == 1]
    assert sum(good) == 2 * 2 + 18
    assert max(good) - min(good) <= 1
    assert all(count == 2 for key, count in tried.items() if json.loads(key)["a"] > 1)


def _avoiding(name: str) -> Searcher:
    searcher: Any = make_searcher(name)
    if hasattr(searcher, "duplicates"):
        searcher.duplicates = "avoid"
    return searcher  # type: ignore[no-any-return]


class TestReplicated(SearcherContract):
    trials = 40
    cuts = (1, 7, 16, 26, 33)

    def make_searcher(self) -> Searcher:
        return repeated_searcher(make_searcher("bohb", random_fraction=0.1), 2)


class TestReplicatedTpe(TestReplicated):
    def make_searcher(self) -> Searcher:
        return repeated_searcher(make_searcher("tpe", n_startup_trials=3), 2)


def noisy(config: dict[str, Any]) -> None:
    """Report the best config's loss with little noise, and that of another with much: one of its draws is the least."""
    generator = np.random.default_rng(get_context().seed)
    report({"loss": config["a"] + (2.0 if config["a"] > 1 else 0.1) * generator.standard_normal()})


def spec(place: Path, train: Callable[..., Any] = noisy, **given: Any) -> SearchSpec:
    values: dict[str, Any] = {
        "trainable": train, "param_space": SIX, "metric": "loss", "mode": "min", "backend": "inline", "name": "it",
        "searcher": "random", "storage": str(place), "budget": Budget(trials=30), "duplicates": "replicate",
        "replicates": 4,
    }  # fmt: skip
    return SearchSpec(**{**values, **given})


def test_results_rank_configs_by_the_mean_of_their_seeds(tmp_path: Path) -> None:
    results = run(spec(tmp_path), progress="off")
    losses = {trial.number: trial.best for trial in results}
    assert len(set(losses.values())) == 30  # other seeds
    configs = results.configs()
    assert len(configs) == 6
    assert all(each.count >= 4 for each in configs)
    means = [each.mean for each in configs]
    assert means == sorted(means, key=lambda mean: mean or 0.0)
    first = configs[0]
    values = [trial.best for trial in first.trials if trial.best is not None]
    assert first.mean == pytest.approx(fmean(values))
    assert first.spread == pytest.approx(stdev(values))
    luckiest = min(loss for loss in losses.values() if loss is not None)
    assert results.best().config == first.config
    assert first.config["a"] == 1
    assert results.best().best != luckiest  # which is one of a noisy config: the mean is not fooled
    frame = results.dataframe()
    assert list(frame["config_rank"]) == sorted(frame["config_rank"])
    assert frame["config_mean"].iloc[0] == pytest.approx(first.mean)
    assert set(frame["config_count"]) >= {4}


def test_a_config_with_fewer_values_stands_behind(tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        report({"loss": float(config["a"])})

    results = run(spec(tmp_path, train, budget=Budget(trials=9), searcher="grid"), progress="off")
    configs = results.configs()
    assert [each.count for each in configs] == [4, 4, 1]


def test_the_commands_show_mean_spread_and_count(tmp_path: Path) -> None:
    results = run(spec(tmp_path), progress="off")
    first = results.configs()[0]
    place = ["--storage", str(tmp_path)]
    shown = CliRunner().invoke(main, ["show", "it", *place])
    assert shown.exit_code == 0
    assert "mean loss" in shown.output
    assert "spread" in shown.output
    as_json = json.loads(CliRunner().invoke(main, ["show", "it", "--json", *place]).stdout)
    assert as_json["configs"][0]["mean"] == pytest.approx(first.mean)
    assert as_json["configs"][0]["count"] == first.count
    best = CliRunner().invoke(main, ["best", "it", *place])
    assert f"the mean of {first.count} trials" in best.output
    table = CliRunner().invoke(main, ["export", "it", *place]).stdout
    assert "config_rank" in table.splitlines()[0]
    trials = CliRunner().invoke(main, ["show", "it", "--sort", "trial", *place])
    assert "mean loss" not in trials.output


def test_a_resumed_search_repeats_what_the_whole_one_would(tmp_path: Path) -> None:
    whole = run(spec(tmp_path / "whole", searcher="bohb", budget=Budget(trials=24)), progress="off")
    run(spec(tmp_path / "cut", searcher="bohb", budget=Budget(trials=10)), progress="off")
    resumed = resume("it", storage=str(tmp_path / "cut"), extend={"trials": 14}, progress="off")
    assert [trial.config for trial in resumed] == [trial.config for trial in whole]
    assert load("it", storage=str(tmp_path / "cut")).replicates == 4


def test_with_a_scheduler_start_points_and_constraints(tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> Any:
        for step in range(9):
            yield {"loss": config["a"] + 1 / (step + 1)}

    given = {"scheduler": {"name": "asha", "max": 9}, "start_points": [{"a": 3, "b": "y"}]}
    results = run(spec(tmp_path, train, constraints=["a > 1"], replicates=2, **given), progress="off")
    tried = Counter(json.dumps(dict(trial.config), sort_keys=True) for trial in results)
    assert len(tried) == 4
    assert min(tried.values()) >= 2
    assert results[0].config == results[1].config == {"a": 3, "b": "y"}


def test_a_grid_without_another_limit_ends_with_all_repeats(tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        report({"loss": float(config["a"])})

    given = spec(tmp_path, train, searcher="grid", budget=Budget(), replicates=None)
    assert given.times == 3
    assert given.trials == 18
    assert len(run(given, progress="off")) == 18


FILE = """
version: 1
name: it
entrypoint: tune_platform.trainables.digits:train_digits
objective: {metric: loss, mode: min}
space: {a: {type: choice, values: [1, 2]}}
search: {name: random, SEARCH}
schedule: {name: SCHEDULE}
budget: {trials: 6}
"""


def test_check_says_what_it_will_do(tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text(FILE.replace("SEARCH", "duplicates: replicate, replicates: 2").replace("SCHEDULE", "fifo"))
    said = CliRunner().invoke(main, ["check", str(file)]).output
    assert "each config is tried 2 times, with other seeds, and ranked by the mean: 3 configs" in said
    assert load_spec(file).to_dict()["search"]["replicates"] == 2


@pytest.mark.parametrize(
    ("search", "schedule", "message"),
    [
        ("replicates: 3", "fifo", r"search\.replicates.*add duplicates: replicate"),
        ("duplicates: replicate, replicates: 1", "fifo", r"got 1; at least 2"),
        ("duplicates: replicate, replicates: 0", "fifo", r"replicates"),
        ("duplicates: replicate, replicates: two", "fifo", r"replicates"),
        ("duplicates: replicate", "pbt, interval: 2, mutations: {a: [1, 2]}", r"search\.duplicates.*PBT changes those"),
        ("duplicates: repeat", "fifo", r"duplicates.*replicate"),
    ],
)
def test_what_cannot_be_gets_one_message(tmp_path: Path, search: str, schedule: str, message: str) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text(FILE.replace("SEARCH", search).replace("SCHEDULE", schedule))
    with pytest.raises(SpecError, match=message) as caught:
        load_spec(file)
    assert str(caught.value).count("replicate") < 4


def test_several_metrics_have_no_mean_to_rank_by(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"mean of one metric; there are 2 \(loss, time\)"):
        spec(tmp_path, metric=["loss", "time"])
