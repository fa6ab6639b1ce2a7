"""Codistillation: n models in one gang, each drawn towards what the others predict.

For k = 1 .. K and every model i, all from the parameters of step k (Sodhani et al. 2020, "A Closer Look at
Codistillation for Distributed Training", algorithm 1; Anil et al. 2018, "Large scale distributed neural network
training through online distillation"):

    (x, y) <- next minibatch of model i
    theta_i <- Step(theta_i, grad_theta_i [ L(y, f_i(x)) + alpha_k 1/(n-1) sum_{j != i} D(f_i(x), f'_j(x)) ])

f'_j is a constant: no gradient goes into it. Each model is data-parallel inside its group of W/n neighbouring
workers. Within a step: own forward, peers' forward, backward, mean of the gradients of the group, step.

`exchange`: what the models know of each other.

- "checkpoints": f'_j is a copy of model j, parameters and buffers, of up to `period` steps ago, in eval mode, and is
  asked about model i's own minibatch. Copies are taken between steps, so that all workers of a group hold the same.
  A checkpoint goes from leader to leader and then inside each group: it crosses the slow link once. Costs n - 1
  forward passes a step and n - 1 copies in memory.
- "predictions": logits of the same batch, from all models, at each step; all have the same examples in the same
  order (which is checked once), also after any augmentation. No copies, but everybody waits at each step.

`data`: "partitioned", each worker its own share of all data, or "common", each model all of it and in the same
order, the workers of a group their shares. Default: "common" for predictions, which need it, else "partitioned".

`distance` is D with its direction (see `distillation_losses`): "kl_fwd" KL(peer || own), the default; "kl_rev"; "mse";
at a `temperature`, to each peer or to their mean prediction (`average`). `peer_norm`: BatchNorm in a copy normalises
with the "running" statistics that came with it, or with those of the "batch", as a model in training does.

Two models that swap at the same instant map their difference d to d (2 r - 1) per period, where r is the part of the
gap that is left: with a strong term, momentum and a period long enough to fit the peer, r < 0 and they ring (measured:
docs/codistillation.md, for KL too). So by default they `stagger`: after a first exchange of all, model j is sent
j T / n steps later than model 0. The papers send all at once.

alpha_k is 0 for `burn_in` steps, rises linearly over `ramp` and stays at `alpha`. Periods, burn-in and ramp are steps,
or below 1 shares of the training. The paper's period of 2500 is about 1 % of it, but also some 250 time constants of
its momentum: in a short training 1 % can be less than one, and the models ring. So the period is by default 1 % of the
training, and at least five time constants, 5 / (1 - momentum) steps (half of the training at most).

Codistillation regularises, so other regularisation should weaken as training goes on (section 3 of Sodhani et al.):
`weight_decay_factors` multiply the optimizer's weight decay from each of `weight_decay_milestones` (shares of the
training) on; without milestones, from the config's `drops` of the learning rate. The paper: (0.1, 0). It is the
optimizer's own decay: coupled L2 for SGD, as in the paper, decoupled for AdamW.

One named model is evaluated, `evaluate_model`; the mean of the models' weights means nothing. `ensemble` adds metrics
"ensemble_..." of all models together, from checkpoints sent for it at each report.

When a worker dies its group goes on with fewer. When that was the last of a group, its model is lost: its last copy
stays a peer (`when_lost`: "keep") or its term is left out ("drop", and always for predictions, where there is no
copy); if it was the evaluated model, the lowest living one is (metric `evaluated_model`). A replacement joins the model
with the fewest workers, a lost one before others: that one begins again from its copy. After any change the copies
of living models are exchanged anew.

Bytes over all links, for S bytes of parameters and buffers and M = W/n: n (n-1) M S per exchange, of which
n (n-1) S between groups; n (n-1) M B C s per step for predictions; beside 2 (M-1) 4N a step in each group.

The model's output is compared where it is a tensor (..., classes), or has it as `logits`; else, and to leave padding
out, give the trainable a method `distilled(output, batch)`. The loss must draw at random only inside the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from tune_platform.distributed.strategy import option_choice, option_flag, option_number
from tune_platform.errors import SpecError
from tune_platform.trainables.strategies.codistillation_schedule import Schedule
from tune_platform.trainables.strategies.distillation_losses import (
    AVERAGES,
    DISTANCES,
    distillation_loss,
    find_logits,
    mean_prediction,
    rows,
)
from tune_platform.trainables.strategies.model_gang import NEVER, ModelGang
from tune_platform.trainables.strategies.peer_copies import Ensemble, PeerCopies, pack
from tune_platform.trainables.strategies.pricing import known

if TYPE_CHECKING:
    from tune_platform.distributed.worker import TrainingWorker


class Codistillation(ModelGang):
    """Models that learn from each other; see the module for the method, its options and its rules."""

    name = "codistillation"
    DEFAULTS: ClassVar[Mapping[str, Any]] = {
        "models": 2,
        "exchange": "checkpoints",
        "data": None,
        "period": None,
        "stagger": True,
        "distance": "kl_fwd",
        "average": "losses",
        "temperature": 1.0,
        "alpha": 1.0,
        "burn_in": 0,
        "ramp": 0,
        "peer_norm": "running",
        "weight_decay_factors": (),
        "weight_decay_milestones": None,
        "evaluate_model": 0,
        "ensemble": False,
        "when_lost": "keep",
    }

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(options)
        number = partial(option_number, self.name, self.options)
        choice = partial(option_choice, self.name, self.options)
        self.exchange = choice("exchange", known=("checkpoints", "predictions"))
        self._temperature = number("temperature", 1e-3)
        self._distance, self._average_of = choice("distance", known=tuple(DISTANCES)), choice("average", known=AVERAGES)
        self._keep_lost = choice("when_lost", known=("keep", "drop")) == "keep"
        self._ensemble = option_flag(self.name, self.options, "ensemble")
        if self.options["data"] is None:
            self.options["data"] = "common" if self.exchange == "predictions" else "partitioned"
        models = int(number("models", 2, integer=True))
        self.form(
            models,
            evaluate=int(number("evaluate_model", 0, models - 1, integer=True)),
            common=choice("data", known=("partitioned", "common")) == "common",
            batch_statistics=choice("peer_norm", known=("running", "batch")) == "batch",
        )
        if self.exchange == "predictions" and not self._common:
            raise SpecError(
                f"strategy {self.name!r}: predictions can be exchanged of the same examples only; with "
                "exchange='predictions', data is 'common', got 'partitioned'"
            )
        self.schedule = Schedule(self.name, self.options)
        self._ensemble_metrics: dict[str, float] = {}
        self._sums, self._compared, self._steps_seen, self._crossed = torch.zeros(2), 0, 0, 0.0

    def setup(self, worker: TrainingWorker) -> None:
        """See `Strategy.setup`. Raises SpecError where the workers cannot be divided among the models."""
        groups = worker.optimizer.param_groups
        momentum = max(float(group.get("momentum", group.get("betas", (0.0,))[0])) for group in groups)
        self.schedule.fit(worker.total_updates, worker.config.get("drops", ()), momentum)
        self._decays = [group.get("weight_decay", 0.0) for group in groups]
        super().setup(worker)

    # the inner step

    def before_step(self) -> None:
        """Set the weight decay; exchange the checkpoints that are due, all as of this step."""
        step = self.worker.updates
        factor = self.schedule.weight_decay_factor(step)
        for group, decay in zip(self.worker.optimizer.param_groups, self._decays, strict=True):
            if "weight_decay" in group:
                group["weight_decay"] = decay * factor
        if self.exchange == "checkpoints" and self.schedule.alpha(step) > 0:
            for model in [model for model in self._at.living if self._due(model, step)]:
                vector = self._at.publish(model)
                if vector is not None:
                    self.copies.put(model, vector)
                self.published[model] = step

    def _due(self, model: int, step: int) -> bool:
        return self.published[model] == NEVER or self.schedule.due(model, self.models, step)

    def extra_loss(self, batch: Any, output: Any) -> Tensor | None:
        """Return alpha D; None where nothing is compared: nothing is computed or drawn then."""
        self._steps_seen += 1
        alpha = self.schedule.alpha(self.worker.updates)
        if alpha == 0:
            return None
        logits = self._logits(output, batch)
        peers = self._predicted(logits, batch) if self.exchange == "predictions" else self._asked(batch)
        if not peers:
            return None
        logits, others = rows(logits), torch.stack([rows(peer) for peer in peers])
        distance = distillation_loss(self._distance, logits, others, self._temperature, self._average_of)
        gap = (logits.detach() - others).float().norm(dim=-1).mean()
        self._sums = self._sums.to(gap.device) + torch.stack([distance.detach().float(), gap])
        self._compared += 1
        return alpha * distance

    def _asked(self, batch: Any) -> list[Tensor]:
        """Return what the copies of the other models say to this batch."""
        peers = [model for model in self.copies if self._keep_lost or model in self._at.living]
        return [self._logits(self.worker.predict(self.copies[model], batch), batch) for model in peers]

    def _predicted(self, logits: Tensor, batch: Any) -> list[Tensor]:
        """Return what the other models say at this step, to the same batch."""
        if not self._checked:
            if not self._at.same(batch):
                raise SpecError(
                    f"strategy {self.name!r}: exchange='predictions' compares what the models say to the same batch, "
                    "but theirs differ: build_data(config, rank, world_size) must give the same examples, order and "
                    "augmentation for the same rank; or choose exchange='checkpoints'"
                )
            self._checked = True
        return self._at.gather(logits.detach())

    def _logits(self, output: Any, batch: Any) -> Tensor:
        choose = getattr(self.worker.recipe, "distilled", None)
        output = find_logits(output) if choose is None else choose(output, batch)
        if not isinstance(output, Tensor) or output.ndim < 2 or not output.is_floating_point():
            seen = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
            raise SpecError(
                f"strategy {self.name!r}: the model's output is logits (..., classes), or has them as `logits`; got "
                f"{seen}. Give {type(self.worker.recipe).__name__} a method distilled(output, batch) that returns them"
            )
        return output

    def finish_run(self) -> None:
        """See `Strategy.finish_run`; the ensemble is evaluated here."""
        self._at.average.finish_run()
        self._ensemble_metrics = self._evaluate_ensemble() if self._ensemble else {}

    # evaluation and figures

    def _evaluate_ensemble(self) -> dict[str, float]:
        """Return the metrics of all living models together, as they are now, on the evaluated model's leader."""
        present, chosen = PeerCopies(self._new_model), self._at.leads(self.evaluated_model)
        for model in self._at.living:
            vector = pack(self.worker.model) if model == self.evaluated_model else self._at.send(model)
            if chosen and vector is not None:
                present.put(model, vector)
        if not chosen:
            return {}
        ensemble = Ensemble([present[model] for model in present], partial(mean_prediction, self._distance))
        with self._generator("evaluate"):
            found = self.worker.recipe.evaluate(ensemble.eval())
        return {f"ensemble_{name}": float(value) for name, value in found.items() if isinstance(value, (int, float))}

    def metrics(self) -> dict[str, float]:
        """Return the figures since the last report.

        `distillation_loss` (D) and `logit_distance` (the norm of z - z', a mean over examples and peers) are means
        over the steps that compared; `peer_age` is the copies' in steps; `bytes_between_models` those of a step that
        all workers together sent between groups.
        """
        last, size = max(0, self.worker.updates - 1), self.worker.comm.size
        found = {
            "alpha": self.schedule.alpha(last),
            "weight_decay_factor": self.schedule.weight_decay_factor(last),
            "models": float(len(self._at.living)),
            "evaluated_model": float(self.evaluated_model),
            "bytes_between_models": (self._at.crossed - self._crossed) * size / max(1, self._steps_seen),
            **self._ensemble_metrics,
        }
        ages = [self.worker.updates - self.published[model] for model in self.copies]
        if ages:
            found["peer_age"] = sum(ages) / len(ages)
        if self._compared:
            found["distillation_loss"], found["logit_distance"] = (self._sums / self._compared).tolist()
        self._forget()
        return found

    def _forget(self) -> None:
        self._sums, self._compared, self._steps_seen = torch.zeros(2), 0, 0
        self._crossed = self.groups.crossed if self.groups is not None else 0.0

    # bytes

    @classmethod
    def bytes_per_step(cls, parameters: int, workers: int, options: Mapping[str, Any]) -> float:
        """Return n (n-1) M 4N / T, or n (n-1) M 4BC for predictions, and 2 (M-1) 4N in each group.

        For a period that is a share of the training, or is left out, `options` hold its inner steps as `updates`, and
        the optimizer's `momentum` where it is not 0.9; for predictions, the logits of a worker's batch (B C) as
        `logits`.
        """
        strategy = cls({name: value for name, value in options.items() if name in cls.DEFAULTS})
        models, size = strategy.models, workers // strategy.models
        inside = models * 8.0 * (size - 1) * parameters
        if strategy.schedule.peak == 0:
            return inside
        if strategy.exchange == "predictions":
            return inside + models * (models - 1) * size * 4.0 * known(cls.name, options, "logits")
        period = strategy.options["period"]
        if period is None or period < 1:
            momentum = float(options.get("momentum", 0.9))
            strategy.schedule.fit(int(known(cls.name, options, "updates")), strategy.schedule.factors, momentum)
        return inside + models * (models - 1) * size * 4.0 * parameters / strategy.schedule.period
