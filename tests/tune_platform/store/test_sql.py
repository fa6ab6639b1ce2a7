"""What holds for every kind of store."""

from __future__ import annotations

import math
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tune_platform.errors import ExperimentError, MissingLibraryError, SpecError
from tune_platform.store import reader as reading_side
from tune_platform.store.database import StoreAway
from tune_platform.store.records import LOG_FORMAT, CheckpointRow, LogRow, ReportRow, TrialRow
from tune_platform.store.sql import SqlExperiment, SqlStore, open_store


def log_row(seq: int, trial: int | None = 0, **data: Any) -> LogRow:
    return LogRow(seq, float(seq), "reported", trial, data)


def report(trial: int, step: int, seq: int, **metrics: Any) -> ReportRow:
    return ReportRow(trial, step, seq, float(seq), metrics)


@pytest.fixture
def experiment(store: SqlStore) -> Any:
    with store.create("first", {"metric": "loss"}, 1.0) as made:
        yield made


# ------------------------------------------------------------------ the store


def test_a_new_store_is_empty_and_makes_nothing(store: SqlStore, location: str) -> None:
    assert store.experiments() == []
    assert store.names() == []
    if "://" not in location:
        assert not Path(location).exists()


def test_create_open_and_list(store: SqlStore) -> None:
    spec = {"metric": "loss", "space": {"größe": [1, 2.5, None, True]}}
    with store.create("b", spec, 5.0) as made:
        assert made.name == "b"
        assert made.spec == spec
    store.create("a", {}, 6.0).close()
    with store.open("b", readonly=True) as opened:
        row = opened.row()
    assert (row.name, row.spec, row.created, row.status, row.counts) == ("b", spec, 5.0, "interrupted", {})
    assert [row.name for row in store.experiments()] == ["a", "b"]


def test_create_refuses_a_taken_name(store: SqlStore, experiment: SqlExperiment) -> None:
    with pytest.raises(ExperimentError, match=r"'first' exists already .* resume it or choose another name"):
        store.create("first", {}, 1.0)


@pytest.mark.parametrize("name", ["", ".", "..", "../up", "a/b", "a\\b", "nul\0", "two\nlines", "x" * 201, "\ud800"])
def test_create_refuses_names_that_are_no_folder(tmp_path: Path, name: str) -> None:
    with open_store(tmp_path) as store, pytest.raises(ExperimentError, match="cannot be named"):
        store.create(name, {}, 1.0)
    assert list(tmp_path.iterdir()) == []


def test_a_name_may_have_200_bytes(tmp_path: Path) -> None:
    with open_store(tmp_path) as store, store.create("x" * 200, {}, 1.0):
        assert store.names() == ["x" * 200]


def test_open_finds_by_prefix_and_suggests(store: SqlStore) -> None:
    for name in ("digits-asha", "digits-pbt", "mnist"):
        store.create(name, {}, 1.0).close()
    with store.open("mn") as opened:
        assert opened.name == "mnist"
    with pytest.raises(ExperimentError, match=r"could be digits-asha, digits-pbt"):
        store.open("digits")
    with pytest.raises(ExperimentError, match=r"did you mean 'mnist'\?"):
        store.open("mnits")
    with pytest.raises(ExperimentError, match="there is no experiment ''"):
        store.open("")


@pytest.mark.parametrize("location", ["s3://bucket/x", "mysql://root@localhost/x", "://"])
def test_other_places_are_refused(location: str) -> None:
    with pytest.raises(SpecError, match="a store cannot be opened at"):
        open_store(location)


def test_a_password_is_never_shown() -> None:
    store = open_store("postgresql://me:secret@localhost:1/db")
    with pytest.raises(ExperimentError) as caught:
        store.names()
    assert "secret" not in str(caught.value)
    assert "secret" not in store.location


def test_psycopg_missing_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingLibraryError, match=r"pip install 'tune-platform\[postgresql\]'"):
        open_store("postgresql://localhost/db").names()


# ------------------------------------------------------------------ the log


def test_append_and_read_back(experiment: SqlExperiment) -> None:
    assert experiment.last_seq() == 0
    assert list(experiment.read_log()) == []
    experiment.append([LogRow(1, 1.5, "suggested", 0, {"config": {"lr": 0.1}}), LogRow(2, 2.0, "exhausted", None, {})])
    experiment.append([log_row(3), log_row(4, 1)], [report(0, 1, 3, a=1), report(0, 2, 3, a=2), report(1, 1, 4, a=3)])
    read = list(experiment.read_log())
    assert [row.seq for row, _ in read] == [1, 2, 3, 4]
    assert read[0] == (LogRow(1, 1.5, "suggested", 0, {"config": {"lr": 0.1}}), ())
    assert read[1][0].trial is None
    assert read[2][1] == (report(0, 1, 3, a=1), report(0, 2, 3, a=2))
    assert list(experiment.read_log(after=3)) == [(log_row(4, 1), (report(1, 1, 4, a=3),))]
    assert experiment.last_seq() == 4


def test_causes_and_search_time_are_kept(experiment: SqlExperiment) -> None:
    rows = [
        LogRow(1, 1.0, "reported", 0, {}, None, 12.5),
        LogRow(2, 1.0, "verdict", 0, {}, 1, 12.5),
        LogRow(3, 2.0, "exhausted", None, {}),
    ]
    experiment.append(rows, [report(0, 1, 1, x=1)])
    assert [row for row, _ in experiment.read_log()] == rows == experiment.history(0)
    assert list(experiment.read_log(after=1, reports=False)) == [(rows[1], ()), (rows[2], ())]
    assert next(experiment.read_log(reports=False)) == (rows[0], ())


def test_the_newest_two_snapshots_are_kept(store: SqlStore, experiment: SqlExperiment) -> None:
    assert list(experiment.snapshots()) == []
    with store.create("second", {}, 1.0) as other:
        other.append([], snapshot=(1, "{}"))
        for seq in (9, 10, 11):  # by number, not by text
            experiment.append([log_row(seq)], snapshot=(seq, f'{{"größe": {seq}}}'))
        experiment.append([log_row(12)])
        assert list(experiment.snapshots()) == [(11, '{"größe": 11}'), (10, '{"größe": 10}')]
        experiment.append([], snapshot=(11, "again"))
        assert list(experiment.snapshots()) == [(11, "again"), (10, '{"größe": 10}')]
        assert list(other.snapshots()) == [(1, "{}")]


def make_former(experiment: SqlExperiment) -> None:
    """Give it a log of the former format."""
    experiment.append(
        [log_row(1), log_row(2, 1), log_row(3)], [report(0, 1, 1, x=1), report(1, 1, 2, x=2), report(0, 2, 3, x=3)]
    )
    with experiment._db.transaction() as cursor:
        cursor.execute("UPDATE experiments SET log_format = 1")


def test_a_former_log_is_converted(store: SqlStore, experiment: SqlExperiment) -> None:
    assert experiment.log_format == LOG_FORMAT == 2
    make_former(experiment)
    with store.create("second", {}, 1.0) as other, store.open("first", readonly=True) as follower:
        other.append([log_row(1)], [report(0, 1, 1, x=5)])
        assert follower.log_format == 1
        rows = [
            log_row(1),
            LogRow(2, 1.0, "launched", 0, {}, 1),
            log_row(3, 1),
            LogRow(4, 3.0, "moved", 1, {}, 3),
            log_row(5),
        ]
        experiment.convert_log(rows, {1: 1, 2: 3, 3: 5})
        assert list(follower.read_log()) == [
            (rows[0], (report(0, 1, 1, x=1),)),
            (rows[1], ()),
            (rows[2], (ReportRow(1, 1, 3, 2.0, {"x": 2}),)),
            (rows[3], ()),
            (rows[4], (ReportRow(0, 2, 5, 3.0, {"x": 3}),)),
        ]
        assert (follower.log_format, other.log_format) == (2, 2)
        assert list(other.read_log()) == [(log_row(1), (report(0, 1, 1, x=5),))]


def test_reading_spans_chunks(experiment: SqlExperiment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading_side, "_CHUNK", {"sqlite": 7, "postgresql": 7})
    experiment.append(
        [log_row(seq, seq % 3) for seq in range(1, 51)],
        [report(seq % 3, 2 * seq + part, seq, part=part) for seq in range(1, 51) for part in (0, 1)],
    )
    read = list(experiment.read_log())
    assert [row.seq for row, _ in read] == list(range(1, 51))
    assert all([r.step for r in batch] == [2 * row.seq, 2 * row.seq + 1] for row, batch in read)
    everything = list(experiment.reports())
    assert [(r.trial, r.step) for r in everything] == sorted((r.trial, r.step) for r in everything)
    assert len(everything) == 100
    assert [r.step for r in experiment.reports(trial=1, after_step=90)] == [92, 93, 98, 99]
    assert {r.step for r in experiment.reports(after_step=98)} == {99, 100, 101}


def test_the_history_of_a_trial(experiment: SqlExperiment) -> None:
    trials = [0, 1, None, 1, 0, None, 1]
    experiment.append([log_row(seq, trial) for seq, trial in enumerate(trials, start=1)])
    assert [(row.seq, row.trial) for row in experiment.history(1)] == [(2, 1), (3, None), (4, 1), (6, None), (7, 1)]
    assert [row.seq for row in experiment.history(2)] == [3, 6]
    rows = {row.seq: row for row, _ in experiment.read_log()}
    assert [rows[row.seq] for row in experiment.history(1)] == experiment.history(1)


def test_the_history_of_a_trial_is_looked_up(tmp_path: Path) -> None:
    seen: list[str] = []
    with open_store(tmp_path) as store, store.create("e", {}, 1.0) as experiment:
        connection = experiment._db._connection
        connection.set_trace_callback(seen.append)
        experiment.history(1)
        connection.set_trace_callback(None)
        (query,) = seen
        plan = [line[-1] for line in experiment._db.query(f"EXPLAIN QUERY PLAN {query}")]
    assert sum("log_by_trial (experiment=? AND trial=?)" in line for line in plan) == 2, plan
    assert not any("SCAN log" in line or "(experiment=?)" in line for line in plan), plan


def test_the_reports_of_a_trial_are_looked_up_chunk_by_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else each trial whose reports fill a chunk costs a walk through those of all later ones."""
    monkeypatch.setattr(reading_side, "_CHUNK", {"sqlite": 2, "postgresql": 2})
    seen: list[str] = []
    with open_store(tmp_path) as store, store.create("e", {}, 1.0) as experiment:
        experiment.append([log_row(1)], [report(trial, step, 1, x=1) for trial in (0, 1) for step in (1, 2, 3)])
        connection = experiment._db._connection
        connection.set_trace_callback(seen.append)
        assert [row.step for row in experiment.reports(0)] == [1, 2, 3]
        connection.set_trace_callback(None)
        plans = [experiment._db.query(f"EXPLAIN QUERY PLAN {query}") for query in seen]
    (first,), (second,) = plans
    assert "(experiment=? AND trial=?)" in first[-1]
    assert "(experiment=? AND trial=? AND step>?)" in second[-1]


def test_rows_appended_meanwhile_are_read(experiment: SqlExperiment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading_side, "_CHUNK", {"sqlite": 1, "postgresql": 1})
    experiment.append([log_row(1)])
    reading = experiment.read_log()
    next(reading)
    experiment.append([log_row(2)], [report(0, 1, 2, x=1)])
    assert next(reading)[1] == (report(0, 1, 2, x=1),)


def test_what_is_frozen_is_of_one_moment(store: SqlStore, location: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if location == "sqlite://":
        pytest.skip("in memory there is one connection: who reads keeps everybody from writing")
    monkeypatch.setattr(reading_side, "_CHUNK", {"sqlite": 1, "postgresql": 1})
    with store.create("e", {}, 1.0) as experiment, store.open("e", readonly=True) as reader:
        experiment.append([log_row(1)], trials=[TrialRow(trial=0, status="RUNNING", config={})])
        with reader.frozen():
            reading = reader.read_log()
            next(reading)
            experiment.append([log_row(2)], trials=[TrialRow(trial=1, status="RUNNING", config={})])
            assert list(reading) == []
            assert [trial.trial for trial in reader.trials()] == [0]
        assert [row.seq for row, _ in reader.read_log()] == [1, 2]
        assert [trial.trial for trial in reader.trials()] == [0, 1]
        with pytest.raises(ZeroDivisionError), reader.frozen():
            raise ZeroDivisionError
        with reader.frozen():
            assert reader.last_seq() == 2


def test_a_frozen_file_that_somebody_begins_to_write_is_told(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        with store.create("e", {}, 1.0) as experiment:
            experiment.append([log_row(1)])
        with store.open("e", readonly=True) as reader:
            with reader.frozen():
                assert reader.last_seq() == 1
                with store.open("e") as experiment:
                    experiment.append([log_row(2)])
                    with pytest.raises(StoreAway, match="somebody has begun to write to it"):
                        reader.last_seq()
            assert reader.last_seq() == 2


@pytest.mark.parametrize("double", ["seq", "report"])
def test_append_is_all_or_nothing(experiment: SqlExperiment, double: str) -> None:
    experiment.append([log_row(1)], [report(0, 1, 1, x=1)])
    trial = TrialRow(trial=0, status="RUNNING", config={})
    checkpoint = CheckpointRow(trial=0, step=1, uri="u", bytes=1)
    rows = [log_row(1 if double == "seq" else 2)]
    reports = [report(0, 2, 2, x=1), report(0, 1, 2, x=1)] if double == "report" else []
    with pytest.raises(ExperimentError, match="another driver works on experiment 'first'"):
        experiment.append(rows, reports, [trial], [checkpoint], snapshot=(1, "{}"))
    assert experiment.last_seq() == 1
    assert experiment.trials() == []
    assert experiment.checkpoints() == []
    assert len(list(experiment.reports())) == 1
    assert list(experiment.snapshots()) == []
    experiment.append([log_row(2)])


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
MAPPINGS = st.dictionaries(st.text(st.characters(), max_size=6), VALUES, max_size=4)


def same(left: Any, right: Any) -> bool:
    """Equal, with NaN equal to itself and -0.0 unlike 0.0."""
    return repr(left) == repr(right)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(MAPPINGS, st.lists(MAPPINGS, max_size=3)), max_size=5),
    st.text(max_size=8),
    st.floats(),
)
def test_what_is_appended_is_read(
    store: SqlStore, batches: list[tuple[dict[str, Any], list[dict[str, Any]]]], text: str, best: float
) -> None:
    name = f"e{len(store.names())}"
    with store.create(name, {}, 1.0) as experiment:
        expected, step = [], 0
        for seq, (data, many) in enumerate(batches, start=1):
            row = LogRow(seq, 0.5, "reported", 3, data)
            reports = tuple(ReportRow(3, step + k, seq, 1.5, metrics) for k, metrics in enumerate(many, start=1))
            step += len(many)
            trial = TrialRow(trial=3, status="RUNNING", config=data, metrics=data, error=text, best=best)
            experiment.append([row], reports, [trial])
            expected.append((row, reports))
        assert same(list(experiment.read_log()), expected)
        assert same(list(experiment.reports(3)), [report for _, reports in expected for report in reports])
        if batches:
            read = experiment.trial(3)
            assert same(read.config, batches[-1][0])
            assert read.best == (None if math.isnan(best) else best)
            assert read.error == text.replace("\0", "\\x00")


def test_numbers_of_numpy_and_torch_become_plain(experiment: SqlExperiment) -> None:
    class Tensor:
        def item(self) -> float:
            return 0.25

    metrics = {
        "a": np.float32(0.5),
        "b": np.int64(3),
        "c": np.array(2.0),
        "d": Tensor(),
        "e": np.bool_(True),
        "f": (1, 2),
    }
    experiment.append([log_row(1)], [report(0, 1, 1, **metrics)])
    assert next(experiment.reports()).metrics == {
        "a": 0.5,
        "b": 3,
        "c": 2.0,
        "d": 0.25,
        "e": True,
        "f": [1, 2],
    }


def test_other_values_are_refused_by_name(experiment: SqlExperiment) -> None:
    circle: list[Any] = []
    circle.append(circle)
    for value in (np.zeros(3), object(), {1, 2}, circle, {"deep": object()}):
        with pytest.raises(SpecError, match=r"metric 'acc' cannot be stored: (a )?\w+"):
            experiment.append([log_row(1)], [report(0, 1, 1, loss=1.0, acc=value)])
    with pytest.raises(SpecError, match="parameter 'model'"):
        experiment.append([], [], [TrialRow(trial=0, status="PENDING", config={"model": object()})])
    assert experiment.last_seq() == 0


# ------------------------------------------------------------------ projections


def test_trials_are_replaced_counted_and_ordered(experiment: SqlExperiment) -> None:
    bests = [3.0, None, 1.0, math.inf, math.nan]
    rows = [TrialRow(trial=n, status="PENDING", config={"x": n}, best=best) for n, best in enumerate(bests)]
    experiment.append([], trials=rows)
    done = replace(
        rows[2],
        status="COMPLETED",
        best_step=4,
        error="tr\0ace\ud800",
        worker="host/3",
        ended=3.0,
        metrics={"m": math.nan},
    )
    experiment.append([], trials=[done])
    read = experiment.trial(2)
    assert repr(read.metrics) == "{'m': nan}"
    assert (read.error, read.worker, read.best_step, read.ended) == ("tr\\x00ace\\ud800", "host/3", 4, 3.0)
    assert experiment.counts() == {"COMPLETED": 1, "PENDING": 4}
    assert experiment.row().counts == {"COMPLETED": 1, "PENDING": 4}
    assert [row.trial for row in experiment.trials()] == [0, 1, 2, 3, 4]
    assert [row.trial for row in experiment.trials(order="best")] == [2, 0, 3, 1, 4]
    assert [row.trial for row in experiment.trials(order="-best", limit=2)] == [3, 0]
    assert [row.trial for row in experiment.trials(status="PENDING", limit=2, offset=1)] == [1, 3]
    assert [row.trial for row in experiment.trials(offset=3)] == [3, 4]
    with pytest.raises(SpecError, match="did you mean 'best'"):
        experiment.trials(order="bets")
    with pytest.raises(ExperimentError, match="no trial 9"):
        experiment.trial(9)


def test_checkpoints_keep_their_row_when_deleted(experiment: SqlExperiment) -> None:
    first, second = (CheckpointRow(trial=0, step=s, uri=f"u{s}", bytes=2**40) for s in (1, 2))
    other = CheckpointRow(trial=1, step=1, uri="v", bytes=1)
    experiment.append([], checkpoints=[second, first, other])
    gone = CheckpointRow(trial=0, step=1, uri="u1", bytes=2**40, deleted=True)
    experiment.append([], checkpoints=[gone])
    assert experiment.checkpoints() == [second, other]
    assert experiment.checkpoints(trial=0, include_deleted=True) == [gone, second]


# ------------------------------------------------------------------ requests and the lease


def test_requests_are_numbered_from_one(store: SqlStore, experiment: SqlExperiment) -> None:
    assert experiment.requests(0) == []
    with store.open("first") as other:
        assert other.request("stop", 3, {"why": "NaN"}, 7.0) == 1
        assert other.request("pause") == 2
    first, second = experiment.requests(0)
    assert (first.id, first.time, first.action, first.trial, first.data) == (
        1,
        7.0,
        "stop",
        3,
        {"why": "NaN"},
    )
    assert second.trial is None
    assert time.time() - second.time < 60
    assert experiment.requests(1) == [second]


def test_experiments_do_not_mix(store: SqlStore, experiment: SqlExperiment) -> None:
    with store.create("second", {}, 1.0) as other:
        for number, one in ((1, experiment), (2, other)):
            one.append([log_row(1)], [report(0, 1, 1, n=number)], [TrialRow(trial=0, status=f"S{number}", config={})])
            assert one.request("stop") == 1
        for number, one in ((1, experiment), (2, other)):
            assert [r.metrics for r in one.reports()] == [{"n": number}]
            assert one.counts() == {f"S{number}": 1}
            assert one.last_seq() == 1
            assert len(one.requests(0)) == 1


def test_closed_things_say_so(store: SqlStore, location: str) -> None:
    if location == "sqlite://":
        pytest.skip("in memory the store owns the only connection")
    experiment = store.create("e", {}, 1.0)
    experiment.close()
    experiment.close()
    with pytest.raises(ExperimentError, match="is closed"):
        experiment.last_seq()
    with pytest.raises(ExperimentError, match="is closed"):
        experiment.append([log_row(1)])


def test_readers_see_whole_transactions_while_a_writer_writes(store: SqlStore, location: str) -> None:
    experiment = store.create("e", {}, 1.0)
    failures: list[BaseException] = []
    stop = threading.Event()

    def read() -> None:
        try:
            with (
                open_store(location) as own,
                (store if location == "sqlite://" else own).open("e", readonly=True) as reader,
            ):
                while not stop.is_set():
                    for row, batch in reader.read_log():
                        assert [r.step for r in batch] == [row.seq * 2, row.seq * 2 + 1]
                    reader.row()
        except BaseException as error:  # handed to the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for seq in range(1, 151):
        experiment.append([log_row(seq)], [report(0, 2 * seq, seq, x=1), report(0, 2 * seq + 1, seq, x=2)])
    stop.set()
    for thread in threads:
        thread.join()
    experiment.close()
    assert failures == []
