"""Studies of the distributed methods print and draw what is kept, without training."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from benchmarks.studies import codistillation, lsgd
from benchmarks.studies.common import OUT

FIGURES = Path(__file__).parents[2] / OUT


@pytest.mark.parametrize("study", [codistillation, lsgd])
def test_the_report_is_of_what_is_kept(
    study: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = study.__name__.rpartition(".")[2]  # type: ignore[attr-defined]
    monkeypatch.setattr(study, "measured", lambda given: pytest.fail("it trains"))
    monkeypatch.setattr(sys, "argv", [name, "--report", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match=rf"{name}\.json: nothing is kept there"):
        study.main()  # type: ignore[attr-defined]
    before = (FIGURES / f"{name}.json").read_text()
    shutil.copy(FIGURES / f"{name}.json", tmp_path)
    study.main()  # type: ignore[attr-defined]
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / f"{name}.json").read_text() == before
    printed = capsys.readouterr().out
    assert {"codistillation": "all of the data, 16 seeds", "lsgd": "one worker five times slower"}[name] in printed
