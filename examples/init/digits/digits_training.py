"""A small network reads handwritten digits: scikit-learn's 1,797 images of 8 x 8, trained with torch."""

from itertools import pairwise

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional

from tune_platform import get_context, report

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh}


def train(config):
    """Train for `config["epochs"]` epochs; report the accuracy on images that are not trained on after each."""
    torch.manual_seed(get_context().seed)
    torch.set_num_threads(1)
    images, labels = load_digits(return_X_y=True)
    split = train_test_split(images / 16, labels, test_size=0.25, stratify=labels, random_state=0)
    x, x_val, y, y_val = (torch.as_tensor(part) for part in split)
    x, x_val = x.float(), x_val.float()

    sizes = [64] + [config["width"]] * config["layers"]
    layers = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), ACTIVATIONS[config["activation"]](), nn.Dropout(config["dropout"])]
    model = nn.Sequential(*layers, nn.Linear(sizes[-1], 10))
    if config["optimizer"] == "sgd":
        optimizer = torch.optim.SGD(model.parameters(), lr=config["lr"], momentum=config["momentum"])
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=config["lr"])

    for epoch in range(1, config["epochs"] + 1):
        model.train()
        for batch in torch.randperm(len(x)).split(config["batch_size"]):
            loss = functional.cross_entropy(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            accuracy = (model(x_val).argmax(1) == y_val).float().mean().item()
        report({"epoch": epoch, "loss": loss.item(), "accuracy": accuracy})
