"""Stores whose rows are damaged: what is told, what can still be read, and that nothing goes on from them."""

from __future__ import annotations

import json
import logging
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tune_platform import ASHA, Results, SearchSpec, report, resume, run, uniform
from tune_platform.api import check_up
from tune_platform.cli import main
from tune_platform.engine import checkup
from tune_platform.engine.view import RunView
from tune_platform.errors import ExperimentError
from tune_platform.protocol.reports import CheckpointRef
from tune_platform.store import reader
from tune_platform.store.checkpoints import CheckpointStorage


def train(config: dict[str, Any]) -> None:
    for step in range(1, 6):
        report({"loss": config["x"] / step})


def spec(storage: Path) -> SearchSpec:
    return SearchSpec(
        name="e", trainable=train, param_space={"x": uniform(0, 1)}, metric="loss", mode="min", num_samples=4,
        backend="inline", scheduler=ASHA(min=1, max=5), storage=str(storage), progress="off",
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("whole")
    run(spec(place))
    return place


@pytest.fixture
def storage(whole: Path, tmp_path: Path) -> Iterator[Path]:
    shutil.copytree(whole, tmp_path / "results")
    yield tmp_path / "results"
    reader._TOLD.clear()


def break_it(storage: Path, statement: str) -> None:
    connection = sqlite3.connect(storage / "e" / "experiment.db", isolation_level=None)
    assert connection.execute(statement).rowcount > 0
    connection.close()


def call(storage: Path, *words: str) -> Result:
    result = CliRunner().invoke(main, [*words, "--storage", str(storage)])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


LOG = [
    ("UPDATE log SET data = '{\"x' WHERE seq = 5", "row 5 of its log: data is no JSON object: '{\"x'"),
    ("UPDATE log SET data = '[1, 2]' WHERE seq = 5", "row 5 of its log: data is no JSON object: '[1, 2]'"),
    ("UPDATE log SET data = '{}, {}' WHERE seq = 5", "row 5 of its log: data is no JSON object: '{}, {}'"),
    ("UPDATE log SET data = '{}' WHERE seq = 3", "row 3 of its log: its data is not that of a 'suggested'"),
    ("UPDATE log SET data = '{}' WHERE kind = 'launched'", "its data is not that of a 'launched'"),
    ("UPDATE log SET kind = 'flown' WHERE seq = 5", "row 5 of its log: its kind 'flown' is none that is known"),
    ("UPDATE log SET trial = 99 WHERE seq = 7", "row 7 of its log: cannot have followed on the rows before it"),
    ("DELETE FROM log WHERE seq = 5", "row 5 of its log is missing"),
    ("DELETE FROM reports WHERE trial = 0 AND step = 2", "report 2"),
    ("UPDATE reports SET metrics = 'x' WHERE trial = 0 AND step = 2", "report 2 of trial 0: metrics is no JSON object"),
]


@pytest.mark.parametrize(("statement", "told"), LOG, ids=[told for _, told in LOG])
def test_nothing_goes_on_from_a_damaged_log(statement: str, told: str, storage: Path) -> None:
    break_it(storage, statement)
    with pytest.raises(ExperimentError) as refused:
        resume("e", storage=storage, spec=spec(storage), progress="off")
    text = str(refused.value)
    assert text.startswith("experiment 'e' is damaged: ")
    assert told.removeprefix("trial 0: its ") in text
    assert text.endswith("What can be read is shown by show and export; doctor e tells all")
    found = call(storage, "doctor", "e")
    assert found.exit_code == 1
    assert told in found.stdout
    for words in (["show", "e"], ["why", "e", "0"], ["best", "e"], ["export", "e", "-o", str(storage / "out.csv")]):
        shown = call(storage, *words)
        assert shown.exit_code == 0
        assert ("is damaged: doctor tells more" in shown.stdout) == (words[0] == "why" and "'launched'" in told)


TRIALS = [
    ("UPDATE trials SET config = '{' WHERE trial = 2", "trial 2: config is no JSON object: '{'"),
    ("UPDATE trials SET metrics = 'null' WHERE trial = 2", "trial 2: metrics is no JSON object: 'null'"),
]


@pytest.mark.parametrize(("statement", "told"), TRIALS, ids=[told for _, told in TRIALS])
def test_a_trial_that_cannot_be_read_is_left_out_and_told(
    statement: str, told: str, storage: Path, caplog: pytest.LogCaptureFixture
) -> None:
    break_it(storage, statement)
    results = Results("e", storage=storage)
    assert [trial.number for trial in results.trials()] == [0, 1, 3]
    assert [trial.number for trial in results.trials()] == [0, 1, 3]
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warned == [f"experiment 'e' is damaged: {told}; what can be read is shown, and doctor e tells all"]
    with pytest.raises(ExperimentError, match="is damaged: trial 2"):
        results.trial(2)
    found = call(storage, "doctor", "e", "--json")
    assert found.exit_code == 1
    assert json.loads(found.stdout) == [{"state": "fail", "what": "e", "text": told}]


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("UPDATE trials SET status = 'FLYING' WHERE trial = 2", "trial 2: its status is 'FLYING', and by the log "),
        ("UPDATE trials SET best = 0.5 WHERE trial = 2", "trial 2: its best is 0.5, and by the log "),
        ("DELETE FROM trials WHERE trial = 2", "trial 2: it is in the log, and not among the trials"),
        ("DELETE FROM log WHERE trial = 2 AND kind = 'verdict'", "of its log"),
        ("UPDATE experiments SET spec = '{'", "its spec cannot be read"),
    ],
)
def test_doctor_holds_the_trials_against_the_log(statement: str, told: str, storage: Path) -> None:
    break_it(storage, statement)
    found = call(storage, "doctor", "e")
    assert found.exit_code == 1
    assert told in found.stdout


def test_doctor_tells_the_first_and_counts_the_others(storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_it(storage, "DELETE FROM reports")

    def told() -> list[str]:
        return [item["text"] for item in json.loads(call(storage, "doctor", "e", "--json").stdout)]

    found = told()
    assert all("is missing, or cannot be read" in text for text in found)
    monkeypatch.setattr(checkup, "_MOST", len(found))
    assert told() == found
    monkeypatch.setattr(checkup, "_MOST", 5)
    assert told() == [*found[:5], f"... and {len(found) - 5} more"]


def test_doctor_finds_nothing_where_all_is_whole(storage: Path) -> None:
    found = call(storage, "doctor", "e")
    assert found.exit_code == 0
    assert found.stdout == "ok    e  whole: the log, the reports and the trials agree, and no checkpoint is lost\n"
    again = call(storage, "doctor", "f")
    assert again.exit_code == 2
    assert "no experiment 'f'" in again.output


def test_doctor_finds_nothing_while_the_search_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial ends, and others begin, between the reading of the log and that of the trials."""
    found: list[list[str]] = []
    numbers: list[int] = []

    def look(view: RunView, events: Any, effects: Any) -> None:
        def meanwhile(experiment: Any, **words: Any) -> list[Any]:
            monkeypatch.undo()  # the driver goes on while the other thread waits here
            goes_on.set()
            assert ended.wait(60)
            rows = trials(experiment, **words)
            numbers.extend(row.trial for row in rows)
            return rows

        if view.counts.get("COMPLETED") == 1 and not looking:
            monkeypatch.setattr(reader.ExperimentReader, "trials", meanwhile)
            looking.append(threading.Thread(target=lambda: found.append(check_up("e", storage=tmp_path))))
            looking[0].start()
            assert goes_on.wait(60)

    trials, goes_on, ended = reader.ExperimentReader.trials, threading.Event(), threading.Event()
    looking: list[threading.Thread] = []
    run(spec(tmp_path).model_copy(update={"scheduler": "fifo"}), listeners=[look])
    assert len(Results("e", storage=tmp_path).trials()) == 4
    ended.set()
    looking[0].join()
    assert found == [[]]
    assert numbers != [0, 1, 2, 3]


def test_a_gap_in_the_log_is_told_by_whatever_reads_it(storage: Path, caplog: pytest.LogCaptureFixture) -> None:
    break_it(storage, "DELETE FROM log WHERE seq IN (5, 6, 9)")
    assert call(storage, "show", "e").exit_code == 0
    (warned,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warned.startswith("experiment 'e' is damaged: its log has ")
    shown = call(storage, "doctor", "e").stdout
    assert "rows 5 to 6 of its log are missing" in shown
    assert "row 9 of its log is missing" in shown


def test_without_its_spec_an_experiment_is_still_shown(storage: Path) -> None:
    break_it(storage, "UPDATE experiments SET spec = '{'")
    assert call(storage, "show", "e").exit_code == 0
    assert len(Results("e", storage=storage).trials()) == 4
    with pytest.raises(ExperimentError, match="is damaged: its spec cannot be read"):
        resume("e", storage=storage, spec=spec(storage), progress="off")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """An experiment with a checkpoint of each of its two trials, in a folder that was moved since."""
    place = tmp_path / "there"

    def counting(config: dict[str, Any]) -> None:
        for step in range(1, 3):
            report({"loss": config["x"] / step}, checkpoint={"step": step})

    run(spec(place).model_copy(update={"trainable": counting, "num_samples": 2}))
    place.rename(tmp_path / "here")
    return tmp_path / "here"


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def turn(file: Path) -> None:
    file.write_bytes(bytes([file.read_bytes()[0] ^ 1]) + file.read_bytes()[1:])


@pytest.mark.parametrize(
    ("harm", "name", "told"),
    [
        (Path.unlink, "files/state.*", ""),
        (cut, "files/state.*", "bytes"),
        (turn, "files/state.*", ""),
        (cut, "manifest.json", "manifest.json cannot be read"),
        (Path.unlink, "manifest.json", "there is no checkpoint"),
    ],
)
def test_doctor_finds_a_torn_checkpoint(harm: Any, name: str, told: str, saved: Path) -> None:
    assert call(saved, "doctor", "e").exit_code == 0
    (file,) = saved.glob(f"e/checkpoints/trial-00001/step-*/{name}")
    harm(file)
    found = call(saved, "doctor", "e")
    assert found.exit_code == 1
    (line,) = found.stdout.splitlines()
    assert line.startswith("fail  e  trial 1: its checkpoint of step 2 is lost: ")
    assert told in line
    assert str(file.parent if name == "manifest.json" else file.name) in line
    assert call(saved, "show", "e").exit_code == 0


def test_a_checkpoint_that_a_driver_deletes_meanwhile_is_not_lost(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(storage: CheckpointStorage, ref: CheckpointRef) -> str:
        if ref.trial == 1:  # as a driver does: first it says so, then it deletes
            break_it(saved, "UPDATE checkpoints SET deleted = 1 WHERE trial = 1")
        return "there is no checkpoint"

    monkeypatch.setattr(CheckpointStorage, "damage", gone)
    assert check_up("e", storage=saved) == ["trial 0: its checkpoint of step 2 is lost: there is no checkpoint"]
