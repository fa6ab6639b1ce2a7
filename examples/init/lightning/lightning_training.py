"""A small network tells three spirals apart, trained with PyTorch Lightning."""

import logging

import lightning
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from tune_platform import get_context, report

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


def spirals(points, generator):
    """Draw points on three noisy arms, and which arm each lies on."""
    arm = torch.arange(points) % 3
    radius = torch.rand(points, generator=generator)
    angle = 2 * torch.pi * arm / 3 + 4 * radius + 0.2 * torch.randn(points, generator=generator)
    return TensorDataset(torch.stack([radius * angle.cos(), radius * angle.sin()], 1), arm)


class Classifier(lightning.LightningModule):
    """Two hidden layers."""

    def __init__(self, config):
        super().__init__()
        self.config, width = config, config["width"]
        self.network = nn.Sequential(
            nn.Linear(2, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3)
        )

    def training_step(self, batch, _):
        """Return the loss on a batch."""
        x, y = batch
        return functional.cross_entropy(self.network(x), y)

    def validation_step(self, batch, _):
        """Note the accuracy on a batch."""
        x, y = batch
        self.log("accuracy", (self.network(x).argmax(1) == y).float().mean())

    def configure_optimizers(self):
        """Return the optimizer."""
        return torch.optim.AdamW(self.parameters(), lr=self.config["lr"], weight_decay=self.config["weight_decay"])


class Report(lightning.Callback):
    """Reports the validation accuracy after each epoch."""

    def on_validation_end(self, trainer, module):
        """Go on unless the platform stops the trial here."""
        report({"epoch": trainer.current_epoch + 1, "accuracy": trainer.callback_metrics["accuracy"].item()})


def train(config):
    """Fit the classifier for `config["epochs"]` epochs."""
    lightning.seed_everything(get_context().seed % 2**32, verbose=False)
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)  # the same data in every trial
    training, validation = spirals(600, generator), spirals(300, generator)
    trainer = lightning.Trainer(
        max_epochs=config["epochs"], accelerator="auto", devices=1, callbacks=[Report()], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(
        Classifier(config),
        DataLoader(training, batch_size=config["batch_size"], shuffle=True),
        DataLoader(validation, batch_size=300),
    )
