"""Small helpers: a log in memory, a searcher that remembers, a curve, and an experiment built from a scenario."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.populations import Generations, Synchronous, Thaw
from tune_platform.backends.simulated import Faults, SimulatedBackend
from tune_platform.engine.clones import held_for_clones
from tune_platform.engine.controller import PATIENCE, Controller
from tune_platform.engine.failures import LOST_AT_ONCE
from tune_platform.engine.feed import Feed
from tune_platform.engine.log import groups
from tune_platform.engine.runner import Runner
from tune_platform.engine.settings import Settings
from tune_platform.engine.trial import TrialStatus
from tune_platform.protocol.backend import Job
from tune_platform.protocol.commands import Ask, Command, DropCheckpoints, Finish, Launch, Tell
from tune_platform.protocol.effects import Effect
from tune_platform.protocol.events import Event, Resumed
from tune_platform.protocol.reports import Report
from tune_platform.protocol.scheduler import Candidates, Scheduler, TrialView
from tune_platform.protocol.searcher import Outcome, PastTrial, Suggestion
from tune_platform.protocol.seeds import rng
from tune_platform.protocol.verdicts import Clone, Continue, Verdict
from tune_platform.resources import Resources
from tune_platform.schedulers import (
    ASHA,
    FIFO,
    MFPBT,
    MOASHA,
    PASHA,
    PB2,
    PBT,
    AsyncHyperBand,
    FreezeThaw,
    HyperBand,
    MedianStopping,
    SuccessiveHalving,
)
from tune_platform.space import Space, uniform
from tune_platform.store.records import CheckpointRow, LogRow, ReportRow, RequestRow, TrialRow


def plain(data: Any) -> Any:
    """What a value is once it has been written to disk and read back."""
    return json.loads(json.dumps(data))


@dataclass
class MemoryLog:
    """The store's part of the loop. A request is handed out when `after` rows are written, or nothing else happens."""

    plan: Sequence[tuple[int, str, int | None, Mapping[str, Any]]] = ()
    rows: list[LogRow] = field(default_factory=list)
    reports: dict[tuple[int, int], ReportRow] = field(default_factory=dict)
    trials: dict[int, TrialRow] = field(default_factory=dict)
    checkpoints: dict[str, CheckpointRow] = field(default_factory=dict)
    saved: list[tuple[int, str]] = field(default_factory=list)
    commits: list[int] = field(default_factory=list)  # seq at the end of each transaction
    _looked: int = -1
    _idle: int = 0  # looks since the last row
    seen: list[dict[int, TrialRow]] = field(default_factory=list)  # the table after each commit (shared rows)

    def append(
        self,
        log: Sequence[LogRow],
        reports: Sequence[ReportRow] = (),
        trials: Sequence[TrialRow] = (),
        checkpoints: Sequence[CheckpointRow] = (),
        *,
        snapshot: tuple[int, str] | None = None,
    ) -> None:
        if snapshot is not None:
            self.saved.append(snapshot)
        for row in log:
            assert row.seq == len(self.rows) + 1, "seq has a gap"
            self.rows.append(row)
        for report in reports:
            assert (report.trial, report.step) not in self.reports, "a report was doubled"
            self.reports[report.trial, report.step] = report
        for trial in trials:
            self.trials[trial.trial] = trial
        for checkpoint in checkpoints:
            self.checkpoints[checkpoint.uri] = checkpoint
        if log:
            self.commits.append(len(self.rows))
            self.seen.append(dict(self.trials))

    def read_log(self, after: int = 0) -> Any:
        by_row: dict[int, list[ReportRow]] = {}
        for report in self.reports.values():
            by_row.setdefault(report.seq, []).append(report)
        for row in list(self.rows[after:]):
            yield row, tuple(by_row.get(row.seq, ()))

    def snapshots(self) -> Sequence[tuple[int, str]]:
        return self.saved[::-1]

    def requests(self, after: int) -> Sequence[RequestRow]:
        todo = [(i, *entry) for i, entry in enumerate(self.plan, start=1) if i > after]
        due = [entry for entry in todo if entry[1] <= len(self.rows)]
        self._idle = self._idle + 1 if self._looked == len(self.rows) else 0
        if not due and self._idle >= 4:  # nothing happens any more; a new driver's first turns may bring nothing
            due, self._idle = todo[:1], 0
        self._looked = len(self.rows)
        return [RequestRow(i, 0.0, action, trial, data) for i, _, action, trial, data in due]

    def cut(self, seq: int | None = None) -> MemoryLog:
        """The log as it would be if only its first `seq` rows had been written; all of them by default."""
        seq = len(self.rows) if seq is None else seq
        kept = {key: row for key, row in self.reports.items() if row.seq <= seq}
        rows = [r._replace(data=plain(dict(r.data))) for r in self.rows[:seq]]
        full = [table for end, table in zip(self.commits, self.seen, strict=True) if end <= seq]
        # A snapshot of a row is written with the rows after it.
        ends = [min((end for end in self.commits if end > row), default=row) for row, _ in self.saved]
        saved = [snapshot for end, snapshot in zip(ends, self.saved, strict=True) if end <= seq]
        return MemoryLog(self.plan, rows, kept, dict(full[-1]) if full else {}, saved=saved)

    def text(self) -> str:
        """The log and the reports, byte for byte."""
        rows = [r._replace(data=plain(dict(r.data))) for r in self.rows]
        reports = [(r.trial, r.step, r.seq, r.time, plain(dict(r.metrics))) for _, r in sorted(self.reports.items())]
        return json.dumps([rows, reports], sort_keys=True)


class MemorySearcher:
    """Its suggestion depends on all it was told so far, and on who is running."""

    synchronous = True
    lookahead: int | None = 0

    def __init__(self, *, limit: int | None = None, raises_at: int | None = None, choices: Any = None) -> None:
        self.limit, self.raises_at = limit, raises_at
        self.choices = choices or {}
        self.told: dict[int, Outcome] = {}
        self.known: dict[int, Any] = {}
        self.calls: list[tuple[str, int]] = []

    def setup(self, space: Any, *, mode: Sequence[str], seed: int) -> None:
        self.seed = seed
        self.told.clear()
        self.known.clear()

    def ask(self, number: int) -> Suggestion | None:
        self.calls.append(("ask", number))
        if number == self.raises_at:
            raise RuntimeError("no idea left")
        if self.limit is not None and number >= self.limit:
            return None
        memory = sorted((n, o.status, repr(o.value), o.step) for n, o in self.told.items())
        running = sorted(set(self.known) - set(self.told))
        digest = hashlib.sha256(repr((memory, running)).encode()).digest()
        draw = rng(self.seed + int.from_bytes(digest[:4], "big"), number)
        config = {"x": round(float(draw.random()), 1)}
        config.update({name: values[int(draw.integers(len(values)))] for name, values in self.choices.items()})
        self.known[number] = config
        return Suggestion(config, memo={"told": len(memory)})

    def observe(self, number: int, config: Mapping[str, Any]) -> None:
        self.calls.append(("observe", number))
        self.known[number] = config

    def tell(self, number: int, outcome: Outcome) -> None:
        self.calls.append(("tell", number))
        assert number not in self.told or self.told[number].status == "paused", f"trial {number} ended twice"
        assert number in self.known, f"trial {number} was told but never suggested"
        self.told[number] = outcome

    def restore(self, past: Sequence[PastTrial]) -> None:
        for trial in past:
            assert trial.number not in self.known, f"trial {trial.number} was restored twice"
            self.known[trial.number] = trial.config
            if trial.outcome is not None:
                self.told[trial.number] = trial.outcome


class StatefulSearcher(MemorySearcher):
    """One that offers its state, as JSON values."""

    def state(self) -> Mapping[str, Any]:
        told = [[n, [o.status, o.value, o.step]] for n, o in self.told.items()]
        return {"known": [[n, dict(config)] for n, config in self.known.items()], "told": told}

    def load_state(self, data: Mapping[str, Any]) -> None:
        self.known = dict(data["known"])
        self.told = {number: Outcome(*values) for number, values in data["told"]}


class FakeSpace:
    """Fills in what a start point leaves open."""

    def complete(self, partial: Mapping[str, Any], generator: Any) -> dict[str, Any]:
        return {"x": round(float(generator.random()), 1), **partial}


class TinyPBT:
    """The smallest PBT: every `interval` steps one of the lower third clones one of the upper one.

    `judged` has each decision that it came to: (trial, step, how everybody ranked, source or None).
    """

    resource = "step"

    def __init__(self, interval: int = 2) -> None:
        self.interval = interval

    def setup(self, *, metric: str, mode: str, seed: int) -> None:
        self.metric, self.sign, self.seed = metric, (1 if mode == "min" else -1), seed
        self.scores: dict[int, float] = {}
        self.judged: list[tuple[int, int, tuple[int, ...], int | None]] = []

    def until(self, trial: TrialView) -> tuple[float | None, bool]:
        step = trial.last.step if trial.last else 0
        return (step // self.interval + 1) * self.interval, True

    def on_add(self, trial: TrialView) -> None:
        pass

    def on_start(self, trial: TrialView) -> None:
        pass

    def on_supply_end(self) -> None:
        pass

    def on_report(self, trial: TrialView, report: Report) -> Verdict | None:
        if report.step % self.interval:
            return None
        self.scores[trial.number] = self.sign * report.metrics[self.metric]
        ranked = sorted(self.scores, key=lambda n: (self.scores[n], n))
        size = len(ranked) // 3
        after = report.step + self.interval
        if size and trial.number in ranked[-size:]:
            source = ranked[:size][int(rng(self.seed, trial.number, f"clone {report.step}").integers(size))]
            self.judged.append((trial.number, report.step, tuple(ranked), source))
            config = {**trial.config, "x": round(float(trial.config["x"]) * 0.8, 3)}
            return Clone(source=source, config=config, until=after, reason=f"rank {ranked.index(trial.number) + 1}")
        self.judged.append((trial.number, report.step, tuple(ranked), None))
        return Continue(until=after, save=True, reason="good enough")

    def choose(self, candidates: Candidates) -> int | None:
        trial = next(candidates.waiting(), None)
        return trial.number if trial else None

    def on_end(self, trial: TrialView, status: str) -> None:
        self.scores.pop(trial.number, None)

    def describe(self) -> Mapping[str, Any]:
        return {"scores": {str(n): s for n, s in self.scores.items()}}


class CheckedController(Controller):
    """Holds every handled event against the invariants."""

    def __init__(self, settings: Settings, scheduler: Scheduler) -> None:
        super().__init__(settings, scheduler)
        self.tells: Counter[int] = Counter()
        self.asks: list[int] = []
        self.dropped: set[str] = set()
        self.launches: list[Launch] = []
        self.changed = False  # whether the scheduler may decide otherwise than the log has it

    def handle(self, event: Event, elapsed: float | None = None) -> list[Command]:
        self._before(event)
        commands = super().handle(event, elapsed)
        self._check(commands)
        assert all(command.nodes for command in commands if isinstance(command, Launch))
        assert self.state.ledger.leases() <= self.settings.max_concurrent
        return commands

    def replay(self, event: Event, elapsed: float, effects: Sequence[Effect]) -> list[Command]:
        self._before(event)
        commands = super().replay(event, elapsed, effects)
        self._check(commands)
        assert self.changed or not self.comparison.difference, self.comparison.difference
        return commands

    def _before(self, event: Event) -> None:
        if isinstance(event, Resumed) and event.retry_failed:
            for number, trial in self.state.trials.items():
                if trial.status is TrialStatus.FAILED:
                    self.tells[number] -= 1

    def _check(self, commands: Sequence[Command]) -> None:
        self.state.check()
        assert self.state.ledger.leases() == len(self.state.placed)
        assert self.state.supply.next_number <= self.state.supply.limit
        self._check_commands(commands)
        self._check_trials()

    def _check_commands(self, commands: Sequence[Command]) -> None:
        for command in commands:
            if isinstance(command, Tell) and command.outcome.status not in ("paused", "running"):
                self.tells[command.trial] += 1
                assert self.tells[command.trial] == 1
            elif isinstance(command, Ask):
                self.asks.append(command.trial)
            elif isinstance(command, DropCheckpoints):
                self.dropped |= {ref.uri for ref in command.checkpoints}
            elif isinstance(command, Launch):
                self.launches.append(command)
                assert command.checkpoint is None or command.checkpoint.uri not in self.dropped
                assert command.start <= command.committed
                assert not command.nodes or len(command.nodes) == command.resources.workers  # none in former logs

    def _check_trials(self) -> None:
        keep_last, keep_best = self.settings.keep_last, self.settings.keep_best
        for trial in self.state.trials.values():
            assert not self.dropped & {kept.ref.uri for kept in trial.checkpoints}, "a needed checkpoint was dropped"
            if keep_last is not None or keep_best is not None:
                held = held_for_clones(self.state, trial)
                kept = [entry for entry in trial.checkpoints if entry.step not in held]
                assert len(kept) <= max(1, keep_last or 0) + (keep_best or 0)
            assert trial.bypassed <= PATIENCE
            for cause, times in trial.failures.items():
                own = "worker_died" if cause == "out_of_memory" and cause not in self.settings.retries else cause
                machines = cause in ("node_lost", "preempted", "disk_full", "storage_away")
                allowed = self.settings.retries.get(own, 0)
                if own == "lost_checkpoint" and allowed:  # it may have been the source's of a clone
                    allowed = max(allowed, LOST_AT_ONCE)
                assert machines or times <= allowed + 1
            if trial.held:
                assert trial.status in (TrialStatus.PAUSED, TrialStatus.PAUSING)


def curve(config: Mapping[str, Any], step: int) -> Mapping[str, Any] | None:
    """A loss with many ties that falls with the steps; `epoch` counts two a step."""
    if step > config.get("length", 9):
        return None
    return {"loss": round(abs(config["x"] - 0.3) + 1 / step, 2), "epoch": 2 * step}


def fronts() -> MOASHA:
    """Multi-objective ASHA of a loss that is to be low and high: none dominates another, and the net decides."""
    scheduler = MOASHA(max=8, eta=2)
    scheduler.prepare(Space({}), ("loss", "loss"), ("min", "max"))
    return scheduler


class RealBackend(SimulatedBackend):
    """One that says that its clock is real: nothing is found in flight again, and the loop turns by its own clock.

    While it is `silent`, nothing comes of it.
    """

    virtual = False
    silent = False

    def poll(self, timeout: float | None) -> list[Event]:
        return [] if self.silent else super().poll(None)


@dataclass
class Scenario:
    """All that a run is a function of."""

    scheduler: str = "fifo"
    trials: int = 6
    nodes: Sequence[Mapping[str, float]] = ({"cpu": 2.0},)
    mode: str = "min"
    seed: int = 0
    faults: Faults | None = None
    choices: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    plan: Sequence[tuple[int, str, int | None, Mapping[str, Any]]] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    changes: Sequence[tuple[float, Sequence[Mapping[str, float]], str]] = ()
    step_time: float | None = None  # seconds; None: drawn
    setup_time: float = 0.0
    batch: int = 16
    checkpoint_every: int = 0
    limit: int | None = None  # what the searcher can suggest
    raises_at: int | None = None
    start_points: Sequence[Mapping[str, Any]] = ()
    lookahead: int | None = 0
    real: bool = False  # whether its clock is taken for real
    stateful: bool = False  # whether its searcher offers its state

    def make_scheduler(self) -> Scheduler:
        kinds: dict[str, Any] = {
            "fifo": FIFO,
            "stopping": lambda: ASHA(min=1, max=8, eta=2),
            "promotion": lambda: ASHA(min=1, max=8, eta=2, type="promotion"),
            "epochs": lambda: ASHA(resource="epoch", min=3, eta=3, max=14, type="promotion"),
            "halving": lambda: SuccessiveHalving(n=4, max=8, eta=2),
            "hyperband": lambda: HyperBand(max=8, eta=2),
            "brackets": lambda: AsyncHyperBand(max=8, eta=2, brackets=3, type="promotion"),
            "pasha": lambda: PASHA(max=8, eta=2),
            "median": lambda: MedianStopping(min_samples=2, max=8),
            "median-soft": lambda: MedianStopping(min_samples=2, hard=False),
            "members": lambda: PBT(interval=2, mutations={"x": uniform(0, 1)}, quantile=0.5),
            "generation": lambda: PBT(interval=2, mutations={"x": uniform(0, 1)}, synchronous=True, max=8),
            "frequencies": lambda: MFPBT(interval=1, frequencies=(1, 3), mutations={"x": uniform(0, 1)}, quantile=0.34),
            "bandits": lambda: PB2(interval=2, mutations={"x": uniform(0, 1)}, quantile=0.5),
            "forecasts": lambda: FreezeThaw(max=8, interval=2),
            "fronts": fronts,
            "pbt": TinyPBT,
            "synchronous": Synchronous,
            "thaw": Thaw,
            "generations": Generations,
        }
        scheduler: Scheduler = kinds[self.scheduler]()
        return scheduler

    def make_settings(self) -> Settings:
        values: dict[str, Any] = {"num_samples": self.trials, "seed": self.seed, "lookahead": self.lookahead}
        values.update(self.settings)
        return Settings(metrics=("loss",), modes=(self.mode,), **values)

    def build(self, log: MemoryLog | None = None, *, scheduler: Scheduler | None = None) -> Run:
        scheduler = scheduler or self.make_scheduler()
        settings = self.make_settings()
        controller = CheckedController(settings, scheduler)
        seconds = self.step_time
        backend = (RealBackend if self.real else SimulatedBackend)(
            curve,
            nodes=self.nodes,
            step_time=None if seconds is None else lambda config, step: seconds,
            setup_time=self.setup_time,
            faults=self.faults,
            batch=self.batch,
            changes=self.changes,
        )
        kind = StatefulSearcher if self.stateful else MemorySearcher
        searcher = kind(limit=self.limit, raises_at=self.raises_at, choices=self.choices)
        space: Any = FakeSpace()
        feed = Feed(
            searcher,
            space,
            modes=[self.mode],
            seed=self.seed,
            start_points=self.start_points,
            resources=resources_of,
            clock=backend.now,
        )
        log = MemoryLog(self.plan) if log is None else log
        job = Job(
            experiment="x",
            trainable=None,
            metrics=("loss",),
            resource=scheduler.resource,
            stop=settings.stop,
            on_bad_metric=settings.on_bad_metric,
            checkpoint_every=self.checkpoint_every,
            seed=self.seed,
        )
        complete = lambda config, number: space.complete(config, rng(self.seed, number, "start"))  # noqa: E731
        runner = Runner(controller=controller, feed=feed, backend=backend, log=log, job=job, complete=complete)
        return Run(runner, controller, backend, searcher, log)

    def run(self) -> Run:
        run = self.build()
        run.runner.start()
        run.drive()
        return run

    def table(self, log: MemoryLog) -> str:
        """The table of all trials that the log folds into, byte for byte."""
        controller = Controller(self.make_settings(), self.make_scheduler())
        for group in groups(log.cut(len(log.rows)).read_log()):
            controller.replay(group.event, group.elapsed, group.effects)
        lines = [
            f"{n} {t.status} {t.reason} {t.attempt} {t.step} {t.best} {plain(dict(t.config))} {t.failures} {t.history}"
            for n, t in sorted(controller.state.trials.items())
        ]
        return "\n".join(lines)


@dataclass
class Run:
    """One driver's life."""

    runner: Runner
    controller: CheckedController
    backend: SimulatedBackend
    searcher: MemorySearcher
    log: MemoryLog

    def drive(self, limit: int = 5000) -> Finish:
        """Turn until the end; fails where nothing happens any more."""
        idle = 0
        for _ in range(limit):
            if self.controller.finished is not None and not self.runner.early:
                return self.controller.finished
            before = len(self.log.rows)
            self.runner.turn()
            idle = idle + 1 if len(self.log.rows) == before else 0
            assert idle < 20, f"stuck: {dict(self.controller.state.counts)}"
        raise AssertionError("no end in sight")


def resources_of(config: Mapping[str, Any]) -> Resources:
    return Resources(
        cpu=config.get("cpu", 1.0), workers=config.get("workers", 1), strategy=config.get("strategy", "PACK")
    )
