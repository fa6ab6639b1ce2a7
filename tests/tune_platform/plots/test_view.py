from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.odd_experiments import START, Experiment, Made, normal, store, write
from tune_platform.errors import ExperimentError
from tune_platform.plots.columns import Reports
from tune_platform.plots.view import View
from tune_platform.results import Results
from tune_platform.store.records import LogRow, ReportRow, TrialRow
from tune_platform.store.sql import open_store


def test_a_view_has_what_results_have(tmp_path: Path) -> None:
    name = write("normal", tmp_path)
    results = Results(name, storage=tmp_path)
    view = View.of(results)
    trials = results.trials()
    assert view.trials.number.tolist() == [trial.number for trial in trials]
    assert view.trials.state.tolist() == [trial.status.lower() for trial in trials]
    assert view.values.tolist() == [trial.best for trial in trials]
    assert view.best == results.best().number
    assert view.trials.config(3) == dict(results.trial(3).config)
    assert view.counts == {"completed": 9, "stopped": 18, "failed": 3}
    for number, curve in results.curves().items():
        steps, values = view.curve(number)
        assert list(zip(steps.tolist(), values.tolist(), strict=True)) == curve
    assert view.trials.node.tolist()[:3] == ["node 0", "node 1", "node 0"]
    with pytest.raises(KeyError):
        view.trials.place(99)


def test_a_view_reads_a_path_and_refuses_what_is_not_there(tmp_path: Path) -> None:
    write("one", tmp_path)
    assert View.of(tmp_path / "one").best == 0
    with pytest.raises(ExperimentError):
        View.of("nobody", storage=tmp_path)


def test_no_text_becomes_a_number(tmp_path: Path) -> None:
    view = View.of(write("numbers_as_text", tmp_path), storage=tmp_path)
    assert view.parameter("size").tolist()[:7] == ["1", "10", "2", 2, True, "None", "nan"]
    assert np.isnan(view.reports.column("note")).all()


def test_nan_and_infinity_are_no_best(tmp_path: Path) -> None:
    view = View.of(write("all_nan", tmp_path), storage=tmp_path)
    assert view.best is None
    assert np.isnan(view.values).all()


def test_newer_is_what_reading_anew_gives(tmp_path: Path) -> None:
    name = write("normal", tmp_path)
    view = View.of(name, storage=tmp_path)
    assert view.newer() is view
    with open_store(tmp_path) as place, place.open(name) as experiment:
        experiment.acquire("test:2")
        seq, at = experiment.last_seq(), START + 900
        config = {"lr": 1e-2, "layers": 1, "opt": "adam", "new": 1}
        log = [
            LogRow(seq + 1, at, "suggested", 30, {"config": config}),
            LogRow(seq + 2, at, "launched", 30, {"attempt": 1, "nodes": [7], "until": 1, "resources": {"cpu": 1}}),
            LogRow(seq + 3, at + 1, "reported", 30, {"attempt": 1, "first": 1, "last": 1}),
            LogRow(seq + 4, at + 1, "reported", 2, {"attempt": 1, "first": 2, "last": 2}),
        ]
        report = {"loss": 0.01, "other": 3}
        reports = [ReportRow(30, 1, seq + 3, at + 1, report), ReportRow(2, 2, seq + 4, at + 1, {"loss": 0.5})]
        old = experiment.trial(2)
        rows = [
            TrialRow(trial=30, status="RUNNING", config=config, step=1, metrics=report, best=0.01, best_step=1,
                     created=at, started=at, attempt=1, worker="w7"),
            TrialRow(trial=2, status="RUNNING", config=old.config, step=2, metrics={"loss": 0.5}, best=0.5, best_step=2,
                     created=old.created, started=old.started, attempt=1),
        ]  # fmt: skip
        experiment.append(log, reports, rows)
        experiment.set_status("interrupted", "", at + 2)
    later, anew = view.newer(), View.of(name, storage=tmp_path)
    assert later.revision == anew.revision == view.revision + 4
    assert later.best == anew.best == 30
    assert later.trials.node[30] == "node 7"
    assert later.trials.node[2] == view.trials.node[2] != "", "what it was launched on is not read again"
    assert view.trials.number.max() == 29, "a view does not change"
    for table in ("trials", "reports", "log"):
        mine, theirs = getattr(later, table), getattr(anew, table)
        for column in mine.__slots__:
            one, other = getattr(mine, column), getattr(theirs, column)
            if isinstance(one, np.ndarray):
                np.testing.assert_array_equal(one, other, err_msg=column)
            elif hasattr(one, "items"):
                assert set(one) == set(other)
                for name, values in one.items():
                    np.testing.assert_array_equal(values, other[name], err_msg=name)


def test_trials_that_come_in_chunks_are_those_that_come_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = write("conditional", tmp_path)
    whole = View.of(name, storage=tmp_path).trials
    monkeypatch.setattr("tune_platform.store.reader._TRIALS", 7)  # the first of them lack some of the parameters
    monkeypatch.setattr("tune_platform.plots.reading._ROWS", 7)
    parts = View.of(name, storage=tmp_path).trials
    assert len(whole) > 14
    assert parts.number.tolist() == whole.number.tolist()
    assert parts.node.tolist() == whole.node.tolist()
    assert parts.reason.tolist() == whole.reason.tolist()
    assert {name: cells.tolist() for name, cells in parts.parameters.items()} == {
        name: cells.tolist() for name, cells in whole.parameters.items()
    }


def test_of_a_long_experiment_steps_are_left_out_but_no_end(tmp_path: Path) -> None:
    curve = [{"loss": 100.0 - step} for step in range(1, 100)]
    made = Experiment(trials=[Made(config={"lr": 0.1}, curve=curve) for _ in range(3)])
    view = View.of(store("long", made, tmp_path), storage=tmp_path, limit=30)
    steps, values = view.curve(1)
    assert view.reports.stride == 10
    assert steps.tolist() == [1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 99]
    assert values.tolist() == [100.0 - step for step in steps]
    whole = view.whole([1])
    assert whole.curve(1)[0].tolist() == list(range(1, 100))
    assert whole.curve(2)[0].tolist() == steps.tolist()


def test_of_a_long_experiment_that_goes_on_the_same_is_held_as_if_it_were_read_anew(tmp_path: Path) -> None:
    curve = [{"loss": 100.0 - step} for step in range(1, 36)]
    made = Experiment(trials=[Made(config={"lr": 0.1}, curve=curve) for _ in range(3)])
    name = store("long", made, tmp_path)
    view, known = View.of(name, storage=tmp_path, limit=30), dict[int, Reports]()
    assert view.reports.stride == 4
    assert view.whole([1, 2], known).curve(1)[0].tolist() == list(range(1, 36))
    with open_store(tmp_path) as place, place.open(name) as experiment:
        experiment.acquire("test:2")
        old = experiment.trial(1)
        for step in range(36, 40):
            seq, at = experiment.last_seq() + 1, START + 900 + step
            log = [LogRow(seq, at, "reported", 1, {"attempt": 1, "first": step, "last": step})]
            report = {"loss": 100.0 - step}
            row = TrialRow(trial=1, status="RUNNING", config=old.config, step=step, metrics=report, best=100.0 - step,
                           best_step=step, created=old.created, started=old.started, ended=at, attempt=1)  # fmt: skip
            experiment.append(log, [ReportRow(1, step, seq, at, report)], [row])
            view = view.newer()
            steps = [1, *range(4, step + 1, 4)] + ([step] if step % 4 else [])
            assert view.curve(1)[0].tolist() == steps
            assert view.curve(1)[1].tolist() == [100.0 - each for each in steps]
            assert view.curve(0)[0].tolist() == view.curve(2)[0].tolist() == [1, *range(4, 33, 4), 35]
            assert view.trials.number.tolist() == [0, 1, 2]
            whole = view.whole([1], known)
            assert whole.curve(1)[0].tolist() == list(range(1, step + 1))
            assert whole.curve(2)[0].tolist() == view.curve(2)[0].tolist()
            assert list(known) == [1], "of others nothing is kept"


def test_a_log_of_clones_has_their_parents(tmp_path: Path) -> None:
    view = View.of(write("pbt", tmp_path), storage=tmp_path)
    assert view.trials.parent.tolist() == [2, -1, -1, -1]
    assert view.family is not None
    assert [(clone.trial, clone.step, clone.source) for clone in view.family.clones] == [(0, 4, 3), (0, 6, 2)]


def test_reading_uses_the_indexes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No query of `newer` goes through a table: its cost is that of what is new."""
    view = View.of(store("plain", normal(6), tmp_path), storage=tmp_path)
    with open_store(tmp_path) as place, place.open("plain", readonly=True) as reader:
        plans: list[object] = []
        inner = reader._db.query

        def explained(text: str, values: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
            plans.extend(row[-1] for row in inner(f"EXPLAIN QUERY PLAN {text}", values))
            return inner(text, values)

        monkeypatch.setattr(reader._db, "query", explained)
        list(reader.report_chunks(1, view.revision - 5, view.revision))
        list(reader.log_rows(["verdict"], view.revision - 5, view.revision))
        reader.touched(view.revision - 5, view.revision)
        reader.trials_of([1, 2])
        list(reader.trial_chunks())
    assert plans
    assert not [plan for plan in plans if str(plan).startswith("SCAN") and "CONSTANT" not in str(plan)], plans
