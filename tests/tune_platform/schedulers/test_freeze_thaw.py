"""Freeze-thaw: curves carried on to their end, and who is trained by that."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tune_platform.errors import SpecError
from tune_platform.protocol.reports import Report
from tune_platform.protocol.verdicts import Pause, Stop
from tune_platform.schedulers._curves import Curves, Part
from tune_platform.schedulers.freeze_thaw import FreezeThaw, improvement
from tune_platform.testing.schedulers import FakeCandidates, FakeTrial, SchedulerContract


class TestFreezeThaw(SchedulerContract):
    increment = 0.7

    def make_scheduler(self) -> FreezeThaw:
        return FreezeThaw(resource="hours", max=10, interval=1.5, chance=0.1)


def test_a_curve_that_no_shape_explains_is_forecast_all_the_same() -> None:
    """Its density under every shape is below what a float holds; only the ratios count."""
    model = Curves([level / 40 for level in range(1, 41)])
    parts = model.forecast([1.0 if level % 2 else 1e9 for level in range(20)])
    assert sum(part.weight for part in parts) == pytest.approx(1, abs=0.01)
    assert all(math.isfinite(part.mean) and part.sd > 0 for part in parts)


def test_expected_improvement_by_hand() -> None:
    """m ~ N(1, 2), best 1: E = 2 / sqrt(2 pi), chance 1/2. In equal parts with N(9, 0.001): half of both."""
    assert improvement([Part(1.0, 1.0, 2.0)], 1.0) == pytest.approx((2 / math.sqrt(2 * math.pi), 0.5))
    two = improvement([Part(0.5, 1.0, 2.0), Part(0.5, 9.0, 0.001)], 1.0)
    assert two == pytest.approx((1 / math.sqrt(2 * math.pi), 0.25))


def test_the_posterior_is_that_of_a_gaussian_process() -> None:
    """The same from the joint normal distribution, written down without the model's shortcuts, shape by shape."""
    points = [0.25, 0.5, 0.75, 1.0]
    model = Curves(points)
    rng = np.random.default_rng(0)
    model.fit([list(1 + m + a * (1 - np.array(points)) + 0.01 * rng.random(4)) for m, a in rng.random((12, 2))])
    given, curve = model.state(), [1.7, 1.5]
    assert sum(given["share"]) == pytest.approx(1)
    seen, u = np.array([model.warp(loss) for loss in curve]), np.array(points[:2])
    mean, covariance = np.array(given["mean"]), np.array(given["covariance"])
    found = {}
    shapes: dict[str, Any] = {
        "log": lambda t: -np.log(t), "root": lambda t: t**-0.5, "1/t": lambda t: 1 / t, "1/t2": lambda t: t**-2.0,
        "line": lambda t: 1 - t, **{f"exp{b}": lambda t, b=b: np.exp(-b * t) for b in (3, 8, 20)},
        **{f"bend{b}": lambda t, b=b: 1 / (1 + (t / b) ** 2) for b in (0.1, 0.3)},
    }  # fmt: skip
    for share, (name, shape) in zip(given["share"], shapes.items(), strict=True):
        psi = (shape(u) - shape(1.0)) / (shape(0.25) - shape(1.0))
        rows = np.array([[1.0, 0.0], [1.0, psi[0]], [1.0, psi[1]]])  # m, z_1, z_2
        joint = rows @ covariance @ rows.T
        for i in (0, 1):
            for j in (0, 1):
                joint[1 + i, 1 + j] += given["drift"] ** 2 * (1 - max(u[i], u[j]))
            joint[1 + i, 1 + i] += given["noise"] ** 2
        off, inner = seen - rows[1:] @ mean, np.linalg.inv(joint[1:, 1:])
        density = math.exp(-0.5 * off @ inner @ off) / math.sqrt(np.linalg.det(2 * math.pi * joint[1:, 1:]))
        sd = math.sqrt(joint[0, 0] - joint[0, 1:] @ inner @ joint[1:, 0])
        found[name] = (share * density, mean[0] + joint[0, 1:] @ inner @ off, sd)
    total = sum(weight for weight, _, _ in found.values())
    wanted = [Part(weight / total, m, sd) for weight, m, sd in found.values() if weight / total > 1e-4]
    assert np.array(model.forecast(curve)) == pytest.approx(np.array(wanted))


def power(end: float, fall: float, rate: float, points: Any) -> list[float]:
    return list(end + fall * (points**-rate - 1) / 10)


def test_ends_are_foretold_within_what_is_said() -> None:
    """Of curves seen to a third, nine of ten ends lie in the central 95 % of the forecast, and it is a narrow one."""
    rng, points = np.random.default_rng(1), np.arange(1, 13) / 12
    curves = [
        power(end, fall, rate, points) for end, fall, rate in rng.uniform((0.1, 0.1, 0.3), (1.0, 1.0, 1.2), (80, 3))
    ]
    model = Curves(list(points))
    model.fit([curve[: 12 if number % 4 == 0 else 4] for number, curve in enumerate(curves)])
    inside, widths = [], []
    for curve in curves[1::4] + curves[2::4]:
        parts = model.forecast(curve[:4])
        below = improvement(parts, model.warp(curve[-1]))[1]
        inside.append(0.025 < below < 0.975)
        widths.append(sum(part.weight * part.sd for part in parts))
    ends = [model.warp(curve[-1]) for curve in curves]
    assert np.mean(inside) >= 0.9
    assert np.mean(widths) < np.std(ends) / 3


def test_what_still_falls_is_foretold_to_end_below_what_is_flat() -> None:
    """Half of the trials are flat, half fall steadily; at a third, one that falls is still above one that is flat."""
    rng, points = np.random.default_rng(2), np.arange(1, 13) / 12
    flat = [[float(level)] * 12 for level in rng.uniform(0.5, 0.7, 10)]
    falling = [list(start - fall * points) for start, fall in rng.uniform((0.9, 0.3), (1.1, 0.8), (10, 2))]
    model = Curves(list(points))
    model.fit([curve[: rng.integers(1, 13)] for curve in flat + falling] + flat[:3] + falling[:3])
    ahead, behind = [0.5] * 4, list(1.0 - 0.8 * points[:4])
    assert behind[-1] > ahead[-1]
    ends = [sum(part.weight * part.mean for part in model.forecast(curve)) for curve in (ahead, behind)]
    assert ends[1] < ends[0]
    below = [improvement(model.forecast(curve), model.warp(0.4))[1] for curve in (ahead, behind)]
    assert below[1] > 2 * below[0], below


def test_a_divergence_does_not_stretch_the_scale() -> None:
    curves = [[1.0, 0.5], [1.1, 0.6], [1e30, 1e300], [1.2, 0.7]]
    model = Curves([0.5, 1.0])
    model.fit(curves)
    assert model.warp(0.7) - model.warp(0.5) > 1
    assert all(math.isfinite(part.mean) for part in model.forecast([1e300]))


def test_all_alike_is_no_trouble() -> None:
    model = Curves([0.5, 1.0])
    model.fit([[0.0]])
    model.fit([[0.0, 0.0], [0.0]])
    assert all(math.isfinite(part.mean) and part.sd > 0 for part in model.forecast([0.0]))


# ------------------------------------------------------------------------------- who is trained


class Bench:
    """One place, by hand: curves that are given, and who got the place for each slice."""

    def __init__(self, scheduler: FreezeThaw, curve: Any, trials: int, seconds: Any = lambda number: 1.0) -> None:
        scheduler.setup(metric="loss", mode="min", seed=0)
        self.scheduler, self.now, self.slices, self.said = scheduler, 0.0, [], {}
        self.trials = {number: FakeTrial(number, {}) for number in range(trials)}
        for trial in self.trials.values():
            scheduler.on_add(trial)
        while (number := scheduler.choose(FakeCandidates(self.trials))) is not None:
            trial = self.trials[number]
            self.slices.append(number)
            scheduler.on_start(trial)
            until, save = scheduler.until(trial)
            assert save
            assert until is not None
            decisions: Any = None
            while not trial.last or trial.last.step < until:
                assert decisions is None, "within a slice nothing is decided"
                step = (trial.last.step if trial.last else 0) + 1
                self.now += seconds(number)
                trial.last = Report(step, {"loss": curve(number, step)}, self.now)
                decisions = scheduler.on_report(trial, trial.last)
            for decision in decisions:
                self.said[decision.trial] = decision.verdict.reason
                if isinstance(decision.verdict, Pause):
                    self.trials[decision.trial].status = "paused"
                if isinstance(decision.verdict, Stop):
                    self.trials[decision.trial].status = "over"
                    scheduler.on_end(self.trials[decision.trial], "stopped")

    def steps(self, number: int) -> int:
        trial = self.trials[number]
        return trial.last.step if trial.last else 0


def ranked(number: int, step: int) -> float:
    """Curves that never cross; trial 7 is the best of 20."""
    return 0.2 + abs(number - 7) / 10 + 1 / step


def test_the_best_is_trained_to_its_end_and_the_hopeless_are_not() -> None:
    bench = Bench(FreezeThaw(max=20, interval=2), ranked, trials=20)
    assert bench.steps(7) == 20
    assert bench.said[7] == "step 20: reached max"
    assert sum(bench.steps(number) for number in range(20)) < 0.5 * 20 * 20
    assert bench.steps(19) == 2, "the worst gets one slice"
    assert "% chance to end better than 0.2" in bench.said[19]


def test_of_equals_the_quick_one_is_trained_first() -> None:
    """Two trials with the same curve, both paused at step 4, one at a tenth of the seconds a step."""
    scheduler = FreezeThaw(max=20, interval=4)
    scheduler.setup(metric="loss", mode="min", seed=0)
    trials = {number: FakeTrial(number, {}, status="paused") for number in range(2)}
    for number, trial in trials.items():
        scheduler.on_add(trial)
        scheduler.on_start(trial)
        for step in range(1, 5):
            trial.last = Report(step, {"loss": 1 / step}, step * (1.0 if number else 10.0))
            scheduler.on_report(trial, trial.last)
    assert scheduler.choose(FakeCandidates(trials)) == 1
    assert scheduler.choose(FakeCandidates(trials, unfit={1})) == 0


def test_a_trial_of_which_nothing_is_known_is_not_stopped() -> None:
    scheduler = FreezeThaw(max=20, interval=2)
    scheduler.setup(metric="loss", mode="max", seed=0)
    trial = FakeTrial(0, {})
    scheduler.on_add(trial)
    scheduler.on_start(trial)
    assert scheduler.until(trial) == (2, True)
    trial.last = Report(2, {"loss": 0.1}, 0.0)
    [decision] = scheduler.on_report(trial, trial.last)  # type: ignore[misc]
    assert isinstance(decision.verdict, Pause)


def test_what_all_have_in_common_is_fitted_at_thirty_percent_more_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: with 1, 2, 3, 4 slices, then at ceil(1.3 n): 6, 8, 11, 15, 20. No loss leaves the scale on the way."""
    scheduler, fitted = FreezeThaw(max=100, interval=1), []
    scheduler.setup(metric="loss", mode="min", seed=0)
    fit = Curves.fit

    def noted(model: Curves, curves: Any) -> None:
        fitted.append(sum(len(curve) for curve in curves))
        fit(model, curves)

    monkeypatch.setattr(Curves, "fit", noted)
    for number in range(22):
        trial = FakeTrial(number, {}, last=Report(1, {"loss": 1.0 + number}, float(number)))
        scheduler.on_add(trial)
        scheduler.on_start(trial)
        scheduler.on_report(trial, trial.last)  # type: ignore[arg-type]
    assert fitted == [1, 2, 3, 4, 6, 8, 11, 15, 20]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max": 9, "interval": 0}, "freeze_thaw: interval .* must be above 0, got 0"),
        ({"max": 2, "interval": 4}, r"freeze_thaw: max .* at least interval \(4\), got 2"),
        ({"max": math.inf}, "freeze_thaw: max .* must be a finite number"),
        ({"max": 9, "chance": 1}, r"freeze_thaw: chance .* must be in \[0, 1\), got 1"),
        ({"max": "9"}, "freeze_thaw: max must be a number, got '9'"),
    ],
)
def test_bad_options(options: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        FreezeThaw(**options)
