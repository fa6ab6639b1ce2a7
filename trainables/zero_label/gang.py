"""Zero-label segmentation by a gang of workers: each labels and trains on its share of the images, all take one step.

Hyperparameters are those of `ZeroLabelTrainable` (but `diagnostics` and `pictures`, which look at one teacher) and,
beside them, `strategy` (`all_reduce`, also where none is named), `workers` and `evaluation` as
`trainables/classification.py` has them. `batch_size` is that of one worker. A report comes at the end of each round, or
every `report_every` steps and there.

The teacher of a round is the student of the round before, so the workers have to be equal at every step: a strategy
that lets them differ is refused. Each worker then makes the teacher of its own network, and only the counts of labels
are added up, for `class_agreement`, `class_weights` and `coverage`. The loss of a worker is a mean over its labelled
pixels, and the gradient the mean of the workers', however many pixels each has.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from tune_platform.distributed import DistributedTrainable
from tune_platform.distributed.member import Place
from tune_platform.errors import SpecError
from tune_platform.trainables.runtime import check_names, reads_test, stream_seed
from tune_platform.trainables.stepping import STEP_DEFAULTS, Averages, SteppingWorker, check_step
from tune_platform.trainables.strategies import STRATEGIES
from tune_platform.trainables.zero_label.checks import check_config
from tune_platform.trainables.zero_label.datasets import Data, load_data
from tune_platform.trainables.zero_label.losses import Batch
from tune_platform.trainables.zero_label.network import ProjectionNet
from tune_platform.trainables.zero_label.optimizing import build_optimizer, factor, train_mode
from tune_platform.trainables.zero_label.scenes import LabelledImages
from tune_platform.trainables.zero_label.self_training import SelfTraining
from tune_platform.trainables.zero_label.splits import Task, load_split
from tune_platform.trainables.zero_label.teacher import Teacher
from tune_platform.trainables.zero_label.trainable import ABSENT, DATA_KEYS, DEFAULTS, build_model, figures

OF_THE_GANG = ("strategy", "workers", "evaluation")
_ABSENT = {
    **{name: why for name, why in ABSENT.items() if name not in OF_THE_GANG},
    "diagnostics": "they look at one teacher: ZeroLabelTrainable has them",
    "pictures": "they are drawn of one teacher: ZeroLabelTrainable has them",
    "updates": "a training has as many steps as base_steps, rounds and round_steps say",
}
SETTINGS = (*(name for name in DEFAULTS if name not in _ABSENT), *OF_THE_GANG)


class Share:
    """Every `size`-th of some labelled images, from `rank` on."""

    def __init__(self, images: LabelledImages, rank: int, size: int) -> None:
        self._images, self._chosen = images, torch.arange(rank, len(images), size)

    @property
    def channels(self) -> int:
        """Number of colour channels."""
        return self._images.channels

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self._images.size

    def __len__(self) -> int:
        return len(self._chosen)

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return images and labels; see `LabelledImages`."""
        return self._images.take(self._chosen[indices])


class Rounds:
    """A worker's batches, as indices into its share: an epoch is a round, which its teacher's labels begin.

    They keep their place (see `tune_platform.distributed.data.Stateful`). The teacher is the same with all workers, and
    `keeps_teacher` says whose checkpoint holds it; labels are made again.
    """

    def __init__(self, training: SelfTraining, keeps_teacher: bool) -> None:
        self.training, self._keeps_teacher = training, keeps_teacher
        self.teacher: Teacher | None = None
        self.stored: Tensor | None = None
        self._draws: Tensor | None = None  # the generator's state when the round began; None: it has not
        self._done = 0
        #: The teacher's state of the checkpoint that is being loaded.
        self.shared_teacher: Mapping[str, Any] | None = None

    def __len__(self) -> int:
        return self.training.steps

    @property
    def complete(self) -> bool:
        """Whether the last batch of the round has been drawn."""
        return self._done == len(self)

    def set_epoch(self, epoch: int) -> None:
        """Say which round comes."""
        self.training.rounds_done = epoch

    def __iter__(self) -> Iterator[Tensor]:
        training = self.training
        if self._draws is None:
            self._draws = training.draws.get_state()
            self.teacher, self.stored = training.pseudo_labelled()
        while self._done < len(self):
            self._done += 1
            yield torch.randint(len(training.train), (training.batch_size,), generator=training.draws)
        self._draws, self._done = None, 0

    def state_dict(self) -> dict[str, Any]:
        """Return the round, how far it is, and what its labels are made of."""
        within = self.teacher is not None and self._draws is not None and not self.complete
        teacher = self.teacher.state_dict() if within and self._keeps_teacher and self.teacher is not None else None
        return {
            "round": self.training.rounds_done,
            "done": self._done,
            "began": self._draws,
            "draws": self.training.draws.get_state(),
            "teacher": teacher,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what `state_dict` returned; labels are made again, of the network that the round began with."""
        training = self.training
        training.rounds_done, self._done, self._draws = state["round"], state["done"], state["began"]
        if self.shared_teacher is not None:
            training.draws.set_state(state["began"])
            now = {name: value.clone() for name, value in training.model.state_dict().items()}
            training.model.load_state_dict(self.shared_teacher["model"])
            self.teacher, self.stored = training.pseudo_labelled()
            if self.teacher is not None:
                self.teacher.load_state_dict(self.shared_teacher)
            training.model.load_state_dict(now)
        training.draws.set_state(state["draws"])

    def begin_near(self, place: Mapping[str, Any]) -> tuple[int, int]:
        """Go on in the round that another number of workers saved, with draws of this one's own."""
        own = self.training.draws.get_state()
        self.load_state_dict(place["data"])
        self.training.draws.set_state(own)
        return place["epoch"], place["batch"]


class RoundsWorker(SteppingWorker):
    """Begins each round with a new optimizer state, and where weights are averaged with the averages."""

    def __init__(self, recipe: ZeroLabelGangTrainable, place: Place) -> None:
        recipe.add_up = self._add_up
        super().__init__(recipe, place)

    def parts(self, batch: Any) -> Iterator[tuple[Any, float]]:
        """See `SteppingWorker.parts`; the loss of each is divided by the pixels of the whole batch already."""
        rounds = self.rounds
        whole = rounds.training.prepared(batch, rounds.teacher, rounds.stored)
        return ((part, 1.0) for part in whole.parts(int(self.options["accumulate"])))

    def _add_up(self, counts: Tensor) -> Tensor:
        return self.comm.all_reduce(counts.double(), "sum").to(counts)

    def given(self, recipe: Any) -> Mapping[str, Any]:
        """See `SteppingWorker.given`."""
        whole: Mapping[str, Any] = recipe.whole
        named = ("accumulate", "max_grad_norm", "precision", "ema", "deterministic", "evaluation")
        return {name: whole[name] for name in named}

    @property
    def rounds(self) -> Rounds:
        """This worker's batches."""
        assert isinstance(self.position.data, Rounds)
        return self.position.data

    def _step(self) -> None:
        if self.rounds.complete:
            self._averages.stay()
            self._averages = Averages(self.model, float(self.options["ema"]))
            self.optimizer.state.clear()
        super()._step()

    def _collect(self) -> dict[str, Any]:
        found = super()._collect()
        found["strategy"] = {**found["strategy"], "round": float(self.rounds.training.rounds_done)}
        if self.rounds.teacher is not None:
            found["strategy"]["coverage"] = self.rounds.teacher.coverage
        return found

    def evaluate(self) -> dict[str, Any] | None:
        """Return the scores, of counts that each worker makes of a share of the images where `sharded`."""
        recipe, comm = self.recipe, self.comm
        assert isinstance(recipe, ZeroLabelGangTrainable)
        sharded = self.options["evaluation"] == "sharded" and comm.size > 1
        with self._averages.standing_in(), self.strategy.evaluated():
            if comm.rank and not sharded:
                return None
            share = (comm.rank, comm.size) if sharded else (0, 1)
            counts = recipe.counts(*share, at_end=self.updates >= self.total_updates)
        if sharded:
            counts = comm.all_reduce(counts.double(), "sum").round().long()
        return recipe.scores(counts) if comm.rank == 0 else None

    def load(self, own: bytes, model: bytes | None, exact: bool) -> None:
        """See `TrainingWorker.load`; the teacher is that of the worker whose model is taken."""
        state = torch.load(io.BytesIO(model or own), map_location="cpu", weights_only=True)
        self.rounds.shared_teacher = state["position"]["data"]["teacher"]
        super().load(own, model, exact)
        self.rounds.shared_teacher = None


class ZeroLabelGangTrainable(DistributedTrainable):
    """Self-training for zero-label segmentation by several workers; see the module for the hyperparameters."""

    strategies = STRATEGIES
    worker_class = RoundsWorker
    #: Adds up a vector over the workers; set by the worker.
    add_up: Any = None
    _model: ProjectionNet | None = None

    @property
    def whole(self) -> dict[str, Any]:
        """The hyperparameters, defaults filled in."""
        return {**DEFAULTS, "evaluation": STEP_DEFAULTS["evaluation"], **self.config}

    def check(self, config: Mapping[str, Any]) -> None:
        """Raise SpecError or ValueError for a hyperparameter that there is not, and for what cannot be."""
        check_names(config, SETTINGS, _ABSENT)
        strategy = self.build_strategy(config)
        if not strategy.replicated:
            raise SpecError(
                f"strategy {strategy.name!r}: the teacher of a round is the student of the round before, which is one "
                "network only where the workers are equal at every step: take 'all_reduce'"
            )
        whole = {**DEFAULTS, **config}
        check_step({name: whole.get(name, default) for name, default in STEP_DEFAULTS.items()}, strategy)
        check_config(whole, load_split(whole["split"]).task(whole["stage"]))

    def build_strategy(self, config: Mapping[str, Any]) -> Any:
        """Return the strategy of the config, `all_reduce` where none is named."""
        return super().build_strategy({"strategy": "all_reduce", **config})

    @property
    def task(self) -> Task:
        """The classes that are seen, and those that are not."""
        return load_split(self.whole["split"]).task(self.whole["stage"])

    @property
    def data(self) -> Data:
        """The images of the task."""
        whole = self.whole
        return _data(tuple((name, whole[name]) for name in DATA_KEYS))

    def build_model(self, config: Mapping[str, Any]) -> nn.Module:
        """Return the network; its weights are drawn by the trial's seed."""
        seed = stream_seed(self.context.seed, "weights")
        self._model = build_model(self.whole, self.task, self.data.train.channels, "cpu", seed)
        return self._model

    def build_optimizer(self, config: Mapping[str, Any], model: nn.Module) -> torch.optim.Optimizer:
        """Return the optimizer of the single process; its rates are factors of the schedule's."""
        assert isinstance(model, ProjectionNet)
        return build_optimizer(self.whole, model, 1.0)

    def build_scheduler(
        self, config: Mapping[str, Any], optimizer: torch.optim.Optimizer, total: int
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Return the rate of each step of each round."""
        whole, base, each = self.whole, int(self.whole["base_steps"]), int(self.whole["round_steps"])

        def rate(step: int) -> float:
            if step < base:
                return float(whole["base_lr"]) * factor(whole, step, base)
            return float(whole["round_lr"]) * factor(whole, (step - base) % each, each)

        return torch.optim.lr_scheduler.LambdaLR(optimizer, rate)

    def build_data(self, config: Mapping[str, Any], rank: int, world_size: int) -> Rounds:
        """Return this worker's batches; those of a gang of one are those of the single process."""
        assert self._model is not None, "the model is built before the data"
        seed = stream_seed(self.context.seed, "training", *([rank] if rank else []))
        training = SelfTraining(self.whole, self.task, Share(self.data.train, rank, world_size), self._model, seed)
        training.together = self.add_up
        self._rounds = Rounds(training, keeps_teacher=rank == 0)
        return self._rounds

    def total_updates(self, config: Mapping[str, Any], data: Any) -> int:
        """Return the steps of all rounds."""
        whole = self.whole
        rounds = 0 if whole["method"] == "spnet" else int(whole["rounds"])
        return int(whole["base_steps"]) + rounds * int(whole["round_steps"])

    def report_every(self, config: Mapping[str, Any], data: Any) -> int:
        """Return the steps between two reports within a round."""
        whole = self.whole
        return int(whole["report_every"]) or max(int(whole["base_steps"]), int(whole["round_steps"]))

    def next_report(self, updates: int) -> int:
        """Return the step of the next report: a round's end, if none comes before."""
        base, each = int(self.whole["base_steps"]), int(self.whole["round_steps"])
        began = 0 if updates < base else updates - (updates - base) % each
        end = base if updates < base else began + each
        return min(end, began + ((updates - began) // self._every + 1) * self._every)

    def to_device(self, batch: Any, device: str) -> Any:
        """Leave indices on the CPU: the images that they name go to the device."""
        return batch

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the loss of a batch, by what may be known of its pixels and their pseudo-labels."""
        rounds = self._rounds
        train_mode(rounds.training.model, rounds.training.frozen)
        if isinstance(batch, Batch):
            return rounds.training.loss_of(model, batch)
        return rounds.training.loss(model, batch, rounds.teacher, rounds.stored)

    def counts(self, rank: int, size: int, *, at_end: bool) -> Tensor:
        """Return the confusion matrices that are due (1 or 2 x classes x classes), of a share of the images."""
        whole, data, training = self.whole, self.data, self._rounds.training
        gamma, final = float(whole["gamma"]), data.test is not None
        found = [training.confusion(Share(data.val, rank, size), gamma, hide_unseen=final)]
        if data.test is not None and reads_test(whole["test"], at_end):
            found.append(training.confusion(Share(data.test, rank, size), gamma))
        return torch.stack(found)

    def scores(self, counts: Tensor) -> dict[str, float]:
        """Return what a report says of the matrices that `counts` returned."""
        test = counts[1] if len(counts) > 1 else None
        return figures(self.task, counts[0], test, final=self.whole["stage"] == "final")


@lru_cache(maxsize=2)
def _data(given: tuple[tuple[str, Any], ...]) -> Data:
    """Load the images; kept, so that the next trial in this process has them, and threads share them."""
    config = dict(given)
    return load_data(config, load_split(config["split"]).task(config["stage"]))
