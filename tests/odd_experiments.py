"""Odd experiments, written through the store as a driver would have: what figures and the page must stand.

write("pbt", storage)      # makes the experiment "pbt" in the folder and returns its name
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tune_platform.store.records import LogRow, ReportRow, TrialRow
from tune_platform.store.sql import open_store

#: Seconds since the epoch that all times count from.
START = 1_700_000_000.0
SPACE: Mapping[str, Any] = {
    "lr": {"type": "float", "low": 1e-5, "high": 1.0, "log": True},
    "layers": {"type": "int", "low": 1, "high": 4},
    "opt": {"type": "choice", "values": ["adam", "sgd"]},
}
TRACEBACK = """Traceback (most recent call last):
  File "/home/ada/train.py", line {line}, in step
    raise {kind}("{message}")
{kind}: {message}
"""


@dataclass(kw_only=True)
class Made:
    """One trial: its config, the metrics of each report, and how it ended."""

    config: Mapping[str, Any]
    curve: Sequence[Mapping[str, Any]] = ()
    status: str = "COMPLETED"
    reason: str = "reached max"
    error: str = ""
    start: float = 0.0
    tick: float = 1.0
    nodes: tuple[int, ...] = (0,)
    worker: str = "w0"
    verdicts: Sequence[Mapping[str, Any]] = ()  #: of the log, each with its "step"
    origin: str = "searcher"
    created: float = field(default=0.0)


@dataclass(kw_only=True)
class Experiment:
    """All that is written of one."""

    trials: Sequence[Made] = ()
    space: Mapping[str, Any] = field(default_factory=lambda: dict(SPACE))
    objective: Any = field(default_factory=lambda: {"metric": "loss", "mode": "min", "target": None})
    schedule: Mapping[str, Any] | None = None
    status: str = "finished"
    resumed: float | None = None  #: when another driver took over


def store(name: str, made: Experiment, storage: str | Path) -> str:
    """Write an experiment and return its name."""
    spec = {"version": 1, "name": name, "objective": made.objective, "space": made.space, "budget": {"trials": 99}}
    if made.schedule is not None:
        spec["schedule"] = made.schedule
    objective = made.objective if isinstance(made.objective, Mapping) else made.objective[0]
    log, reports, rows = _Log(), list[ReportRow](), list[TrialRow]()
    log.add("capacity", None, 0.0, nodes=[{"cpu": 1.0}])
    for number, trial in enumerate(made.trials):
        rows.append(_write(number, trial, objective, log, reports))
    if made.resumed is not None:
        log.add("resumed", None, made.resumed)
    if made.status == "finished":
        log.add("finished", None, log.newest, status="finished", reason="all trials ended")
    with open_store(storage) as place, place.create(name, spec, START) as experiment:
        experiment.acquire("test:1")
        experiment.append(log.rows, reports, rows)
        experiment.set_status(made.status, "", START + log.newest)
    return name


class _Log:
    def __init__(self) -> None:
        self.rows: list[LogRow] = []
        self.newest = 0.0

    def add(self, kind: str, trial: int | None, at: float, **data: Any) -> int:
        self.newest = max(self.newest, at)
        self.rows.append(LogRow(len(self.rows) + 1, START + at, kind, trial, data, None, self.newest))
        return len(self.rows)


def _write(number: int, trial: Made, objective: Mapping[str, Any], log: _Log, reports: list[ReportRow]) -> TrialRow:
    log.add("suggested", number, trial.start, config=trial.config)
    begun = trial.status != "PENDING"
    at = trial.start
    if begun:
        log.add("launched", number, at, attempt=1, nodes=list(trial.nodes), until=1, resources={"cpu": 1.0})
        log.add("started", number, at, attempt=1, worker=trial.worker)
    best, best_step = None, None
    sign = -1 if objective["mode"] == "max" else 1
    for step, metrics in enumerate(trial.curve, start=1):
        at = trial.start + step * trial.tick
        seq = log.add("reported", number, at, attempt=1, first=step, last=step)
        reports.append(ReportRow(number, step, seq, START + at, metrics))
        value = metrics.get(objective["metric"])
        if isinstance(value, (int, float)) and math.isfinite(value) and (best is None or sign * value < sign * best):
            best, best_step = float(value), step
        for verdict in trial.verdicts:
            if verdict["step"] == step:
                log.add("verdict", number, at, **verdict)
    if trial.status == "FAILED":
        message = trial.error.strip().splitlines()[-1] if trial.error else trial.reason
        log.add("failed", number, at + 0.5, attempt=1, cause="exception", message=message, traceback=trial.error)
    final = trial.status in ("COMPLETED", "FAILED", "STOPPED")
    if final and not any(v["verdict"] == "stop" for v in trial.verdicts):
        log.add("moved", number, at + 0.5, status=trial.status, reason=trial.reason)
    return TrialRow(
        trial=number, status=trial.status, config=trial.config, reason=trial.reason, origin=trial.origin,
        attempt=int(begun), step=len(trial.curve), metrics=trial.curve[-1] if trial.curve else {}, best=best,
        best_step=best_step, error=trial.error, created=START + trial.start, worker=trial.worker if begun else "",
        started=START + trial.start if begun else None, ended=START + at + 0.5 if final else None,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------ those there are


def _config(draw: random.Random) -> dict[str, Any]:
    return {"lr": 10 ** draw.uniform(-5, 0), "layers": draw.randint(1, 4), "opt": draw.choice(["adam", "sgd"])}


def _loss(config: Mapping[str, Any], step: int) -> float:
    return float(abs(math.log10(config["lr"]) + 2) + 0.1 * config["layers"] + 1 / step)


def normal(count: int = 30, steps: int = 9, seed: int = 0) -> Experiment:
    """ASHA with rungs 1, 3 and 9 on two workers; every tenth trial fails."""
    draw = random.Random(seed)
    trials = []
    for number in range(count):
        config = _config(draw)
        long = steps if number % 3 == 0 else 3 if number % 3 == 1 else 1
        curve = [{"loss": _loss(config, s), "acc": s / steps} for s in range(1, long + 1)]
        worker: dict[str, Any] = {"nodes": (number % 2,), "worker": f"w{number % 2}", "start": number * 5.0}
        if number % 10 == 9:
            error = TRACEBACK.format(line=31, kind="ValueError", message=f"loss exploded at {number}")
            trials.append(Made(config=config, curve=curve, status="FAILED", reason="exception", error=error, **worker))
            continue
        verdicts: list[Mapping[str, Any]] = [
            {
                "step": s,
                "verdict": "continue",
                "reason": f"rung {i} (step {s}): rank 1/3",
                "until": s * 3,
                "save": False,
            }
            for i, s in enumerate((1, 3))
            if s < long
        ]
        done = long == steps
        reason = f"step {steps}: reached max" if done else f"rung (step {long}): rank 3/3, keep 1"
        verdicts.append({"step": long, "verdict": "stop", "reason": reason, "completed": done})
        status = "COMPLETED" if done else "STOPPED"
        trials.append(Made(config=config, curve=curve, status=status, reason=reason, verdicts=verdicts, **worker))
    schedule = {"name": "asha", "resource": "step", "min": 1, "max": steps, "eta": 3}
    return Experiment(trials=trials, schedule=schedule)


def _failed() -> Experiment:
    messages = [("ValueError", "bad"), ("ValueError", "bad"), ("RuntimeError", "CUDA out of memory: 12 MiB")]
    return Experiment(
        trials=[
            Made(
                config={"lr": 0.5 + i / 100, "layers": 4, "opt": "sgd"}, status="FAILED", reason="exception",
                error=TRACEBACK.format(line=7, kind=kind, message=message),
            )
            for i, (kind, message) in enumerate(messages)
        ]
    )  # fmt: skip


def _nan() -> Experiment:
    draw = random.Random(1)
    return Experiment(
        trials=[Made(config=_config(draw), curve=[{"loss": float("nan")}, {"loss": float("inf")}]) for _ in range(4)]
    )


def _wide() -> Experiment:
    draw = random.Random(2)
    space = {f"p{i:03d}": {"type": "float", "low": 0.0, "high": 1.0} for i in range(200)}
    trials = []
    for _ in range(20):
        config = {name: draw.random() for name in space}
        trials.append(Made(config=config, curve=[{"loss": config["p000"]}]))
    return Experiment(trials=trials, space=space)


def _conditional() -> Experiment:
    draw = random.Random(3)
    space = {**SPACE, "momentum": {"type": "float", "low": 0.0, "high": 0.99, "when": {"opt": "sgd"}}}
    trials = []
    for _ in range(20):
        config = _config(draw)
        if config["opt"] == "sgd":
            config["momentum"] = draw.uniform(0, 0.99)
        trials.append(Made(config=config, curve=[{"loss": _loss(config, 1)}]))
    return Experiment(trials=trials, space=space)


def _numbers_as_text() -> Experiment:
    space = {"size": {"type": "choice", "values": ["1", "10", "2", 2, True, None, "nan"]}, "lr": SPACE["lr"]}
    values = space["size"]["values"]
    return Experiment(
        space=space,
        trials=[
            Made(config={"size": value, "lr": 0.1 / (i + 1)}, curve=[{"loss": float(i), "note": "0.5"}])
            for i, value in enumerate([*values, *values])
        ],
    )


def _unicode() -> Experiment:
    bad = "<script>alert(1)</script>"
    space = {"größe": {"type": "choice", "values": ["ä", "日本", bad]}, bad: {"type": "float", "low": 0, "high": 1}}
    objective = {"metric": "<b>loss</b> µ", "mode": "min", "target": None}
    return Experiment(
        space=space,
        objective=objective,
        trials=[
            Made(
                config={"größe": ["ä", "日本", bad][i % 3], bad: i / 9}, curve=[{"<b>loss</b> µ": float(i)}],
                status="FAILED" if i == 8 else "COMPLETED", error=bad if i == 8 else "", reason=bad, worker=bad,
            )
            for i in range(9)
        ],
    )  # fmt: skip


def _several() -> Experiment:
    draw = random.Random(4)
    objective = [{"metric": "loss", "mode": "min"}, {"metric": "acc", "mode": "max"}]
    trials = []
    for _ in range(25):
        config = _config(draw)
        trials.append(Made(config=config, curve=[{"loss": _loss(config, 1), "acc": draw.random()}]))
    return Experiment(trials=trials, objective=objective)


def _resumed() -> Experiment:
    made = normal(12)
    made.resumed = 1000.0
    made.trials = [*made.trials, Made(config={"lr": 0.1, "layers": 1, "opt": "sgd"}, status="RUNNING", start=1001.0,
                                      curve=[{"loss": 2.0}], reason="")]  # fmt: skip
    made.status = "interrupted"
    return made


def _clock() -> Experiment:
    made = normal(9)
    for number, trial in enumerate(made.trials):
        trial.start = 1000.0 - 300 * number
        trial.tick = -1.0 if number % 2 else 1.0
    return made


def _pbt() -> Experiment:
    trials = []
    for number in range(4):
        config = {"lr": 0.1 / (number + 1)}
        curve = [{"loss": 1.0 / (step + number)} for step in range(1, 9)]
        verdicts = []
        if number == 0:
            verdicts = [
                {"step": 4, "verdict": "clone", "reason": "from trial 3; lr 0.1 -> 0.03", "until": 8, "save": True,
                 "source": 3, "config": {"lr": 0.03}},
                {"step": 6, "verdict": "clone", "reason": "from trial 2; lr 0.03 -> 0.04", "until": 8, "save": True,
                 "source": 2, "config": {"lr": 0.04}},
            ]  # fmt: skip
        trials.append(Made(config=config, curve=curve, verdicts=verdicts, nodes=(number,), worker=f"w{number}"))
    return Experiment(trials=trials, space={"lr": SPACE["lr"]}, schedule={"name": "pbt"})


def _gangs() -> Experiment:
    made = normal(6)
    for trial in made.trials:
        trial.nodes = (0, 0, 1, 1)
    return made


def _many() -> Experiment:
    draw = random.Random(5)
    trials = []
    for number in range(100_000):
        config = _config(draw)
        trials.append(Made(config=config, curve=[{"loss": _loss(config, 1)}], start=float(number)))
    return Experiment(trials=trials)


ODD: Mapping[str, Callable[[], Experiment]] = {
    "normal": normal,
    "none": Experiment,
    "one": lambda: normal(1),
    "all_failed": _failed,
    "all_nan": _nan,
    "wide": _wide,
    "conditional": _conditional,
    "numbers_as_text": _numbers_as_text,
    "unicode": _unicode,
    "several": _several,
    "resumed": _resumed,
    "clock": _clock,
    "pbt": _pbt,
    "gangs": _gangs,
    "many": _many,
}


def write(name: str, storage: str | Path) -> str:
    """Write the odd experiment of this name into a folder, and return its name."""
    return store(name, ODD[name](), storage)
