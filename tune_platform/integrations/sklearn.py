"""scikit-learn: `TuneSearchCV`, used as `RandomizedSearchCV` is, with our searchers."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from tune_platform.extras import require

require("TuneSearchCV", "sklearn")

from sklearn.model_selection._search import BaseSearchCV  # noqa: E402  (`require` says first what to install)


class TuneSearchCV(BaseSearchCV):  # type: ignore[misc]
    """Cross-validates `n_trials` configs of `param_space`, which `searcher` suggests, and refits the best.

    `param_space` has our domains by the names of the estimator's parameters. `scoring`, `n_jobs` (folds at a time),
    `refit`, `cv`, `verbose`, `error_score`, `return_train_score` and what is there after `fit` are scikit-learn's.
    Trials run one after another in this process; a config is judged once all its folds are trained, so there is no
    scheduler. With several scores the searcher hears of the one that `refit` names. `storage` keeps the experiment
    (None: nothing is kept), under `name`.
    """

    def __init__(
        self,
        estimator: Any,
        param_space: Mapping[str, Any],
        *,
        n_trials: int = 10,
        searcher: Any = "tpe",
        scoring: Any = None,
        n_jobs: int | None = None,
        refit: bool | str = True,
        cv: Any = None,
        verbose: int = 0,
        pre_dispatch: int | str = "2*n_jobs",
        error_score: Any = np.nan,
        return_train_score: bool = False,
        random_state: int = 0,
        storage: str | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(
            estimator=estimator, scoring=scoring, n_jobs=n_jobs, refit=refit, cv=cv, verbose=verbose,
            pre_dispatch=pre_dispatch, error_score=error_score, return_train_score=return_train_score,
        )  # fmt: skip
        self.param_space, self.n_trials, self.searcher = param_space, n_trials, searcher
        self.random_state, self.storage, self.name = random_state, storage, name

    def _run_search(self, evaluate_candidates: Any) -> None:
        from tune_platform.api import run
        from tune_platform.spec import SearchSpec

        score = f"mean_test_{self.refit}" if isinstance(self.refit, str) else None

        caught: list[Exception] = []

        def cross_validate(config: dict[str, Any]) -> dict[str, float]:
            try:
                found = evaluate_candidates([config])
            except Exception as error:
                caught.append(error)
                raise
            name = score or next(each for each in found if each.startswith("mean_test_"))
            return {"score": float(found[name][-1])}

        with tempfile.TemporaryDirectory() as folder:
            run(
                SearchSpec(
                    trainable=cross_validate,
                    param_space=self.param_space,
                    metric="score",
                    mode="max",
                    searcher=self.searcher,
                    num_samples=self.n_trials,
                    seed=self.random_state,
                    backend="inline",
                    on_bad_metric="prune",
                    retries={},
                    storage=self.storage or folder,
                    progress="off",
                    if_exists="new",
                    name=self.name or "sklearn",
                )
            )
            if caught:  # as scikit-learn's own searches do
                raise caught[0]
