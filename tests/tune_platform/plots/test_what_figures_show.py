"""The data of figures, with values known beforehand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.odd_experiments import SPACE, TRACEBACK, Experiment, Made, normal, store, write
from tune_platform.errors import SpecError
from tune_platform.plots import (
    View,
    compare,
    compare_experiments,
    curves,
    edf,
    failures,
    history,
    importance,
    insights,
    lineage,
    pareto,
    rungs,
    schedules,
    slices,
    timeline,
)
from tune_platform.plots.crashes import groups, signature
from tune_platform.plots.effects import borders, effect
from tune_platform.plots.observations import noise, saved
from tune_platform.plots.progress import quantiles, smoothed
from tune_platform.plots.workers import lanes, segments, utilisation, utilisation_figure
from tune_platform.results import Results


def view_of(made: Experiment, storage: Path) -> View:
    return View.of(store("it", made, storage), storage=storage)


def plain(losses: list[float], **more: Any) -> Experiment:
    return Experiment(trials=[Made(config={"lr": 0.1}, curve=[{"loss": loss}], **more) for loss in losses])


def named(figure: Any, name: str) -> Any:
    return next(trace for trace in figure.data if trace.name == name)


def test_history_has_the_best_so_far_and_marks_what_has_no_value(tmp_path: Path) -> None:
    made = plain([3.0, 1.0, 2.0])
    made.trials = [*made.trials, Made(config={"lr": 0.5}, status="FAILED", reason="it broke")]
    view = view_of(made, tmp_path)
    drawn = history(view)
    best = named(drawn, "best so far")
    assert best.x.tolist() == [0, 1, 2, 3]
    assert best.y.tolist() == [3, 1, 1, 1]
    assert named(drawn, "completed").y.tolist() == [3, 1, 2]
    assert named(drawn, "failed, no value").customdata.tolist() == [3]
    assert drawn.layout.meta["summary"] == (
        "The best of 3 trials with a value is loss 1 of trial 1; the 2 trials after it found nothing better."
    )


def test_history_of_a_maximum(tmp_path: Path) -> None:
    made = plain([3.0, 1.0, 5.0])
    made.objective = {"metric": "loss", "mode": "max"}
    assert named(history(view_of(made, tmp_path)), "best so far").y.tolist() == [3, 3, 5]


def test_curves_of_chosen_trials_and_bands(tmp_path: Path) -> None:
    made = Experiment(trials=[Made(config={}, curve=[{"loss": float(n)}, {"loss": n + 1.0}]) for n in range(5)])
    view = view_of(made, tmp_path)
    drawn = curves(view, trials=[3, 1], bands=True)
    assert [trace.name for trace in drawn.data][-2:] == ["trial 3", "trial 1"]
    assert named(drawn, "trial 3").y.tolist() == [3, 4]
    assert named(drawn, "median of all").y.tolist() == [2, 3]
    assert [trace.name for trace in curves(view, top=2).data] == ["trial 0", "trial 1"]
    with pytest.raises(SpecError, match="smoothing: got 1"):
        curves(view, smoothing=1)
    with pytest.raises(SpecError, match="x: got 'epoch'"):
        curves(view, x="epoch")


def test_smoothing_is_a_mean_corrected_for_its_beginning() -> None:
    found = smoothed(np.array([1.0, np.nan, 4.0]), 0.5)
    np.testing.assert_allclose(found, [1.0, np.nan, 3.0])  # (0.25 * 1 + 0.5 * 4) / 0.75


def test_quantiles_put_neighbours_together() -> None:
    at = np.arange(1000.0)
    places, found = quantiles(at, at, bins=10)
    assert len(places) == 10
    np.testing.assert_allclose(found[:, 2], np.arange(10) * 99.9 + 49.95, atol=1)


def test_rungs_say_who_was_promoted_and_stopped(tmp_path: Path) -> None:
    view = View.of(write("normal", tmp_path), storage=tmp_path)
    drawn = rungs(view)
    assert list(drawn.layout.xaxis.ticktext) == ["1", "3", "9"]
    stopped = named(drawn, "stopped")
    # Trials 2, 5, ... 26 end in the first rung, 1, 4, ... 28 in the second; 9, 19 and 29 fail.
    assert sorted(stopped.customdata.tolist()) == [n for n in range(30) if n % 3 and n % 10 != 9]
    assert all("keep 1" in each for each in stopped.hovertext)
    assert len(named(drawn, "reached the end").x) == 9


def test_the_family_and_its_schedule(tmp_path: Path) -> None:
    view = View.of(write("pbt", tmp_path), storage=tmp_path)
    assert named(lineage(view), "clone").x == (4, 6)
    drawn = schedules(view, trials=[3, 1], parameter="lr")
    assert named(drawn, "trial 3").y == (0.025, 0.025)
    assert named(drawn, "trial 3").x == (0, 8)


def test_failures_are_grouped_by_where_and_how_they_were_raised(tmp_path: Path) -> None:
    assert signature(TRACEBACK.format(line=31, kind="ValueError", message="loss 12.5 at 0x7f3a")) == (
        "ValueError: loss # at # (train.py:31 in step)"
    )
    trials = [Made(config={"lr": 10.0**-n, "layers": 1, "opt": "adam"}, curve=[{"loss": 1.0}]) for n in range(5)]
    for n in range(4):
        error = TRACEBACK.format(line=9, kind="RuntimeError", message=f"CUDA out of memory: {n} MiB")
        trials.append(
            Made(
                config={"lr": 0.5 + n / 10, "layers": 4, "opt": "sgd"}, status="FAILED", reason="exception", error=error
            )
        )
    view = view_of(Experiment(trials=trials), tmp_path)
    (group,) = groups(view)
    assert group.trials == [5, 6, 7, 8]
    assert group.shared == {"lr": "0.5 to 0.8", "layers": "4", "opt": "sgd"}
    assert failures(view).data[0].x == (4,)
    assert failures(view).layout.xaxis.dtick == 1, "no halves of a trial"
    told = {each.kind: each.text for each in insights(view)}
    assert "4 of 9 trials failed of one cause, RuntimeError: CUDA out of memory: # MiB" in told["failures"]


def test_slices_mark_the_declared_borders_and_a_best_that_lies_there(tmp_path: Path) -> None:
    trials = [
        Made(config={"lr": 10 ** (-5 * (1 - n / 30) ** 2), "layers": 2, "opt": "adam"}, curve=[{"loss": 30.0 - n}])
        for n in range(31)
    ]
    view = view_of(Experiment(trials=trials), tmp_path)
    (hit,) = borders(view)
    assert (hit.name, hit.side, hit.bound) == ("lr", "high", 1.0)
    drawn = slices(view, parameters=["lr"])
    assert sorted(shape.x0 for shape in drawn.layout.shapes) == [1e-5, 1.0]
    assert drawn.layout.xaxis.type == "log"
    assert drawn.layout.xaxis.dtick == 2, "of five powers of ten every second one: all have no room side by side"
    assert "border" in [each.kind for each in insights(view)]


def test_importance_finds_the_parameter_that_decides(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    trials = []
    for _ in range(60):
        config: dict[str, Any] = {
            "lr": 10 ** rng.uniform(-5, 0),
            "layers": int(rng.integers(1, 5)),
            "opt": str(rng.choice(["adam", "sgd"])),
        }
        trials.append(Made(config=config, curve=[{"loss": float(abs(math.log10(config["lr"]) + 2))}]))
    view = view_of(Experiment(trials=trials), tmp_path)
    bar = importance(view).data[0]
    assert bar.y[-1] == "lr"
    assert bar.x[-1] > 0.8
    assert (bar.error_x.array >= 0).all()
    assert effect(view, "lr") > 0.8
    assert effect(view, "opt") < 0.1
    assert importance(view).to_json() == importance(view).to_json(), "its draws are seeded"
    assert importance(view, evaluator="fanova").data[0].y[-1] == "lr"


def test_the_front_is_that_of_results(tmp_path: Path) -> None:
    name = write("several", tmp_path)
    drawn = pareto(View.of(name, storage=tmp_path))
    expected = [trial.number for trial in Results(name, storage=tmp_path).pareto()]
    assert named(drawn, "Pareto front").customdata.tolist() == expected


def test_edf_is_the_share_of_the_trials(tmp_path: Path) -> None:
    line = edf(view_of(plain([2.0, 1.0, 4.0, 3.0]), tmp_path)).data[0]
    assert line.x.tolist() == [1, 2, 3, 4]
    assert line.y.tolist() == [0.25, 0.5, 0.75, 1]


def test_the_timeline_has_who_held_which_node_and_the_gaps(tmp_path: Path) -> None:
    curve = [{"loss": 1.0}] * 9
    trials = [
        Made(config={}, curve=curve, start=0, nodes=(0,)),
        Made(config={}, curve=curve, start=20, nodes=(0, 1)),
    ]
    view = view_of(Experiment(trials=trials), tmp_path)
    bars = named(timeline(view), "completed")
    held = sorted(zip(bars.y, bars.customdata.tolist(), bars.base.tolist(), bars.x.tolist(), strict=True))
    assert held == [("node 0", 0, 0, 9.5), ("node 0", 1, 20, 9.5), ("node 1", 1, 20, 9.5)]
    busy = utilisation(view)
    assert busy == pytest.approx({"node 0": 19 / 29.5, "node 1": 9.5 / 29.5})


def test_the_timeline_has_a_row_for_each_gpu(tmp_path: Path) -> None:
    curve = [{"loss": 1.0}] * 9
    trials = [
        Made(config={}, curve=curve, start=0, worker="host:1 gpu 0,1"),
        Made(config={}, curve=curve, start=20, worker="host:2 gpu 1"),
        Made(config={}, curve=curve, start=20, worker="host:3"),
    ]
    view = view_of(Experiment(trials=trials), tmp_path)
    bars = named(timeline(view, by="gpu"), "completed")
    assert sorted(zip(bars.y, bars.customdata.tolist(), strict=True)) == [
        ("host gpu 0", 0), ("host gpu 1", 0), ("host gpu 1", 1),
    ]  # fmt: skip
    assert utilisation(view, "gpu") == pytest.approx({"host gpu 0": 9.5 / 29.5, "host gpu 1": 19 / 29.5})
    assert max(utilisation_figure(view, by="gpu").data[0].y) == 1
    assert [each.text for each in insights(view) if each.kind == "idle"] == [
        "2 of 2 GPUs were idle more than 30 % of the time; host gpu 0 68%."
    ]
    without = view_of(Experiment(trials=trials[2:]), tmp_path / "without")
    assert lanes(segments(without), "gpu") == {}
    assert "given a GPU" in timeline(without, by="gpu").layout.annotations[0].text


def test_what_is_told_to_stop_at_its_end_has_completed_and_nobody_is_in_two_places_at_once(tmp_path: Path) -> None:
    end = [{"step": 9, "verdict": "stop", "by": "scheduler", "reason": "reached max"}]
    trials = [Made(config={}, curve=[{"loss": 1.0}] * 9, start=10.0 * n, tick=10 / 9, verdicts=end) for n in range(2)]
    view = view_of(Experiment(trials=trials), tmp_path)
    assert set(segments(view).how.tolist()) == {"completed"}
    assert utilisation_figure(view).data[0].y.max() == 1, "the first ends at the moment in which the second begins"


def test_a_parameter_that_matters_is_told(tmp_path: Path) -> None:
    made = plain([])
    made.trials = [
        Made(config={"lr": 0.001 * 2**n, "layers": n % 3}, curve=[{"loss": float(n)}], status="COMPLETED")
        for n in range(24)
    ]
    (told,) = (each for each in insights(view_of(made, tmp_path)) if each.kind == "strong_parameter")
    assert told.text.startswith("lr matters most: alone it tells ")
    assert told.figure == "importance"


def test_a_comparison_has_only_what_differs(tmp_path: Path) -> None:
    trials = [
        Made(config={"lr": 0.1, "layers": n, "opt": "adam"}, curve=[{"loss": float(n), "acc": 1.0}]) for n in (1, 2)
    ]
    drawn = compare(view_of(Experiment(trials=trials), tmp_path), trials=[0, 1])
    rows = list(drawn.data[0].cells["values"][0])
    assert rows == ["best loss", "layers"]
    with pytest.raises(SpecError, match="has no trial 7"):
        compare(View.of("it", storage=tmp_path), trials=[0, 7])


def test_experiments_are_compared_with_a_band_over_seeds(tmp_path: Path) -> None:
    for name, losses in (("a1", [4.0, 2.0]), ("a2", [3.0, 1.0]), ("b", [5.0, 5.0])):
        made = plain(losses)
        for at, trial in enumerate(made.trials):
            trial.start = 10.0 * at
        store(name, made, tmp_path)
    one, two, other = (View.of(name, storage=tmp_path) for name in ("a1", "a2", "b"))
    drawn = compare_experiments({"a": [one, two], "b": [other]})
    line = named(drawn, "a (2 seeds, median)")
    assert line.x.tolist() == [1, 2]
    assert line.y.tolist() == [3.5, 1.5]
    assert drawn.data[0].y.tolist() == [3, 1, 2, 4], "the band, from the least to the greatest and back"
    assert drawn.layout.meta["summary"] == "Of 2 experiments a found the best loss: 1."
    cost = named(compare_experiments([other], x="cost"), "b")
    np.testing.assert_allclose(cost.x, np.array([1.5, 3.0]) / 3600)


def test_insights_of_a_plateau_of_idle_parameters_and_of_what_was_saved(tmp_path: Path) -> None:
    made = normal(30)
    view = view_of(made, tmp_path)
    # 9 trials ran 9 steps; of those that were stopped 9 ran 1 and 9 ran 3.
    assert saved(view) == pytest.approx((9 * 8 + 9 * 6) / (27 * 9))
    kinds = {each.kind for each in insights(view)}
    assert "saved" in kinds
    late = plain([0.5, *[1.0 + n for n in range(30)]])
    assert [each.kind for each in insights(View.of(store("late", late, tmp_path), storage=tmp_path))].count(
        "plateau"
    ) == 1


def test_noise_is_that_between_seeds_of_one_config(tmp_path: Path) -> None:
    trials = [
        Made(config={"lr": lr, "seed": seed}, curve=[{"loss": lr + seed}]) for lr in (0.1, 0.2) for seed in (0, 2)
    ]
    view = view_of(Experiment(trials=trials, space={"lr": SPACE["lr"]}), tmp_path)
    found = noise(view)
    assert found is not None
    assert found[0] == pytest.approx(2**0.5)
    assert found[1] == 2
    assert "noise" in [each.kind for each in insights(view)]
