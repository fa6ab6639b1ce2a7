"""What a real training wants of a step, in trainables of one process: parts, clipping, warm-up, deterministic mode."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tune_platform.distributed import Gang
from tune_platform.errors import SpecError
from tune_platform.trainable import Trainable, TrialContext
from tune_platform.trainables.classification import ClassificationTrainable
from tune_platform.trainables.policy_gradient import PolicyGradientTrainable, Settings
from tune_platform.trainables.policy_gradient.settings import ABSENT as NOT_OF_AGENTS
from tune_platform.trainables.robustness import RobustnessTrainable
from tune_platform.trainables.robustness.gang import RobustnessGangTrainable
from tune_platform.trainables.robustness.trainable import ABSENT as NOT_OF_ROBUSTNESS
from tune_platform.trainables.robustness.trainable import DEFAULTS as ROBUSTNESS
from tune_platform.trainables.robustness.trainable import rate_factor
from tune_platform.trainables.zero_label.gang import ZeroLabelGangTrainable
from tune_platform.trainables.zero_label.trainable import ABSENT as NOT_OF_ZERO_LABEL
from tune_platform.trainables.zero_label.trainable import DEFAULTS as ZERO_LABEL
from tune_platform.trainables.zero_label.trainable import ZeroLabelTrainable

ROBUST = {
    "model": "cnn", "width": 4, "epochs": 4, "lr": 0.01, "method": "at", "attack_steps": 2, "train_size": 130,
    "optimizer": "sgd", "analysis_images": 20, "pgd_steps": 2, "targeted_steps": 1, "lipschitz_steps": 1,
}  # fmt: skip
SCENES = {
    "train_scenes": 12, "width": 8, "base_steps": 4, "round_steps": 2, "batch_size": 4, "rounds": 1, "views": "shift",
    "optimizer": "sgd",
}  # fmt: skip
AGENT = {"pairs": 64, "envs": 2, "minibatches": 2, "epochs": 1, "hidden": [8], "eval_episodes": 1, "iterations": 2}
KINDS: list[tuple[type[Trainable], dict[str, Any]]] = [
    (RobustnessTrainable, ROBUST), (ZeroLabelTrainable, SCENES), (PolicyGradientTrainable, AGENT),
]  # fmt: skip

ABSENT = [NOT_OF_ROBUSTNESS, NOT_OF_ZERO_LABEL, NOT_OF_AGENTS]


def make(kind: type[Trainable], config: dict[str, Any]) -> Any:
    trainable = kind(TrialContext(seed=3, resources={"cpu": 1}))
    trainable.setup(config)
    return trainable


def moved(trainable: Any) -> float:
    """How far the weights go in one step of the trial."""
    parameters = [p for p in trainable.training.model.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in parameters]
    trainable.step()
    return float(torch.stack([(p.detach() - b).norm() for p, b in zip(parameters, before, strict=True)]).norm())


@pytest.mark.parametrize("parts", [3, 100])
def test_a_batch_in_parts_is_the_same_step(parts: int) -> None:
    whole, in_parts = (make(RobustnessTrainable, {**ROBUST, "accumulate": count}).step() for count in (1, parts))
    assert in_parts["train_loss"] == pytest.approx(whole["train_loss"], rel=1e-4)


@pytest.mark.parametrize(("kind", "config"), KINDS[:2])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_gradients_are_clipped(kind: type[Trainable], config: dict[str, Any], precision: str) -> None:
    free, clipped = (
        moved(make(kind, {**config, "precision": precision, "max_grad_norm": limit})) for limit in (0.0, 1e-4)
    )
    assert 0 < clipped < free / 50


def test_the_clip_is_of_the_gradient_and_not_of_the_scaled_one() -> None:
    """The scale of float16 begins at 65,536: clipped before it is taken off, nothing would move."""
    scaled = {**SCENES, "precision": "float16"}
    free, loose = (moved(make(ZeroLabelTrainable, {**scaled, "max_grad_norm": limit})) for limit in (0, 1e3))
    assert loose == pytest.approx(free, rel=1e-3)


def test_the_rate_of_robust_training_rises() -> None:
    trainable = make(RobustnessTrainable, {**ROBUST, "warmup": 0.5})
    assert [trainable.step()["lr"] for _ in range(3)] == pytest.approx([0.005, 0.01, 0.01])


def test_one_cycle_of_robust_training_goes_up_and_down_to_nothing() -> None:
    trainable = make(RobustnessTrainable, {**ROBUST, "schedule": "one_cycle", "warmup": 0.5})
    rates = [trainable.step()["lr"] for _ in range(4)]
    assert rates == pytest.approx([0.01 * (0.04 + 0.96 / 2), 0.01, 0.01, 0.005])
    shares = [rate_factor({"schedule": "one_cycle", "warmup": 0.0}, step / 1000, 1 / 1000) for step in range(1000)]
    assert max(range(1000), key=shares.__getitem__) in (299, 300)
    assert shares[0] == pytest.approx(0.04 + 0.96 / 300)
    assert shares[-1] < 1e-4


def test_channels_last_changes_the_layout_and_not_the_result() -> None:
    plain, last = (make(RobustnessTrainable, {**ROBUST, "channels_last": wanted}) for wanted in (False, True))
    weight = next(p for p in last.training.model.parameters() if p.ndim == 4 and p.shape[1] > 1)
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert last.step()["train_loss"] == pytest.approx(plain.step()["train_loss"], rel=1e-3)


@pytest.mark.parametrize(("kind", "config"), KINDS)
def test_deterministic_mode_is_on_while_it_trains_only(
    kind: type[Trainable], config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    plain = torch.Tensor.backward

    def noting(self: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        seen.append(torch.are_deterministic_algorithms_enabled())
        plain(self, *args, **kwargs)  # type: ignore[no-untyped-call]

    monkeypatch.setattr(torch.Tensor, "backward", noting)
    make(kind, {**config, "deterministic": True}).step()
    assert seen
    assert all(seen)
    assert not torch.are_deterministic_algorithms_enabled()


def test_test_images_are_read_when_asked() -> None:
    for asked, reports in (("always", [True, True]), ("last", [False, True]), ("never", [False, False])):
        trainable = make(ZeroLabelTrainable, {**SCENES, "stage": "final", "test": asked})
        assert ["test_hm" in trainable.step() for _ in range(2)] == reports
        gang = ZeroLabelGangTrainable(TrialContext(seed=3, gang=Gang("threads", 2)))
        gang.setup({**SCENES, "stage": "final", "test": asked})
        assert ["test_hm" in gang.step() for _ in range(2)] == reports
        trainable = make(RobustnessTrainable, {**ROBUST, "epochs": 2, "analysis_every": 1, "test": asked})
        for told, wanted in zip([trainable.step() for _ in range(2)], reports, strict=True):
            assert {"train_accuracy", "train_adv_accuracy", "train_lipschitz"} <= told.keys()
            assert any(name.startswith("test") or name.endswith("gap") for name in told) == wanted
            assert ("test_mt_accuracy" in told and "adv_gap" in told) == wanted


def test_a_robust_gang_reads_test_images_at_the_last_report_or_never() -> None:
    def make_gang(**config: Any) -> RobustnessGangTrainable:
        gang = RobustnessGangTrainable(TrialContext(seed=3, gang=Gang("threads", 2)))
        gang.setup({**ROBUST, "epochs": 2, **config})
        return gang

    for config, wanted in (({}, True), ({"test": "last"}, True), ({"test": "never"}, False)):
        gang = make_gang(**config)
        first, last = gang.step(), gang.step()
        assert "train_accuracy" not in first
        assert "train_lipschitz" in last
        assert any(name.startswith("test") or name.endswith("gap") for name in last) == wanted
    with pytest.raises(SpecError, match="test: 'last' or 'never', got 'always': the paper's measurements"):
        make_gang(test="always")


def test_one_process_and_a_gang_end_after_as_many_epochs() -> None:
    assert make(RobustnessTrainable, {"train_size": 130}).training.config["epochs"] == 20
    gang = RobustnessGangTrainable(TrialContext(seed=3, gang=Gang("threads", 2)))
    gang.setup({"train_size": 130, "batch_size": 65})
    assert gang._total == 20 * gang._every == 20


@pytest.mark.parametrize(
    ("kind", "config", "told"),
    [
        (RobustnessTrainable, {"compile": 1}, "compile: true or false, got 1"),
        (
            RobustnessTrainable,
            {"compile": True, "method": "llr"},
            "compile: llr differentiates its gradients once more",
        ),
        (RobustnessTrainable, {"ema": 1.0}, "ema: the decay of averaged weights"),
        (ZeroLabelTrainable, {"ema": -0.1}, "ema: the decay of averaged weights"),
        (RobustnessTrainable, {"accumulate": 0}, "accumulate: in how many parts"),
        (RobustnessTrainable, {"max_grad_norm": -1.0}, "max_grad_norm: the largest norm"),
        (RobustnessTrainable, {"warmup": 1.0}, "warmup is a share of the epochs, 0 to below 1, got 1.0"),
        (RobustnessTrainable, {"deterministic": "yes"}, "deterministic: true or false, got 'yes'"),
        (ZeroLabelTrainable, {"max_grad_norm": float("nan")}, "max_grad_norm: the largest norm"),
        (RobustnessTrainable, {"test": "sometimes"}, "test is 'always', 'last' or 'never', got 'sometimes'"),
        (ZeroLabelTrainable, {"test": "sometimes"}, "test is one of always, last, never, got 'sometimes'"),
        (PolicyGradientTrainable, {"deterministic": 1}, "deterministic is of type bool, got 1"),
    ],
)
def test_what_cannot_be_is_told_before_a_step(kind: type[Trainable], config: dict[str, Any], told: str) -> None:
    with pytest.raises((SpecError, ValueError), match=told):
        make(kind, config)


def test_the_table_of_the_page_is_what_each_takes() -> None:
    page = (Path(__file__).parents[2] / "docs" / "distributed.md").read_text()
    lines = page.split("## Options of the shipped trainables")[1].split("\n## ")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `")]
    known = [ClassificationTrainable.settings, ROBUSTNESS, ZERO_LABEL, Settings().to_dict()]
    for option, *cells in rows:
        name = option.split("`")[1]
        assert [cell != "no" for cell in cells] == [name in names for names in known], name
        # What a trainable does without is refused, with the reason.
        reasons = [why for names, why in zip(known[1:], ABSENT, strict=True) if name not in names]
        assert all(name in why for why in reasons), name
    assert len(rows) == 12


@pytest.mark.parametrize(("kind", "config", "absent"), [(*kind, why) for kind, why in zip(KINDS, ABSENT, strict=True)])
def test_an_option_that_a_trainable_is_without_is_refused_with_the_reason(
    kind: type[Trainable], config: dict[str, Any], absent: dict[str, str]
) -> None:
    for name, why in absent.items():
        with pytest.raises(SpecError, match=re.escape(f"{name}: not for this trainable, {why}")):
            make(kind, {**config, name: 1})


def weights(trainable: Any) -> list[torch.Tensor]:
    return [p.detach().clone() for p in trainable.training.model.parameters() if p.requires_grad]


def judged(trainable: Any, monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The weights that the report of one step is about."""
    seen: list[list[torch.Tensor]] = []
    owner, name = (
        (type(trainable.training.evaluation), "accuracy")
        if isinstance(trainable, RobustnessTrainable)
        else (type(trainable.training), "confusion")
    )
    plain = getattr(owner, name)

    def noting(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(weights(trainable))
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(owner, name, noting)
    trainable.step()
    monkeypatch.undo()
    return seen[0]


@pytest.mark.parametrize(("kind", "config"), KINDS[:2])
def test_averaged_weights_are_judged_and_the_others_trained(
    kind: type[Trainable], config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decay next to 1 leaves the weights of the beginning to be judged, whatever is learnt."""
    config = config if kind is RobustnessTrainable else {**config, "report_every": 2}
    plain, averaged = make(kind, config), make(kind, {**config, "ema": 1 - 1e-9})
    begun = weights(averaged)
    torch.testing.assert_close(judged(averaged, monkeypatch), begun)
    plain.step()
    assert all(map(torch.equal, weights(averaged), weights(plain)))
    assert not all(map(torch.equal, weights(averaged), begun))


@pytest.mark.parametrize(("kind", "config"), KINDS[:2])
def test_averaged_weights_are_in_the_checkpoint(
    kind: type[Trainable], config: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = {**config, "ema": 0.7} if kind is RobustnessTrainable else {**config, "ema": 0.7, "report_every": 3}
    through, resumed = make(kind, config), make(kind, config)
    through.step()
    through.save_checkpoint(tmp_path)
    resumed.load_checkpoint(tmp_path)
    assert all(map(torch.equal, judged(through, monkeypatch), judged(resumed, monkeypatch)))


def test_a_lean_checkpoint_is_lean_after_the_last_epoch_only(tmp_path: Path) -> None:
    def size(lean: bool) -> list[int]:
        config = {**ROBUST, "epochs": 2, "optimizer": "adam", "lean_checkpoints": lean, "width": 8}
        trainable, found = make(RobustnessTrainable, config), []
        for _ in range(2):
            trainable.step()
            trainable.save_checkpoint(tmp_path)
            found.append((tmp_path / "state.pt").stat().st_size)
        again = make(RobustnessTrainable, config)
        again.load_checkpoint(tmp_path)
        assert all(map(torch.equal, weights(again), weights(trainable)))
        return found

    whole, lean = size(False), size(True)
    assert lean[0] == whole[0]
    assert lean[1] < 0.5 * whole[1]


def test_the_next_round_begins_with_the_averages() -> None:
    trainable = make(ZeroLabelTrainable, {**SCENES, "ema": 1 - 1e-9})
    begun = weights(trainable)
    trainable.step()
    torch.testing.assert_close(weights(trainable), begun)


@pytest.mark.parametrize(("kind", "config"), KINDS[:2])
def test_compiled_it_is_the_same_training(
    kind: type[Trainable], config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiled by a backend that changes nothing and counts what it is given."""
    graphs: list[object] = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    plain = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: plain(self, backend=backend))
    eager, compiled = make(kind, config).step(), make(kind, {**config, "compile": True}).step()
    assert graphs
    assert compiled["train_loss"] == pytest.approx(eager["train_loss"], rel=1e-4)
