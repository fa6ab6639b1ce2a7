"""What a model computes with."""

from __future__ import annotations

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController

from tune_platform.protocol.searcher import Outcome
from tune_platform.registry import make_searcher
from tune_platform.searchers.bo import BO
from tune_platform.space import Space, uniform


def threads() -> set[int]:
    found = ThreadpoolController().select(user_api="blas").info()
    assert found, "NumPy has no library for linear algebra that threadpoolctl knows"
    return {each["num_threads"] for each in found}


@pytest.mark.parametrize("name", ["bo", "turbo"])
def test_a_model_is_fitted_in_one_thread_and_what_others_use_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[int]] = []
    fitted = BO.fit_to

    def fit_to(self: BO, numbers: list[int], y: np.ndarray) -> None:
        seen.append(threads())
        fitted(self, numbers, y)

    monkeypatch.setattr(BO, "fit_to", fit_to)
    searcher = make_searcher(name)
    space = Space({"x": uniform(0, 1), "y": uniform(0, 1)})
    searcher.setup(space, mode=["min"], seed=0)
    for number in range(12):
        suggestion = searcher.ask(number)
        assert suggestion is not None
        searcher.tell(number, Outcome("completed", suggestion.config["x"], 1, config=suggestion.config))
    with ThreadpoolController().limit(limits=2, user_api="blas"):
        before = threads()
        for number in range(12, 20):  # not all are the model's
            searcher.ask(number)
        assert threads() == before
    assert before == {2}
    assert seen
    assert seen[-1] == {1}
