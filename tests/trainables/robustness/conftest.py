"""Small networks that the tests of this folder share: trained once, on the digits."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tune_platform.trainables.robustness.trainable import Parts, Training, complete, load_parts

SMALL = {
    "model": "mlp",
    "width": 8,
    "epochs": 3,
    "lr": 0.01,
    "attack_steps": 3,
    "train_size": 400,
    "analysis_images": 50,
}


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def parts() -> Parts:
    return load_parts(complete(SMALL), "cpu")


@pytest.fixture(scope="session")
def natural(parts: Parts) -> Training:
    training = Training(SMALL, parts, seed=1)
    for _ in range(3):
        training.learn()
    training.model.eval()
    return training


@pytest.fixture(scope="session")
def robust(parts: Parts) -> Training:
    training = Training({**SMALL, "method": "trades", "beta": 3.0}, parts, seed=1)
    for _ in range(3):
        training.learn()
    training.model.eval()
    return training
