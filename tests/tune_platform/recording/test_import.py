"""Experiments of other programs become whole ones of ours, which every command reads."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
from click.testing import CliRunner, Result

from tune_platform import ExperimentError, load, resume
from tune_platform.api import check_up
from tune_platform.cli import main

BEGAN = 1_700_000_000


def call(*words: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, words)
    assert result.exit_code == code, result.output
    return result


def line(step: int, loss: float, trial: str, **more: Any) -> str:
    filled = {"timestamp": BEGAN + step, "done": False, "date": "d", "pid": 7, "hostname": "node", "config": {"lr": 1}}
    return json.dumps(
        {"loss": loss, "deep": {"acc": step}, "training_iteration": step, "trial_id": trial, **filled, **more}
    )


def ray_folder(home: Path, *, former: bool = False) -> Path:
    """Write what Ray Tune leaves of three trials: one that ended by itself, one stopped, one that failed."""
    results = {
        "a1b2_00000": [line(1, 3.0, "a"), line(2, 2.0, "a"), line(2, 2.0, "a"), line(3, 1.0, "a")],
        "a1b2_00001": [line(1, 5.0, "b", done=True), '{"loss": 4.0, "training_it'],
        "a1b2_00002": [line(1, float("nan"), "c")],
    }
    told: list[Any] = []
    for number, (trial, lines) in enumerate(results.items()):
        folder = home / f"train_{trial}"
        folder.mkdir(parents=True)
        (folder / "result.json").write_text("\n".join(lines))
        (folder / "params.json").write_text(json.dumps({"lr": 0.1 * (number + 1), "net": {"width": 8}}))
        status = "TERMINATED"
        if number == 2:
            (folder / "error.txt").write_text("Traceback ...\nValueError: the loss exploded\n")
            status = "ERROR"
        mine: dict[str, Any] = {"trial_id": trial, "status": status, "relative_logdir": folder.name, "config": {}}
        mine["storage"] = {"_type": "CLOUDPICKLE_FALLBACK", "value": "this would fail if it were unpickled"}
        if former:
            told.append(json.dumps({**mine, "start_time": BEGAN}))
        else:
            told.append([json.dumps(mine), json.dumps({"start_time": BEGAN})])
    state = {"checkpoints" if former else "trial_data": told[::-1], "runner_data": {"_metric": "loss"}, "stats": {}}
    (home / "experiment_state-2026-01-31_00-00-00.json").write_text(json.dumps(state))
    return home


@pytest.mark.parametrize("form", ["today", "former", "folders"])
def test_a_folder_of_ray_tune(tmp_path: Path, form: str) -> None:
    source, storage = ray_folder(tmp_path / "train_2026", former=form == "former"), tmp_path / "ours"
    if form == "folders":
        next(source.glob("experiment_state*")).unlink()
    call("import", str(source), "--metric", "loss", "--mode", "min", "--storage", str(storage))
    found = load("train_2026", storage=storage)
    assert check_up("train_2026", storage=storage) == []
    assert (found.status, found.counts) == ("finished", {"COMPLETED": 1, "FAILED": 1, "STOPPED": 1})
    first, second, third = found.trials()
    assert (first.config, first.best, first.step) == ({"lr": 0.1, "net": {"width": 8}}, 1.0, 3)
    assert first.last == {"loss": 1.0, "deep/acc": 3, "training_iteration": 3}
    assert (second.step, second.status, third.message) == (1, "STOPPED", "ValueError: the loss exploded")
    assert found.best().number == 0
    assert found.curves()[0] == [(1, 3.0), (2, 2.0), (3, 1.0)]
    assert "the loss exploded" in call("why", "train_2026", "2", "--storage", str(storage)).output
    assert "config/net/width" in call("export", "train_2026", "--storage", str(storage)).output
    with pytest.raises(ExperimentError, match=r"recorded of Ray Tune's experiment.*nothing here to go on with"):
        resume("train_2026", storage=storage)


def test_the_newest_state_is_known_by_its_name(tmp_path: Path) -> None:
    source = ray_folder(tmp_path / "train")
    (newest,) = source.glob("experiment_state*")
    text = newest.read_text()
    former = source / "experiment_state-2026-01-30_23-00-00.json"
    former.write_text(text.replace("TERMINATED", "RUNNING"))
    os.utime(newest, (1, 1))  # as a copy may leave it
    call("import", str(source), "--metric", "loss", "--mode", "min", "--storage", str(tmp_path / "ours"))
    assert load("train", storage=tmp_path / "ours").counts == {"COMPLETED": 1, "FAILED": 1, "STOPPED": 1}


def test_a_trial_whose_state_does_not_say_its_folder_is_there_once(tmp_path: Path) -> None:
    source = ray_folder(tmp_path / "train")
    (state,) = source.glob("experiment_state*")
    state.write_text(state.read_text().replace("relative_logdir", "of_another_release"))
    call("import", str(source), "--metric", "loss", "--mode", "min", "--storage", str(tmp_path / "ours"))
    found = load("train", storage=tmp_path / "ours")
    assert [(trial.status, trial.step) for trial in found] == [("COMPLETED", 3), ("STOPPED", 1), ("FAILED", 1)]


FOLDERS = Path(__file__).parent / "ray_folders"


def check_whole(source: Path, storage: Path) -> None:
    """Check what is read of the search of `make.py`."""
    call("import", str(source), "--mode", "min", "--storage", str(storage), "--name", "whole")
    found = load("whole", storage=storage)
    assert check_up("whole", storage=storage) == []
    assert found.metrics == ("loss",)
    ended = {trial.config["kind"]: (trial.config["net"]["width"], trial.status, trial.step) for trial in found}
    assert ended == {
        "ends": (1, "COMPLETED", 6), "fails": (1, "FAILED", 2), "again": (1, "COMPLETED", 6),
        "bad": (100, "STOPPED", 1), "last": (1, "COMPLETED", 6),
    }  # fmt: skip
    assert [trial.config["kind"] for trial in found] == list(ended) == ["ends", "fails", "again", "bad", "last"]
    assert found[1].message == "ValueError: the loss exploded"
    assert found.curves()[2] == [(step, 1 / step) for step in range(1, 7)]
    assert found[0].last == {"loss": 1 / 6, "deep/step": 6, "training_iteration": 6} | {
        name: value for name, value in found[0].last.items() if name == "time_total_s"
    }


@pytest.mark.parametrize("release", ["2.7", "2.20", "2.40"])
def test_folders_that_former_releases_wrote(tmp_path: Path, release: str) -> None:
    check_whole(FOLDERS / release, tmp_path)


@pytest.mark.parametrize("release", ["2.7", "2.20", "2.40"])
def test_folders_without_their_state(tmp_path: Path, release: str) -> None:
    source = shutil.copytree(FOLDERS / release, tmp_path / "train")
    for state in source.glob("experiment_state*"):
        state.unlink()
    call("import", str(source), "--metric", "loss", "--mode", "min", "--storage", str(tmp_path / "ours"))
    found = load("train", storage=tmp_path / "ours")
    assert [trial.config["kind"] for trial in found] == ["ends", "fails", "again", "bad", "last"]
    assert found.curves()[2] == [(step, 1 / step) for step in range(1, 7)]
    assert [found[number].status for number in (0, 1, 3, 4)] == ["COMPLETED", "FAILED", "STOPPED", "COMPLETED"]


@pytest.mark.slow
def test_a_folder_that_the_installed_release_writes(tmp_path: Path) -> None:
    release = ".".join(importlib.metadata.version("ray").split(".")[:2])
    command = [sys.executable, str(FOLDERS / "make.py"), release, str(tmp_path / "theirs")]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    check_whole(tmp_path / "theirs", tmp_path / "ours")


def test_what_was_judged_is_asked_for(tmp_path: Path) -> None:
    source = str(ray_folder(tmp_path / "train"))
    assert "--mode: say whether" in call("import", source, code=2).output
    said = call("import", source, "--metric", "los", "--mode", "min", code=2).output
    assert "no metric 'los' was reported (did you mean 'loss'?)" in said
    (tmp_path / "nothing").mkdir()
    assert "is not an experiment of Ray Tune's" in call("import", str(tmp_path / "nothing"), code=2).output
    assert "there is no" in call("import", str(tmp_path / "nowhere"), code=2).output


def objective(trial: optuna.Trial) -> float:
    x = trial.suggest_float("x", 0, 4)
    for step in range(3):
        trial.report(x + step - 5 * trial.number, step)  # lower than any value, where it is not the best
        if trial.number == 1 and step == 1:
            raise optuna.TrialPruned
    if trial.number == 2:
        raise ValueError("two is bad")
    return x


def test_an_optuna_study_in_and_out_again(tmp_path: Path) -> None:
    url, storage = f"sqlite:///{tmp_path}/optuna.db", str(tmp_path / "ours")
    study = optuna.create_study(study_name="theirs", storage=url)
    study.optimize(objective, n_trials=4, catch=ValueError)
    call("import", url, "--storage", storage)
    found = load("theirs", storage=storage)
    assert check_up("theirs", storage=storage) == []
    assert [trial.status for trial in found] == ["COMPLETED", "STOPPED", "FAILED", "COMPLETED"]
    assert [trial.step for trial in found] == [4, 2, 3, 4]
    assert found[0].config == study.trials[0].params
    assert found[0].last["value"] == study.trials[0].value
    assert found[1].best is None  # it was pruned: Optuna has no value of it either
    best = found.best()
    assert (best.config, best.best) == (study.best_params, study.best_value)

    back = f"sqlite:///{tmp_path}/back.db"
    call("export", "theirs", "--to", "optuna", back, "--storage", storage)
    again = optuna.load_study(study_name="theirs", storage=back)
    assert [trial.state.name for trial in again.trials] == ["COMPLETE", "PRUNED", "FAIL", "COMPLETE"]
    assert [trial.params for trial in again.trials] == [trial.params for trial in study.trials]
    assert again.best_params == study.best_params
    assert [trial.intermediate_values for trial in again.trials] == [
        trial.intermediate_values for trial in study.trials
    ]
    assert [trial.values for trial in again.trials] == [
        trial.values if trial.state.name == "COMPLETE" else None for trial in study.trials
    ]
    assert "already" in call("export", "theirs", "--to", "optuna", back, "--storage", storage, code=2).output
    assert "say with --study" not in call("import", back, "--name", "b", "--storage", storage).output
    optuna.create_study(study_name="other", storage=back)
    assert "say with --study which; the storage has" in call("import", back, code=2).output


OPENED = """
import json, sys
from wsgiref.util import setup_testing_defaults
import optuna_dashboard
app = optuna_dashboard.wsgi(sys.argv[1])
def get(path):
    environ = {"PATH_INFO": path}
    setup_testing_defaults(environ)
    status = []
    body = b"".join(app(environ, lambda line, headers, *_: status.append(line)))
    assert status == ["200 OK"], (status, body)
    return json.loads(body)
(study,) = get("/api/studies")["study_summaries"]
detail = get(f"/api/studies/{study['study_id']}")
print("OPENED", study["study_name"], [trial["state"] for trial in detail["trials"]])
"""


@pytest.mark.slow
def test_optuna_dashboard_opens_what_is_exported(tmp_path: Path) -> None:
    if shutil.which("uv") is None:
        pytest.skip("uv brings optuna-dashboard")
    url, storage, out = f"sqlite:///{tmp_path}/in.db", str(tmp_path / "ours"), f"sqlite:///{tmp_path}/out.db"
    optuna.create_study(study_name="theirs", storage=url).optimize(objective, n_trials=4, catch=ValueError)
    call("import", url, "--storage", storage)
    call("export", "theirs", "--to", "optuna", out, "--storage", storage)
    command = ["uv", "run", "--no-sync", "--with", "optuna-dashboard", "python", "-c", OPENED, out]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert "OPENED theirs ['Complete', 'Pruned', 'Fail', 'Complete']" in done.stdout, done.stdout + done.stderr[-3000:]


MLFLOW = (
    "run_id,status,start_time,end_time,metrics.loss,metrics.acc,params.lr,params.opt,tags.user\n"
    "r1,FINISHED,2026-01-31 10:00:00+00:00,2026-01-31 10:01:00+00:00,0.5,0.9,0.1,sgd,ada\n"
    "r2,FAILED,2026-01-31 10:00:00+00:00,,0.4,,0.2,adam,ada\n"
)
WANDB = (
    "name,config,summary,state\n"
    "r1,\"{'lr': 0.1, 'opt': 'sgd', '_wandb': {}}\",\"{'loss': 0.5, 'acc': 0.9, '_step': 3}\",finished\n"
    "r2,\"{'lr': 0.2, 'opt': 'adam'}\",\"{'loss': 0.4}\",crashed\n"
)
PAGE = (
    '"Name","State","Created","Runtime","lr","opt","loss","acc"\n'
    '"r1","finished","2026-01-31T10:00:00.000Z","60","0.1","sgd","0.5","0.9"\n'
    '"r2","crashed","2026-01-31T10:00:00.000Z","6","0.2","adam","0.4",""\n'
)
REST: Mapping[str, Any] = {
    "runs": [
        {
            "info": {"run_id": run, "status": status, "start_time": 1769853600000, "end_time": 1769853660000},
            "data": {
                "params": [{"key": "lr", "value": lr}, {"key": "opt", "value": opt}],
                "metrics": [{"key": key, "value": value, "step": 3, "timestamp": 0} for key, value in metrics.items()],
            },
        }
        for run, status, lr, opt, metrics in (
            ("r1", "FINISHED", "0.1", "sgd", {"loss": 0.5, "acc": 0.9}),
            ("r2", "FAILED", "0.2", "adam", {"loss": 0.4}),
        )
    ]
}


@pytest.mark.parametrize(
    ("name", "text", "more"),
    [
        ("mlflow.csv", MLFLOW, ()),
        ("mlflow.json", json.dumps(REST), ()),
        ("wandb.csv", WANDB, ()),
        ("page.csv", PAGE, ("--parameters", "lr,opt")),
        ("PAGE.CSV", PAGE, ("--parameters", "lr,opt")),
        ("page.tsv", PAGE.replace(",", "\t"), ("--parameters", "lr,opt")),
        ("semicolons.csv", PAGE.replace(",", ";"), ("--parameters", "lr,opt")),
    ],
)
def test_tables_of_runs(tmp_path: Path, name: str, text: str, more: tuple[str, ...]) -> None:
    (tmp_path / name).write_text(text)
    storage = str(tmp_path / "ours")
    call("import", str(tmp_path / name), "--metric", "loss", "--mode", "min", "--storage", storage, *more)
    found = load(name.partition(".")[0], storage=storage)
    assert check_up(found.name, storage=storage) == []
    assert [(trial.config, trial.status, trial.last) for trial in found] == [
        ({"lr": 0.1, "opt": "sgd"}, "COMPLETED", {"loss": 0.5, "acc": 0.9}),
        ({"lr": 0.2, "opt": "adam"}, "FAILED", {"loss": 0.4}),
    ]


def test_cells_that_hold_lines_long_texts_and_no_numbers(tmp_path: Path) -> None:
    long, storage = "x" * 200_000, str(tmp_path / "ours")
    (tmp_path / "wandb.csv").write_text(
        "name,config,summary\n"
        "r1,\"{'lr': 0.1}\",\"{'loss': nan, 'acc': 0.9, 'most': -inf}\"\n"
        f"r2,\"{{'lr': 0.2, 'note': '{long}'}}\",\"{{'loss': 0.5}}\"\n"
    )
    call("import", str(tmp_path / "wandb.csv"), "--metric", "loss", "--mode", "min", "--storage", storage)
    first, second = load("wandb", storage=storage)
    assert (first.config, first.last["acc"], second.last) == ({"lr": 0.1}, 0.9, {"loss": 0.5})
    assert second.config["note"] == long
    assert first.created.year > 2000  # when the file was written, where the runs do not say
    (tmp_path / "mlflow.csv").write_text('params.lr,params.note,metrics.loss\n0.1,"two\nlines, and more",0.5\n')
    call("import", str(tmp_path / "mlflow.csv"), "--metric", "loss", "--mode", "min", "--storage", storage)
    assert load("mlflow", storage=storage)[0].config == {"lr": 0.1, "note": "two\nlines, and more"}


def test_a_storage_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/none.db"
    assert "there is no file" in call("import", url, code=2).output
    assert not (tmp_path / "none.db").exists()
    optuna.storages.RDBStorage(url)
    assert "has no studies" in call("import", url, code=2).output


def test_a_folder_of_several_experiments_names_them(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "experiment_state-2026.json").write_text("{}")
    assert "import one of them: one, two" in " ".join(call("import", str(tmp_path), code=2).output.split())


def test_a_table_that_does_not_say_what_its_columns_are(tmp_path: Path) -> None:
    (tmp_path / "page.csv").write_text(PAGE)
    assert "Say with --parameters" in " ".join(call("import", str(tmp_path / "page.csv"), code=2).output.split())
