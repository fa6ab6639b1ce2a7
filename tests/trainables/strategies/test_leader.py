from __future__ import annotations

import math

import pytest
import torch

from tune_platform.trainables.strategies.leader import LossWindow, elect


def test_a_window_divides_by_what_is_in_it() -> None:
    window = LossWindow(3)
    assert window.mean() == math.inf
    for loss, mean in ((3.0, 3.0), (1.0, 2.0), (2.0, 2.0), (6.0, 3.0)):
        window.add(torch.tensor(loss))
        assert window.mean() == mean
    again = LossWindow(3)
    again.load(window.state())
    assert again.mean() == 3.0
    assert again.noise() == window.noise() == pytest.approx(torch.tensor([1.0, 2.0, 6.0]).std().item() / 3**0.5)
    window.add(torch.tensor(math.nan))
    assert window.mean() == math.inf


def test_the_least_loss_leads_the_lowest_rank_of_several_and_nobody_without_one() -> None:
    assert elect([3.0, 1.0, 1.0], [0, 1, 2]) == 1
    assert elect([3.0, 1.0, 1.0], [2, 0]) == 2
    assert elect([math.inf, math.inf], [0, 1]) is None
    for order in ([0, 1, 2], [2, 1, 0]):
        losses = [LossWindow(1), LossWindow(1), LossWindow(1)]
        for window, loss in zip(losses, (math.nan, 2.0, 3.0), strict=True):
            window.add(torch.tensor(loss))
        assert elect([window.mean() for window in losses], order) == 1
