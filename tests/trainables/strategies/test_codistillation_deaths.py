"""A worker dies: what becomes of its group, of its model, and of who comes in its place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainables.strategies.toys import Toy, die, digest, make, models, reports, vectors, worker_of
from tune_platform.trainables.strategies.codistillation import Codistillation
from tune_platform.trainables.strategies.model_groups import ModelGroups, Seat
from tune_platform.trainables.strategies.peer_copies import pack


class Kept(Toy):
    """Nobody comes in the place of the dead."""

    replace_lost = False


def run(workers: int, dies: dict[int, int], /, toy: type[Toy] = Toy, **options: Any) -> Any:
    """Return a training in which each of these workers dies in the loss of that call (two a step with a peer)."""
    given: dict[str, Any] = {key: options.pop(key) for key in ("norm", "dropout") if key in options}
    events = dict.fromkeys(dies.items(), die)
    config: dict[str, Any] = {
        "strategy": {"name": "codistillation", "period": 3, "stagger": False, **options},
        "updates": 40, "report_every": 8, "momentum": 0.9, "events": events, **given,
    }  # fmt: skip
    return make(config, workers, toy=toy)


def strategies(trainable: Any) -> Iterator[Codistillation]:
    for rank in range(len(trainable.group.workers)):
        yield worker_of(trainable, rank).strategy


def seats(trainable: Any) -> list[Seat]:
    found = {strategy._at.seats for strategy in strategies(trainable)}
    assert len(found) == 1, "the workers do not agree on who does what"
    return list(found.pop())


def assert_groups_equal(trainable: Any) -> None:
    rows = vectors(trainable)
    for rank, seat in enumerate(seats(trainable)):
        first = next(other for other, its in enumerate(seats(trainable)) if its.model == seat.model)
        assert torch.equal(rows[rank], rows[first])


def test_a_group_goes_on_with_fewer_and_is_filled_up() -> None:
    trainable = run(4, {3: 11}, norm=True, dropout=0.2)
    (report,) = reports(trainable, 1)
    assert (report["workers"], report["workers_lost"], report["models"]) == (3, 1, 2)
    assert seats(trainable) == [(0, 0), (0, 1), (1, 0)]
    assert_groups_equal(trainable)
    (report,) = reports(trainable, 1)
    assert (report["workers"], report["models"], report["updates"]) == (4, 2, 16)
    assert seats(trainable) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert_groups_equal(trainable)
    assert report["distillation_loss"] > 0


def test_a_group_whose_leader_dies_in_the_exchange_has_another(monkeypatch: pytest.MonkeyPatch) -> None:
    trainable = run(4, {}, toy=Kept)
    send = ModelGroups.send

    def fatal(self: ModelGroups, model: int) -> Any:
        found = send(self, model)
        if self.rank == 2 and self._worker.updates == 6 and len(self.seats) == 4:
            trainable.group.kill(2)  # it has the checkpoint, the rest of its group has not
        return found

    monkeypatch.setattr(ModelGroups, "send", fatal)
    (report,) = reports(trainable, 1)
    assert (report["workers"], report["models"]) == (3, 2)
    assert seats(trainable) == [(0, 0), (0, 1), (1, 1)]
    last = reports(trainable, 4)[-1]
    assert last["done"]
    assert last["peer_age"] <= 3


@pytest.mark.parametrize("rule", ["keep", "drop"])
def test_a_lost_model_stays_a_peer_or_not(rule: str) -> None:
    trainable = run(2, {1: 11}, toy=Kept, when_lost=rule)  # in step 5: the copy is of step 3
    found = reports(trainable, 3)
    (strategy,) = strategies(trainable)
    copy = pack(strategy.copies[1])
    assert [report["models"] for report in found] == [1, 1, 1]
    assert strategy.published[1] == 3
    assert found[-1]["bytes_per_step"] == 0
    if rule == "keep":
        assert found[-1]["peer_age"] == 24 - 3
        assert found[-1]["distillation_loss"] > 0
    else:
        assert "distillation_loss" not in found[-1]
    reports(trainable, 1)
    assert torch.equal(pack(strategy.copies[1]), copy)


def test_a_lost_model_begins_again_from_its_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    trainable = run(2, {1: 11}, norm=True)
    reports(trainable, 1)
    (strategy,) = strategies(trainable)
    copy = pack(strategy.copies[1])
    began = []
    publish = ModelGroups.publish

    def look(self: ModelGroups, model: int) -> Any:
        if self.seat.model == model == 1:
            began.append(pack(self._worker.model))
        return publish(self, model)

    monkeypatch.setattr(ModelGroups, "publish", look)
    (report,) = reports(trainable, 1)
    assert torch.equal(began[0], copy)
    assert (report["workers"], report["models"]) == (2, 2)
    assert seats(trainable) == [(0, 0), (1, 0)]
    assert len({digest(model) for model in models(trainable)}) == 2


def test_the_lowest_living_model_is_evaluated_instead() -> None:
    trainable = run(3, {2: 12}, toy=Kept, models=3, evaluate_model=2)
    (report,) = reports(trainable, 1)
    assert report["evaluated_model"] == 0
    assert report["evaluated"] == digest(models(trainable)[0])
    both = run(3, {2: 12, 1: 12}, toy=Kept, models=3, evaluate_model=1)
    assert reports(both, 1)[0]["evaluated_model"] == 0
    back = run(3, {2: 12}, models=3, evaluate_model=2)
    assert [report["evaluated_model"] for report in reports(back, 2)] == [0, 2]


def test_predictions_of_a_lost_model_are_left_out() -> None:
    trainable = run(2, {1: 5}, exchange="predictions", when_lost="keep")
    first, second = reports(trainable, 2)
    assert (first["workers"], first["models"]) == (1, 1)
    assert (second["workers"], second["models"]) == (2, 1)  # there is no copy to begin again from
    assert seats(trainable) == [(0, 0), (0, 0)]
    assert "distillation_loss" not in second
    assert_groups_equal(trainable)


def test_who_has_lost_its_counterpart_compares_no_more() -> None:
    trainable = run(4, {3: 5}, exchange="predictions")
    (report,) = reports(trainable, 1)
    assert (report["workers"], report["models"]) == (3, 2)
    columns = [len(strategy._at._column_ranks) for strategy in strategies(trainable)]
    assert columns == [2, 1, 2]
    places = {(w.position.epoch, w.position.batch) for w in (worker_of(trainable, rank) for rank in range(3))}
    assert len(places) == 1, "the models would see different batches"
    (report,) = reports(trainable, 1)
    assert (report["workers"], report["models"]) == (4, 2)
    assert seats(trainable) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [len(strategy._at._column_ranks) for strategy in strategies(trainable)] == [2] * 4
    assert_groups_equal(trainable)


def test_before_the_first_exchange_there_is_nothing_to_begin_again_from() -> None:
    trainable = run(2, {1: 3}, burn_in=20)
    reports(trainable, 2)
    assert seats(trainable) == [(0, 0), (0, 0)]


def test_a_checkpoint_of_those_left_is_loaded_by_a_whole_gang(tmp_path: Path) -> None:
    wounded = run(4, {3: 11}, toy=Kept)
    reports(wounded, 1)
    wounded.save_checkpoint(tmp_path)
    whole = run(4, {})
    whole.load_checkpoint(tmp_path)
    old, new = vectors(wounded), vectors(whole)
    assert torch.equal(new, old[[0, 0, 2, 2]])
    assert reports(whole, 1)[0]["updates"] == 16
    assert_groups_equal(whole)


def test_a_checkpoint_brings_a_lost_model_back(tmp_path: Path) -> None:
    wounded = run(2, {1: 11}, toy=Kept)
    reports(wounded, 1)
    (strategy,) = strategies(wounded)
    wounded.save_checkpoint(tmp_path)
    whole = run(2, {})
    whole.load_checkpoint(tmp_path)
    assert torch.equal(pack(models(whole)[1]), pack(strategy.copies[1]))
    assert reports(whole, 1)[0]["models"] == 2


def test_resume_after_a_replacement_is_exact(tmp_path: Path) -> None:
    """The seats are then in another order than a new gang would take."""
    first = run(4, {1: 11})
    reports(first, 2)
    assert seats(first) == [(0, 0), (1, 0), (1, 1), (0, 1)]
    first.save_checkpoint(tmp_path)
    second = run(4, {})
    second.load_checkpoint(tmp_path)
    assert seats(second) == seats(first)
    assert torch.equal(vectors(second), vectors(first))
    for mine, other in zip(strategies(second), strategies(first), strict=True):
        assert mine.state_dict().keys() == other.state_dict().keys()
        assert mine.published == other.published
        (peer,) = mine.copies
        assert torch.equal(pack(mine.copies[peer]), pack(other.copies[peer]))
    reports(second, 1)
    assert_groups_equal(second)


class Patient(Toy):
    """Has time for slow machines to start processes and load torch."""

    collective_timeout_s = 60.0


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "exchange"), [(4, "checkpoints"), (2, "predictions")])
def test_processes_do_as_threads_and_one_that_is_killed_does_not_end_the_trial(workers: int, exchange: str) -> None:
    config = {
        "strategy": {"name": "codistillation", "period": 3, "exchange": exchange}, "updates": 24, "report_every": 8,
        "dropout": 0.2, "events": {(workers - 1, 24 if exchange == "checkpoints" else 11): die},
    }  # fmt: skip
    (threads,) = reports(make(config, workers), 1)
    trainable = make(config, workers, gang="processes", toy=Patient)
    try:
        found = reports(trainable, 3)
    finally:
        trainable.cleanup()
        trainable.context.gang.close()
    assert found[0] == threads
    assert [report["workers"] for report in found[:2]] == [workers, workers - 1]
    assert [report["models"] for report in found] == ([2, 2, 2] if exchange == "checkpoints" else [2, 1, 1])
    assert found[-1]["workers_lost"] == 1
    assert found[-1]["done"]
