"""Hugging Face: `Trainer(callbacks=[HuggingFaceCallback()])`, `train(resume_from_checkpoint=saved_checkpoint())`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tune_platform.extras import require
from tune_platform.integrations._saving import Reporting, saved_file

require("HuggingFaceCallback", "transformers", "accelerate")

from transformers import TrainerCallback  # noqa: E402  (`require` says first what to install)

_FOLDER = "trainer"


class HuggingFaceCallback(TrainerCallback):  # type: ignore[misc]
    """Reports what each evaluation measured, with `epoch` and `global_step`.

    The checkpoint is the newest that the Trainer itself has written (its `save_strategy`); `save_every` counts
    evaluations after which there is one to take (0: none). The trial is ended by an exception that unwinds `train`.
    """

    def __init__(self, save_every: int = 0) -> None:
        self._report, self._every = Reporting(save_every), save_every
        self._metrics: dict[str, Any] = {}

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        """Report, at once or, where there is to be a checkpoint, once the Trainer has saved."""
        self._metrics = {"epoch": state.epoch, "global_step": state.global_step, **(metrics or {})}
        if self._every:
            control.should_save = True
        else:
            self._send(args, state)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Report what the last evaluation measured."""
        if self._metrics:
            self._send(args, state)

    def _send(self, args: Any, state: Any) -> None:
        metrics, self._metrics = self._metrics, {}
        home = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        self._report(metrics, lambda folder: shutil.copytree(home, folder / _FOLDER))


def saved_checkpoint() -> str | None:
    """Return the folder that the trial goes on from, for `resume_from_checkpoint`; None where it begins anew."""
    found = saved_file(_FOLDER)
    return str(found) if found else None
