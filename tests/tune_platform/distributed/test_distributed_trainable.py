from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from tests.tune_platform.distributed.cloning import clones
from tests.tune_platform.distributed.recipes import Numbered, Recipe
from tune_platform.distributed import DistributedTrainable, Gang, PeerLost
from tune_platform.distributed.communicator import Communicator
from tune_platform.distributed.gang import GangKind
from tune_platform.errors import SpecError
from tune_platform.trainable import TrialContext

CONFIG = {"strategy": {"name": "averaging", "period": 4}, "lr": 0.1, "momentum": 0.9, "updates": 24, "report_every": 6}
TIMES = {"samples_per_s", "step_s", "compute_s", "communication_s", "waiting_s", "slowest_worker", "slowest_ratio"}


@pytest.fixture(params=["threads", pytest.param("processes", marks=pytest.mark.slow)])
def gang(request: pytest.FixtureRequest) -> Iterator[Gang]:
    gang = Gang(request.param, 2)
    yield gang
    gang.close()


def begin(gang: Gang, **config: Any) -> Recipe:
    recipe = Recipe(TrialContext(seed=3, gang=gang))
    recipe.setup({**CONFIG, **config})
    return recipe


def rest(recipe: DistributedTrainable) -> list[dict[str, Any]]:
    reports: list[dict[str, Any]] = []
    while not reports or not reports[-1]["done"]:
        reports.append({name: value for name, value in recipe.step().items() if name not in TIMES})
    return reports


def parameters(recipe: Recipe, folder: Path) -> list[dict[str, Any]]:
    folder.mkdir()
    recipe.save_checkpoint(folder)
    return [torch.load(path, weights_only=True)["model"] for path in sorted(folder.glob("worker-*.pt"))]


@pytest.mark.parametrize(
    ("config", "horizon", "updates"),
    [
        ({"updates": 24, "report_every": 6}, {"updates": 5.0}, 24),
        ({"epochs": 3}, {"epoch": 7.0, "updates": 5.0}, 3 * 16),
        ({}, {"updates": 40.0, "epoch": 7.0}, 40),
        ({}, {"epoch": 6.5, "step": 3.0}, 7 * 16),
        ({"report_every": 5}, {"step": 3.0}, 15),
        ({}, {"step": 3.0, "accuracy": 0.9}, 3 * 16),
        ({}, {"accuracy": 0.9}, 10 * 16),
    ],
)
def test_a_training_that_names_no_end_ends_with_the_scheduler(
    config: dict[str, Any], horizon: dict[str, float], updates: int
) -> None:
    gang = Gang("threads", 2)
    try:
        recipe = Recipe(TrialContext(seed=3, gang=gang, horizon=horizon))
        recipe.setup({"strategy": "averaging", "lr": 0.1, **config})
        assert recipe._total == updates
        recipe.cleanup()
    finally:
        gang.close()


def test_reports(gang: Gang) -> None:
    recipe = begin(gang)
    reports = rest(recipe)
    assert [report["updates"] for report in reports] == [6, 12, 18, 24]
    assert [report["epoch"] for report in reports] == pytest.approx([6 / 16, 12 / 16, 18 / 16, 24 / 16])
    assert reports[-1]["accuracy"] > 0.7
    assert reports[-1]["train_loss"] < reports[0]["train_loss"]
    payload = 4 * sum(p.numel() for p in recipe.build_model({}).parameters())
    exchanges = [1, 3 - 1, 4 - 3, 6 - 4]  # at the inner steps 4, 8, 12, 16, 20, 24
    assert [report["bytes_per_step"] for report in reports] == pytest.approx([2 * payload * n / 6 for n in exchanges])
    assert reports[-1]["bytes_sent"] == pytest.approx(2 * payload * 6)
    recipe.cleanup()


@pytest.mark.slow
def test_threads_and_processes_train_the_same_bit_for_bit() -> None:
    found = []
    for kind in get_args(GangKind)[:2]:
        gang = Gang(kind, 2)
        found.append(rest(begin(gang)))
        gang.close()
    assert found[0] == found[1]


@pytest.mark.slow
def test_processes_tell_waiting_from_sending() -> None:
    gang = Gang("processes", 2)
    report = begin(gang).step()
    gang.close()
    assert report["waiting_s"] > 0
    assert report["communication_s"] > 0
    assert report["step_s"] == pytest.approx(sum(report[f"{n}_s"] for n in ("compute", "communication", "waiting")))


def test_resume_equals_uninterrupted(gang: Gang, tmp_path: Path) -> None:
    recipe = begin(gang)
    recipe.step()
    recipe.step()  # 12 inner steps: in the middle of an epoch, momentum and schedule under way
    (tmp_path / "at").mkdir()
    recipe.save_checkpoint(tmp_path / "at")
    expected = rest(recipe)
    last = parameters(recipe, tmp_path / "first")

    assert recipe.reset_config({**CONFIG})
    recipe.load_checkpoint(tmp_path / "at")
    assert rest(recipe) == expected
    for one, other in zip(last, parameters(recipe, tmp_path / "second"), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_another_trial_in_the_same_gang_starts_from_nothing(gang: Gang) -> None:
    recipe = begin(gang)
    expected = rest(recipe)
    group = recipe.group
    assert recipe.reset_config({**CONFIG, "lr": 0.5})
    assert rest(recipe) != expected
    recipe.cleanup()
    again = begin(gang)
    assert again.group is group
    assert rest(again) == expected


def test_generators_of_the_process_are_left_alone(gang: Gang) -> None:
    before = torch.get_rng_state()
    recipe = begin(gang)
    recipe.step()
    assert torch.equal(before, torch.get_rng_state())


def test_a_mistake_says_which_worker_made_it(gang: Gang) -> None:
    recipe = begin(gang, fail_at=(1, 3))
    with pytest.raises(RuntimeError, match="worker 1 of 2: ValueError: a mistake in the loss") as raised:
        recipe.step()
    assert "raise ValueError" in str(raised.value)
    assert rest(begin(gang))  # the gang can still be used


@pytest.mark.slow
def test_a_killed_worker_is_done_without_and_replaced(caplog: pytest.LogCaptureFixture) -> None:
    gang = Gang("processes", 3)
    recipe = begin(gang, kill_at=(2, 9))
    with caplog.at_level(logging.WARNING):
        reports = rest(recipe)
    gang.close()
    assert [report["workers_lost"] for report in reports] == [0, 1, 1, 1]
    assert reports[1]["workers"] == 2
    assert [report["updates"] for report in reports] == [6, 12, 18, 24]
    assert "worker 2 is lost: its process is gone" in caplog.text
    assert "going on with 2 workers" in caplog.text


def kill_in(monkeypatch: pytest.MonkeyPatch, worker: int, call: int) -> None:
    """Kill a worker of a thread gang inside an all_reduce, before or after the others have entered it."""
    seen = {"calls": 0}
    original = Communicator.all_reduce

    def all_reduce(self: Any, tensor: Any, op: Any = "mean") -> Any:
        if self.rank == worker:
            seen["calls"] += 1
            if seen["calls"] == call:
                self._cluster.kill(self._members[self.rank])
        return original(self, tensor, op)

    monkeypatch.setattr(Communicator, "all_reduce", all_reduce)


def test_a_worker_that_dies_in_an_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    kill_in(monkeypatch, worker=1, call=2)
    gang = Gang("threads", 3)
    recipe = begin(gang)
    first, second, third, last = rest(recipe)
    assert (first["workers"], first["workers_lost"]) == (3, 0)
    assert (second["workers"], second["workers_lost"]) == (2, 1)
    assert third["workers"] == 3  # a new one has joined
    assert last["accuracy"] > 0.7
    assert recipe.group.workers == [0, 2, 3]


def test_a_second_worker_dies_while_the_others_close_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    kill_in(monkeypatch, worker=1, call=2)
    original = Numbered.rejoin
    killed: list[None] = []

    def rejoin(self: Numbered) -> int:
        if self.place.worker == 2 and not killed:
            killed.append(recipe.group.kill(2))  # type: ignore[attr-defined]
        return original(self)

    monkeypatch.setattr(Numbered, "rejoin", rejoin)
    recipe = begin(Gang("threads", 4))
    reports = rest(recipe)
    assert killed
    assert (reports[1]["workers"], reports[1]["workers_lost"]) == (2, 2)
    assert reports[-1]["workers"] == 4
    assert reports[-1]["updates"] == 24


def test_without_replacement_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    kill_in(monkeypatch, worker=2, call=2)
    monkeypatch.setattr(Recipe, "replace_lost", False)
    assert [report["workers"] for report in rest(begin(Gang("threads", 3)))] == [3, 2, 2, 2]


def test_too_few_workers_end_the_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    kill_in(monkeypatch, worker=1, call=2)
    monkeypatch.setattr(Recipe, "min_workers", 2)
    recipe = begin(Gang("threads", 2))
    recipe.step()
    with pytest.raises(PeerLost, match="1 workers are left, at least 2 are wanted"):
        recipe.step()


def test_a_strategy_that_needs_all_of_its_workers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kill_in(monkeypatch, worker=1, call=2)
    gang = Gang("threads", 2)
    recipe = begin(gang, strategy={"name": "fragile", "period": 4})
    recipe.step()
    recipe.save_checkpoint(tmp_path)
    with pytest.raises(PeerLost, match="strategy 'fragile' needs all of its workers"):
        recipe.step()
    monkeypatch.undo()
    retried = begin(gang, strategy={"name": "fragile", "period": 4})  # as the engine does
    retried.load_checkpoint(tmp_path)
    uninterrupted = begin(Gang("threads", 2), strategy={"name": "fragile", "period": 4})
    uninterrupted.step()
    assert rest(retried) == rest(uninterrupted)


def test_checkpoints_of_another_number_of_workers(tmp_path: Path) -> None:
    recipe = begin(Gang("threads", 2))
    recipe.step()
    recipe.save_checkpoint(tmp_path)
    for workers in (1, 3):
        other = begin(Gang("threads", workers), report_every=12)
        other.load_checkpoint(tmp_path)
        report = other.step()
        assert (report["updates"], report["workers"]) == (12, workers)
        # 6 batches of 8 by each of 2 workers are 96 of 256 examples: that many are not drawn again.
        assert report["epoch"] == pytest.approx((96 // (8 * workers) + 6) / (256 // workers // 8))
    other = begin(Gang("threads", 3), strategy="fragile")
    with pytest.raises(SpecError, match="of strategy 'averaging', this trial's is 'fragile'"):
        other.load_checkpoint(tmp_path)
    meta = json.loads((tmp_path / "distributed.json").read_text())
    (tmp_path / "distributed.json").write_text(json.dumps({**meta, "strategy": "fragile"}))
    with pytest.raises(SpecError, match=r"saved by 2 workers, this trial has 3.*set workers=2"):
        other.load_checkpoint(tmp_path)


def test_mistakes_in_the_config() -> None:
    for strategy, message in (
        ("averagin", "strategy: one of .*averaging, .* got 'averagin'.*averaging"),
        ({"name": "averaging", "periods": 2}, "strategy 'averaging' has no option 'periods'.*period"),
        ({"period": 2}, "strategy: a dict has a `name` and its options, got {.period.: 2}"),
    ):
        with pytest.raises(SpecError, match=message):
            begin(Gang("threads", 2), strategy=strategy)
    with pytest.raises(SpecError, match="updates and report_every are at least 1"):
        begin(Gang("threads", 2), updates=0)


def test_by_hand_without_a_lease() -> None:
    recipe = Recipe()
    recipe.setup({**CONFIG, "workers": 2})
    assert recipe.step()["workers"] == 2
    assert recipe.reset_config({**CONFIG, "workers": 3})
    assert recipe.step()["workers"] == 3
    recipe.cleanup()


def test_parts_that_are_missing_say_what_to_write() -> None:
    empty: Any = DistributedTrainable()
    for wanted, arguments in (("build_model", ({},)), ("build_data", ({}, 0, 1)), ("loss", (None, None))):
        with pytest.raises(NotImplementedError, match=rf"DistributedTrainable\.{wanted}\(.*is missing"):
            getattr(empty, wanted)(*arguments)


class Accumulating(Numbered):
    """Takes its step on the mean gradient of two halves of a batch."""

    def train_on(self, batch: Any) -> torch.Tensor:
        self.optimizer.zero_grad()
        halves = [[part[:4] for part in batch], [part[4:] for part in batch]]
        losses = [self.recipe.loss(self.strategy.module, half) / 2 for half in halves]
        for loss in losses:
            loss.backward()  # type: ignore[no-untyped-call]
        self.strategy.after_backward()
        self.optimizer.step()
        return torch.stack(losses).sum()


def test_a_step_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recipe, "build_model", lambda self, config: torch.nn.Linear(20, 2))  # no dropout: halves add up
    expected = rest(begin(Gang("threads", 2)))
    monkeypatch.setattr(Recipe, "worker_class", Accumulating)
    found = rest(begin(Gang("threads", 2)))
    assert [each["train_loss"] for each in found] == pytest.approx([each["train_loss"] for each in expected])


def test_a_gang_that_is_cloned_takes_over_rank_by_rank_from_memory(tmp_path: Path) -> None:
    """The gangs are threads here: the worse goes on with what each rank of the better one had."""
    found = clones({"name": "inline", "num_cpus": 4}, tmp_path)
    assert any(report["in_memory"] for report in found)
    assert all((report["same"], report["alike"]) == (1, 0) for report in found)
