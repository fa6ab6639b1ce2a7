"""Makes the pictures of docs/dashboard.md: each tab, a trial, the lists; wide or narrow, light or dark.

    uv run python -m benchmarks.screenshots --to docs/figures/dashboard        # of a search that it runs itself
    uv run python -m benchmarks.screenshots digits --storage tune_results --to pictures --width 390 --scheme dark

Needs Chromium (`apt-get install chromium`), and the libraries playwright and Pillow.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

import tune_platform
from tune_platform import ASHA, PBT, Trainable, choice, loguniform, randint, uniform
from tune_platform.dashboard.actions import tag
from tune_platform.dashboard.layout import TABS
from tune_platform.dashboard.server import serving

CHROMIUM = "/usr/bin/chromium"
#: Pixels of a picture at most, downwards.
_HIGH = 1500
_SPEC: dict[str, Any] = {
    "metric": "loss", "mode": "min", "num_samples": 80, "searcher": "random", "seed": 1, "backend": "inline",
    "param_space": {
        "lr": loguniform(1e-4, 1.0), "width": randint(1, 17), "dropout": uniform(0.0, 0.6),
        "optimizer": choice(["adam", "sgd"]),
    },
}  # fmt: skip


def train(config: Mapping[str, Any]) -> None:
    """Stand for a training: a loss that falls, best at lr 0.006; SGD with a high rate fails."""
    print(f"learning rate {config['lr']:.3g}")
    for epoch in range(1, 28):
        if config["optimizer"] == "sgd" and config["lr"] > 0.2:
            raise ValueError("the loss is nan")
        far = 0.3 * abs(math.log10(config["lr"]) + 2.2) + 0.05 * abs(config["dropout"] - 0.3)
        loss = 0.1 + far + 0.2 / config["width"] + 1.5 / (epoch + 1)
        tune_platform.report({"epoch": epoch, "loss": loss, "parameters": float(config["width"] ** 2)})


class Falling(Trainable):
    """Stand for a training whose best learning rate falls: a high one is fast at first, and noisy in the end."""

    def setup(self, config: Mapping[str, Any]) -> None:
        """Begin at a loss of 1."""
        self.lr = float(config["lr"])
        self.left, self.now = 1.0, 0

    def step(self) -> dict[str, float]:
        """Come closer, by as much as the rate lets; what the rate adds is not remembered."""
        self.now += 1
        self.left *= 1 - min(0.3, 3 * self.lr)
        return {"loss": self.left + 2 * self.lr + 0.001}

    def save_checkpoint(self, directory: Path) -> None:
        """Write the loss that is left."""
        (directory / "state.json").write_text(json.dumps([self.left, self.now]))

    def load_checkpoint(self, directory: Path) -> None:
        """Go on from another's."""
        self.left, self.now = json.loads((directory / "state.json").read_text())


def examples(storage: str) -> None:
    """Run the searches that the pictures show; `digits` is still at its last ten trials when this returns."""
    rungs = ASHA(resource="epoch", min=1, max=27, eta=3)
    _run(storage, name="digits-seed-2", seed=2, scheduler=rungs, trainable=train)
    _run(storage, name="digits-two-objectives", metric=["loss", "parameters"], mode=["min", "min"], trainable=train)
    population = PBT(interval=4, synchronous=True, max=48)
    inside = {"name": "inline", "num_cpus": 12}
    _run(storage, name="population", trainable=Falling, num_samples=12, scheduler=population, backend=inside)
    tag(storage, "digits-seed-2", ["baseline", "paper"])
    begun = 0

    def slow_at_the_end(config: Mapping[str, Any]) -> None:
        nonlocal begun
        begun += 1
        if begun > 70:
            time.sleep(20)
        train(config)

    told = {"name": "digits", "scheduler": rungs, "trainable": slow_at_the_end}
    threading.Thread(target=_run, args=(storage,), kwargs=told, daemon=True).start()
    while begun <= 70:
        time.sleep(0.5)


def _run(storage: str, **more: Any) -> None:
    tune_platform.run(tune_platform.SearchSpec(**{**_SPEC, "storage": storage, **more}), progress="off")


def shots(address: str, folder: Path, given: argparse.Namespace) -> list[str]:
    """Write one picture a tab, of a trial and of the lists; return what the browser complained of."""
    from playwright.sync_api import sync_playwright

    said: list[str] = []
    ending = "" if (given.width, given.scheme) == (1280, "light") else f"-{given.width}-{given.scheme}"
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--use-gl=swiftshader"])
        page = browser.new_page(viewport={"width": given.width, "height": 900}, color_scheme=given.scheme)
        page.on("console", lambda each: said.append(each.text) if each.type == "error" else None)
        page.on("pageerror", lambda each: said.append(str(each)))

        def take(name: str) -> None:
            file = folder / f"{name}{ending}.png"
            high = min(_HIGH, page.evaluate("() => document.documentElement.scrollHeight"))
            page.screenshot(path=file, full_page=True, clip={"x": 0, "y": 0, "width": given.width, "height": high})
            Image.open(file).convert("RGB").quantize(256).save(file, optimize=True)

        base = address.partition("#")[0]
        root = base.split("/e/")[0]
        page.goto(address)
        page.wait_for_selector("#table .ag-row", timeout=60_000)
        chosen = "1,2,3" if given.experiment else "25,33,41"
        places = [(tab, f"{base}?tab={tab}&trials={chosen}") for tab in given.tabs.split(",")]
        places.append(("trial", f"{base}/t/{given.trial}"))
        if not given.experiment:
            others = {"objectives": f"{root}/e/digits-two-objectives?tab=objectives"}
            places = [(name, others.get(name, place)) for name, place in places]
            places.append(("population", f"{root}/e/population?tab=scheduler"))
        for name, place in places:
            page.goto(place)
            page.wait_for_selector(".js-plotly-plot .main-svg, #table .ag-row", timeout=60_000)
            page.wait_for_function("() => !document.body.innerText.includes('Being drawn')", timeout=60_000)
            page.wait_for_timeout(2000)
            take(name)
        page.goto(root)
        page.wait_for_selector("table.plain")
        page.wait_for_timeout(1000)
        take("experiments")
        page.goto(f"{root}/compare")
        page.wait_for_selector("#versus-figure .main-svg")
        page.wait_for_timeout(1000)
        take("experiments-compared")
        browser.close()
    return said


def main() -> None:
    """Serve an experiment and take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", nargs="?", help="one that is there already")
    parser.add_argument("--storage", default="tune_results")
    parser.add_argument("--to", type=Path, default=Path("pictures"))
    parser.add_argument("--trial", type=int, default=17)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--scheme", choices=["light", "dark"], default="light")
    parser.add_argument("--tabs", default=",".join(TABS))
    given = parser.parse_args()
    given.to.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        storage = given.storage if given.experiment else folder
        if not given.experiment:
            examples(storage)
        with serving(storage, given.experiment or "digits", control=True) as (server, address):
            threading.Thread(target=server.serve_forever, daemon=True).start()
            said = shots(address, given.to, given)
            server.shutdown()
    print(*dict.fromkeys(said), sep="\n")


if __name__ == "__main__":
    main()
