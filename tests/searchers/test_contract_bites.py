"""The contract suite finds what is wrong with searchers that are wrong in one thing each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from tune_platform.errors import SpecError
from tune_platform.protocol.searcher import Outcome, PastTrial, Suggestion
from tune_platform.searchers import GridSearcher, OptunaSearcher, RandomSearcher
from tune_platform.testing.searchers import SearcherContract


class FarAhead(OptunaSearcher):
    """It learns, and says that it does not."""

    def __init__(self) -> None:
        super().__init__("tpe", n_startup_trials=4)
        self.lookahead = None


class Batches(RandomSearcher):
    """A batch is drawn from one generator."""

    def ask_batch(self, numbers: Sequence[int]) -> Iterator[Suggestion | None]:
        return iter([self.ask(numbers[0])] * len(numbers))


class Stands(GridSearcher):
    """Where it stands is lost, and counts."""

    def ask(self, number: int) -> Suggestion | None:
        self.count = getattr(self, "count", -1) + 1
        return super().ask(self.count)

    def restore(self, past: Sequence[PastTrial]) -> None:
        self.count = len(past) - 1

    def load_state(self, data: Mapping[str, Any]) -> None: ...


class Credits(OptunaSearcher):
    """On resume the value of a clone is the suggested config's."""

    def __init__(self) -> None:
        super().__init__("tpe", n_startup_trials=4)

    def restore(self, past: Sequence[PastTrial]) -> None:
        super().restore([replace(t, outcome=t.outcome and replace(t.outcome, config=None)) for t in past])


class Early(OptunaSearcher):
    """On resume the rungs are lost."""

    def __init__(self) -> None:
        super().__init__("tpe", n_startup_trials=4)

    def restore(self, past: Sequence[PastTrial]) -> None:
        super().restore([replace(t, outcome=t.outcome and replace(t.outcome, rungs=(), resource=0.0)) for t in past])


class First:
    """A searcher of the first protocol."""

    synchronous = True

    def setup(self, space: Any, *, mode: Sequence[str], seed: int) -> None: ...
    def ask(self, number: int) -> None: ...
    def observe(self, number: int, config: Any) -> None: ...
    def tell(self, number: int, outcome: Outcome) -> None: ...
    def restore(self, past: Sequence[PastTrial]) -> None: ...


@pytest.mark.parametrize(
    ("searcher", "test", "error"),
    [
        (FarAhead, "test_one_that_is_asked_far_ahead_does_not_depend_on_values", AssertionError),
        (Batches, "test_a_batch_is_what_it_would_be_asked_one_by_one", AssertionError),
        (Stands, "test_state_stands_for_the_past", AssertionError),
        (Credits, "test_resume_equals_no_interruption", AssertionError),
        (Early, "test_what_was_reached_at_each_rung_is_known_again", AssertionError),
        (First, "test_it_is_of_the_present_protocol", SpecError),
    ],
)
def test_it_finds(searcher: Any, test: str, error: type[Exception]) -> None:
    class Contract(SearcherContract):
        trials = 40
        cuts = (1, 7, 26, 33)

        def make_searcher(self) -> Any:
            return searcher()

    with pytest.raises(error):
        getattr(Contract(), test)()
