from __future__ import annotations

import unittest.mock
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import tune_platform as tp


class Heard(tp.Callback):
    """Notes all that it hears."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def on_start(self, run: Any) -> None:
        self.calls.append(("start", run.name, run.counts))

    def on_suggest(self, run: Any, trial: Any) -> None:
        self.calls.append(("suggest", trial.number))

    def on_report(self, run: Any, trial: Any, report: Any) -> None:
        self.calls.append(("report", trial.number, report.step, report.metrics["loss"]))

    def on_checkpoint(self, run: Any, checkpoint: Any) -> None:
        assert Path(checkpoint.uri).is_dir()
        self.calls.append(("checkpoint", checkpoint.trial, checkpoint.step))

    def on_trial_end(self, run: Any, trial: Any) -> None:
        self.calls.append(("end", trial.number, trial.status))

    def on_finish(self, run: Any, finish: Any) -> None:
        self.calls.append(("finish", finish.status))


class Two(tp.Trainable):
    """Two steps, with a checkpoint at the second."""

    def setup(self, config: dict[str, Any]) -> None:
        self.steps = 0

    def step(self) -> Mapping[str, Any] | None:
        self.steps += 1
        return {"loss": 1.0 / self.steps, "done": self.steps == 2}

    def save_checkpoint(self, directory: Path) -> bool:
        (directory / "steps").write_text(str(self.steps))
        return True


def spec_of(storage: Path, **changes: Any) -> tp.SearchSpec:
    values: dict[str, Any] = {
        "trainable": Two, "param_space": {"x": tp.uniform(0, 1)}, "metric": "loss", "mode": "min", "name": "heard",
        "num_samples": 1, "backend": "inline", "storage": str(storage), "checkpoint": {"every": 2}, "progress": "off",
    }  # fmt: skip
    return tp.SearchSpec(**(values | changes))


WHOLE: list[Any] = [
    ("start", "heard", {}),
    ("suggest", 0),
    ("report", 0, 1, 1.0),
    ("report", 0, 2, 0.5),
    ("checkpoint", 0, 2),
    ("end", 0, "COMPLETED"),
    ("finish", "finished"),
]


def test_run_and_spec_take_callbacks_and_resume_tells_only_what_is_new(tmp_path: Path) -> None:
    first, second, third = Heard(), Heard(), Heard()
    spec = spec_of(tmp_path, callbacks=[first])
    tp.run(spec, callbacks=[second])
    assert first.calls == WHOLE
    assert second.calls == WHOLE
    assert "callbacks" not in spec.to_dict()
    assert spec.fingerprint() == spec_of(tmp_path).fingerprint()
    tp.resume("heard", storage=tmp_path, spec=spec_of(tmp_path), extend={"trials": 1}, callbacks=[third])
    assert third.calls[0] == ("start", "heard", {"COMPLETED": 1})
    assert [call[:2] for call in third.calls[1:]] == [
        ("suggest", 1), ("report", 1), ("report", 1), ("checkpoint", 1), ("end", 1), ("finish", "finished"),
    ]  # fmt: skip
    assert first.calls == WHOLE


def test_what_is_told_is_in_the_store(tmp_path: Path) -> None:
    seen = []

    class Reads(tp.Callback):
        def on_report(self, run: Any, trial: Any, report: Any) -> None:
            seen.append(tp.load(run.name, storage=tmp_path)[trial.number].step >= report.step)

        def on_finish(self, run: Any, finish: Any) -> None:
            seen.append(tp.load(run.name, storage=tmp_path).status == finish.status)

    tp.run(spec_of(tmp_path), callbacks=[Reads()])
    assert seen == [True, True, True]


def test_it_hears_how_a_driver_that_failed_ended(tmp_path: Path) -> None:
    heard = Heard()

    class Refuses(tp.FIFO):
        def on_end(self, trial: Any, status: str) -> None:
            raise RuntimeError("the scheduler is broken")

    with pytest.raises(RuntimeError, match="the scheduler is broken"):
        tp.run(spec_of(tmp_path, scheduler=Refuses()), callbacks=[heard])
    assert heard.calls[-1] == ("finish", "failed")


class OldName(tp.Callback):
    def on_trial_ends(self, run: Any, trial: Any) -> None:
        """Hear of nothing."""


class TooFew(tp.Callback):
    def on_report(self, run: Any, report: Any) -> None:  # type: ignore[override]
        """Cannot be called with a trial too."""


class Awaited(tp.Callback):
    async def on_finish(self, run: Any, finish: Any) -> None:  # type: ignore[override]
        """Would need somebody to await it."""


class Yields(tp.Callback):
    def on_start(self, run: Any) -> Any:
        """Would need somebody to go through it."""
        yield run


class NoMethod(tp.Callback):
    on_start = 3  # type: ignore[assignment]


class Lenient(tp.Callback):
    """Is called with whatever there is."""

    def __init__(self) -> None:
        self.calls = 0

    def on_start(self, *given: Any, **more: Any) -> None:
        self.calls += 1

    @staticmethod
    def on_finish(run: Any, finish: Any, why: str = "") -> None:
        """Is as good as a method."""


def test_a_method_may_take_more_than_it_needs(tmp_path: Path) -> None:
    callback = Lenient()
    callback.on_report = unittest.mock.Mock()  # type: ignore[method-assign]
    tp.run(spec_of(tmp_path), callbacks=[callback])
    assert callback.calls == 1
    assert callback.on_report.call_count == 2


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        (
            [TooFew()],
            r"callbacks\[0\]: TooFew.on_report cannot be called as on_report\(run, trial, report\): too many",
        ),
        ([Heard(), Awaited()], r"callbacks\[1\]: Awaited.on_finish is async or a generator: called, it does nothing"),
        ([Yields()], r"Yields.on_start is async or a generator"),
        ([NoMethod()], r"NoMethod.on_start is 3; a method is wanted: on_start\(self, run\)"),
        ([Heard], r"callbacks\[0\] is the class Heard; give an object of it: Heard\(\)"),
        ([Heard(), print], r"callbacks\[1\] is <built-in function print>; an object of a subclass of"),
        (
            [OldName()],
            r"OldName.on_trial_ends would never be called \(did you mean 'on_trial_end'\?\); there are on_",
        ),
        ("wandb", "callbacks: got 'wandb'; a list of objects"),
    ],
)
def test_what_would_never_be_called_is_refused_before_anything_starts(
    tmp_path: Path, callbacks: Any, message: str
) -> None:
    with pytest.raises(tp.SpecError, match=message):
        tp.run(spec_of(tmp_path), callbacks=callbacks)
    with pytest.raises(tp.SpecError, match=message):
        tp.resume("heard", storage=tmp_path, callbacks=callbacks)
    with pytest.raises(tp.SpecError, match=message):
        spec_of(tmp_path, callbacks=callbacks)
    assert not (tmp_path / "heard").exists()
