"""`submit`, with a stand-in for Ray's client."""

from __future__ import annotations

import json
import shlex
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.tune_platform.cli.conftest import Call
from tests.tune_platform.cluster.test_jobs import Cluster
from tune_platform.cluster import jobs, shipping

SPEC = """\
version: 1
entrypoint: toy:train
objective: {metric: loss, mode: min}
space: {x: {type: float, low: 0.0, high: 1.0}}
"""
HEAD = ("--address", "http://head:8265")


@pytest.fixture
def cluster(storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """A cluster that takes all jobs; the present folder has `toy.yaml`."""
    found = Cluster(("SUCCEEDED", 0))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(jobs, "check_dashboard", lambda address: address)
    monkeypatch.setattr(jobs, "connect", lambda address: found)
    (tmp_path / "toy.yaml").write_text(SPEC)
    return found


def test_the_folder_goes_with_the_command_and_the_id_comes_back(cluster: Cluster, call: Call, tmp_path: Path) -> None:
    done = call("submit", "toy.yaml", *HEAD, "--exclude", "data", "--", "--name", "ab", "--trials", "3")
    assert done.stdout == "raysubmit_1\n"
    (job,) = cluster.jobs
    excludes = [*shipping.EXCLUDES, "data"]
    assert job == {
        "entrypoint": "tune-platform run toy.yaml --name ab --trials 3 --storage $HOME/tune_results",
        "runtime_env": {"working_dir": str(tmp_path), "excludes": excludes},
    }
    (line,) = [line for line in done.stderr.splitlines() if "ray job submit" in line]
    plain = shlex.split(line)
    assert plain[:7] == ["ray", "job", "submit", *HEAD, "--working-dir", "."]
    assert json.loads(plain[plain.index("--runtime-env-json") + 1]) == {"excludes": excludes}
    assert plain[plain.index("--") + 1 :] == ["sh", "-c", f"exec {job['entrypoint']}"]
    assert "ray job logs -f raysubmit_1 --address http://head:8265" in done.stderr


@pytest.mark.parametrize(("status", "code"), [("SUCCEEDED", 0), ("FAILED", 3)])
def test_wait_shows_the_log_and_ends_with_the_code_of_the_job(
    cluster: Cluster, call: Call, status: str, code: int
) -> None:
    cluster.states = [(status, code)]
    done = call("submit", "toy.yaml", *HEAD, "--wait", code=code)
    assert done.stdout == "one\ntwo\n"
    assert ("job raysubmit_1: failed, exit code 3. words of Ray" in done.stderr) == bool(code)


def test_ctrl_c_leaves_the_job(cluster: Cluster, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(jobs, "follow", interrupted)
    assert "no longer watching; job raysubmit_1 goes on" in call("submit", "toy.yaml", *HEAD, "--wait", code=130).stderr


@pytest.mark.parametrize(
    ("spec", "given", "storage"),
    [
        ("", (), "$HOME/tune_results"),
        ("storage: here\n", (), "$HOME/tune_results"),
        ("storage: postgresql://ada@db/tune\n", (), None),
        ("storage: /shared/tune\n", (), None),
        ("storage: /shared/tune\n", ("--storage", "/other place"), "'/other place'"),
    ],
)
def test_results_outlive_the_folder_of_the_job(
    cluster: Cluster, call: Call, spec: str, given: tuple[str, ...], storage: str | None
) -> None:
    Path("toy.yaml").write_text(SPEC + spec)
    call("submit", "toy.yaml", *HEAD, *given)
    words = cluster.jobs[0]["entrypoint"]
    assert words == "tune-platform run toy.yaml" + ("" if storage is None else f" --storage {storage}")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--storage", "results"), "would go with the job's folder"),
        (
            ("--storage", "postgresql://ada:secret@db/tune"),
            "got postgresql://ada:***@db/tune, whose password everybody",
        ),
        (("--", "--storage", "/x"), "--storage stands before the --"),
        (("--", "--trails", "3"), "No such option"),
        (("--", "--set", "budget.trails=3"), "did you mean"),
    ],
)
def test_what_cannot_run_there_is_not_shipped(
    cluster: Cluster, call: Call, given: tuple[str, ...], message: str
) -> None:
    done = call("submit", "toy.yaml", *HEAD, *given, code=2)
    assert message in done.stderr
    assert "secret@" not in done.stderr
    assert not cluster.jobs


def test_a_spec_of_another_folder(
    cluster: Cluster, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    assert "does not lie in" in call("submit", "../toy.yaml", *HEAD, code=2).stderr
    assert not cluster.jobs


def test_too_large_a_folder(cluster: Cluster, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipping, "measure", lambda *args: Counter(data=5 * 2**30))
    said = call("submit", "toy.yaml", *HEAD, code=2).stderr
    assert "has 5120 MiB to ship, of which the cluster takes 200 MiB; largest: data 5120 MiB" in said
    assert not cluster.jobs


def test_without_the_library(cluster: Cluster, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    said = call("submit", "toy.yaml", *HEAD, code=2).stderr
    assert said == "error: submit needs 'aiohttp', which is not installed: pip install 'tune-platform[cluster]'\n"
