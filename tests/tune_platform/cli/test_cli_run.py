from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tune_platform.cli.conftest import SPEC, Call, Make
from tune_platform.cli.ending import exit_code
from tune_platform.protocol.commands import Finish
from tune_platform.results import Results
from tune_platform.store.experiment import SqlExperiment

TOY = """\
import time

def train(config):
    from tune_platform import report
    for step in range(1, 4):
        time.sleep(config["sleep"])
        if config["x"] > config["limit"]:
            raise ValueError("x is too large")
        report({"loss": (config["x"] - 3) ** 2 + 1 / step, "test_loss": 2.0})

def saving(config):
    from tune_platform import report
    report({"loss": 1.0}, checkpoint=1)
"""

SPEC_TEXT = """\
version: 1
entrypoint: toy_for_cli:train
objective: {metric: loss, mode: min}
space:
  x: {type: float, low: 0.0, high: 10.0}
  optimizer: {type: choice, values: [sgd, adamw]}
  deep: {y: {type: int, low: 1, high: 64, log: true, when: {optimizer: sgd}}}
  limit: 100
  sleep: 0
constraints: ["x < 9"]
search: {name: random, seed: 1}
budget: {trials: 4}
backend: inline
"""


@pytest.fixture
def toy(storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a spec, toy.yaml, and the module that it names."""
    (tmp_path / "toy_for_cli.py").write_text(TOY)
    (tmp_path / "toy.yaml").write_text(SPEC_TEXT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("toy_for_cli", None)


# ------------------------------------------------------------------------------------------ check

CHECKED = """\
name        -
trainable   toy_for_cli:train
objective   min loss
search      random (seed 1)
schedule    fifo
trials      4, as many at a time as fit
resources   1 cpu for each trial
grid size   1
storage     {storage}

parameter  values                when
x          float 0 to 10
optimizer  choice of sgd, adamw
deep/y     int 1 to 64, log      optimizer == 'sgd'
constraint  x < 9

10 sample configs:
"""


def test_check(call: Call, toy: Path, storage: Path) -> None:
    result = call("check", "toy.yaml")
    assert result.stdout.startswith(CHECKED.format(storage=storage))
    head, *samples = result.stdout.split("10 sample configs:\n")[1].splitlines()
    assert head.split() == ["x", "optimizer", "limit", "sleep", "deep/y"]
    assert len(samples) == 10
    assert result.stderr.splitlines() == [
        "chosen, since the spec names none: schedule: fifo (4 trials are too few to learn from)",
        "toy.yaml: the spec is sound; nothing was started",
    ]
    assert not storage.exists()


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        (
            {"name": "freeze_thaw", "max": 9, "interval": 3},
            "each trial gets a first slice of 3 steps; who is trained further follows from the curves: "
            "48 to 144 steps in all, so at most 67% is saved",
        ),
        (
            {"name": "pbt", "interval": 5, "burn_in": 10},
            "a population of 16, judged every 5 steps from 10 on: the worst 4 take over the weights of the best 4; "
            "all train to the end, so nothing is saved",
        ),
        (
            {"name": "pb2", "interval": 5, "quantile": 0.5},
            "a population of 16, judged every 5 steps: the worst 8 take over the weights of the best 8; "
            "all train to the end, so nothing is saved",
        ),
        (
            {"name": "mf_pbt", "interval": 2, "frequencies": [1, 4, 10]},
            "sub-populations that evolve: 6 every 2 steps, 5 every 8 steps, 5 every 20 steps; "
            "all train to the end, so nothing is saved",
        ),
        (
            {"name": "median", "grace": 2},
            "judged every 1 steps from 2 on: a trial that is worse than the median of the others, at least 3, stops; "
            "what is saved follows from the curves",
        ),
    ],
)
def test_check_says_what_is_known_of_a_schedule(call: Call, toy: Path, schedule: dict[str, Any], said: str) -> None:
    given = [word for key, value in schedule.items() for word in ("--set", f"schedule.{key}={json.dumps(value)}")]
    given += ["--set", "entrypoint=toy_for_cli:saving"]  # what goes on from checkpoints has to make some
    assert f"\nexpected    {said}\n" in call("check", "toy.yaml", "--trials", "16", *given).stdout


def test_check_shows_the_budget_of_each_bracket(call: Call, toy: Path) -> None:
    """Table 1 of the HyperBand paper, R = 81: see test_brackets.py for the sums by hand."""
    given = ("--set", "schedule.name=hyperband", "--set", "schedule.max=81", "--trials", "143")
    rows = [line.split() for line in call("check", "toy.yaml", *given).stdout.splitlines()]
    last = [row[3] for row in rows if len(row) == 4 and row[1] == "81" and row[0].isdigit()]
    assert last == ["297", "276", "279", "324", "405"]
    assert ["bracket", "step", "trials", "steps", "so", "far"] in rows


def test_a_module_of_this_folder_comes_before_the_standard_library(
    call: Call, toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the folder is the checkout's too, it stands at the end of the import path already."""
    monkeypatch.delitem(sys.modules, "wave", raising=False)
    monkeypatch.setattr(sys, "path", [*(each for each in sys.path if each != str(Path.cwd())), str(Path.cwd())])
    shutil.copy("toy_for_cli.py", "wave.py")
    call("check", "toy.yaml", "--set", "entrypoint=wave:train")
    monkeypatch.delitem(sys.modules, "wave")


def test_check_explains_where_values_come_from(call: Call, toy: Path) -> None:
    found = call("check", "toy.yaml", "--explain", "--trials", "9", "--set", "search.seed=5").stdout
    by_key = {line.split()[0]: line.split()[1:] for line in found.splitlines() if line.strip()}
    assert by_key["budget.trials"] == ["9", "flag"]
    assert by_key["search.seed"] == ["5", "flag"]
    assert by_key["objective.metric"] == ["loss", "toy.yaml"]


def test_check_as_json(call: Call, toy: Path) -> None:
    found = json.loads(call("check", "toy.yaml", "--json").stdout)
    assert found["trials"] == 4
    assert found["parameters"][2]["when"] == "optimizer == 'sgd'"
    assert len(found["samples"]) == 10
    assert found["resources"] == ["1 cpu"]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["--set", "sheduler=asha"], "did you mean 'schedule'"),
        (["--set", "schedule.name=asah"], "did you mean 'asha'"),
        (["--set", "entrypoint=toy_for_cli:trian"], "did you mean 'train'"),
        (["--set", "trials"], "key=value is wanted"),
        (["--time", "soon"], "soon"),
        (["--trials", "0"], "0"),
    ],
)
def test_mistakes_are_exit_code_2(call: Call, toy: Path, words: list[str], wanted: str) -> None:
    for verb in ("check", "run"):
        result = call(verb, "toy.yaml", *words, code=2)
        assert wanted in result.stderr
        assert "Traceback" not in result.stderr
        assert result.stdout == ""


# ------------------------------------------------------------------------------------------ run, resume


def test_what_comes_next_when_the_time_is_used_up_asks_for_time(call: Call, toy: Path) -> None:
    many = ("--set", "budget.trials=100000", "--set", "space.sleep=0.02")
    ended = call("run", "toy.yaml", "--name", "toy", "--set", "budget.time=0.3", *many, code=None).stdout
    assert "the time budget of 0.3 s is used up" in ended
    command = ended.rstrip().splitlines()[-1].split()
    assert command == ["tune-platform", "resume", "toy", "--extend", "time=0.3s"]
    more = call("resume", "toy", "--extend", "time=0.3", code=None)  # a number of seconds, too
    assert "a person asked: extend" in more.stderr
    assert "the time budget of 0." in more.stdout


def test_run_to_the_end_and_extend(call: Call, toy: Path, storage: Path) -> None:
    result = call("run", "toy.yaml", "--name", "toy")
    assert result.stdout.startswith("finished: all 4 trials are done\ntrials  4 completed\ntime ")
    assert "test_loss 2" in result.stdout
    assert f"files   {storage / 'toy'}\n" in result.stdout
    assert result.stdout.endswith(
        "next:\n  tune-platform best toy --as yaml\n  tune-platform show toy\n"
        "  tune-platform export toy --format csv -o toy.csv\n  tune-platform resume toy --extend trials=10\n"
    )
    assert "toy: results go to" in result.stderr
    assert "exists already" in call("run", "toy.yaml", "--name", "toy", code=2).stderr

    result = call("resume", "toy", "--extend", "trials=2", "--log-format", "json")
    end = json.loads(result.stdout)
    assert (end["event"], end["status"], end["counts"]) == ("end", "finished", {"COMPLETED": 6})
    assert all(json.loads(line)["event"] for line in result.stderr.splitlines())
    assert json.loads(call("best", "toy", "--json").stdout)["trial"] == end["best"]["trial"]


def test_dry_run_starts_nothing(call: Call, toy: Path, storage: Path) -> None:
    result = call("run", "toy.yaml", "--dry-run", "--name", "toy")
    assert result.stderr == f"would run 4 trials as 'toy' in {storage}; nothing was started\n"
    assert not storage.exists()


def test_exit_codes_of_failed_runs(call: Call, toy: Path) -> None:
    result = call("run", "toy.yaml", "--name", "none", "--set", "space.limit=-1", code=1)
    assert result.stdout.startswith(
        "failed: all of the first 3 trials failed with the same error: exception: ValueError"
    )
    assert "errors  3 x ValueError: x is too large [toy_for_cli.py:8 in train]" in result.stdout
    assert "tune-platform best" not in result.stdout
    result = call("run", "toy.yaml", "--name", "many", "--set", "space.limit=-1", "--set", "budget.failures=1", code=3)
    assert result.stdout.startswith("failed: 2 trials failed, more than the budget of 1")


@pytest.mark.parametrize("text", ["trials=x", "trials=0", "time=soon", "money=3", "trials"])
def test_extend_is_checked(call: Call, make: Make, text: str) -> None:
    make()
    assert "--extend" in call("resume", "digits", "--extend", text, code=2).stderr


@pytest.mark.parametrize(
    ("status", "failures", "code"),
    [("finished", 2, 0), ("stopped", 2, 0), ("interrupted", 2, 130), ("failed", 2, 1), ("failed", 0, 3)],
)
def test_exit_codes(make: Make, storage: Path, status: str, failures: int, code: int) -> None:
    make(spec={**SPEC, "budget": {"failures": failures}})
    results = Results("digits", storage=storage, finish=Finish(status=status, reason="because"))
    assert exit_code(results) == code


@contextlib.contextmanager
def started(*words: str) -> Iterator[subprocess.Popen[str]]:
    """Start a command, and see that nothing of it stays behind."""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-m", "tune_platform", *words]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(process: subprocess.Popen[str], sign: str) -> None:
    """Read stderr until it shows the sign."""
    assert process.stderr is not None
    assert any(sign in line for line in process.stderr)


@pytest.mark.slow
def test_ctrl_c_twice_ends_at_once(toy: Path, storage: Path) -> None:
    with started("run", "toy.yaml", "--name", "toy", "--set", "space.sleep=2") as run:
        wait_for(run, "best so far")
        run.send_signal(signal.SIGINT)
        wait_for(run, "ending gracefully")
        run.send_signal(signal.SIGINT)
        out, err = run.communicate(timeout=60)
    assert run.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    assert Results("toy", storage=storage).status == "interrupted"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_ends_gracefully_and_resume_goes_on(toy: Path, storage: Path, number: signal.Signals) -> None:
    with started("run", "toy.yaml", "--name", "toy", "--set", "space.sleep=0.3") as run:
        wait_for(run, "best so far")
        run.send_signal(number)
        out, err = run.communicate(timeout=60)
    assert run.returncode == 130, err
    assert "ending gracefully" in err
    assert out.startswith("interrupted: ")
    with started("resume", "toy") as resumed:
        out, err = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, err
    assert "4 completed" in out


@pytest.mark.slow
def test_a_terminal_that_is_closed_ends_gracefully(toy: Path, storage: Path) -> None:
    """SIGHUP to all processes of the terminal's group, and nobody who reads what is written."""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-m", "tune_platform", "run", "toy.yaml", "--name", "toy", "--set", "space.sleep=0.3",
               "--backend", "ray", "--set", "backend.num_cpus=1", "--set", "checkpoint.at_end=true"]  # fmt: skip
    master, slave = os.openpty()
    with subprocess.Popen(command, env=env, stdout=slave, stderr=slave, stdin=slave, start_new_session=True) as run:
        os.close(slave)
        read = b""
        while b"best" not in read:
            read += os.read(master, 1 << 16)
        os.close(master)
        os.killpg(run.pid, signal.SIGHUP)
        assert run.wait(120) == 130
    results = Results("toy", storage=storage)
    assert (results.status, results.counts.get("FAILED", 0)) == ("interrupted", 0)


@pytest.mark.slow
def test_nohup_goes_on(toy: Path, storage: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    command = ["nohup", sys.executable, "-m", "tune_platform", "run", "toy.yaml", "--name", "toy", "--trials", "2",
               "--set", "space.sleep=0.2"]  # fmt: skip
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        wait_for(run, "best so far")
        run.send_signal(signal.SIGHUP)
        out, err = run.communicate(timeout=120)
    assert run.returncode == 0, err
    assert "2 completed" in out


@pytest.mark.parametrize("error", [sqlite3.OperationalError("database or disk is full"), OSError(28, "No space left")])
def test_a_run_that_fails_midway_has_a_code_of_its_own(
    call: Call, toy: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    calls = 0
    append = SqlExperiment.append

    def failing(self: SqlExperiment, log: Any, *rest: Any, **more: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == fails_at:
            if isinstance(error, OSError):
                raise error
            with self._db._translated():
                raise error
        append(self, log, *rest, **more)

    monkeypatch.setattr(SqlExperiment, "append", failing)
    fails_at = 5
    result = call("run", "toy.yaml", "--name", "toy", code=4)
    assert str(error.args[-1]) in result.stderr.splitlines()[-1]
    assert "4 completed" in call("resume", "toy").stdout


# ------------------------------------------------------------------------------------------ the rest


def test_doctor(call: Call, storage: Path) -> None:
    findings = {each["what"]: each for each in json.loads(call("doctor", "--json", code=None).stdout)}
    assert findings["storage"]["state"] == "ok"
    assert findings["ray"]["text"][0].isdigit()
    assert not storage.exists()
    assert "fail  storage" in call("doctor", "--storage", "mysql://x", code=1).stdout


def test_doctor_finds_that_no_bytecode_is_kept(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    for value, found in (("1", {"note"}), ("", set())):
        monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", value)
        findings = json.loads(call("doctor", "--json", code=None).stdout)
        assert {each["state"] for each in findings if each["what"] == "bytecode"} == found


def test_help_is_there_for_every_command_and_has_an_example(call: Call) -> None:
    names = [line.split()[0] for line in call("--help").stdout.split("Commands:\n")[1].splitlines() if line[2:3] != " "]
    assert names == [
        "init", "run", "check", "simulate", "resume", "submit", "ls", "show", "best", "why", "export", "plot", "import",
        "lineage", "logs", "dashboard", "top", "quota", "stop", "pause", "unpause", "enqueue", "tag", "rm", "doctor",
        "completion",
    ]  # fmt: skip
    for name in names:
        assert f"Example: tune-platform {name}" in call(name, "--help").stdout


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from tune_platform.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'ray', 'torch', 'optuna', 'pandas', 'numpy', 'scipy', 'sqlalchemy', 'pydantic', 'rich'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)
