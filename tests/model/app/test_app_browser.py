"""The page in a real browser: headless Chromium against `fidediff app` in its own process."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
import small_model
from PIL import Image, ImageCms

playwright_api = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip)")
psutil = pytest.importorskip("psutil", reason="needs psutil (pip)")

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("gradio") is None, reason='needs pip install "fidediff[app]"'),
    pytest.mark.skipif(
        CHROMIUM is None,
        reason="needs Chromium: apt-get install chromium, or name it in the variable CHROMIUM",
    ),
]
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE = 300_000  # milliseconds; the machine may be busy
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
CAMERA = 272


class Server:
    """`fidediff app` in an empty folder, on a free port."""

    def __init__(self, root: Path) -> None:
        self.temporary = root / "tmp"
        self.temporary.mkdir()
        (root / "empty").mkdir()
        data = small_model.write_set(root / "set", counts=(3, 5), size=(48, 64))
        arguments = ["app", "--model", small_model.folder_of(), "--data", data, "--port", "0"]
        paths = [Path(__file__).parents[3], os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {
            "TMPDIR": str(self.temporary),
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "OMP_NUM_THREADS": "1",
        }
        self.errors = root / "stderr"
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fidediff_model.cli", *map(str, arguments)],
                cwd=root / "empty", env=environment, text=True,
                stdout=subprocess.PIPE, stderr=errors,
            )  # fmt: skip
        self.address = self.process.stdout.readline().strip()
        assert self.address.startswith("http"), self.errors.read_text()

    @property
    def root(self) -> Path:
        """The temporary folder of the page."""
        (found,) = self.temporary.glob("fidediff-app-*")
        return found

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    started = Server(tmp_path_factory.mktemp("app"))
    yield started
    started.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with playwright_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


class Visit:
    """The opened page, and everything it complained of or asked for."""

    def __init__(self, browser, server: Server, *, width=1280, scheme="light", **options) -> None:
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, **options
        )
        self.context.set_default_timeout(PATIENCE)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda m: self.said.append(m.text) if m.type == "error" else None)
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(server.address)
        self.page.locator("#fd-drop").wait_for()
        self.page.locator("#fd-restore").wait_for()

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def give(self, path: Path) -> None:
        self.page.locator("#fd-file").set_input_files(path)

    def answer(self):
        """The restored photo, once it is there."""
        answer = self.page.locator("#fd-answer .fd-answer")
        answer.wait_for()
        return answer

    def message(self) -> str:
        alert = self.page.locator("#fd-answer .fd-message")
        alert.wait_for()
        return alert.inner_text()

    def pixels(self, kind: str) -> np.ndarray:
        """The pixels of the picture that is shown, as the server sends them."""
        source = self.page.locator(f"#fd-answer img.{kind}").evaluate("image => image.src")
        with urlopen(source) as answer:
            return np.asarray(Image.open(io.BytesIO(answer.read())).convert("RGB"))

    def set_timestep(self, t: int) -> None:
        number = self.page.locator("#fd-timestep input[type=number]")
        number.fill(str(t))
        number.press("Tab")


@pytest.fixture
def visit(browser, server) -> Iterator[Visit]:
    with Visit(browser, server) as opened:
        yield opened


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> Path:
    """A JPEG with profile and EXIF."""
    path = tmp_path_factory.mktemp("photos") / "my <b>photo<b>.jpg"
    exif = Image.Exif()
    exif[CAMERA] = "Test camera"
    picture = Image.fromarray(small_model.scene(72, 120))
    picture.save(path, quality=95, exif=exif, icc_profile=SRGB)
    return path


@pytest.fixture(scope="module")
def answered(browser, server, photo) -> Iterator[Visit]:
    """A visit whose photo is restored; tests may move what is on the page."""
    with Visit(browser, server) as opened:
        opened.give(photo)
        opened.answer()
        yield opened


def test_a_photo_goes_in_and_the_picture_changes(answered, photo):
    before = answered.pixels("fd-before")
    assert np.array_equal(before, np.asarray(Image.open(photo).convert("RGB")))
    after = answered.pixels("fd-after")
    assert after.shape == before.shape
    assert (after != before).any()


def test_the_slider_moves_the_edge_between_before_and_after(answered):
    answered.page.locator("#fd-answer .fd-split").fill("20")
    clipped = answered.page.locator("#fd-answer .fd-after").evaluate(
        "image => getComputedStyle(image).clipPath"
    )
    assert re.fullmatch(r"inset\(0(px)? 0(px)? 0(px)? 20%\)", clipped)


def test_the_edge_follows_a_drag_on_the_picture(answered):
    box = answered.page.locator("#fd-answer .fd-stage").bounding_box()
    answered.page.mouse.move(box["x"] + 5, box["y"] + 9)
    answered.page.mouse.down()
    answered.page.mouse.move(box["x"] + 0.75 * box["width"], box["y"] + 9)
    answered.page.mouse.up()
    moved = float(answered.page.locator("#fd-answer .fd-split").input_value())
    assert 73 <= moved <= 77


def test_the_magnifier_shows_both_pictures_one_to_one(answered):
    answered.page.get_by_label("Magnifier 1:1").check()
    lens = answered.page.locator("#fd-answer .fd-lens")
    playwright_api.expect(lens).to_be_visible()
    sizes = lens.locator("i").evaluate_all("all => all.map(i => i.style.backgroundSize)")
    assert sizes == ["120px 72px"] * 2
    answered.page.get_by_label("Magnifier 1:1").uncheck()
    playwright_api.expect(lens).to_be_hidden()


def test_the_kernels_are_drawn_over_the_picture(answered):
    kernels = answered.page.locator("#fd-answer .fd-kernels")
    playwright_api.expect(kernels).to_be_hidden()
    answered.page.get_by_label("Blur kernels").check()
    playwright_api.expect(kernels).to_be_visible()
    assert kernels.bounding_box() == answered.page.locator("#fd-answer .fd-stage").bounding_box()
    answered.page.get_by_label("Blur kernels").uncheck()


def test_the_page_says_what_the_file_keeps(answered):
    facts = answered.page.locator("#fd-answer .fd-facts").inner_text()
    assert "120 x 72 pixels" in facts
    assert "sRGB built-in" in facts
    assert "Test camera" in facts


def test_the_download_is_the_restored_photo_in_its_own_format(answered, photo):
    with answered.page.expect_download() as started:
        answered.page.locator(".fd-save").click()
    assert re.fullmatch(r"my .?b.?photo.?b.?_sharp\.jpg", started.value.suggested_filename)
    with Image.open(started.value.path()) as saved:
        assert (saved.format, saved.size) == ("JPEG", (120, 72))
        assert saved.info["icc_profile"] == SRGB
        assert saved.getexif()[CAMERA] == "Test camera"


def test_a_file_name_is_text_on_the_page(answered):
    assert answered.page.locator("#fd-answer b", has_text="photo").count() == 0


def test_an_upload_is_gone_once_it_is_answered(answered, server):
    # Gradio makes an empty folder of its own there.
    assert [path for path in (server.root / "uploads").rglob("*") if path.is_file()] == []
    assert {path.name for path in server.root.iterdir()} == {"uploads", "answers"}


def test_the_estimated_timestep_arrives_at_the_slider(answered):
    said = answered.page.locator("#fd-answer .fd-line b").inner_text().removeprefix("t = ")
    assert "as the model estimates it" in answered.answer().inner_text()
    number = answered.page.locator("#fd-timestep input[type=number]")
    assert abs(float(number.input_value()) - float(said)) <= 1


def test_a_timestep_of_ones_own_is_used(visit, photo):
    visit.page.locator("#fd-estimate input").uncheck()
    visit.set_timestep(120)
    visit.give(photo)
    assert "t = 120 as it was set, as of 7.0 frames" in visit.answer().inner_text()


def test_strength_zero_gives_the_photo_itself(visit, photo):
    number = visit.page.locator("#fd-strength input[type=number]")
    number.fill("0")
    number.press("Tab")
    visit.give(photo)
    visit.answer()
    assert np.array_equal(visit.pixels("fd-before"), visit.pixels("fd-after"))


def test_restore_again_sends_the_photo_anew(visit, photo):
    visit.give(photo)
    visit.answer()
    visit.page.locator("#fd-estimate input").uncheck()
    visit.set_timestep(240)
    visit.page.locator("#fd-restore").click()
    visit.page.get_by_text("t = 240").wait_for()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("note.txt", b"no picture", "The file is"),
        ("empty.png", b"", "The image is an empty file"),
        ("cut.png", None, "The image is truncated"),
    ],
)
def test_a_wrong_file_gets_its_message(visit, tmp_path, name, content, message):
    if content is None:
        sink = io.BytesIO()
        Image.fromarray(small_model.scene(60, 60)).save(sink, "PNG")
        content = sink.getvalue()[:-40]
    (tmp_path / name).write_bytes(content)
    visit.give(tmp_path / name)
    assert message in visit.message()
    assert visit.said == []


def test_a_photo_beyond_the_limit_is_refused_by_its_header(visit, tmp_path):
    Image.new("1", (6000, 5000)).save(tmp_path / "large.png")
    visit.give(tmp_path / "large.png")
    assert "takes 24 megapixels" in visit.message()


def test_cancel_ends_a_restoration_between_its_parts(visit, tmp_path):
    Image.fromarray(small_model.scene(400, 480)).save(tmp_path / "a.jpg")
    visit.give(tmp_path / "a.jpg")
    visit.page.get_by_text("Restoring").first.wait_for()  # the progress of its parts
    visit.page.locator("#fd-cancel").click()
    assert visit.message() == "Cancelled."


def test_an_example_is_restored_on_a_click(visit):
    visit.page.locator(".fd-example").first.click()
    assert "640 x 480 pixels" in visit.answer().inner_text()


@pytest.mark.parametrize("way", ["paste", "drop"])
def test_a_photo_can_be_pasted_and_dropped(visit, photo, way):
    visit.page.evaluate(
        """([bytes, way]) => {
            const moved = new DataTransfer();
            moved.items.add(new File([new Uint8Array(bytes)], "a.jpg", { type: "image/jpeg" }));
            const settings = { bubbles: true, cancelable: true };
            document.body.dispatchEvent(way === "paste"
                ? new ClipboardEvent("paste", { ...settings, clipboardData: moved })
                : new DragEvent("drop", { ...settings, dataTransfer: moved }));
        }""",
        [list(photo.read_bytes()), way],
    )
    assert "120 x 72 pixels" in visit.answer().inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_phone_and_desktop_in_both_schemes(browser, server, photo, width, scheme):
    with Visit(browser, server, width=width, scheme=scheme) as opened:
        opened.give(photo)
        opened.answer()
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
        shade = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
        bright = sum(int(n) for n in re.findall(r"\d+", shade)[:3]) > 380
        assert bright is (scheme == "light")
        assert opened.said == []
        outside = [url for url in opened.asked
                   if not url.startswith((server.address, "data:", "blob:"))]  # fmt: skip
        assert outside == []


def test_every_control_is_reached_with_the_tab_key(answered):
    wanted = {"fd-file", "fd-restore", "fd-cancel"}
    reached, split = set(), False
    answered.page.evaluate("document.activeElement.blur()")
    for _ in range(60):
        answered.page.keyboard.press("Tab")
        reached.add(answered.page.evaluate("document.activeElement.id"))
        split |= answered.page.evaluate("document.activeElement.matches('.fd-split')")
    assert wanted <= reached
    assert split


def test_a_trajectory_is_walked_restored_and_its_gap_shown(visit):
    visit.page.get_by_role("tab", name="Trajectory").click()
    visit.page.locator("#fd-trajectory input").click()
    visit.page.get_by_role("option", name="CLIP1/000001").click()
    walk = visit.page.locator("#fd-walk .fd-walk")
    walk.wait_for()
    assert walk.locator("output").inner_text() == "5"
    walk.locator(".fd-point").fill("0")
    assert walk.locator("output").inner_text() == "3"
    assert walk.locator(".fd-step:visible").get_attribute("data-n") == "3"
    visit.page.locator("#fd-restore-points").click()
    visit.page.get_by_text(re.compile(r"Trajectory gap \d+\.\d\d")).wait_for()
    assert visit.page.locator("#fd-walk .fd-facts tr").count() == 3
    assert visit.said == []


def test_the_files_of_an_answer_go_when_the_page_is_closed(browser, server, photo):
    answers = server.root / "answers"
    known = set(answers.iterdir())
    with Visit(browser, server) as opened:
        opened.give(photo)
        opened.answer()
        assert set(answers.iterdir()) - known
        opened.page.goto("about:blank")
    ends = time.monotonic() + 60
    while set(answers.iterdir()) - known and time.monotonic() < ends:
        time.sleep(0.2)
    assert not set(answers.iterdir()) - known


def test_only_this_machine_can_reach_the_page(server):
    listening = {
        connection.laddr.ip
        for connection in psutil.Process(server.process.pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}


def test_the_server_writes_nothing_where_it_was_started(server):
    assert list((server.temporary.parent / "empty").iterdir()) == []


def test_a_stopped_server_leaves_no_files(tmp_path):
    own = Server(tmp_path)
    assert own.root.is_dir()
    own.stop()
    assert list(own.temporary.iterdir()) == []
