"""Writes the folders beside this file: what releases of Ray Tune leave of one small search. Run once for each release.

    uv run --no-project --python 3.11 --with 'ray[tune]==2.20.0' --with 'numpy<2' --with 'pyarrow<18' \\
        --with 'pandas<2.3' --with 'setuptools<70' make.py 2.20

Trials: two that end by themselves, one that its scheduler stops, one that fails, one tried again from a checkpoint.
Kept are the files that the importer reads. Names of hosts, addresses, process ids and folders are replaced, and
pickles, which nobody reads, are cut to their first bytes.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"  # workers need no environment of uv's of their own

import ray
from ray import tune

KEPT = ("experiment_state-*.json", "*/params.json", "*/result.json", "*/error.txt")


def train(config: dict[str, Any]) -> None:
    """Report six losses; what `kind` says happens on the way."""
    from ray import train as waist

    home: Any = tune if hasattr(tune, "get_checkpoint") else waist
    found = home.get_checkpoint()
    begun = int((Path(found.path) / "step").read_text()) if found else 0
    for step in range(begun + 1, 7):
        if config["kind"] == "fails" and step == 3:
            raise ValueError("the loss exploded")
        if config["kind"] == "again" and step == 4 and not begun:
            raise OSError("a disk went away")
        checkpoint = None
        with tempfile.TemporaryDirectory() as folder:
            if step == 2:
                (Path(folder) / "step").write_text(str(step))
                checkpoint = home.Checkpoint.from_directory(folder)
            home.report({"loss": config["net"]["width"] / step, "deep": {"step": step}}, checkpoint=checkpoint)


def main(release: str, target: Path) -> None:
    """Run the search and keep its files in `target`."""
    from ray import train as shared
    from ray.tune.schedulers import AsyncHyperBandScheduler

    assert ray.__version__.startswith(f"{release}."), ray.__version__
    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    home = Path(tempfile.mkdtemp())
    settings: Any = tune if hasattr(tune, "RunConfig") else shared  # as long as they were shared with Ray Train
    space = {
        "kind": tune.grid_search(["ends", "fails", "again", "bad", "last"]),
        "net": {"width": tune.sample_from(lambda spec: 100 if spec.config.kind == "bad" else 1)},
    }
    tuner = tune.Tuner(
        tune.with_resources(train, {"cpu": 1}),
        param_space=space,
        tune_config=tune.TuneConfig(
            metric="loss", mode="min", scheduler=AsyncHyperBandScheduler(max_t=10, grace_period=1, reduction_factor=2)
        ),
        run_config=settings.RunConfig(
            name="train", storage_path=str(home), verbose=0, failure_config=settings.FailureConfig(max_failures=1)
        ),
    )
    tuner.fit()
    ray.shutdown()
    shutil.rmtree(target, ignore_errors=True)
    for pattern in KEPT:
        for path in sorted((home / "train").glob(pattern)):
            place = target / path.relative_to(home / "train")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(cleaned(path.read_text(), str(home)))
    shutil.rmtree(home)


def cleaned(text: str, home: str) -> str:
    """Return a file's text without what tells of the machine."""
    text = re.sub(rf"\b{re.escape(socket.gethostname())}\b", "node", text)
    text = text.replace(home, "/home/ada/ray_results")
    text = re.sub(r"/tmp/ray/session_[^\s\"',\\]*", "/tmp/ray/session", text)
    text = re.sub(r'(File ")/[^"]*/([^/"]+")', r"\1\2", text)
    text = re.sub(r"\b\d{1,3}(\.\d{1,3}){3}\b", "10.0.0.1", text)
    text = re.sub(r"(\\*\"pid\\*\": )\d+", r"\g<1>7", text)
    text = re.sub(r"pid=\d+", "pid=7", text)
    return re.sub(r"(\\*\"value\\*\": \\*\")(80[0-9a-f]{30})[0-9a-f]*", r"\1\2", text)


if __name__ == "__main__":
    main(sys.argv[1], Path(*sys.argv[2:]) if sys.argv[2:] else Path(__file__).parent / sys.argv[1])
