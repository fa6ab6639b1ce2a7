"""The study: what it measures, that it goes on where it stopped, and that its tables say what was measured."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tune_platform.trainables.studies.results import Results as Measured
from tune_platform.trainables.zero_label import study
from tune_platform.trainables.zero_label.study_report import write_report
from tune_platform.trainables.zero_label.study_results import Results, gains

TINY: dict[str, Any] = {"base_steps": 3, "round_steps": 2, "train_scenes": 12, "width": 4, "batch_size": 4}
SPLITS = ["digits_248", "digits_069"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One triple measured by a run that covers a single seed."""
    out = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "ROUNDS", 2)
        study.run(SPLITS[:1], [study.FIRST_SEED], TINY, out)
    return out


def test_a_cell_holds_every_arm_from_the_same_start(folder: Path) -> None:
    rows = study.read_rows(folder)
    count = {arm: sum(row["arm"] == arm for row in rows) for arm in {row["arm"] for row in rows}}
    assert count == {
        "calibration": 1, "spnet": 1, "calibrated": 1, "oracle_gamma": 1, "longer": 2, "self_training": 2, "strict": 2,
        "released_background": 1, "mirror": 1,
    }  # fmt: skip
    first = {row["arm"]: row for row in rows if row["round"] == 1}
    # The same teacher: its unfiltered labels are right equally often, whatever the filter.
    assert first["strict"]["hidden_zero_label_accuracy"] == first["self_training"]["hidden_zero_label_accuracy"]
    assert first["self_training"]["hidden_coverage"] == 1.0
    chosen = next(row for row in rows if row["arm"] == "calibration")
    assert chosen["seed"] not in {row["seed"] for row in rows if row is not chosen}
    assert next(row for row in rows if row["arm"] == "calibrated")["gamma"] == chosen["gamma"]
    oracle = next(row for row in rows if row["arm"] == "oracle_gamma")
    assert oracle["hm"] >= next(row for row in rows if row["arm"] == "calibrated")["hm"]
    for row in (row for row in rows if row is not chosen):
        assert row["seen_as_released"] >= row["seen"]
    names = {path.name for path in folder.glob("*.png")}
    assert {"filter_digits_248.png", "filter_digits_248_after.png"} <= names


def test_an_interrupted_study_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (folder / "results.jsonl").read_text()

    def fail(*arguments: Any) -> Any:
        raise AssertionError("measured again")

    monkeypatch.setattr(study, "cell", fail)
    monkeypatch.setattr(study, "calibrate", fail)
    rows = study.run(SPLITS[:1], [study.FIRST_SEED], TINY, folder)
    assert (folder / "results.jsonl").read_text() == before
    assert len(rows) == len(before.splitlines())
    with pytest.raises(AssertionError, match="measured again"):
        study.run(SPLITS, [study.FIRST_SEED], TINY, folder)
    with pytest.raises(FileNotFoundError, match="run the study with --out"):
        study.read_rows(folder / "nowhere")


def rows_of_two_triples(folder: Path) -> list[dict[str, Any]]:
    """Two triples and three seeds with known numbers, in the form of measured rows."""
    rows = []
    for row in study.read_rows(folder):
        for s, split in enumerate(SPLITS):
            for seed in [100] if row["arm"] == "calibration" else [31, 32, 33]:
                made = {**row, "split": split, "seed": seed}
                if row["arm"] != "calibration":
                    made["hm"] = 10.0 * row["round"] + 5 * s + seed - 32 + (4.0 * (row["arm"] == "strict"))
                rows.append(made)
    # A seed that has not all triples does not count.
    rows += [{**row, "seed": 34} for row in rows if row["split"] == SPLITS[0] and row["seed"] == 33]
    return rows


def test_tables_say_what_was_measured(folder: Path, tmp_path: Path) -> None:
    rows = rows_of_two_triples(folder)
    results = Results(rows)
    assert results.seeds == [31, 32, 33]
    assert results.over_seeds("strict", "hm", SPLITS[1]) == [28.0, 29.0, 30.0]
    assert results.over_seeds("strict", "hm") == pytest.approx([25.5, 26.5, 27.5])
    assert [cell["gain"] for cell in gains(results)] == [4.0] * 6
    text = re.sub(" +", " ", write_report(rows, tmp_path).read_text())
    half = 4.302652729911275 / np.sqrt(3)  # Student's t with two degrees of freedom, deviation 1
    assert f"| 29.0 [{29 - half:.1f}, {29 + half:.1f}] |" in text
    assert "| HM: **STRICT - self-training** | 4.00 [4.00, 4.00] |" in text
    assert "6 of 6" in text
    for name in ("rounds.png", "labels.png", "gain.png"):
        assert (tmp_path / name).stat().st_size > 5000
    apart = {(SPLITS[0], 31), (SPLITS[1], 32)}
    with pytest.raises(ValueError, match="no seed for which every triple"):
        write_report([row for row in rows if (row["split"], row["seed"]) in apart], tmp_path)


def test_report_from_the_command_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = Measured(tmp_path / "results.jsonl")
    for row in rows_of_two_triples(folder):
        kept.add({name: row[name] for name in study.INPUTS}, row)
    study.main(["--report", str(tmp_path)])
    assert capsys.readouterr().out == (tmp_path / "report.md").read_text()
