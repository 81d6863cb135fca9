"""Take the pictures of docs/app.md: `fidediff app` in headless Chromium.

trajbuild demo --out demo
python docs/images/app.py --data demo/GOPRO_Large_trajectories
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

HERE = Path(__file__).parent
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
PATIENCE = 600_000  # milliseconds


def main() -> None:
    """Serve the page, and take its pictures."""
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--out", type=Path, default=HERE)
    given = options.parse_args()
    command = [sys.executable, "-m", "fidediff_model.cli", "app", "--port", "0"]
    command += ["--data", str(given.data)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            address = server.stdout.readline().strip() if server.stdout else ""
            with sync_playwright() as play:
                browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
                take(browser, address, given.out)
        finally:
            server.terminate()


def take(browser: Any, address: str, out: Path) -> None:
    """Desktop with the kernels, desktop with a trajectory, phone in the dark."""
    page = opened(browser, address, width=1280, scheme="light")
    restore_example(page)
    page.get_by_label("Blur kernels").check()
    save(page, out / "app-photo.jpg")
    page.get_by_role("tab", name="Trajectory").click()
    page.locator("#fd-trajectory input").click()
    page.get_by_role("option").filter(has_text="_13_").first.click()  # of four points
    page.locator("#fd-walk .fd-walk").wait_for()
    page.locator("#fd-restore-points").click()
    page.get_by_text("Trajectory gap").wait_for()
    save(page, out / "app-trajectory.jpg")
    page = opened(browser, address, width=390, scheme="dark")
    restore_example(page)
    page.get_by_label("Magnifier 1:1").check()
    save(page, out / "app-phone.jpg")


def opened(browser: Any, address: str, *, width: int, scheme: str) -> Any:
    """The page in a window of that width and colour scheme."""
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.set_default_timeout(PATIENCE)
    page.goto(address)
    page.locator("#fd-restore").wait_for()
    return page


def restore_example(page: Any) -> None:
    """Press the first example and wait for its restoration."""
    page.locator(".fd-example").first.click()
    page.locator("#fd-answer .fd-answer").wait_for()


def save(page: Any, path: Path) -> None:
    """The whole page, once its pictures are drawn; seconds of this machine are left out."""
    page.evaluate(
        "document.querySelectorAll('.fd-line').forEach((line) => {"
        " line.innerHTML = line.innerHTML.replace(/; [0-9.]+ s\\./, '.'); })"
    )
    page.wait_for_function("[...document.images].every((image) => image.complete)")
    page.wait_for_timeout(500)
    page.screenshot(path=path, full_page=True, type="jpeg", quality=82)


if __name__ == "__main__":
    main()
