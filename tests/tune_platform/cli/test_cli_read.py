from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.tune_platform.cli.conftest import SPEC, START, TRACEBACK, Call, Make, lines
from tune_platform.engine.trial import TrialStatus
from tune_platform.results import STATUSES
from tune_platform.store.records import LogRow, TrialRow
from tune_platform.store.sql import SqlExperiment


def test_ls_says_when_there_is_nothing(call: Call) -> None:
    result = call("ls")
    assert result.stdout == ""
    assert "no experiments in " in result.stderr


def test_ls(call: Call, make: Make) -> None:
    make("digits", "finished", "all 4 trials are done")
    make("sums", "running")
    head, digits, sums = lines(call("ls"))
    assert head.split() == ["experiment", "status", "trials", "started", "note"]
    assert digits.split()[:3] == ["digits", "finished", "4"]
    assert digits.endswith("all 4 trials are done")
    assert sums.endswith("1 running, 1 completed, 1 stopped, 1 failed")
    listed = json.loads(call("ls", "--json").stdout)
    assert [each["status"] for each in listed] == ["finished", "running"]
    assert listed[0]["objective"] == [SPEC["objective"]]
    assert listed[0]["counts"] == {"COMPLETED": 1, "FAILED": 1, "RUNNING": 1, "STOPPED": 1}


SHOWN = """\
digits  interrupted: the driver was interrupted
objective  max accuracy
trials     1 was running, 1 completed, 1 stopped, 1 failed
time       1m 00s, from 2023-11-14 22:13:20

trial  status       step  best accuracy  at      lr  optimizer  model/width  momentum  reason
    0  COMPLETED       3        0.93125   2    0.01  adamw               64         -  the training code ended
    3  was running     2           0.25   1     0.1  sgd                 64       0.5
    1  STOPPED         1          0.125   1     0.5  sgd                 32       0.9  rung 1: rank 2 of 2, keep 1
    2  FAILED          0              -   -  0.0001  adamw               32         -  ValueError: the loss exploded
"""

SHOWN_TRIAL = """\
trial 0 of digits: COMPLETED, the training code ended
reports     3, attempt 1, on node1:77
best        accuracy 0.93125 at step 2
last        accuracy 0.92, loss 0.08, epoch 3
created     2023-11-14 22:13:20 (start)
started     2023-11-14 22:13:21
ended       2023-11-14 22:13:51 after 30 s
checkpoint  /ckpt/trial-00000/step-00000002-a1/files
log         -
config
  lr: 0.01
  optimizer: adamw
  model:
    width: 64
  epochs: 3
history
  2023-11-14 22:13:20  step 0      suggested  as a start point
  2023-11-14 22:13:30  step 1      continue   rung 1: rank 1 of 2; until 3
  2023-11-14 22:13:40  step 2      continue   rung 1: rank 1 of 2; until 3
  2023-11-14 22:13:51  step 3      ended      COMPLETED: the training code ended
"""


def test_show(call: Call, make: Make) -> None:
    make()
    result = call("show", "dig")
    assert result.stdout == SHOWN
    assert result.stderr == "to go on: tune-platform resume digits\n"
    assert call("show", "digits", "0").stdout == SHOWN_TRIAL


def test_a_trial_runs_only_as_long_as_somebody_drives_the_search(call: Call, make: Make) -> None:
    make("alive", "running")
    assert "1 running, " in call("show", "alive").stdout
    assert lines(call("show", "alive", "3"))[0] == "trial 3 of alive: RUNNING"
    make("left", "interrupted")
    assert lines(call("show", "left", "3"))[0] == "trial 3 of left: was running"
    assert json.loads(call("show", "left", "3", "--json").stdout)["status"] == "RUNNING"  # as it is stored


def test_show_limits_sorts_and_selects(call: Call, make: Make) -> None:
    make()
    result = call("show", "digits", "--limit", "2", "--sort", "trial")
    assert [line.split()[0] for line in lines(result)[-2:]] == ["0", "1"]
    assert "2 of 4 trials are shown; --limit 0 shows all" in result.stderr
    assert lines(call("show", "digits", "--status", "failed"))[-1].split()[:2] == ["2", "FAILED"]
    assert "did you mean 'best'" in call("show", "digits", "--sort", "bst", code=2).stderr


def test_a_narrow_terminal_keeps_the_parameters_that_vary(
    call: Call, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    make()
    for columns, kept in (
        (200, "trial status step best accuracy at lr optimizer model/width momentum reason"),
        (105, "trial status step best at lr optimizer model/width momentum reason"),
        (75, "trial status step best lr optimizer model/width momentum"),
        (60, "trial best at lr optimizer model/width momentum"),
        (50, "trial best at lr optimizer model/width"),
        (40, "trial step best lr optimizer"),
    ):
        monkeypatch.setattr("tune_platform.cli.read.width", lambda columns=columns: columns)
        result = call("show", "digits")
        shown = lines(result)[5:]
        assert " ".join(shown[0].split()) == kept
        assert max(map(len, shown)) <= columns
        assert ("does not fit" in result.stderr) == (columns < 105)


def test_show_json_has_null_for_nan(call: Call, make: Make) -> None:
    make()
    shown = json.loads(call("show", "digits", "--json").stdout, parse_constant=pytest.fail)
    by_number = {trial["trial"]: trial for trial in shown["trials"]}
    assert [trial["trial"] for trial in shown["trials"]] == [0, 3, 1, 2]
    assert by_number[3]["metrics"] == {"accuracy": None, "loss": None, "epoch": 2}
    assert by_number[2]["error"] == TRACEBACK
    one = json.loads(call("show", "digits", "0", "--json").stdout)
    assert [line["verdict"] for line in one["history"]] == ["suggested", "continue", "continue", "ended"]
    assert one["duration"] == 30.0


def test_an_experiment_may_be_a_path(call: Call, make: Make, storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    make()
    monkeypatch.delenv("TUNE_PLATFORM_STORAGE")
    assert call("show", str(storage / "digits")).stdout == SHOWN
    monkeypatch.chdir(storage)
    assert call("show", "digits").stdout == SHOWN
    monkeypatch.chdir(storage / "digits")
    result = call("show", ".")
    assert result.stdout == SHOWN
    assert result.stderr == f"to go on: tune-platform resume digits --storage {storage}\n"


BEST = """\
trial 0: accuracy 0.93125 at step 2
there     loss 0.06875, epoch 2
status    COMPLETED, the training code ended
saved at  /ckpt/trial-00000/step-00000002-a1/files
config = {
    "lr": 0.01,
    "optimizer": "adamw",
    "model": {"width": 64},
    "epochs": 3,
}
"""


def test_best(call: Call, make: Make) -> None:
    make()
    assert call("best", "digits").stdout == BEST
    last = json.loads(call("best", "digits", "--scope", "last", "--json").stdout)
    assert (last["trial"], last["best"], last["best_step"], last["scope"]) == (0, 0.92, 3, "last")
    worst = json.loads(call("best", "digits", "--metric", "loss", "--mode", "max", "--json").stdout)
    assert (worst["trial"], worst["best"], worst["metrics_at_best"]["accuracy"]) == (1, 0.875, 0.125)


def test_a_misspelt_name_is_guessed(call: Call, make: Make) -> None:
    make()
    assert call("best", "digits", "--metric", "acuracy", code=2).stderr == (
        "error: no metric 'acuracy' was reported (did you mean 'accuracy'?): accuracy, epoch, loss\n"
    )
    assert "(did you mean 'loss'?)" in call("best", "digits", "--metric", "los", code=2).stderr
    assert "say with mode whether less" in call("best", "digits", "--metric", "loss", code=2).stderr
    assert call("show", "digits", "--status", "faild", code=2).stderr == (
        "error: there is no status 'faild' (did you mean 'failed'?); allowed: pending, starting, running, pausing, "
        "paused, completed, stopped, failed\n"
    )
    assert "Did you mean 'show'" in call("shwo", code=2).stderr
    assert "Did you mean '--status'" in call("show", "digits", "--statsu", "failed", code=2).stderr


def test_the_statuses_are_those_of_the_engine() -> None:
    assert set(STATUSES) == {str(status) for status in TrialStatus}


def test_best_as_something_to_paste(call: Call, make: Make) -> None:
    make()
    scope: dict[str, Any] = {}
    exec(call("best", "digits", "--as", "python").stdout, scope)
    wanted = {"lr": 0.01, "optimizer": "adamw", "model": {"width": 64}, "epochs": 3}
    assert scope["config"] == wanted
    assert json.loads(call("best", "digits", "--as", "json").stdout) == wanted
    assert call("best", "digits", "--as", "args").stdout == "--lr=0.01 --optimizer=adamw --model.width=64 --epochs=3\n"


def test_best_of_nothing_is_exit_code_1(call: Call, make: Make) -> None:
    make("empty", write=lambda experiment: None)
    assert call("best", "empty", code=1).stderr == (
        "error: no trial of 'empty' has a value of 'accuracy': there are no trials yet\n"
    )
    make()
    assert call("best", "digits", "--metric", "acuracy", "--mode", "max", code=1).stderr == (
        "error: no trial of 'digits' has a value of 'acuracy': 1 completed, 1 stopped, 1 failed, 1 running\n"
        "  1 x ValueError: the loss exploded\n"
        "  reported were: accuracy, epoch, loss (did you mean 'accuracy'?)\n"
    )


def test_why(call: Call, make: Make) -> None:
    make()
    assert call("why", "digits", "1").stdout == (
        "2023-11-14 22:13:21  step 0      suggested  by the searcher\n"
        "2023-11-14 22:13:30  step 1      stop       rung 1: rank 2 of 2, keep 1\n"
        "2023-11-14 22:13:30  step 1      ended      STOPPED\n"
    )
    assert [line["verdict"] for line in json.loads(call("why", "digits", "2", "--json").stdout)] == [
        "suggested", "failed", "ended",
    ]  # fmt: skip
    assert "has no trial 9" in call("why", "digits", "9", code=2).stderr


def with_causes(experiment: SqlExperiment) -> None:
    """Write a rung that closes when trial 0 fails: trial 1 is stopped, and starting trial 2 has nothing behind it."""
    rows: list[tuple[str, int | None, dict[str, Any], int | None]] = [
        ("capacity", None, {"nodes": [{"cpu": 2.0}], "effects": 1}, None),
        ("asked", None, {"numbers": [0, 1]}, 1),
        ("suggested", 1, {"config": {}, "origin": "searcher", "effects": 1}, None),
        ("launched", 1, {"attempt": 1, "nodes": [0], "until": 3.0, "resources": {"cpu": 1.0}}, 3),
        ("failed", 1, {"attempt": 1, "cause": "worker_died", "message": "gone", "effects": 2}, None),
        ("moved", 1, {"status": "PENDING", "reason": "retry 1 of 3 after worker_died: gone"}, 5),
        ("launched", 1, {"attempt": 2, "nodes": [0, 1, 1], "until": None, "resources": {"cpu": 1.0}}, 5),
        ("reported", 0, {"attempt": 1, "first": 1, "last": 3, "saved": [], "done": False, "effects": 1}, None),
        ("verdict", 1, {"step": 0, "verdict": "pause", "reason": "it waits for rung 0"}, 8),
        ("requested", 0, {"request": 1, "action": "stop", "data": {}, "effects": 2}, None),
        ("verdict", 0, {"step": 3, "verdict": "stop", "reason": "a person stopped it", "by": "person"}, 10),
        ("verdict", 1, {"step": 0, "verdict": "stop", "reason": "rung 0: rank 2/2, keep 1"}, 10),
    ]
    log = [LogRow(seq, START + seq, kind, trial, data, stimulus) for seq, (kind, trial, data, stimulus) in
           enumerate(rows, start=1)]  # fmt: skip
    trials = [
        TrialRow(trial=0, status="STOPPED", config={}, reason="a person stopped it", ended=START + 10),
        TrialRow(trial=1, status="STOPPED", config={}, reason="rung 0: rank 2/2, keep 1", ended=START + 10),
        TrialRow(trial=2, status="STARTING", config={}),
    ]
    experiment.append(log, [], trials)


def test_why_walks_from_an_effect_to_its_fact(call: Call, make: Make) -> None:
    make(write=with_causes)
    assert [line[21:] for line in lines(call("why", "digits", "1"))] == [
        "step 0      suggested  by the searcher",
        "            launched   attempt 1 on node 0; until 3  <- trial 1 was suggested",
        "            failed     attempt 1: worker_died: gone",
        "            moved      PENDING: retry 1 of 3 after worker_died: gone  <- trial 1 failed: worker_died",
        "            launched   attempt 2 on node 0, 1  <- trial 1 failed: worker_died",
        "step 0      pause      it waits for rung 0  <- trial 0 reported steps 1 to 3",
        "step 0      stop       rung 0: rank 2/2, keep 1  <- a person asked: stop trial 0",
        "step 0      ended      STOPPED",
    ]
    causes = [line["cause"] for line in json.loads(call("why", "digits", "1", "--json").stdout)]
    assert causes[-2:] == ["a person asked: stop trial 0", ""]


def test_show_knows_trials_that_start(call: Call, make: Make) -> None:
    make(write=with_causes)
    text = call("show", "digits").stdout
    assert "1 was starting, 2 stopped" in text
    assert "2  was starting" in text


@pytest.mark.parametrize("reports", [False, True])
def test_export(call: Call, make: Make, tmp_path: Any, reports: bool) -> None:
    make()
    flags = ["--reports"] if reports else []
    table = pd.read_csv(io.StringIO(call("export", "digits", *flags).stdout))
    assert len(table) == (6 if reports else 4)
    assert ("config/lr" in table) != reports
    records = json.loads(call("export", "digits", "--format", "json", *flags).stdout, parse_constant=pytest.fail)
    assert [record["trial"] for record in records] == table["trial"].to_list()
    file = tmp_path / "out.parquet"
    result = call("export", "digits", "--format", "parquet", "-o", str(file), *flags)
    assert "rows" in result.stderr
    assert pd.read_parquet(file)["metrics/accuracy"].isna().sum() == table["metrics/accuracy"].isna().sum()


def test_export_to_a_dash_is_to_stdout(call: Call, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make()
    monkeypatch.chdir(tmp_path)
    assert call("export", "digits", "-o", "-").stdout == call("export", "digits").stdout
    assert not Path("-").exists()


@pytest.mark.parametrize("command", [["export", "digits"], ["export", "digits", "--format", "html"]])
def test_a_file_that_cannot_be_written_is_one_line(
    call: Call, make: Make, tmp_path: Path, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make()
    for place, said in (
        (tmp_path / "nothing" / "x", "No such file or directory"),
        (Path("/dev/full"), "No space left on device"),
    ):
        result = call(*command, "-o", str(place), code=2)
        assert result.stderr.splitlines()[-1].startswith("error: ")
        assert said in result.stderr
        assert "Traceback" not in result.stderr
    monkeypatch.setenv("TUNE_PLATFORM_DEBUG", "1")
    assert "Traceback" in call(*command, "-o", str(tmp_path / "nothing" / "x"), code=2).stderr


def test_unknown_experiment(call: Call, make: Make) -> None:
    make()
    result = call("show", "digtis", code=2)
    assert result.stdout == ""
    assert "there is no experiment 'digtis'" in result.stderr
    assert "did you mean 'digits'" in result.stderr
    assert "Traceback" not in result.stderr


def test_debug_shows_the_traceback(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNE_PLATFORM_DEBUG", "1")
    assert "Traceback" in call("show", "nothing", code=2).stderr


def test_colours_are_the_users_choice(call: Call, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    make()
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[" in call("show", "digits").stdout
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in call("show", "digits").stdout


def test_export_to_parquet_without_pyarrow_is_one_line(
    call: Call, make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    result = call("export", "digits", "--format", "parquet", "-o", str(tmp_path / "it.parquet"), code=2)
    assert result.stderr == (
        "error: --format parquet needs 'pyarrow', which is not installed: pip install 'tune-platform[parquet]'\n"
    )
    assert not (tmp_path / "it.parquet").exists()


def waiting(experiment: SqlExperiment) -> None:
    nodes = [{"cpu": 4.0, "gpu": 1.0}, {}]
    log = [
        LogRow(1, START, "capacity", None, {"nodes": [{"cpu": 4.0}, {"cpu": 9.0}]}),
        LogRow(2, START + 60, "capacity", None, {"nodes": nodes}),
    ]
    experiment.append(log, [], [TrialRow(trial=0, status="PENDING", config={})])


def test_show_says_what_nodes_there_are_where_all_wait(call: Call, make: Make) -> None:
    make(status="running", write=waiting)
    found = next(line for line in lines(call("show", "digits")) if line.startswith("waits"))
    assert re.fullmatch(r"waits      for places: since \d\d:\d\d:\d\d the nodes have 4 cpu, 1 gpu", found)
    make(name="runs", status="running")
    assert not any(line.startswith("waits") for line in lines(call("show", "runs")))
