"""Our PGD beside that of the adversarial robustness toolbox, on the same networks."""

from __future__ import annotations

import random
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from tune_platform.trainables.robustness.attacks import Attack, pgd
from tune_platform.trainables.robustness.trainable import Parts, Training

pytestmark = pytest.mark.slow  # the import alone takes seconds


@pytest.mark.parametrize("which", ["natural", "robust"])
def test_pgd_is_as_strong_as_the_toolboxs(which: str, parts: Parts, request: pytest.FixtureRequest) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the toolbox warns of parts that are not used here
        from art.attacks.evasion import ProjectedGradientDescentPyTorch
        from art.estimators.classification import PyTorchClassifier

    training: Training = request.getfixturevalue(which)
    model = training.model.eval()
    images, labels = parts.test[0][:], parts.test[1]
    attack = Attack(0.1, steps=20, step_size=0.02)
    ours = pgd(model, images, labels, attack, torch.Generator().manual_seed(0))

    # The toolbox draws from the global generators.
    before = np.random.get_state(), random.getstate(), torch.get_rng_state()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    classifier = PyTorchClassifier(
        model, nn.CrossEntropyLoss(), tuple(images.shape[1:]), 10, clip_values=(0.0, 1.0), device_type="cpu"
    )
    theirs_attack: Any = ProjectedGradientDescentPyTorch(
        classifier, eps=attack.eps, eps_step=attack.stride, max_iter=attack.steps, num_random_init=1, batch_size=300,
        verbose=False,
    )  # fmt: skip
    theirs = torch.tensor(theirs_attack.generate(images.numpy(), np.eye(10)[labels.numpy()]))
    np.random.set_state(before[0])  # noqa: NPY002
    random.setstate(before[1])
    torch.set_rng_state(before[2])

    assert (theirs - images).abs().max() <= attack.eps + 1e-6
    with torch.no_grad():
        found = [
            (float(functional.cross_entropy(model(x), labels)), float((model(x).argmax(1) == labels).float().mean()))
            for x in (ours, theirs)
        ]
    clean = functional.cross_entropy(model(images), labels).item()
    assert found[0][0] > 1.5 * clean  # there is something to agree on
    assert found[0][0] == pytest.approx(found[1][0], rel=0.02)  # mean loss within 2 %
    assert found[0][1] == pytest.approx(found[1][1], abs=0.0101)  # accuracy within a point
