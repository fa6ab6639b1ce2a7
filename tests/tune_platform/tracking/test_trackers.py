"""`track` in a spec: the real libraries read back what was written."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tune_platform import ASHA, SearchSpec, choice, report, run
from tune_platform.errors import MissingLibraryError, SpecError

ROOT = Path(__file__).parents[3]


def train(config: dict[str, Any]) -> None:
    for step in range(1, 4):
        report({"loss": config["net"]["x"] / step, "note": "text"})


def search(tmp_path: Path, *track: Any, **more: Any) -> Path:
    given = {"trainable": train, "param_space": {"net": {"x": choice([1, 2])}}, "searcher": "grid", **more}
    run(
        SearchSpec(
            name="it", metric="loss", mode="min", scheduler=ASHA(max=3, eta=3), backend="inline", track=track,
            storage=str(tmp_path), progress="off", **given,
        )
    )  # fmt: skip
    return tmp_path / "it" / "tracking"


def test_files_have_every_report(tmp_path: Path) -> None:
    home = search(tmp_path, "jsonl", "csv")
    lines = [json.loads(line) for line in (home / "reports.jsonl").read_text().splitlines()]
    assert [(line["trial"], line["step"], line["loss"], line["config/net/x"]) for line in lines] == [
        (0, 1, 1.0, 1), (0, 2, 0.5, 1), (0, 3, pytest.approx(1 / 3), 1), (1, 1, 2.0, 2),
    ]  # fmt: skip
    with (home / "trial-00000.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["step"], row["loss"], row["note"]) for row in rows][:2] == [("1", "1.0", "text"), ("2", "0.5", "text")]


def test_tensorboard_has_scalars_and_hyperparameters(tmp_path: Path) -> None:
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c  # the format: length, its checksum, data, its checksum

    home = search(tmp_path, "tensorboard")
    (file,) = (home / "tensorboard" / "trial-00000").iterdir()
    data, found = file.read_bytes(), []
    while data:
        length = int.from_bytes(data[:8], "little")
        assert int.from_bytes(data[8:12], "little") == masked_crc32c(data[:8])
        found.append(Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    values = [(value.tag, event.step, value.simple_value) for event in found for value in event.summary.value]
    assert [(step, number) for tag, step, number in values if tag == "loss"] == [
        (1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3)),
    ]  # fmt: skip
    assert any(tag.startswith("_hparams_/") for tag, _, _ in values)


def test_mistakes_are_told_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SpecError, match="track"):
        search(tmp_path, "tensorbord")
    monkeypatch.setattr("tune_platform.extras.find_spec", lambda name: None)
    with pytest.raises(MissingLibraryError, match="track: mlflow needs 'mlflow', which is not installed"):
        search(tmp_path, "mlflow")
    assert not (tmp_path / "it").exists()


BROUGHT = """
import sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from tests.tune_platform.tracking.test_trackers import search
if __name__ == "__main__":
    home = search(Path(sys.argv[1]), "mlflow", "wandb")
    import mlflow
    client = mlflow.MlflowClient(f"sqlite:///{home.absolute()}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("it").experiment_id], order_by=["start_time ASC"])
    found = sorted((run.data.params["net/x"], run.info.status, len(client.get_metric_history(run.info.run_id, "loss")))
                   for run in runs)
    print("MLFLOW", found)
    mlflow.set_tracking_uri(f"sqlite:///{home.absolute()}/mlflow.db")
    mlflow.search_runs(experiment_names=["it"], order_by=["start_time ASC"]).to_csv(home / "exported.csv")
    from click.testing import CliRunner
    from tune_platform import load
    from tune_platform.cli import main
    words = ["import", str(home / "exported.csv"), "--metric", "loss", "--mode", "min", "--storage", str(home / "ours")]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    again = load("exported", storage=home / "ours")
    print("IMPORTED", sorted((trial.config["net/x"], trial.status, round(trial.last["loss"], 2)) for trial in again))
    print("WANDB", [path.stat().st_size > 1000 for path in (home / "wandb").glob("offline-run-*/run-*.wandb")])
"""


@pytest.mark.slow
def test_mlflow_and_wandb(tmp_path: Path) -> None:
    if shutil.which("uv") is None:
        pytest.skip("uv brings the libraries")
    command = ["uv", "run", "--no-sync", "--with", "mlflow", "--with", "wandb", "python", "-c", BROUGHT]
    environment = {**os.environ, "WANDB_MODE": "offline"}
    done = subprocess.run(
        [*command, str(tmp_path), str(ROOT)], cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
        timeout=280,
    )  # fmt: skip
    assert "MLFLOW [('1', 'FINISHED', 3), ('2', 'KILLED', 1)]" in done.stdout, done.stdout + done.stderr[-3000:]
    assert "IMPORTED [(1, 'COMPLETED', 0.33), (2, 'FAILED', 2.0)]" in done.stdout  # MLflow says KILLED
    assert "WANDB [True, True]" in done.stdout
