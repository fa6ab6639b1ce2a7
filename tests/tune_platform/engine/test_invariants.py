"""The invariants of architecture.md, on random experiments with random faults, persons and cuts."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support import MemoryLog, Run, Scenario, TinyPBT, plain
from tune_platform.backends.simulated import Faults
from tune_platform.engine.recovery import recover
from tune_platform.engine.spending import Limits
from tune_platform.protocol.effects import EFFECTS

QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
ACTIONS = ("stop", "pause", "unpause", "enqueue", "extend", "stop all", "cancel all", "pause all")

rates = st.sampled_from([0.0, 0.0, 0.05, 0.2])
optional = st.none() | st.integers(0, 2)


@st.composite
def plans(draw: st.DrawFn, trials: int) -> list[tuple[int, str, int | None, dict[str, Any]]]:
    """What persons ask for, and when; the last request lets an experiment that waits for a person end."""
    plan: list[tuple[int, str, int | None, dict[str, Any]]] = []
    for action in draw(st.lists(st.sampled_from(ACTIONS), max_size=5)):
        after = draw(st.integers(1, 60))
        number = draw(st.integers(0, trials))
        match action:
            case "enqueue":
                plan.append((after, "enqueue", None, {"config": {"x": 0.5}}))
            case "extend":
                plan.append((after, "extend", None, {"trials": 2, "time": 5.0}))
            case "stop all" | "cancel all" | "pause all":
                plan.append((after, action.split()[0], None, {}))
            case _:
                plan.append((after, action, number, {}))
    plan.sort(key=lambda entry: entry[0])
    return [*plan, (10**9, "unpause", None, {}), (10**9, "cancel", None, {})]


@st.composite
def scenarios(draw: st.DrawFn, max_trials: int = 12) -> Scenario:
    trials = draw(st.integers(2, max_trials))
    options: dict[str, Any] = {
        "keep_last": draw(st.none() | st.integers(0, 2)),
        "keep_best": draw(optional),
        "prefetch": draw(st.none() | st.integers(0, 3)),
        "keep_warm": draw(st.booleans()),
        "max_concurrent": draw(st.sampled_from([math.inf, 1, 3])),
        "retries": draw(st.sampled_from([{}, {"exception": 1, "worker_died": 3, "timeout": 1}])),
        "max_failures": draw(st.sampled_from([math.inf, math.inf, 1])),
        "fail_alike": draw(st.sampled_from([0, 2, 3])),
        "step_timeout": draw(st.sampled_from([4.0, 40.0])),
        "time_budget": draw(st.sampled_from([math.inf, math.inf, 20.0])),
        "limits": draw(st.sampled_from([Limits(), Limits(), Limits(cost=20.0, per_cpu=3600.0), Limits(deadline=15.0)])),
        "target": draw(st.sampled_from([None, None, None, 0.3])),
        "stop": draw(st.sampled_from([{}, {}, {"step": 5}])),
    }
    faults = Faults(exception=draw(rates), worker_died=draw(rates), nan=draw(rates), hang=draw(rates))
    return Scenario(
        scheduler=draw(st.sampled_from(["fifo", "stopping", "promotion", "epochs", "pbt"])),
        trials=trials,
        nodes=draw(st.lists(st.sampled_from([{"cpu": 1.0}, {"cpu": 2.0}, {"cpu": 4.0}]), min_size=1, max_size=3)),
        mode=draw(st.sampled_from(["min", "max"])),
        seed=draw(st.integers(0, 1000)),
        faults=faults if draw(st.booleans()) else None,
        choices=draw(
            st.sampled_from(
                [
                    {},
                    {"length": [1, 4, 9]},
                    {"cpu": [0.5, 1.0], "workers": [1, 2]},
                    {"cpu": [0.1, 0.3, 1.0], "workers": [1, 3], "strategy": ["PACK", "SPREAD", "STRICT_SPREAD"]},
                    {"cpu": [1.0, 9.0]},
                ]
            )
        ),
        plan=draw(plans(trials)),
        settings=options,
        step_time=draw(st.sampled_from([None, 1.0])),
        setup_time=draw(st.sampled_from([0.0, 1.0])),
        batch=draw(st.sampled_from([1, 3, 16])),
        checkpoint_every=draw(st.integers(0, 3)),
        limit=draw(st.sampled_from([None, None, 4])),
        start_points=draw(st.sampled_from([(), ({"x": 0.1}, {})])),
    )


def check_end(run: Run) -> None:
    """What must hold once an experiment is over; what must hold at any time, the controller has checked already."""
    controller, log = run.controller, run.log
    assert controller.finished is not None
    state = controller.state
    assert not state.ledger.leases(), "a lease is left over"
    assert len(set(controller.asks)) == len(controller.asks) or state.supply.exhausted
    for number, row in log.trials.items():
        final = row.status in ("COMPLETED", "STOPPED", "FAILED")
        assert final or row.status in ("PENDING", "PAUSED")
        assert controller.tells[number] == int(final)
        trial = state.trials.get(number)
        assert (trial is None) == final, "an ended trial is still in memory, or a living one is not"
        if trial is not None:
            assert (trial.status.value, trial.step) == (row.status, row.step), "the table lags behind"
        steps = sorted(step for n, step in log.reports if n == number)
        assert steps == list(range(1, row.step + 1)), "a report was lost"
    if not state.supply.exhausted and run.searcher.raises_at is None:
        told = {n for n, times in controller.tells.items() if times}
        paused = {n for n, row in log.trials.items() if n not in told and n in run.searcher.told}
        assert set(run.searcher.told) == told | paused
        for number in paused:
            assert run.searcher.told[number].status == "paused"
        for number, row in log.trials.items():  # the searcher knows of each paused trial what is committed of it
            if row.status == "PAUSED" and row.step:
                assert (run.searcher.told[number].value, run.searcher.told[number].step) == (row.best, row.step)


def rungs_of(run: Run) -> dict[int, list[tuple[float, int, str]]]:
    """From the log alone: who arrived at each rung, in order, with the value and the verdict that followed."""
    rungs: dict[int, list[tuple[float, int, str]]] = defaultdict(list)
    values = {(r.trial, r.step): r.metrics["loss"] for r in run.log.reports.values()}
    for row in run.log.rows:
        if row.kind == "verdict" and row.data["reason"].startswith("rung"):
            value = values[row.trial or 0, row.data["step"]]
            rungs[int(row.data["reason"].split()[1])].append((value, row.trial or 0, row.data["verdict"]))
    return rungs


def check_stopping(run: Run) -> None:
    """Invariant 6 for ASHA's stopping form: on arrival it goes on if it is among the best max(1, n // eta) so far."""
    sign = 1 if run.controller.settings.modes[0] == "min" else -1
    for arrivals in rungs_of(run).values():
        for n, (value, _, verdict) in enumerate(arrivals, start=1):
            better = sum(sign * other <= sign * value for other, _, _ in arrivals[: n - 1])
            assert verdict == ("continue" if better < max(1, n // 2) else "stop")


def check_promotion(run: Run) -> None:
    """Invariant 6 for the promotion form: whoever was sent on was in the top n // eta of those recorded by then."""
    eta = run.controller.scheduler.eta  # type: ignore[attr-defined]
    sign = 1 if run.controller.settings.modes[0] == "min" else -1
    rung_of: dict[int, int] = {}
    rungs: dict[int, list[tuple[float, int, int]]] = defaultdict(list)
    values = {(r.trial, r.step): r.metrics["loss"] for r in run.log.reports.values()}
    for row in run.log.rows:
        if row.kind != "verdict":
            continue
        trial, reason = row.trial or 0, row.data["reason"]
        if reason.startswith("rung"):
            rung_of[trial] = int(reason.split()[1])
            rung = rungs[rung_of[trial]]
            rung.append((sign * values[trial, row.data["step"]], len(rung), trial))
        elif reason == "the scheduler sent it on":
            rung = rungs[rung_of[trial]]
            top = [entry[2] for entry in sorted(rung)[: math.floor(len(rung) / eta + 1e-9)]]
            assert trial in top


@settings(max_examples=900, deadline=None, suppress_health_check=QUIET)
@given(scenarios())
def test_invariants(scenario: Scenario) -> None:
    run = scenario.run()
    check_end(run)
    if scenario.settings.get("stop") or scenario.faults or len(scenario.plan) > 2:
        return  # the verdicts of persons and of stop conditions come in between
    if scenario.scheduler == "stopping":
        check_stopping(run)
    elif scenario.scheduler in ("promotion", "epochs"):
        check_promotion(run)


@settings(max_examples=60, deadline=None, suppress_health_check=QUIET)
@given(st.integers(0, 10**6), st.sampled_from(["stopping", "promotion", "epochs"]), st.integers(1, 6))
def test_asha_rule_holds_on_the_log(seed: int, scheduler: str, workers: int) -> None:
    run = Scenario(scheduler=scheduler, trials=25, nodes=({"cpu": float(workers)},), seed=seed).run()
    check_end(run)
    check_stopping(run) if scheduler == "stopping" else check_promotion(run)


@settings(max_examples=60, deadline=None, suppress_health_check=QUIET)
@given(st.integers(0, 10**6), st.integers(3, 12), st.integers(1, 9), st.sampled_from(["min", "max"]))
def test_pbt_clones_from_the_upper_into_the_lower_quantile(seed: int, trials: int, workers: int, mode: str) -> None:
    run = Scenario(scheduler="pbt", trials=trials, nodes=({"cpu": float(workers)},), seed=seed, mode=mode).run()
    check_end(run)
    sign = 1 if mode == "min" else -1
    values = {(r.trial, r.step): sign * r.metrics["loss"] for r in run.log.reports.values()}
    # From the log alone: the last score of each trial that lives, at the time of each verdict.
    scores: dict[int, float] = {}
    clones = judged = 0
    for row in run.log.rows:
        trial = row.trial if row.trial is not None else -1
        if row.kind == "moved" and row.data["status"] in ("COMPLETED", "STOPPED", "FAILED"):
            scores.pop(trial, None)
        elif row.kind == "verdict" and row.data.get("by", "scheduler") == "scheduler":
            judged += 1
            scores[trial] = values[trial, row.data["step"]]
            ranked = sorted(scores, key=lambda number: (scores[number], number))
            third = len(ranked) // 3
            lower = trial in ranked[len(ranked) - third :]
            assert row.data["verdict"] == ("clone" if lower else "continue")
            if lower:
                clones += 1
                assert row.data["source"] in ranked[:third]
    assert judged
    scheduler = run.controller.scheduler
    assert isinstance(scheduler, TinyPBT)
    assert sum(source is not None for *_, source in scheduler.judged) == clones


@settings(max_examples=60, deadline=None, suppress_health_check=QUIET)
@given(scenarios())
def test_the_same_seed_gives_the_same_table(scenario: Scenario) -> None:
    one, other = scenario.run(), scenario.run()
    assert one.log.text() == other.log.text()
    assert repr(sorted(one.log.trials.items())) == repr(sorted(other.log.trials.items()))


def check_cut(scenario: Scenario, whole: Run, seq: int) -> None:
    run = scenario.build(whole.log.cut(seq))
    assert isinstance(run.log, MemoryLog)
    if seq and all(row.kind in EFFECTS for row in whole.log.rows[seq:]):
        run.log.plan = ()  # an experiment that is over goes on only if somebody extends it
    recover(run.runner)
    run.drive()
    assert run.log.text() == whole.log.text(), f"cut after row {seq}"
    assert scenario.table(run.log) == scenario.table(whole.log)
    assert run.searcher.told == whole.searcher.told
    assert {n: plain(dict(c)) for n, c in run.searcher.known.items()} == whole.searcher.known
    if seq in whole.log.commits:
        assert repr(sorted(run.log.trials.items())) == repr(sorted(whole.log.trials.items()))


@settings(max_examples=150, deadline=None, suppress_health_check=QUIET)
@given(scenarios(max_trials=6), st.data())
def test_a_cut_after_any_row_changes_nothing(scenario: Scenario, data: st.DataObject) -> None:
    whole = scenario.run()
    length = len(whole.log.rows)
    for seq in data.draw(st.lists(st.integers(0, length), min_size=1, max_size=4, unique=True), label="cuts"):
        check_cut(scenario, whole, seq)


def test_every_prefix_of_some_runs() -> None:
    """All cuts of one run of each scheduler, with faults, gangs, pauses, an added trial and start points."""
    for number, scheduler in enumerate(["fifo", "stopping", "promotion", "epochs", "pbt"]):
        scenario = Scenario(
            scheduler=scheduler,
            trials=5,
            seed=number,
            nodes=({"cpu": 2.0}, {"cpu": 1.0}),
            faults=Faults(exception=0.08, worker_died=0.05, hang=0.03),
            choices={"workers": [1, 2]},
            plan=[
                (8, "pause", 1, {}),
                (12, "enqueue", None, {"config": {}}),
                (20, "unpause", 1, {}),
                (25, "extend", None, {"trials": 1}),
                (10**9, "cancel", None, {}),
            ],
            settings={"retries": {"exception": 1, "worker_died": 2, "timeout": 1}, "step_timeout": 30.0},
            start_points=({"x": 0.1},),
        )
        whole = scenario.run()
        check_end(whole)
        for seq in range(len(whole.log.rows) + 1):
            check_cut(scenario, whole, seq)
