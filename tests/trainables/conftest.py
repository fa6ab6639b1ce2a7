"""A cache of its own for each test, and a folder of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test notes is not known to the next."""
    monkeypatch.setenv("TUNE_PLATFORM_CACHE", str(tmp_path_factory.mktemp("cache")))


def colours(tmp_path: Path) -> dict[str, Any]:
    """A folder of noise in two classes, and a config that crops, flips and drops out, read by two processes."""
    draws = np.random.default_rng(0)
    for part, count in (("train", 24), ("val", 4)):
        for name in ("one", "two"):
            (tmp_path / part / name).mkdir(parents=True)
            for index in range(count):
                pixels = draws.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / name / f"{index}.png")
    return {
        "task": "image_folder", "root": str(tmp_path), "batch_size": 4, "model": "cnn", "dropout": 0.5, "crop": 2,
        "flip": 0.5, "updates": 20, "report_every": 4, "workers": 1,
    }  # fmt: skip
