from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.studies.surfaces import DoubleWell
from tests.trainables.strategies.toys import (
    Held,
    Toy,
    check_resume,
    count_parameters,
    die,
    digest,
    make,
    models,
    reports,
    vectors,
    worker_of,
)
from tune_platform.distributed import Cost, Gang, LocalGroup
from tune_platform.errors import SpecError
from tune_platform.trainables.strategies.easgd import EASGD

CONFIG = {"lr": 0.05, "updates": 12, "report_every": 6, "batch_size": 8}
SLOW = Cost(step_s=(1.0, 1.0, 1.0, 5.0))


class Patient(Toy):
    """Processes may take long to start where the machine is busy; a dead one is noticed without a time-out."""

    collective_timeout_s = 120.0


def config(**options: Any) -> dict[str, Any]:
    return {**CONFIG, "strategy": {"name": "easgd", "period": 4, **options}}


def centre(trainable: Any, rank: int = 0) -> Tensor:
    found: Tensor = worker_of(trainable, rank).strategy.centre
    return found


def test_beta_0_is_independent_training_and_the_centre_stays() -> None:
    alone = make({**CONFIG, "strategy": "independent"}, 3)
    tied = make(config(beta=0.0), 3)
    before = centre(tied).clone()
    expected, got = reports(alone, 2), reports(tied, 2)
    assert [digest(model) for model in models(alone)] == [digest(model) for model in models(tied)]
    assert torch.equal(centre(tied), before)
    assert [report["bytes_sent"] for report in (*expected, *got)] == [0, 0, 0, 0]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_exchange_conserves_the_sum_of_workers_and_centre(asynchronous: bool) -> None:
    given = config(beta=0.6, init="different", asynchronous=asynchronous)
    trainable = make({**given, "lr": 0.0, "double": not asynchronous}, 3)
    before = centre(trainable) + vectors(trainable).sum(0)
    spread = vectors(trainable).std(0).norm()
    trainable.step()
    after = centre(trainable) + vectors(trainable).sum(0)
    assert torch.allclose(before, after, rtol=0, atol=1e-5 if asynchronous else 1e-13)
    assert vectors(trainable).std(0).norm() < 0.9 * spread


def test_one_exchange_is_the_equations_with_the_old_centre() -> None:
    """The pull is that of the parameters before the gradient step, and the gradient is taken there too."""
    given = config(beta=0.6, init="different")
    tied = make({**given, "double": True, "report_every": 1}, 3)
    x, c = vectors(tied), centre(tied).clone()
    assert torch.allclose(c, x.mean(0), rtol=0, atol=1e-14)
    gradients = []
    for rank in range(3):
        worker = worker_of(tied, rank)
        worker.recipe.loss(worker.model, next(iter(worker.position.data))).backward()
        gradients.append(torch.cat([p.grad.reshape(-1) for p in worker.model.parameters()]))
        worker.model.zero_grad()
    tied.step()
    alpha = 0.6 / 3
    assert torch.allclose(
        vectors(tied), x - 0.05 * torch.stack(gradients) - alpha * (x - c), rtol=0, atol=1e-14
    )  # the exchange is at step 0
    assert torch.allclose(centre(tied), c + 0.6 * (x.mean(0) - c), rtol=0, atol=1e-14)
    assert all(torch.equal(centre(tied, rank), centre(tied)) for rank in range(3))


def test_the_pull_passes_the_optimizer_by() -> None:
    """With a rate of 0 momentum stays what the gradients make it."""
    pulled = make({**config(beta=0.9, init="different"), "lr": 0.0, "momentum": 0.9, "report_every": 1}, 2)
    before = vectors(pulled)
    state = [worker_of(pulled, rank).optimizer for rank in range(2)]
    pulled.step()
    buffers = [each.state_dict()["state"][0]["momentum_buffer"] for each in state]
    gradients = [next(iter(worker_of(pulled, rank).model.parameters())).grad for rank in range(2)]
    assert all(torch.equal(buffer, gradient) for buffer, gradient in zip(buffers, gradients, strict=True))
    assert not torch.equal(before, vectors(pulled))


@pytest.mark.parametrize("rho", [0.2, 0.5])
@pytest.mark.parametrize("name", ["easgd", "lsgd"])
def test_double_well_where_elastic_averaging_stands_still_and_a_leader_does_not(rho: float, name: str) -> None:
    """At x = +-sqrt(1 - rho) and centre 0 spring and gradient cancel, though f' = -rho sqrt(1 - rho) is not 0."""
    rate, place = 0.1, (1 - rho) ** 0.5
    options: dict[str, Any] = {"name": name, "period": 1, "init": "different"}
    if name == "easgd":
        options["beta"] = 2 * rate * rho
    else:
        options |= {"pull": rate * rho, "window": 1, "evaluate": "leader"}
    given = {"starts": [place, -place], "lr": rate, "updates": 120, "report_every": 120, "strategy": options}
    report = make(given, 2, toy=DoubleWell).step()
    if name == "easgd":
        assert report["places"] == pytest.approx([place, -place], abs=1e-12)
        assert report["gradient_norms"] == pytest.approx([rho * place, rho * place], abs=1e-12)
    else:
        assert min(report["gradient_norms"]) < 1e-8
        assert max(abs(x) for x in report["places"]) == pytest.approx(1, abs=1e-8)


def test_bytes_are_those_of_the_formula() -> None:
    for asynchronous in (False, True):
        given = {**config(asynchronous=asynchronous), "report_every": 8, "updates": 8}
        trainable = make(given, 3)
        n = count_parameters(trainable)
        expected = EASGD.bytes_per_step(n, 3, {"period": 4, "asynchronous": asynchronous})
        more = 2 * 8 / 8 if asynchronous else 0  # to hear that the run is over
        asked = 2 * 8 if asynchronous else 0  # before each step, at most
        assert expected - asked - 1e-9 <= trainable.step()["bytes_per_step"] <= expected + more + 1e-9
        assert expected == (8 * 2 * ((n + 1) / 4 + 1) if asynchronous else 8 * 2 * n / 4)
    assert EASGD.bytes_per_step(1000, 4, {"beta": 0}) == 0


@pytest.mark.parametrize("options", [{}, {"beta": 0.5, "init": "different"}])
def test_resume_equals_uninterrupted(options: dict[str, Any], tmp_path: Path) -> None:
    more = {"momentum": 0.9, "dropout": 0.2, "norm": True, "updates": 100, "report_every": 5}
    check_resume({**config(**options), **more}, tmp_path)


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("workers", [1, 4])
def test_another_number_of_workers_takes_the_checkpoint_over(asynchronous: bool, workers: int, tmp_path: Path) -> None:
    given = config(asynchronous=asynchronous)
    first = make(given, 2)
    first.step()
    first.save_checkpoint(tmp_path)
    second = make(given, workers)
    second.load_checkpoint(tmp_path)
    assert torch.equal(centre(second), centre(first))
    assert second.step()["updates"] == 12


def test_the_centre_is_evaluated_with_batchnorm_of_its_own_and_nothing_is_left_behind() -> None:
    seen: dict[str, Any] = {}

    class Looking(Toy):
        def evaluate(self, model: nn.Module) -> dict[str, Any]:
            seen["parameters"] = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
            seen["batches"] = int(model[1].num_batches_tracked)  # type: ignore[index]
            seen["training"] = model.training
            return super().evaluate(model)

    trainable = make({**config(init="different", batchnorm_batches=3), "norm": True}, 2, toy=Looking)
    trainable.step()
    assert torch.equal(seen["parameters"], centre(trainable))
    assert seen["batches"] == 3
    assert not seen["training"]
    model = worker_of(trainable, 0).model
    assert int(model[1].num_batches_tracked) == 6  # those of the training
    assert model.training
    before = [digest(model) for model in models(trainable)]
    trainable._survive("evaluate")
    assert [digest(model) for model in models(trainable)] == before


def test_asynchronously_the_slow_worker_is_not_waited_for_and_a_run_repeats_itself() -> None:
    found = []
    for _ in range(2):
        trainable = make({**config(asynchronous=True), "updates": 24, "report_every": 24}, 4, cost=SLOW)
        report = trainable.step()
        assert report["updates"] == 24
        steps = [worker_of(trainable, rank).updates for rank in range(4)]
        assert steps[:3] == [24, 24, 24]
        assert steps[3] in (4, 5)  # a fifth of the others', whatever the period is
        assert report["waiting_s"] == 0
        found.append((steps, [digest(model) for model in models(trainable)], report["evaluated"]))
    assert found[0] == found[1]


def test_whether_a_run_is_over_is_asked_for_a_hundredth_of_the_time() -> None:
    """On the virtual clock, steps of 1 s: before each where an answer takes nothing, else once in 100 times as long."""
    bytes_sent = []
    for latency in (0.0, 0.1):
        cost = Cost(latency_s=latency)
        trainable = make({**config(period=100, asynchronous=True), "updates": 60, "report_every": 60}, 2, cost=cost)
        bytes_sent.append(trainable.step()["bytes_sent"] - 8 * (count_parameters(trainable) + 1))  # one exchange
    assert bytes_sent[0] == 8 * 61  # and once where the run ends
    assert bytes_sent[1] == 8 * 7  # at 0, 10, 20, 30, 40, 50 s, and where it ends


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_loss_of_a_worker_leaves_the_centre_and_one_that_joins_begins_there(asynchronous: bool) -> None:
    group = LocalGroup(3)
    events = {(1, 5): lambda toy: group.kill(1)}
    given = {**config(asynchronous=asynchronous), "events": events, "updates": 24, "report_every": 8}
    trainable = make(given, 3, gang=Held(group))
    trainable.replace_lost = False
    first = trainable.step()
    assert (first["workers"], first["workers_lost"], first["updates"]) == (2, 1, 8)
    assert worker_of(trainable, 0).strategy.worker.comm.size == 2
    kept = centre(trainable).clone()
    trainable.replace_lost = True
    trainable._replace()
    assert torch.equal(centre(trainable), kept)
    assert torch.equal(vectors(trainable)[2], kept)
    second = trainable.step()
    assert (second["workers"], second["updates"]) == (3, 16)
    assert second["accuracy"] > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["easgd", "eamsgd"])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_death_of_a_process_does_not_end_the_trial(name: str, asynchronous: bool) -> None:
    gang = Gang("processes", 3)
    try:
        # In its first step: asynchronously there may be no fifth before another has come to the end of the run.
        given = {**config(asynchronous=asynchronous), "events": {(2, 0): die}, "updates": 24, "report_every": 8}
        given["strategy"]["name"] = name
        trainable = make(given, 3, gang=gang, toy=Patient)
        first, second, third = (trainable.step() for _ in range(3))
        # Nobody waits for it asynchronously: where processes start slowly, the others come further before it is missed.
        # Counted from the beginning on.
        lost = [report["workers_lost"] for report in (first, second, third)]
        assert (first["workers"], lost[0]) == (2, 1) or (asynchronous and lost[-1] <= 1)
        assert (second["updates"], third["updates"], third["done"]) == (16, 24, True)
        assert third["workers"] in (2, 3)  # a replacement takes as long to start as it takes
    finally:
        gang.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": 1.2}, "beta is a number between 0 and 1, got 1.2"),
        ({"period": 0}, "period is a whole number of steps, or a share"),
        ({"asynchronous": "yes"}, "asynchronous is true or false, got 'yes'"),
        ({"init": "sam"}, r"init is one of same, different, got 'sam'.*same"),
        ({"batchnorm_batches": 0}, "batchnorm_batches is a number of at least 1, got 0"),
        ({"alpha": 0.1}, "has no option 'alpha'"),
    ],
)
def test_mistakes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        make(config(**options), 2)
