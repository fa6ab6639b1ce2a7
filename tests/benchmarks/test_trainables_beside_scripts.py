from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from benchmarks import trainables


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["classification_cnn", "adversarial_training", "segmentation"])
def test_both_do_the_same_amount(name: str) -> None:
    pair = trainables.pairs(quick=True)[name]()
    assert pair.ours(pair.steps) == pair.plain(pair.steps) > 0


def test_the_ratio_is_the_median_of_the_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = {"ours": iter([1.0, 3.0, 4.0]), "plain": iter([2.0, 2.0, 2.0])}
    ours, plain = (lambda steps: 0), (lambda steps: 1)
    monkeypatch.setattr(trainables, "timed", lambda run, steps: next(rates["ours" if run(steps) == 0 else "plain"]))
    found = trainables.compare(trainables.Pair(ours, plain, 1), 3)
    assert found == {"ours": 3.0, "plain": 2.0, "ratio": 1.5, "lowest": 0.5, "highest": 2.0}
