# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
# /// script
# requires-python = ">=3.11"
# dependencies = ["pillow", "pyside6"]
# ///
"""Screenshots of a test report for README and documentation, with light and with dark colours.

uv run examples/quickstart.py
uv run tools/report_picture.py results/Grad/GradTextures/latest/report.html

Qt's web engine, which ``uv run`` installs from PyPI, renders the page; no display is needed.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("QTWEBENGINE_CHROMIUM_FLAGS", "--no-sandbox --disable-gpu")

from PIL import Image
from PySide6.QtCore import QEventLoop, QTimer, QUrl
from PySide6.QtWebEngineCore import QWebEngineSettings
from PySide6.QtWebEngineWidgets import QWebEngineView
from PySide6.QtWidgets import QApplication

WIDTH = 1160  # pixels of the window
COLOURS = 256  # size of the palette
MARGIN = 24  # pixels below the content
DARK = "(prefers-color-scheme: dark)"
SHORTEN = """
const keep = (selector, wanted) =>
  [...document.querySelectorAll(selector)].forEach((part, index) => wanted(part, index) || part.remove());
keep("nav, .hint, .notes, footer", () => false);
keep("section", part => ["results", "scores", "examples"].includes(part.id));
keep(".tiles div", part => !part.textContent.startsWith("mean of"));
keep(".cards .card", (_, index) => index < 2);
keep("#examples details", (_, index) => index == GALLERY);
document.querySelectorAll(".examples").forEach(row => [...row.children].slice(4).forEach(tile => tile.remove()));
document.querySelectorAll("section").forEach(section => { section.style.margin = "1.4rem 0"; });
"""
"""Script that reduces the page to the table, two products' scores and one product's heatmaps."""


def wait(milliseconds: int) -> None:
    """Give the page time for layout and drawing."""
    loop = QEventLoop()
    QTimer.singleShot(milliseconds, loop.quit)
    loop.exec()


def photograph(page: Path, picture: Path, gallery: int) -> None:
    """Render a page and save a screenshot of its window as a small PNG."""
    view = QWebEngineView()
    view.resize(WIDTH, WIDTH)
    view.settings().setAttribute(QWebEngineSettings.WebAttribute.ShowScrollBars, False)  # noqa: FBT003  # Qt's own
    loaded = QEventLoop()
    view.loadFinished.connect(lambda _: loaded.quit())
    view.load(QUrl.fromLocalFile(str(page)))
    view.show()
    loaded.exec()
    view.page().runJavaScript(SHORTEN.replace("GALLERY", str(gallery)))
    wait(1000)
    heights: list[float] = []
    view.page().runJavaScript('document.querySelector("main").getBoundingClientRect().bottom', heights.append)
    wait(1000)
    view.resize(WIDTH, int(heights[0]) + MARGIN)
    wait(1000)
    view.grab().save(str(picture))
    with Image.open(picture) as grabbed:
        grabbed.convert("RGB").quantize(COLOURS).save(picture, optimize=True)


def main() -> None:
    """Save both screenshots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("--gallery", type=int, default=0, help="number of the product whose heatmaps are shown")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    application = QApplication(sys.argv[:1])
    page = args.report.read_text(encoding="utf-8")
    for name, always in (("light", "(max-width: 0)"), ("dark", "(min-width: 0)")):  # without a display, Qt is light
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "report.html"
            path.write_text(page.replace(DARK, always), encoding="utf-8")
            photograph(path, args.out / f"report-{name}.png", args.gallery)
    application.quit()


if __name__ == "__main__":
    main()
