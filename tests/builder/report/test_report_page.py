"""The report in a real browser: headless Chromium, offline, from file://."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_dataset

from trajectory_builder import manifest
from trajectory_builder.report import write_report

playwright_api = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip)")

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None,
    reason="needs Chromium: apt-get install chromium, or name it in the variable CHROMIUM",
)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
RUNS = "document.title='it ran'"
HOSTILE_CLIPS = (
    f"<script>{RUNS}<!--",
    f"<img src=x onerror={RUNS}>",
    f"' onmouseover='{RUNS}' x='",
    f'" autofocus onfocus="{RUNS}',
    "{{ 7 * 7 }}{% endraw %}",
    "a&amp;lt;b " + "w" * 90,
)


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with playwright_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    """The report of an ordinary small data set."""
    folder = small_dataset.make(tmp_path_factory.mktemp("plain") / "set", size=(120, 200))
    return write_report(folder)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Path:
    """The report of a data set whose every free text tries to be a program."""
    folder = tmp_path_factory.mktemp("hostile") / f"<script>{RUNS}<!--"
    small_dataset.make(folder, clips={"train": HOSTILE_CLIPS}, trajectories=1)
    text = f"</script></style><script>{RUNS}</script>"
    columns = ["reason", "what", "cure", "split", "clip_id", "sample_id", "file"]
    pq.write_table(pa.table({c: [text, text + c] for c in columns}), folder / "problems.parquet")
    record = json.loads((folder / "build.json").read_text())
    record |= {"alignment": [{text: text, "shift": 3}], "config": {text: [text]}}
    (folder / "build.json").write_text(json.dumps(record))
    return write_report(folder)


class Visit:
    """A page that was opened, and everything it complained of or asked for."""

    def __init__(self, browser, report: Path, width: int = 1280, scheme: str = "light") -> None:
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
        )
        self.context.set_default_timeout(10_000)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(report.as_uri())

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def picture(self) -> str:
        """Source of the one overview that can be seen."""
        shown = self.page.locator(".walk .whole img:visible")
        assert shown.count() == 1
        return shown.get_attribute("src")

    def level(self):
        return self.page.get_by_role("slider", name="Frames averaged")


@pytest.fixture
def visit(browser, plain) -> Iterator[Visit]:
    with Visit(browser, plain) as opened:
        yield opened


def test_each_place_of_the_slider_shows_another_picture(visit):
    pictures = []
    for place in range(4):
        visit.level().fill(str(place))
        pictures.append(visit.picture())
    assert len(set(pictures)) == 4


def test_the_slider_starts_at_the_strongest_blur(visit):
    assert visit.level().input_value() == visit.level().get_attribute("max") == "3"


def test_the_first_place_of_the_slider_is_the_sharp_frame(visit):
    visit.level().fill("0")
    assert visit.page.locator(".points > li:visible .said").inner_text().startswith("Sharp")


def test_the_slider_obeys_the_keyboard(visit):
    visit.level().focus()
    before = visit.picture()
    visit.page.keyboard.press("ArrowLeft")
    assert visit.picture() != before
    assert visit.level().get_attribute("aria-valuetext") == "9 frames, t = 160"


def test_every_control_is_reached_with_the_tab_key(visit):
    wanted = {"which", "level", "play", "compare", "find", "find-split", "find-clip", "find-n"}
    visit.page.locator("nav a").last.focus()
    reached = set()
    for _ in range(60):
        visit.page.keyboard.press("Tab")
        reached.add(visit.page.evaluate("document.activeElement.id"))
    assert wanted <= reached


def test_another_trajectory_shows_another_picture(visit):
    before = visit.picture()
    visit.page.get_by_role("button", name="Next trajectory").click()
    assert visit.picture() != before


def test_all_clips_can_be_chosen_by_name(visit):
    options = visit.page.get_by_label("Trajectory", exact=True).locator("option").all_inner_texts()
    clips = {option.split("/")[0] for option in options}
    assert clips == {"GOPR0001_11_00", "GOPR0002_11_00", "GOPR0003_11_00"}


def test_show_the_sharp_and_back_again(visit):
    blurred = visit.picture()
    button = visit.page.get_by_role("button", name="Show the sharp")
    button.click()
    sharp = visit.picture()
    button.click()
    assert sharp != blurred
    assert visit.picture() == blurred


def test_play_walks_on_by_itself(visit):
    visit.page.get_by_role("button", name="Play").click()
    playwright_api.expect(visit.level()).not_to_have_value("3")


def test_tables_are_sorted_by_a_click_on_the_head(browser, tmp_path):
    clips = {"train": ("clip-b", "clip-c", "clip-a")}
    report = write_report(small_dataset.make(tmp_path / "set", clips=clips))
    with Visit(browser, report) as opened:
        head = opened.page.get_by_role("button", name="clip", exact=True)
        head.click()
        head.click()
        names = opened.page.locator("table.sortable tbody th").all_inner_texts()
    assert names == ["clip-c", "clip-b", "clip-a"]


def test_the_page_asks_for_nothing_but_itself(browser, plain):
    with Visit(browser, plain) as opened:
        opened.page.wait_for_load_state("networkidle")
        outside = [url for url in opened.asked if not url.startswith(("file:", "data:"))]
        assert outside == []
        assert [url for url in opened.asked if url.startswith("file:")] == [plain.as_uri()]


def test_the_console_stays_empty(visit):
    visit.level().fill("1")
    assert visit.said == []


def test_every_picture_has_pixels(visit):
    widths = visit.page.evaluate(
        "Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth)))"
    )
    assert widths
    assert min(widths) > 0


def test_every_picture_has_words_for_those_who_do_not_see_it(visit):
    assert visit.page.locator("img:not([alt]), img[alt='']").count() == 0
    assert visit.page.locator("svg:not([aria-label]):not([aria-hidden])").count() == 0


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_reaches_beyond_the_sides(browser, hostile, width, scheme):
    with Visit(browser, hostile, width, scheme) as opened:
        reach = opened.page.evaluate("document.documentElement.scrollWidth")
    assert reach <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_screenshot_is_not_blank(browser, plain, scheme, tmp_path):
    with Visit(browser, plain, scheme=scheme) as opened:
        opened.page.screenshot(path=tmp_path / "page.png")
    blue, green, red = cv2.split(cv2.imread(str(tmp_path / "page.png")).astype(np.int32))
    assert len(np.unique(blue << 16 | green << 8 | red)) > 500


def test_dark_is_dark_and_light_is_light(browser, plain):
    means = {}
    for scheme in ("light", "dark"):
        with Visit(browser, plain, scheme=scheme) as opened:
            color = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
            means[scheme] = np.mean([int(part) for part in re.findall(r"\d+", color)[:3]])
    assert means["dark"] < 60
    assert means["light"] > 200


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two CSS colours (WCAG 2.2, relative luminance)."""

    def luminance(color: str) -> float:
        parts = np.array([int(part) for part in re.findall(r"\d+", color)[:3]]) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(browser, plain, scheme):
    ask = "s => getComputedStyle(document.querySelector(s))"
    texts = [".quiet", "nav a", ".state", ".tag", ".lead", "code", "td", "select"]
    with Visit(browser, plain, scheme=scheme) as opened:
        inks = [opened.page.evaluate(f"{ask}.color", what) for what in texts]
        card = opened.page.evaluate(f"{ask}.backgroundColor", "section")
        ground = opened.page.evaluate(f"{ask}.backgroundColor", "body")
    faint = [
        what
        for what, ink in zip(texts, inks, strict=True)
        if min(contrast(ink, ground), contrast(ink, card)) < 4.5
    ]
    assert faint == []


def test_hostile_names_do_not_run(browser, hostile):
    with Visit(browser, hostile) as opened:
        for button in opened.page.get_by_role("button").all():
            if button.is_enabled():
                button.click()
        opened.page.wait_for_timeout(200)
        title, said = opened.page.title(), opened.said
    assert "it ran" not in title.replace(RUNS, "")
    assert said == []


def test_hostile_names_are_shown_as_they_are(browser, hostile):
    with Visit(browser, hostile) as opened:
        names = opened.page.locator("table.sortable tbody th").all_text_contents()
        programs = opened.page.locator("script:not([type='application/json'])").count()
        pairs = opened.page.locator("#find-table tbody th").all_text_contents()
    assert sorted(names) == sorted(HOSTILE_CLIPS)
    assert programs == 1
    assert {pair.rsplit("/", 2)[0] for pair in pairs} == set(HOSTILE_CLIPS)


def pairs_shown(opened: Visit) -> list[str]:
    return opened.page.locator("#find-table tbody th").all_text_contents()


def test_the_table_lists_every_pair(visit):
    assert visit.page.locator("#find-count").inner_text() == "18 pairs"
    assert len(set(pairs_shown(visit))) == 18


def test_search_finds_pairs_by_parts_of_their_names(visit):
    visit.page.get_by_label("Search in names").fill("gopr0002 N09")
    assert pairs_shown(visit) == ["GOPR0002_11_00/000001/n09", "GOPR0002_11_00/000012/n09"]
    assert visit.page.locator("#find-count").inner_text() == "2 of 18 pairs"


def test_filters_of_split_and_n_work_together(visit):
    visit.page.get_by_label("Split", exact=True).select_option("test")
    visit.page.locator("#find-n").select_option("11")
    assert pairs_shown(visit) == ["GOPR0003_11_00/000001/n11", "GOPR0003_11_00/000012/n11"]


def test_filter_of_motion_keeps_pairs_within_it(visit):
    visit.page.get_by_label("Motion, px from").fill("7")
    visit.page.get_by_label("Motion, px to").fill("9")
    assert {name.rsplit("/n")[1] for name in pairs_shown(visit)} == {"09"}


def test_clear_shows_all_pairs_again(visit):
    visit.page.get_by_label("Search in names").fill("nothing has this name")
    assert pairs_shown(visit) == []
    visit.page.get_by_role("button", name="Clear").click()
    assert len(pairs_shown(visit)) == 18


def test_pairs_are_sorted_by_a_number_down_and_up(visit):
    head = visit.page.locator("#find-table").get_by_role("button", name="n", exact=True)
    ends = []
    for _ in range(2):
        head.click()
        ends.append(pairs_shown(visit)[0].rsplit("/n")[1])
    assert ends == ["07", "11"]


def test_every_link_of_the_page_leads_to_a_file(browser, plain, hostile):
    for report in (plain, hostile):
        with Visit(browser, report) as opened:
            urls = opened.page.evaluate("[...document.querySelectorAll('a')].map(a => a.href)")
        files = {unquote(url.removeprefix("file://")) for url in urls if "#" not in url}
        images = {str(path) for path in report.parent.rglob("*.png")}
        assert len(files) > 10
        assert files <= images


def test_the_crop_of_a_walk_is_shown_pixel_by_pixel(visit):
    crop = visit.page.locator(".walk .detail:visible")
    box = crop.bounding_box()
    assert crop.evaluate("image => image.naturalWidth") == box["width"] == box["height"]


def test_a_large_table_shows_a_page_at_a_time(browser, tmp_path):
    folder = small_dataset.make(tmp_path / "set", clips={"train": ("a",)}, trajectories=1)
    row = pq.read_table(folder / "train/metadata.parquet").slice(0, 1).to_pylist()[0]
    many = [row | {"sample_id": f"a/{i}/n07", "trajectory_id": f"a/{i}"} for i in range(9000)]
    table = pa.Table.from_pylist(many, manifest.SCHEMA)
    small_dataset.rewrite(folder, "train", table)
    with Visit(browser, write_report(folder)) as opened:
        assert len(pairs_shown(opened)) == 100
        opened.page.get_by_role("button", name="Next ›").click()
        assert pairs_shown(opened)[0] == "a/100/n07"
        assert opened.page.locator("#find-page").inner_text() == "Page 2 of 90"


def test_a_planted_script_is_stopped_by_the_policy(browser, plain, tmp_path):
    # The witness for the test above: even unescaped markup would not run.
    planted = tmp_path / "planted.html"
    text = plain.read_text().replace("</main>", f"<script>{RUNS}</script></main>")
    planted.write_text(text)
    with Visit(browser, planted) as opened:
        assert opened.page.title() != "it ran"
        assert any("Content Security Policy" in line for line in opened.said)


def test_without_scripts_every_point_is_there(browser, plain):
    context = browser.new_context(java_script_enabled=False, offline=True)
    page = context.new_page()
    page.goto(plain.as_uri())
    visible = page.locator(".points > li:visible").count()
    said = page.locator("#pairs").inner_text()
    context.close()
    assert "The table needs the page's script" in said
    assert visible == 3 * 4  # three clips, four points each


def test_print_shows_all_points_of_the_trajectory(visit):
    visit.page.emulate_media(media="print")
    assert visit.page.locator(".points > li:visible").count() == 4
    assert visit.page.locator(".controls:visible").count() == 0
