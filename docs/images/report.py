"""Takes report-light.png and report-dark.png: the report of the embedded sample, in Chromium.

python docs/images/report.py [--chromium /usr/bin/chromium]
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import cv2
from playwright.sync_api import Browser, sync_playwright

from trajectory_builder import report, sample
from trajectory_builder.build import run
from trajectory_builder.build.expand import default_out
from trajectory_builder.plan import gopro, recipe

HERE = Path(__file__).parent
SIZE = {"width": 1160, "height": 870}
CLIP_SHOWN = "GOPR9002_11_00"
BYTES_AT_MOST = 200_000
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


def make_report(folder: Path) -> Path:
    """Sample, expand, report: what `trajbuild demo` does."""
    sample.write_sample(folder)
    planned = gopro.plan_gopro(folder / "GOPRO_Large", recipe.load_recipe(recipe.DEFAULT))
    target = default_out(folder / "GOPRO_Large")
    run.build_plan(planned, target, run.BuildOptions(jobs=1, progress=False))
    return report.write_report(target)


def take(browser: Browser, page_file: Path, scheme: str) -> None:
    """One screenshot, in as many colours as fit into the size allowed."""
    context = browser.new_context(viewport=SIZE, color_scheme=scheme, reduced_motion="reduce")
    page = context.new_page()
    page.goto(page_file.as_uri())
    options = page.get_by_label("Trajectory", exact=True).locator("option").all_inner_texts()
    shown = next(text for text in options if CLIP_SHOWN in text)
    page.get_by_label("Trajectory", exact=True).select_option(label=shown)
    page.locator("#walk").evaluate("section => section.scrollIntoView()")
    out = HERE / f"report-{scheme}.png"
    page.screenshot(path=out)
    context.close()
    _shrink(out)


def _shrink(path: Path) -> None:
    """Fewer colours until the file is small enough: text stays crisp, unlike in a JPEG."""
    pixels = cv2.imread(str(path))
    for step in (1, 4, 8, 12, 16, 24):
        coarse = pixels if step == 1 else (pixels // step) * step + step // 2
        options = [cv2.IMWRITE_PNG_COMPRESSION, 9]
        payload = cv2.imencode(".png", coarse, options)[1].tobytes()
        if len(payload) <= BYTES_AT_MOST:
            path.write_bytes(payload)
            return
    raise SystemExit(f"{path.name} does not fit into {BYTES_AT_MOST:,} bytes")


def main() -> None:
    """Make the report once and photograph it by day and by night."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chromium", default=shutil.which("chromium"))
    chromium = parser.parse_args().chromium
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as play:
        page_file = make_report(Path(scratch))
        browser = play.chromium.launch(executable_path=chromium, args=FLAGS)
        for scheme in ("light", "dark"):
            take(browser, page_file, scheme)
        browser.close()


if __name__ == "__main__":
    main()
