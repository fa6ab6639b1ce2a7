"""The picture of the README is made by the platform, and needs nothing from the network."""

from __future__ import annotations

import re
from html import unescape

from benchmarks.terminal import COMMAND, PICTURE, ROOT, Camera
from tests.tune_platform.progress.drive import Clock, Drive


def words(svg: str) -> str:
    """Return the text of a picture, line by line."""
    lines: dict[float, str] = {}
    for y, text in re.findall(r'<text [^>]*?y="([\d.]+)"[^>]*>(.*?)</text>', svg, re.DOTALL):
        lines[float(y)] = lines.get(float(y), "") + unescape(text).replace("\xa0", " ")
    return "\n".join(lines[y] for y in sorted(lines))


def test_a_picture_is_taken_in_the_middle() -> None:
    clock = Clock()
    camera = Camera("digits", 0.5)
    drive = Drive(camera, trials=4, clock=clock, max_concurrent=2, started=2)
    drive.report(0, 1, 0.5, done=True)
    assert camera.picture == ""
    drive.report(1, 1, 0.25, done=True)
    text = words(camera.picture)
    assert f"$ {COMMAND}" in text
    assert "digits  2 of 4 trials done" in text
    assert "best  loss 0.25 (trial 1, step 1)" in text


def test_the_picture_of_the_readme() -> None:
    svg = PICTURE.read_text()
    links = set(re.findall(r"https?://[^\"') ]+", svg))
    assert links <= {"http://www.w3.org/2000/svg", "https://www.textualize.io"}, links
    assert "@font-face" not in svg
    assert "<script" not in svg
    text = words(svg)
    assert COMMAND in text
    assert re.search(r"digits  \d+ of 64 trials done  .* left", text)
    first_screen = "\n".join((ROOT / "README.md").read_text().splitlines()[:25])
    assert f"]({PICTURE.relative_to(ROOT).as_posix()})" in first_screen
