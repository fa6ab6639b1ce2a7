"""The callbacks of frameworks, in their real libraries: they report, save, go on, and end on a verdict.

Those that are not among the project's own dependencies are run with the library brought for the test.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tune_platform import ASHA, CheckpointPolicy, Results, SearchSpec, choice, load, loguniform, run
from tune_platform.errors import SpecError
from tune_platform.integrations._saving import Reporting
from tune_platform.trainable import get_checkpoint

ROOT = Path(__file__).parents[3]


def data() -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(60, 3)).astype("float32")
    return x, (x.sum(1) > 1.5).astype("float32")


def boost(config: dict[str, Any]) -> None:
    import xgboost

    from tune_platform.integrations.xgboost import XGBoostCallback, saved_model

    matrix = xgboost.DMatrix(*data())
    before = saved_model()
    xgboost.train(
        {"eta": config["lr"], "nthread": 1, "objective": "reg:squarederror"},
        matrix,
        9,
        evals=[(matrix, "valid")],
        xgb_model=before,
        callbacks=[XGBoostCallback(save_every=1)],
        verbose_eval=False,
    )


def fit_lightning(config: dict[str, Any]) -> None:
    import lightning
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    from tune_platform.integrations.lightning import LightningCallback, saved_checkpoint

    class Line(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(3, 1)

        def training_step(self, batch: Any, _: int) -> Any:
            return ((self.layer(batch[0])[:, 0] - batch[1]) ** 2).mean()

        def validation_step(self, batch: Any, _: int) -> None:
            self.log("loss", self.training_step(batch, 0))

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=config["lr"])

    x, y = map(torch.tensor, data())
    loader = DataLoader(TensorDataset(x, y), batch_size=30)
    trainer = lightning.Trainer(
        max_epochs=9, accelerator="cpu", devices=1, callbacks=[LightningCallback(save_every=1)], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Line(), loader, loader, ckpt_path=saved_checkpoint())


def search(trainable: Any, storage: Path, metric: str) -> Results:
    """Run two trials, of which ASHA stops one after 3 of 9 reports."""
    return run(
        SearchSpec(
            name="it", trainable=trainable, param_space={"lr": choice([0.3, 1e-6])}, metric=metric, mode="min",
            searcher="grid", scheduler=ASHA(max=9, min=3, eta=3), backend="inline", storage=str(storage),
            checkpoint=CheckpointPolicy(every=3), progress="off",
        )
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Lightning's and torch's own
@pytest.mark.parametrize(
    ("trainable", "metric", "file"),
    [(boost, "valid-rmse", "model.ubj"), (fit_lightning, "loss", "lightning.ckpt")],
)
def test_it_reports_saves_and_ends_on_a_verdict(tmp_path: Path, trainable: Any, metric: str, file: str) -> None:
    found = search(trainable, tmp_path, metric)
    assert sorted((trial.status, trial.step) for trial in found) == [("COMPLETED", 9), ("STOPPED", 3)]
    assert found.best().config == {"lr": 0.3}
    assert any(tmp_path.rglob(file))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("trainable", "metric", "counter", "last"),
    [
        (boost, "valid-rmse", "round", 14),  # 9 rounds more, as asked for
        pytest.param(fit_lightning, "loss", "epoch", 9, marks=pytest.mark.slow),  # Lightning knows how far it came
    ],
)
def test_it_goes_on_from_what_the_framework_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainable: Any, metric: str, counter: str, last: int
) -> None:
    whole = Reporting.__call__

    def breaking(self: Reporting, metrics: Any, save: Any) -> None:
        whole(self, metrics, save)
        if self._count == 5 and get_checkpoint() is None:
            raise RuntimeError("the node is lost")

    monkeypatch.setattr(Reporting, "__call__", breaking)
    found = run(
        SearchSpec(
            name="it", trainable=trainable, param_space={"lr": 0.3}, metric=metric, mode="min", num_samples=1,
            backend="inline", retries={"exception": 1}, checkpoint=CheckpointPolicy(every=1), storage=str(tmp_path),
            progress="off",
        )
    )  # fmt: skip
    assert (found[0].status, found[0].attempt) == ("COMPLETED", 2)
    assert [value for _, value in found.curves(counter)[0]] == list(range(1, last + 1))
    losses = [value for _, value in found.curves(metric)[0]]
    assert losses[5] < losses[4]  # it did not begin anew


def test_a_number_below_zero_is_refused() -> None:
    with pytest.raises(SpecError, match="save_every: got -1"):
        Reporting(-1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_tune_search_cv_is_an_estimator_of_scikit_learn() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.utils.estimator_checks import check_estimator

    from tune_platform.integrations.sklearn import TuneSearchCV

    search = TuneSearchCV(LogisticRegression(), {"C": loguniform(0.1, 1)}, n_trials=1, cv=2, searcher="random")
    found = check_estimator(search, on_fail=None, on_skip=None)
    assert len(found) > 50
    assert [each["check_name"] for each in found if each["status"] == "failed"] == []


def test_tune_search_cv_finds_the_best(tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression

    from tune_platform.integrations.sklearn import TuneSearchCV

    x, y = data()
    space = {"C": loguniform(1e-4, 1e4)}
    search = TuneSearchCV(LogisticRegression(), space, n_trials=4, cv=3, storage=str(tmp_path), name="kept").fit(x, y)
    assert len(search.cv_results_["params"]) == 4
    assert search.best_score_ == max(search.cv_results_["mean_test_score"])
    kept = load("kept", storage=tmp_path).best()
    assert kept.best == search.best_score_
    assert kept.config == search.best_params_
    assert search.predict(x).shape == y.shape
    with pytest.raises(ValueError, match="C"):
        TuneSearchCV(LogisticRegression(), {"C": choice(["no"])}, n_trials=1, cv=3, error_score="raise").fit(x, y)


#: How many reports there are in all where the sixth is the first of a second attempt.
REPORTS = {"lightgbm": 14, "keras": 14, "transformers,accelerate": 9}  # the Trainer alone knows how far it came
OTHERS = {
    "lightgbm": """
import lightgbm
from tune_platform.integrations.lightgbm import LightGBMCallback, saved_model
FILE, METRIC = "model.txt", "valid_0-l2"
def train(config):
    sets = lightgbm.Dataset(X, Y, params={"verbose": -1})
    settings = {"learning_rate": config["lr"], "verbose": -1, "num_threads": 1, "min_data_in_leaf": 2}
    lightgbm.train(settings, sets, 9, valid_sets=[lightgbm.Dataset(X, Y, reference=sets)], init_model=saved_model(),
                   callbacks=[LightGBMCallback(save_every=1)])
""",
    "keras": """
import keras
from tune_platform.integrations.keras import KerasCallback, saved_model
FILE, METRIC = "model.keras", "loss"
def train(config):
    if saved_model():
        model = keras.models.load_model(saved_model())
    else:
        model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(1)])
        model.compile(optimizer=keras.optimizers.SGD(config["lr"]), loss="mse")
    model.fit(X, Y, epochs=9, verbose=0, callbacks=[KerasCallback(save_every=1)])
""",
    "transformers,accelerate": """
import tempfile, torch, transformers
from tune_platform.integrations.huggingface import HuggingFaceCallback, saved_checkpoint
FILE, METRIC = "trainer/trainer_state.json", "eval_loss"
class Line(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)
    def forward(self, x, labels):
        out = self.layer(x)[:, 0]
        return {"loss": ((out - labels) ** 2).mean(), "logits": out}
def train(config):
    rows = [{"x": torch.tensor(x), "labels": torch.tensor(y)} for x, y in zip(X, Y)]
    with tempfile.TemporaryDirectory() as folder:
        settings = transformers.TrainingArguments(folder, num_train_epochs=9, eval_strategy="epoch", report_to=[],
            learning_rate=config["lr"], save_strategy="no", use_cpu=True, disable_tqdm=True, logging_strategy="no")
        trainer = transformers.Trainer(Line(), settings, train_dataset=rows, eval_dataset=rows,
                                       callbacks=[HuggingFaceCallback(save_every=1)])
        trainer.train(resume_from_checkpoint=saved_checkpoint())
""",
}
#: Around each: two trials, of which ASHA stops one.
AROUND = """
import numpy as np, sys
rng = np.random.default_rng(0)
X = rng.uniform(size=(60, 3)).astype("float32"); Y = (X.sum(1) > 1.5).astype("float32")
{code}
from pathlib import Path
from tune_platform import ASHA, CheckpointPolicy, SearchSpec, choice, run
found = run(SearchSpec(name="it", trainable=train, param_space={{"lr": choice([0.3, 1e-6])}}, metric=METRIC, mode="min",
    searcher="grid", scheduler=ASHA(max=9, min=3, eta=3), backend="inline", storage=sys.argv[1],
    checkpoint=CheckpointPolicy(every=3), progress="off"))
print("FOUND", sorted((trial.status, trial.step) for trial in found), found.best().config,
      any(Path(sys.argv[1]).rglob(FILE)))

from tune_platform.integrations._saving import Reporting
from tune_platform.trainable import get_checkpoint
whole = Reporting.__call__
def breaking(self, metrics, save):
    whole(self, metrics, save)
    if self._count == 5 and get_checkpoint() is None:
        raise RuntimeError("the node is lost")
Reporting.__call__ = breaking
again = run(SearchSpec(name="again", trainable=train, param_space={{"lr": 0.3}}, metric=METRIC, mode="min",
    num_samples=1, backend="inline", storage=sys.argv[1], checkpoint=CheckpointPolicy(every=1), progress="off",
    retries={{"exception": 1}}))
losses = [value for _, value in again.curves(METRIC)[0]]
print("AGAIN", again[0].status, again[0].attempt, again[0].step, losses[5] < losses[4])
"""


@pytest.mark.slow
@pytest.mark.parametrize("libraries", OTHERS)
def test_others_with_their_library_brought(tmp_path: Path, libraries: str) -> None:
    if shutil.which("uv") is None:
        pytest.skip("uv brings the library")
    withs = [word for library in libraries.split(",") for word in ("--with", library)]
    code = AROUND.format(code=OTHERS[libraries])
    environment = {**os.environ, "KERAS_BACKEND": "torch", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    command = ["uv", "run", "--no-sync", *withs, "python", "-c", code, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=250)
    assert "FOUND [('COMPLETED', 9), ('STOPPED', 3)] {'lr': 0.3} True" in done.stdout, done.stderr[-3000:]
    assert f"AGAIN COMPLETED 2 {REPORTS[libraries]} True" in done.stdout, done.stdout + done.stderr[-3000:]
