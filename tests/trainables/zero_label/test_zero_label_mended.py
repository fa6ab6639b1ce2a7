"""What may mend the filter: stacking before it, a minimum of agreement and weights by class; and the counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from tune_platform.trainables.studies.results import Results
from tune_platform.trainables.zero_label import regime
from tune_platform.trainables.zero_label.calibration import calibrated
from tune_platform.trainables.zero_label.diagnostics import diagnose, label_counts, precision_and_recall
from tune_platform.trainables.zero_label.losses import self_training_loss
from tune_platform.trainables.zero_label.self_training import SelfTraining
from tune_platform.trainables.zero_label.splits import VOID
from tune_platform.trainables.zero_label.study import start
from tune_platform.trainables.zero_label.teacher import Teacher

TINY: dict[str, Any] = {"base_steps": 3, "round_steps": 2, "train_scenes": 12, "width": 4, "batch_size": 4, "rounds": 1}


def training(**changes: Any) -> SelfTraining:
    made, _ = start("digits_248", "final", 1, {**TINY, **changes})
    made.round()
    return made


def teacher(made: SelfTraining) -> Teacher:
    return Teacher(made.model, made.config, torch.Generator().manual_seed(0))


def test_stacking_leaves_out_what_it_takes_for_a_seen_class(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, stacked = training(), training(pseudo_gamma=0.2)
    images, known = plain.batch(torch.arange(12))
    scores = torch.randn(12, 10, *plain.train.size, generator=torch.Generator().manual_seed(0))
    one = teacher(stacked)
    monkeypatch.setattr(one.model, "scores", lambda images: scores)
    before, after = teacher(plain).label(images, known.candidates), one.label(images, known.candidates)
    seen = calibrated(scores, plain.task.seen, 0.2) < plain.task.seen
    assert torch.equal(after, torch.where(seen, VOID, before))
    assert (after != before).any()
    assert (after != VOID).any()


def test_a_class_that_views_do_not_agree_on_gets_no_labels() -> None:
    made = training()
    images, known = made.batch(torch.arange(12))
    one = teacher(made)
    labels = one.label(images, known.candidates)
    shares = one.agreement[made.task.seen :]
    middle = float(shares.sort().values[1:].mean())  # between the least and the most
    one.config = {**one.config, "class_agreement": middle}
    one.drop_doubtful(labels)
    left = set(labels.flatten().tolist()) - {VOID}
    assert left == {k for k in range(made.task.seen, len(made.task.names)) if float(one.agreement[k]) >= middle}
    assert one.coverage == pytest.approx(int((labels != VOID).sum()) / int(known.candidates.sum()))


def test_weights_by_agreement_are_one_on_average() -> None:
    made = training(class_weights="agreement")
    images, known = made.batch(torch.arange(12))
    one = teacher(made)
    labels = one.label(images, known.candidates)
    weights = one.class_weights()
    assert weights is not None
    assert float(weights[labels[labels != VOID]].mean()) == pytest.approx(1, abs=1e-5)
    assert teacher(training()).class_weights() is None
    made.round()  # trains with them


def test_the_loss_weighs_pseudo_labels_by_their_class() -> None:
    draws = torch.Generator().manual_seed(0)
    scores, labels = torch.randn(2, 5, 3, 3, generator=draws), torch.randint(5, (2, 3, 3), generator=draws)
    targets, pseudo = torch.where(labels < 3, labels, VOID), torch.where(labels >= 3, labels, VOID)
    weights = torch.tensor([9.0, 9, 9, 0.5, 2.0])
    each = functional.cross_entropy(scores, labels, reduction="none")
    right = each[labels < 3].mean() + 0.7 * (each * weights[labels])[labels >= 3].sum() / (labels >= 3).sum()
    found = self_training_loss(scores, targets, pseudo, 0.7, "separate", weights)
    assert float(found) == pytest.approx(float(right), rel=1e-5)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"class_agreement": 1.5}, "class_agreement is a number, a share"),
        ({"pseudo_gamma": -1}, "pseudo_gamma is a number, at least 0, or null"),
        ({"class_weights": "precision"}, "class_weights is one of equal, agreement"),
        ({"class_weights": "agreement", "relabel": "crop"}, "relabel has to be 'round'"),
    ],
)
def test_what_cannot_be_is_told(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        training(**wrong)


def test_counts_by_view_and_class_add_up_to_the_shares() -> None:
    made = training()
    counts, shares = label_counts(made, 5, images=12), diagnose(made, 5, images=12)
    assert counts["view 0"] == counts["proposed"]
    assert len([name for name in counts if name.startswith("view")]) == 6
    kept = torch.tensor(counts["kept"])
    assert float(kept.diagonal().sum() / kept[:, :-1].sum()) == pytest.approx(shares["hidden_precision"])
    assert float(kept[:, :-1].sum() / kept.sum()) == pytest.approx(shares["hidden_coverage"])
    assert torch.equal(kept.sum(1), torch.tensor(counts["proposed"]).sum(1))
    assert precision_and_recall([[3, 1, 0], [1, 1, 2]]) == [(0.75, 0.75), (0.5, 0.25)]


def test_the_study_of_the_trained_base_measures_all_arms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regime, "SETTINGS", {**TINY, "crop": [24, 24], "views": "scale"})
    monkeypatch.setattr(regime, "jobs", lambda splits, seeds: regime_jobs(splits, seeds, regime.SETTINGS))
    page = tmp_path / "page.md"
    page.write_text("\n".join(regime.MARKERS))
    splits = ["digits_248", "shapes_d"]
    asked = ["--out", str(tmp_path), "--splits", *splits, "--processes", "1", "--page", str(page)]
    assert regime.main([*asked, "--seeds", "1"]) == 0
    text = page.read_text()
    assert "| digits 248" in text
    assert "| shapes d" in text
    assert "nan" not in text.replace("nan,", "")
    before = (tmp_path / "regime.jsonl").read_text()
    assert regime.main([*asked, "--report"]) == 0
    assert (tmp_path / "regime.jsonl").read_text() == before
    results = Results(tmp_path / "regime.jsonl")
    assert "Seeds: 1 of 5 of digits, 1 of 5 of shapes; no result yet of shapes e. " in regime.tables(
        results, [*splits, "shapes_e"]
    )
    (cell,) = results.rows(split="shapes_d")
    assert regime.last_gain([cell], "strict", "longer") == [cell["strict"][-1]["hm"] - cell["longer"][-1]["hm"]]
    shares = regime.label_shares([cell], "view 0")
    assert shares == regime.label_shares([cell], "proposed")


regime_jobs = regime.jobs
