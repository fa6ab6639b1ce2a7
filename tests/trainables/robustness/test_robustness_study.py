"""The study: its plan, that it goes on where it was, and that its verdicts follow from its numbers."""

from __future__ import annotations

import dataclasses
import re
import runpy
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tune_platform.trainables.robustness import study, tables
from tune_platform.trainables.robustness.claims import Runs, judge
from tune_platform.trainables.robustness.figures import pareto_figure
from tune_platform.trainables.robustness.plan import Job, Plan, plan_for
from tune_platform.trainables.stats import holm, paired_difference

TINY = {
    "model": "mlp", "epochs": 1, "width": 2, "train_size": 60, "analysis_images": 10, "pgd_steps": 1,
    "lipschitz_steps": 1, "attack_steps": 1, "targeted_steps": 1,
}  # fmt: skip


def tiny(seeds: int) -> Plan:
    plan = plan_for(True, seeds)
    return Plan(
        seeds=seeds, base={**plan.base, **TINY}, small={**plan.small, **TINY}, wide={**plan.wide, **TINY},
        rates=(0.0, 0.5), variants=("Natural", "GR", "AT"), dropped=("AT",), overfit=("AT",),
    )  # fmt: skip


def results(values: dict[tuple[str, str, float], list[dict[str, float]]]) -> dict[str, Any]:
    """Results of a study as its file holds them, from a few numbers."""
    runs = [
        {"table": table, "method": method, "dropout": rate, "seed": seed, **found}
        for (table, method, rate), seeds in values.items()
        for seed, found in enumerate(seeds)
    ]
    return {"plan": {"base": {"eps": 0.2}}, "runs": runs, "separation": {}}


def cell(lipschitz: float, adversarial: float, shift: float = 0.0) -> dict[str, float]:
    gaps = {"gap": 0.02, "adv_gap": 0.1 + shift}
    accuracies = dict.fromkeys(("train_accuracy", "test_accuracy", "train_adv_accuracy"), 0.9)
    return {**accuracies, **gaps, "test_adv_accuracy": adversarial, "test_mt_accuracy": adversarial - 0.05,
            "test_lipschitz": lipschitz, "test_lipschitz_released": lipschitz / 10}  # fmt: skip


NOISE = (0.0, 0.004, -0.004, 0.002, -0.002)


def made_up() -> dict[str, Any]:
    """Five seeds: natural is rough and weak, GR between, AT smooth and strong; dropout shrinks AT's gap by 4 points."""
    methods = {"Natural": (200.0, 0.05), "GR": (60.0, 0.3), "AT": (40.0, 0.5)}
    cells: dict[tuple[str, str, float], list[dict[str, float]]] = {
        ("methods", name, 0.0): [cell(lip * (1 + e), adv + e) for e in NOISE] for name, (lip, adv) in methods.items()
    }
    cells["released", "GR released", 0.0] = [cell(70, 0.3 + 2 * e) for e in NOISE]
    cells["dropout", "AT", 0.0] = [cell(40 * (1 + e), 0.5 + e) for e in NOISE]
    cells["dropout", "AT", 0.5] = [cell(30 * (1 - e), 0.5 - e, -0.04 + e) for e in NOISE]
    return results(cells)


def verdicts(data: dict[str, Any]) -> dict[str, str]:
    return {each.claim.text: each.verdict for each in judge(data)}


# ---------------------------------------------------------------------------------------- verdicts


def test_verdicts_follow_from_the_numbers() -> None:
    found = verdicts(made_up())
    assert found["AT has a lower local Lipschitz constant than Natural"] == "shows"
    assert found["AT is more robust than GR"] == "shows"
    assert found["Lower Lipschitz constants go with robustness"] == "shows"
    assert found["Dropout 0.5 shrinks the adversarial gap of robust training"] == "shows"
    assert found["Dropout 0.5 lowers the local Lipschitz constant of robust training"] == "shows"
    assert found["Dropout 0.5 raises the adversarial test accuracy of robust training"] == "does not show"
    assert found["The released GR is less robust than the right one"] == "does not show"
    assert found["AT is less accurate than Natural"] == "does not show"


def test_the_reverse_is_told_too() -> None:
    data = made_up()
    for run in data["runs"]:
        if (run["table"], run["method"]) == ("methods", "AT"):
            run["test_mt_accuracy"] -= 0.4
    found = verdicts(data)
    assert found["AT is more robust than GR"] == "the reverse shows"


def test_robustness_is_judged_by_the_stronger_attack() -> None:
    data = made_up()
    for run in data["runs"]:
        if (run["table"], run["method"]) == ("methods", "GR"):
            run["test_adv_accuracy"] += 0.5  # PGD alone would put GR before AT
    assert verdicts(data)["AT is more robust than GR"] == "shows"


def test_dropout_is_judged_in_the_regime_that_overfits_by_itself() -> None:
    data = made_up()
    made = [run for run in data["runs"] if run["table"] == "dropout"]
    data["runs"] += [{**run, "table": "overfit", "adv_gap": 0.2 - run["adv_gap"]} for run in made]
    found = verdicts(data)
    assert found["Dropout 0.5 shrinks the adversarial gap of robust training"] == "shows"
    assert found["Dropout 0.5 shrinks the adversarial gap of robust training that overfits"] == "the reverse shows"


def test_effects_are_paired_differences_corrected_within_their_family() -> None:
    data = made_up()
    judged = [each for each in judge(data) if each.claim.source == "released code" and "GR" in each.claim.text]
    right, released = ([0.3 + k * e for e in NOISE] for k in (1, 2))
    expected = paired_difference([100 * x for x in released], [100 * x for x in right])
    assert judged[0].claim.interval.mean == pytest.approx(expected.mean)
    assert judged[0].p == pytest.approx(holm([expected.p])[0])  # alone in its family


def test_seeds_that_are_not_everywhere_are_left_out() -> None:
    data = made_up()
    gone = ("dropout", "AT", 0.5, 4)
    data["runs"] = [run for run in data["runs"] if (run["table"], run["method"], run["dropout"], run["seed"]) != gone]
    runs = Runs(data)
    assert runs.table_seeds == {"methods": [0, 1, 2, 3, 4], "released": [0, 1, 2, 3, 4], "dropout": [0, 1, 2, 3]}
    assert len(runs.values("dropout", "AT", "gap", 0.0)) == 4
    assert judge(results({("methods", "Natural", 0.0): [cell(1, 0.1)]})) == []


# ---------------------------------------------------------------------------------------- running it


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("study")
    return folder, study.run(tiny(2), folder)


def test_a_study_goes_on_where_it_was(
    done: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = done[1]
    assert len(whole["runs"]) == 2 * (3 + 1 + 2 + 2)
    trained: list[tuple[Any, ...]] = []
    train = study.train

    def noting(job: Job, parts: Any) -> dict[str, Any]:
        trained.append((job.table, job.method, job.dropout, job.seed))
        return train(job, parts)

    monkeypatch.setattr(study, "train", noting)
    study.run(tiny(1), tmp_path)
    assert len(trained) == 8
    found = study.run(tiny(2), tmp_path)
    assert len(trained) == 16
    assert len(set(trained)) == 16
    for run, other in zip(found["runs"], whole["runs"], strict=True):  # the same numbers as in one go
        assert {**run, "seconds": 0} == {**other, "seconds": 0}
    assert found["separation"] == whole["separation"]


def test_another_plan_is_not_mixed_in(
    done: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(done[0] / "results.jsonl", tmp_path)
    monkeypatch.setattr(study, "train", lambda job, parts: {"test_accuracy": job.config["epochs"]})
    plan = tiny(2)
    found = study.run(dataclasses.replace(plan, base={**plan.base, "epochs": 2}), tmp_path)
    fresh = [run for run in found["runs"] if run["table"] in ("methods", "released")]
    assert {run["test_accuracy"] for run in fresh} == {2}
    assert [run for run in found["runs"] if run["table"] == "dropout"] == [
        run for run in done[1]["runs"] if run["table"] == "dropout"
    ]


def test_theorem_one_holds_on_the_digits(done: tuple[Path, dict[str, Any]]) -> None:
    """Of the classifier that knows all images: right and proved robust on every one, for every split."""
    found = done[1]["separation"]
    for seed in ("0", "1"):
        assert found[seed]["theorem_test_accuracy"] == 1
        assert found[seed]["theorem_test_certified"] == 1
        assert found[seed]["nearest_test_certified"] <= found[seed]["nearest_test_adv_accuracy"]
        assert found[seed]["random_labels_min"] < found[seed]["train_train_min"]


def test_tables_have_every_cell(done: tuple[Path, dict[str, Any]]) -> None:
    text = tables.markdown(done[1])
    assert "nan" not in text
    for title in (
        "Separation",
        "Methods",
        "Dropout",
        "Dropout where robust training overfits",
        "Released code",
        "Claims",
    ):
        assert f"### {title}\n\n|" in text
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({line.count(" | ") for line in block.splitlines()[2:]}) == 1
    assert len(re.findall(r"^\| AT \| 0(?:\.5)? \|", text, re.MULTILINE)) == 4


def test_the_command_draws_and_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = tiny(2)
    monkeypatch.setattr(study, "plan_for", lambda quick, seeds, **changes: plan)
    result = CliRunner().invoke(study.main, ["--quick", "--seeds", "2", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "### Claims" in result.output
    assert "16 of" in result.stderr
    for name in ("separation", "lipschitz", "dropout"):
        assert (tmp_path / f"{name}.png").stat().st_size > 5000


def test_missing_data_are_told_by_the_command(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        study.main, ["--dataset", "svhn", "--root", str(tmp_path), "--out", str(tmp_path / "out")]
    )
    assert result.exit_code == 1
    assert "train_32x32.mat" in result.output
    assert not (tmp_path / "out").exists()


def test_a_single_seed_has_tables_but_no_claims(done: tuple[Path, dict[str, Any]]) -> None:
    found = {**done[1], "runs": [run for run in done[1]["runs"] if run["seed"] == 0]}
    assert "Fewer than two seeds" in tables.markdown(found)


# ---------------------------------------------------------------------------------------- the Pareto search


def test_the_front_is_drawn() -> None:
    trials = [
        {"number": n, "method": m, "label": m, "val": v, "test": (v[0] - 0.01, v[1] - 0.02)}
        for n, (m, v) in enumerate(
            [
                ("natural", (0.98, 0.1)),
                ("at", (0.95, 0.7)),
                ("trades", (0.96, 0.68)),
                ("gr", (0.9, 0.4)),
                ("llr", (0.2, 0.1)),
            ]
        )
    ]
    figure = pareto_figure(trials, [0, 1, 2], 0.1)
    axes = figure.axes[0]
    words = " ".join(text.get_text() for text in axes.texts)
    assert "most robust\nat" in words
    assert "best compromise\ntrades" in words
    assert "most accurate\nnatural" in words
    assert "test 97.0 / 8.0 %" in words
    assert "2 trainings lie outside" in words
    xs, ys = (list(axes.lines[0].get_xdata()), list(axes.lines[0].get_ydata()))  # type: ignore[arg-type]
    front = {(round(float(x), 6), round(float(y), 6)) for x, y in zip(xs, ys, strict=True)}  # type: ignore[arg-type]
    assert {(95.0, 70.0), (96.0, 68.0), (98.0, 10.0)} <= front


@pytest.mark.slow
def test_the_example_searches_for_two_objectives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = runpy.run_path(str(Path(__file__).parents[3] / "examples" / "robustness_pareto.py"), run_name="example")
    assert script["spec"](40, 8, "ray").check() == []
    monkeypatch.setenv("TUNE_PLATFORM_STORAGE", str(tmp_path))
    picture = tmp_path / "pareto.png"
    arguments = ["x", "--trials", "4", "--epochs", "1", "--backend", "inline", "--out", str(picture)]
    monkeypatch.setattr("sys.argv", arguments)
    script["main"]()
    assert picture.stat().st_size > 10_000
