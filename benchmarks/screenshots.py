"""Makes the pictures of the page of docs/dashboard.md: each tab of an experiment, wide or narrow, light or dark.

    uv run python benchmarks/screenshots.py digits --storage tune_results --to pictures

Needs Chromium (`apt-get install chromium`) and the library playwright.
"""

from __future__ import annotations

import argparse
import threading
from pathlib import Path
from typing import Any

from tune_platform.dashboard.layout import TABS
from tune_platform.dashboard.server import serving

CHROMIUM = "/usr/bin/chromium"


def shots(address: str, folder: Path, trial: int, width: int, scheme: Any, tabs: list[str]) -> list[str]:
    """Write one picture a tab and one of a trial; return what the browser complained of."""
    from playwright.sync_api import sync_playwright

    said: list[str] = []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--use-gl=swiftshader"])
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.on("console", lambda each: said.append(each.text) if each.type in ("error", "warning") else None)
        page.on("pageerror", lambda each: said.append(str(each)))
        base, _, token = address.partition("#")
        page.goto(base + (f"#{token}" if token else ""))
        page.wait_for_selector("#table .ag-row", timeout=30_000)
        for name, path in [(tab, f"?tab={tab}&trials=1,2,3") for tab in tabs] + [("trial", f"/t/{trial}")]:
            page.goto(base + path)
            page.wait_for_selector(".js-plotly-plot .main-svg, #table .ag-row", timeout=30_000)
            page.wait_for_load_state("networkidle")
            page.wait_for_timeout(2000)
            page.screenshot(path=folder / f"{name}-{width}-{scheme}.png", full_page=True)
        page.goto(base.split("/e/")[0])
        page.wait_for_selector("table.plain")
        page.screenshot(path=folder / f"experiments-{width}-{scheme}.png")
        page.goto(base.split("/e/")[0] + "/compare")
        page.wait_for_selector("#versus-figure .main-svg")
        page.wait_for_timeout(1000)
        page.screenshot(path=folder / f"experiments-compared-{width}-{scheme}.png")
        browser.close()
    return said


def main() -> None:
    """Serve an experiment and take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiment")
    parser.add_argument("--storage", default="tune_results")
    parser.add_argument("--to", type=Path, default=Path("pictures"))
    parser.add_argument("--trial", type=int, default=1)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--scheme", choices=["light", "dark"], default="light")
    parser.add_argument("--tabs", default=",".join(TABS))
    given = parser.parse_args()
    given.to.mkdir(parents=True, exist_ok=True)
    with serving(given.storage, given.experiment, control=True) as (server, address):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        said = shots(address, given.to, given.trial, given.width, given.scheme, given.tabs.split(","))
        server.shutdown()
    print(*dict.fromkeys(said), sep="\n")


if __name__ == "__main__":
    main()
