"""What is said of an entrypoint that leads nowhere: which file was found, and which may have been meant."""

from __future__ import annotations

import sys
import wave
from pathlib import Path

import pytest

from tune_platform.errors import SpecError
from tune_platform.spec import load_entrypoint, load_spec, resolve

SPEC = """\
version: 1
entrypoint: {}
objective: {{metric: loss, mode: min}}
space: {{x: {{type: float, low: 0.0, high: 1.0}}}}
budget: {{trials: 1}}
"""


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is not the present one, with a module and a package of the user's."""
    here, there = tmp_path / "here", tmp_path / "my code"
    here.mkdir()
    (there / "in_package").mkdir(parents=True)
    (there / "beside_it.py").write_text("def train(config): ...\n")
    (there / "in_package" / "__init__.py").write_text("def train(config): ...\n")
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return there


def said_of(file: Path, entrypoint: str) -> str:
    file.write_text(SPEC.format(entrypoint))
    with pytest.raises(SpecError) as caught:
        load_spec(file).check()
    with pytest.raises(SpecError) as again:
        resolve(file, {})[0].load_trainable()
    assert str(again.value) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("found", ["beside_it.py", "in_package/__init__.py"])
def test_a_module_beside_the_spec_is_pointed_at(elsewhere: Path, found: str) -> None:
    said = said_of(elsewhere / "spec.yaml", f"{Path(found).parts[0].removesuffix('.py')}:train")
    assert said.endswith(
        f"among those installed; {elsewhere / found} is there: run the command in its folder (cd '{elsewhere}'), or "
        f"with PYTHONPATH='{elsewhere}'"
    )


def test_nothing_is_pointed_at_where_nothing_lies(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert said_of(elsewhere / "spec.yaml", "not_beside_it:train").endswith("and among those installed")
    monkeypatch.chdir(elsewhere)
    load_spec(elsewhere / "spec.yaml")  # what is in the present folder is found
    (elsewhere / "spec.yaml").write_text(SPEC.format("beside_it:train"))
    load_spec("spec.yaml").check()


def test_a_module_of_python_is_called_that(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (elsewhere / "wave.py").write_text("def train(config): ...\n")
    said = said_of(elsewhere / "spec.yaml", "wave:train")
    assert f"module 'wave' (Python's own, {wave.__file__}) has no 'train'; {elsewhere / 'wave.py'} is there: " in said
    with pytest.raises(SpecError, match=r"module 'sys' \(built in\) has no 'train'"):
        load_entrypoint("sys:train")


def test_a_users_module_of_such_a_name_is_not(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (elsewhere / "wave.py").write_text("def other(config): ...\n")
    monkeypatch.chdir(elsewhere)
    monkeypatch.delitem(sys.modules, "wave")
    said = said_of(Path("spec.yaml"), "wave:train")  # and it is the one beside the spec
    assert said.endswith(f"module 'wave' ({elsewhere}/wave.py) has no 'train'")
