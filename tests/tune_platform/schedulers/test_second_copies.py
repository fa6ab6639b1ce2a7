"""Second copies of those rules that have brackets, averages, fronts or a model, in whole plays as in the file beside.

Formulas are those of the papers, with no thought of speed: each covariance is inverted, each ranking sorted anew.
"""

from __future__ import annotations

import itertools
import math
import re
import statistics
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from tests.tune_platform.schedulers.test_published_rules import Population, Rungs, Said, Watched, X, fronts
from tune_platform.protocol.reports import Report
from tune_platform.protocol.scheduler import Candidates, TrialView
from tune_platform.protocol.verdicts import Clone, Continue, Pause, Stop, Verdict
from tune_platform.schedulers import ASHA, PB2, FreezeThaw, HyperBand, MedianStopping, SuccessiveHalving
from tune_platform.testing.play import Play, World


class Plain:
    """What most rules do not care about."""

    def setup(self, sign: float) -> None:
        self.sign = sign

    def add(self, trial: TrialView) -> Said | None:
        return None

    def start(self, trial: TrialView) -> None:
        pass

    def end(self, trial: TrialView) -> Said | None:
        return None

    def supply_end(self) -> Said | None:
        return None

    def agrees(self, number: int, verdict: Verdict, wanted: Any) -> bool:
        if isinstance(verdict, Stop) and verdict.completed:
            return bool(wanted == "completed")
        return type(verdict) is wanted


class Halving(Plain):
    """Jamieson & Talwalkar 2016, and Li et al. 2018, algorithm 1: brackets of [(trials, resource), ...] in turn."""

    def __init__(self, *plans: list[tuple[int, int]]) -> None:
        self.plans = plans

    def setup(self, sign: float) -> None:
        self.sign, self.over = sign, False
        self.filled: list[int] = []  # trials that each bracket has taken
        self.begun: set[int] = set()  # brackets that have closed a rung: they take no more
        self.home: dict[int, list[int]] = {}  # trial: [bracket, rung], rung -1 where it is being stopped
        self.losses: dict[int, float | None] = {}  # at the rung; None on the way
        self.newest: dict[int, tuple[int, float]] = {}

    def plan(self, bracket: int) -> list[tuple[int, int]]:
        return self.plans[bracket % len(self.plans)]

    def takes(self, bracket: int) -> bool:
        room = self.filled[bracket] < self.plan(bracket)[0][0]
        return bracket == len(self.filled) - 1 and not self.over and bracket not in self.begun and room

    def add(self, trial: TrialView) -> Said | None:
        if not self.filled or not self.takes(len(self.filled) - 1):
            self.filled.append(0)
        bracket, self.over = len(self.filled) - 1, False
        self.filled[bracket] += 1
        self.home[trial.number], self.losses[trial.number] = [bracket, 0], None
        if trial.last is not None:
            self.newest[trial.number] = trial.last.step, self.sign * trial.last.metrics["loss"]
            if trial.last.step >= self.plan(bracket)[0][1]:
                self.losses[trial.number] = self.newest[trial.number][1]
        return self.close(bracket)

    def end(self, trial: TrialView) -> Said | None:
        bracket, _ = self.home.pop(trial.number)
        return self.close(bracket)

    def supply_end(self) -> Said | None:
        self.over = True
        return self.close(len(self.filled) - 1) if self.filled else None

    def report(self, trial: TrialView, report: Report) -> Said | None:
        number, loss = trial.number, self.sign * report.metrics["loss"]
        bracket, rung = self.home[number]
        self.newest[number] = report.step, loss
        if report.step >= self.plan(bracket)[-1][1]:
            return {number: "completed"}
        if rung < 0:
            return {number: Stop}
        if report.step < self.plan(bracket)[rung][1] or self.losses[number] is not None:
            return None
        self.losses[number] = loss
        return {number: Pause, **(self.close(bracket) or {})}

    def close(self, bracket: int) -> Said | None:
        members = [n for n, (at, rung) in self.home.items() if at == bracket and rung >= 0]
        if not members or self.takes(bracket):
            return None
        plan, lowest = self.plan(bracket), min(self.home[n][1] for n in members)
        members = [n for n in members if self.home[n][1] == lowest]
        if any(self.losses[n] is None for n in members):
            return None
        self.begun.add(bracket)
        keep = self.filled[bracket]
        if lowest + 1 < len(plan):
            keep = max(1, keep * plan[lowest + 1][0] // plan[0][0])
        said: dict[int, Any] = {}
        for rank, number in enumerate(sorted(members, key=lambda n: (self.losses[n], n))):
            step, loss = self.newest[number]
            if rank >= keep or step >= plan[-1][1]:
                said[number] = "completed" if rank < keep else Stop
                self.home[number][1] = -1
                continue
            self.home[number][1] = lowest + 1
            arrived = step >= plan[lowest + 1][1]
            self.losses[number] = loss if arrived else None
            if not arrived:
                said[number] = Continue
        return {**said, **(self.close(bracket) or {})}


class Medians(Plain):
    """Golovin et al. 2017, section 3.2.2: stop (or pause) what is worse than the median of the others' averages."""

    def __init__(self, samples: int, *, hard: bool) -> None:
        self.samples, self.hard = samples, hard

    def setup(self, sign: float) -> None:
        self.sign = sign
        self.curves: dict[int, list[float]] = {}

    def report(self, trial: TrialView, report: Report) -> Said | None:
        curve = self.curves.setdefault(trial.number, [])
        curve.append(self.sign * report.metrics["loss"])
        step = len(curve)
        others = [statistics.mean(c[:step]) for n, c in self.curves.items() if n != trial.number and len(c) >= step]
        if len(others) < self.samples or min(curve) <= statistics.median(others):
            return None
        return {trial.number: Stop if self.hard else Pause}


class Fronts(Plain):
    """Schmucker et al. 2021, algorithm 1, for loss (less) and size (more): fronts, in each an epsilon-net."""

    def setup(self, sign: float) -> None:
        self.rungs: dict[int, list[tuple[int, tuple[float, float]]]] = {1: [], 2: [], 4: [], 8: [], 16: []}

    def report(self, trial: TrialView, report: Report) -> Said | None:
        level = max(level for level in self.rungs if level <= report.step)
        rung = self.rungs[level]
        if trial.number in [number for number, _ in rung]:
            return None
        rung.append((trial.number, (report.metrics["loss"], -report.metrics["size"])))
        if level == 16:
            return {trial.number: "completed"}
        keep = max(1, len(rung) // 2)
        return {trial.number: Continue if trial.number in self.order(rung)[:keep] else Stop}

    def order(self, rung: list[tuple[int, tuple[float, float]]]) -> list[int]:
        widths = [max(x) - min(x) or 1.0 for x in zip(*(point for _, point in rung), strict=True)]

        def apart(a: tuple[float, float], b: tuple[float, float]) -> float:
            return math.dist(
                [x / w for x, w in zip(a, widths, strict=True)], [x / w for x, w in zip(b, widths, strict=True)]
            )

        left, ordered = list(rung), []
        while left:
            front = [(n, p) for n, p in left if not any(q[0] <= p[0] and q[1] <= p[1] and q != p for _, q in left)]
            left = [one for one in left if one not in front]
            net = [front.pop(min(range(len(front)), key=lambda i: front[i][1][0]))]
            while front:
                far = [round(min(apart(p, q) for _, q in net), 9) for _, p in front]
                net.append(front.pop(far.index(max(far))))
            ordered += [number for number, _ in net]
        return ordered


class Bandits(Population):
    """PB2: Parker-Holder et al. 2020, algorithms 1 and 2. Exploits as PBT does; x is the highest bound of GP-UCB."""

    def setup(self, sign: float) -> None:
        super().setup(sign)
        self.rows: deque[tuple[float, float, float]] = deque(maxlen=64)  # (time, x, gain)
        self.since: dict[int, int] = {}
        self.taken: dict[int, tuple[float, float]] = {}  # of a clone: its x, and its source's loss
        self.modelled = 0

    def end(self, trial: TrialView) -> Said | None:
        self.taken.pop(trial.number, None)
        self.since.pop(trial.number, None)
        return super().end(trial)

    def report(self, trial: TrialView, report: Report) -> Said | None:
        number, x = trial.number, trial.config["x"]
        if report.step // self.interval > self.reached[number] // self.interval:
            if number in self.scores:
                began = self.scores[number]
                if number in self.taken and (taken := self.taken.pop(number))[0] == x:
                    began = taken[1]
                self.rows.append((self.since[number], x, began - self.sign * report.metrics["loss"]))
            self.since[number] = report.step
        return super().report(trial, report)

    def agrees(self, number: int, verdict: Verdict, wanted: Any) -> bool:
        if not isinstance(verdict, Clone) or not isinstance(wanted, dict):
            return type(verdict) is wanted
        x = verdict.config["x"]
        if len(self.rows) < 2:
            good = super().agrees(number, verdict, wanted)
        else:
            there = {n: self.taken[n][0] if n in self.taken else c for n, c in self.configs.items() if n != number}
            bounds = self.bounds(np.append(np.linspace(0, 1, 1001), x), list(there.values()), self.reached[number])
            good = (
                verdict.source in wanted and 0 <= x <= 1 and bounds[-1] > bounds.max() - 0.02
            )  # it looks at some points
            self.modelled += 1
        self.taken[number] = x, self.scores[verdict.source]
        return good

    def bounds(self, at: Any, others: list[float], now: float) -> Any:
        """mean + sqrt(beta) deviation, of the likeliest lengthscale and fading."""
        t, x, y = np.array(self.rows, dtype=float).T
        first, last = min(*t, now), max(*t, now)
        t, present = 10 * (t - first) / (last - first), 10 * (now - first) / (last - first)
        y = np.clip((y - y.mean()) / max(y.std(), 1e-12), -2, 2)
        best, found = -math.inf, None
        for length, fade in itertools.product((0.1, 0.25, 0.6, 1.5), (0.001, 0.05, 0.3)):

            def k(t: Any, x: Any, u: Any, z: Any, length: float = length, fade: float = fade) -> Any:
                near = np.exp(-(np.subtract.outer(x, z) ** 2) / (2 * length**2))
                return near * math.sqrt(1 - fade) ** np.abs(np.subtract.outer(t, u))

            noisy = k(t, x, t, x) + 0.05 * np.eye(len(t))
            inverse = np.linalg.inv(noisy)
            evidence = -0.5 * (y @ inverse @ y + np.linalg.slogdet(noisy)[1])
            if evidence > best + 1e-9:
                best = evidence
                t2, x2 = np.append(t, [present] * len(others)), np.append(x, others)
                now_ = np.full(len(at), present)
                across, across2 = k(now_, at, t, x), k(now_, at, t2, x2)
                known = np.linalg.inv(k(t2, x2, t2, x2) + 0.05 * np.eye(len(t2)))
                variance = 1 - np.einsum("ij,jk,ik->i", across2, known, across2)
                beta = 0.2 + max(0.0, math.log(0.4 * len(t)))
                found = across @ inverse @ y + math.sqrt(beta) * np.sqrt(np.maximum(variance, 0))
        return found


class Thaw(Plain):
    """Freeze-thaw: slices of 2 of 12 steps, an ensemble of curves fitted by EM in its information form."""

    LEVELS, SLICE, MOST, CHANCE = 6, 2, 12, 0.02
    FIRST = (np.array([-0.5, 0.5]), np.eye(2))

    def setup(self, sign: float) -> None:
        self.sign = sign
        self.curves: dict[int, list[float]] = {}
        self.alive: dict[int, None] = {}
        self.best, self.due = math.inf, 1
        self.clock: dict[int, tuple[float, int]] = {}
        self.pace: dict[int, tuple[float, int]] = {}
        self.paces: list[tuple[float, int]] = []
        u = np.arange(1, self.LEVELS + 1) / self.LEVELS
        shapes = [-np.log(u), *(u**-b for b in (0.5, 1, 2)), 1 - u, *(np.exp(-b * u) for b in (3, 8, 20))]
        shapes += [1 / (1 + (u / b) ** 2) for b in (0.1, 0.3)]
        self.u, self.shapes = u, [(s - s[-1]) / (s[0] - s[-1]) for s in shapes]
        self.share, (self.mean, self.cov) = np.full(10, 0.1), self.FIRST
        self.noise, self.drift, self.low, self.scale = 0.2, 0.6, 0.0, 1.0
        self.known: dict[tuple[float, ...], Any] = {}

    def warp(self, loss: float) -> float:
        z = (loss - self.low) / self.scale
        return math.log(0.1 + z) if z > 0 else math.log(0.1) + z / 0.1

    def posterior(self, z: Any, shape: Any, noise: float, drift: float) -> tuple[Any, Any, float]:
        """Mean and covariance of (m, a), and the log density of what was seen, under one shape."""
        design = np.stack([np.ones(len(z)), shape[: len(z)]], axis=1)
        left = 1 - self.u[: len(z)]
        rest = np.linalg.inv(noise**2 * np.eye(len(z)) + drift**2 * np.minimum.outer(left, left))
        prior = np.linalg.inv(self.cov)
        cov = np.linalg.inv(prior + design.T @ rest @ design)
        mean = cov @ (prior @ self.mean + design.T @ rest @ z)
        whole = design @ self.cov @ design.T + np.linalg.inv(rest)
        off = z - design @ self.mean
        density = -0.5 * (off @ np.linalg.inv(whole) @ off + np.linalg.slogdet(2 * math.pi * whole)[1])
        return mean, cov, float(density)

    def evidence(self, curves: list[Any], noise: float, drift: float) -> float:
        return sum(
            math.log(self.share @ np.exp([self.posterior(z, s, noise, drift)[2] for s in self.shapes])) for z in curves
        )

    def fit(self) -> None:
        losses = [curve for curve in self.curves.values() if curve]
        self.low = min(map(min, losses))
        self.scale = statistics.median(curve[-1] for curve in losses) - self.low or abs(self.low) or 1.0
        curves = [np.array([self.warp(loss) for loss in curve]) for curve in losses]
        self.share, (self.mean, self.cov) = np.full(10, 0.1), self.FIRST
        for turn in range(4):
            if turn == 1:
                self.drift = max((0.1, 0.25, 0.6, 1.5), key=lambda d: self.evidence(curves, self.noise, d))
            if turn == 2:
                self.noise = max((0.02, 0.06, 0.2, 0.5), key=lambda n: self.evidence(curves, n, self.drift))
            found = []  # (weight, mean, covariance) of each curve and shape
            shares = np.ones(10)
            for z in curves:
                each = [self.posterior(z, s, self.noise, self.drift) for s in self.shapes]
                weights = self.share * np.exp([density for *_, density in each])
                weights /= weights.sum()
                shares += weights
                found += [(w, m, c) for w, (m, c, _) in zip(weights, each, strict=True)]
            total = len(curves) + 2.0
            mean = (2.0 * self.FIRST[0] + sum(w * m for w, m, _ in found)) / total
            spread = sum(w * (c + np.outer(m - mean, m - mean)) for w, m, c in found)
            self.mean, self.cov, self.share = mean, (spread + 2.0 * self.FIRST[1]) / total, shares / shares.sum()
        self.known.clear()

    def hope(self, number: int) -> tuple[float, float]:
        """Expected improvement on the best, and the chance of one."""
        curve = tuple(self.curves.get(number, ()))
        if curve not in self.known:
            z = np.array([self.warp(loss) for loss in curve])
            each = [
                self.posterior(z, s, self.noise, self.drift) if curve else (self.mean, self.cov, 0.0)
                for s in self.shapes
            ]
            weights = self.share * np.exp([density for *_, density in each])
            self.known[curve] = [
                (w, m[0], math.sqrt(c[0, 0])) for w, (m, c, _) in zip(weights / weights.sum(), each, strict=True)
            ]
        best = self.warp(self.best) if self.best < math.inf else 0.0
        gain = chance = 0.0
        for weight, mean, sd in self.known[curve]:
            if weight > 1e-4:
                normal = statistics.NormalDist(mean, sd)
                chance += weight * normal.cdf(best)
                gain += weight * ((best - mean) * normal.cdf(best) + sd**2 * normal.pdf(best))
        return gain, chance

    def add(self, trial: TrialView) -> None:
        self.alive[trial.number] = None

    def start(self, trial: TrialView) -> None:
        self.clock.pop(trial.number, None)

    def end(self, trial: TrialView) -> None:
        for known in (self.alive, self.clock, self.pace):
            known.pop(trial.number, None)

    def report(self, trial: TrialView, report: Report) -> Said | None:
        number, step, loss = trial.number, report.step, self.sign * report.metrics["loss"]
        if number in self.clock and report.time > self.clock[number][0]:
            took, far = report.time - self.clock[number][0], step - self.clock[number][1]
            self.paces.append((took, far))
            before = self.pace.get(number, (0.0, 0))
            self.pace[number] = before[0] + took, before[1] + far
        self.clock[number] = report.time, step
        self.best = min(self.best, loss)
        curve = self.curves.setdefault(number, [])
        if len(curve) < step // self.SLICE:
            curve += [loss] * (step // self.SLICE - len(curve))
            slices = sum(map(len, self.curves.values()))
            if slices >= self.due or self.best < self.low - self.scale * 0.1 / 4:
                self.due = max(slices + 1, math.ceil(1.3 * slices))
                self.fit()
        elif step < self.MOST:
            return None
        poor = [n for n in self.alive if self.curves.get(n) and self.hope(n)[1] < self.CHANCE]
        said: dict[int, Any] = {number: Pause, **dict.fromkeys(poor, Stop)}
        if step >= self.MOST:
            said[number] = "completed"
        return said

    def agrees(self, number: int, verdict: Verdict, wanted: Any) -> bool:
        """Also the chance that it names is that of the model."""
        named = re.search(r"([0-9.]+)% chance", verdict.reason)
        near = named is None or abs(float(named[1]) / 100 - self.hope(number)[1]) < 6e-4
        return near and super().agrees(number, verdict, wanted)

    def choose(self, candidates: Candidates) -> int | None:
        there = [*candidates.waiting(), *(t for n in self.alive if (t := candidates.paused(n)) is not None)]

        def worth(trial: TrialView) -> float:
            paces = [self.pace[trial.number]] if trial.number in self.pace else self.paces
            seconds = sum(took for took, _ in paces) / sum(far for _, far in paces) if paces else 1.0
            left = max(self.MOST - (trial.last.step if trial.last else 0), 1e-9)
            return float(f"{self.hope(trial.number)[0] / (left * seconds):.9g}")

        return min(there, key=lambda t: (-worth(t), t.number)).number if there else None


def make(kind: str) -> tuple[Any, Any]:
    """Return a scheduler and its rule."""
    match kind:
        case "asha, stopping" | "asha, promotion":
            form: Any = kind.split()[1]
            scheduler: Any = ASHA(max=16, eta=2, type=form)
            return scheduler, Rungs(scheduler, 1, promotion=form == "promotion")
        case "successive_halving":
            return SuccessiveHalving(n=4, max=8, eta=2), Halving([(4, 1), (2, 2), (1, 4), (1, 8)])
        case "hyperband":
            return HyperBand(max=9), Halving([(9, 1), (3, 3), (1, 9)], [(5, 3), (1, 9)], [(3, 9)])
        case "median" | "median, pausing":
            hard = kind == "median"
            return MedianStopping(min_samples=2, hard=hard), Medians(2, hard=hard)
        case "mo_asha":
            return fronts(), Fronts()
        case "pb2" | "pb2, generations":
            together = kind != "pb2"
            scheduler = PB2(interval=3, mutations=X, quantile=0.4, resample=0, synchronous=together)
            return scheduler, Bandits(3, 0.4, together=together)
    return FreezeThaw(max=12, interval=2), Thaw()


KINDS = (
    "asha, stopping", "asha, promotion", "successive_halving", "hyperband", "median", "median, pausing", "mo_asha",
    "pb2", "pb2, generations", "freeze_thaw",
)  # fmt: skip


def metrics(step: int, draw: Any) -> Mapping[str, Any]:
    """In eighths and eights, whose sums are exact: there are ties, and no two ways to add up differ."""
    return {"loss": draw.randrange(9) / 8, "size": draw.randrange(9) * 8}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_decided_is_the_rule(kind: str) -> None:
    checked = modelled = 0
    for seed in range(6):
        scheduler, rule = make(kind)
        watched = Watched(scheduler, rule)
        world = World(
            metrics=metrics, seed=seed, mode=("min", "max")[seed % 2], trials=14,
            trouble=(0.0, 0.05, 0.2)[seed % 3], places=1 + seed % 5,
        )  # fmt: skip
        Play(watched, world).go()
        checked += watched.checked
        modelled += getattr(rule, "modelled", 0)
    assert checked > 30
    assert modelled > 20 or "pb2" not in kind
