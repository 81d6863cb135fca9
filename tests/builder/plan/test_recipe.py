"""Recipes are data: the built-in ones say what they promise, a user's own is checked."""

import re
from collections import Counter
from pathlib import Path

import pytest
from gopro_tree import published, three_parts, trajbuild
from hypothesis import given
from hypothesis import strategies as st

from trajectory_builder.errors import ExitCode, UsageError
from trajectory_builder.plan import gopro, recipe

BUILT_IN = ("fidediff-7877", "fidediff-supplement", "full-trajectory", "official")
LINE = "name: mine\nwindows: {7: [], 11: [9]}\n"

WRONG = {
    "a key twice": ("name: a\nname: b\nwindows: {7: []}\n", "is there twice"),
    "a native n twice": ("name: a\nwindows: {7: [], 7: [5]}\n", "is there twice"),
    "an unknown key": (LINE + "gamma: 2.2\n", "unknown keys: gamma"),
    "no windows": ("name: a\n", "`windows` must be there"),
    "no name": ("windows: {7: []}\n", "must be there"),
    "an even window": ("name: a\nwindows: {7: [6]}\n", "odd number of frames from 3, not 6"),
    "a window of one frame": ("name: a\nwindows: {7: [1]}\n", "odd number of frames from 3, not 1"),
    "a timestep above 999": ("name: a\nwindows: {7: [51]}\n", "t = 1000, above 999"),
    "an unknown domain": (LINE + "average: linear\n", "srgb or gamma2.2, not linear"),
    "draws that sum to 0.9": (LINE + "draws: {11: {9: 0.3, 15: 0.6}}\n", "do not sum to 1"),
    "draws that are no number": (LINE + "draws: {11: {9: .nan}}\n", "do not sum to 1"),
    "no draws": (LINE + "draws: {11: {}}\n", "do not sum to 1"),
    "a word as n": ("name: a\nwindows: {seven: []}\n", "cannot be used"),
    "a list as windows": ("name: a\nwindows: [7, 11]\n", "cannot be used"),
    "a fraction as n": ("name: a\nwindows: {7: [5.5]}\n", "5.5"),
    "a word as switch": (LINE + "keep_official: sometimes\n", "sometimes"),
    "a timestep of zero": (LINE + "timestep: {step: 0}\n", "step"),
    "a list": ("- 1\n- 2\n", "not a table of keys and values"),
    "broken YAML": ("name: [a\n", "not sound YAML"),
    "a Python object": ("name: !!python/object/apply:os.getpid []\n", "not sound YAML"),
    "an empty file": ("", "not a table of keys and values"),
}


def own(text):
    return recipe.parse(text, where="mine.yaml")


def test_four_recipes_are_built_in():
    assert tuple(recipe.built_in()) == BUILT_IN


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_recipe_carries_its_file_name(name):
    assert recipe.load_recipe(name).name == name


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_recipe_averages_in_the_domain_of_benchmarks(name):
    assert recipe.load_recipe(name).average == "srgb"


@pytest.mark.parametrize(
    ("native", "expected"), [(7, (7,)), (11, (5, 7, 9, 11)), (13, (7, 9, 11, 13))]
)
def test_default_recipe_adds_the_three_next_shorter_windows(native, expected):
    assert recipe.load_recipe(recipe.DEFAULT).n_frames(native, "any/000001") == expected


@pytest.mark.parametrize(("native", "expected"), [(7, (3, 5, 7)), (9, (3, 5, 7, 9)), (3, (3,))])
def test_full_trajectory_takes_every_odd_window_from_three(native, expected):
    assert recipe.load_recipe("full-trajectory").n_frames(native, "any/000001") == expected


@pytest.mark.parametrize("native", [7, 11, 13, 21])
def test_official_recipe_takes_the_native_window_alone(native):
    assert recipe.load_recipe("official").n_frames(native, "any/000001") == (native,)


def test_only_the_official_recipe_needs_no_frames():
    assert [name for name in BUILT_IN if recipe.load_recipe(name).only_official()] == ["official"]


def test_supplement_adds_13_frames_to_each_native_11():
    chosen = recipe.load_recipe("fidediff-supplement")
    assert all({11, 13} < set(chosen.n_frames(11, f"clip/{i:06d}")) for i in range(50))


def test_supplement_adds_11_and_15_frames_to_each_native_13():
    assert recipe.load_recipe("fidediff-supplement").n_frames(13, "clip/000001") == (11, 13, 15)


def test_supplement_draws_9_or_15_with_the_quoted_probabilities():
    # Over the published 1,818 trajectories of 11 frames; 3 standard deviations are 0.032.
    chosen = recipe.load_recipe("fidediff-supplement")
    drawn = Counter(
        (set(chosen.n_frames(11, f"{row['sequence']}/{number:06d}")) - {11, 13}).pop()
        for row in published()
        if row["split"] == "train" and row["frames_per_blur"] == 11
        for number in range(row["first_pair_number"], row["first_pair_number"] + row["pairs"])
    )
    assert drawn.total() == 1818
    assert drawn[9] / 1818 == pytest.approx(0.3, abs=0.032)


def test_supplement_reaches_a_timestep_of_280():
    assert (
        max(recipe.load_recipe("fidediff-supplement").n_frames(13, "clip/000001")) == 280 // 20 + 1
    )


@given(st.text("abc/019_", min_size=1, max_size=20), st.integers(0, 2**31))
def test_draw_hangs_on_identity_alone(name, seed):
    choices = {9: 0.3, 15: 0.7}
    identity = f"{seed}/{name}"
    assert recipe.draw(choices, identity) == recipe.draw(dict(reversed(choices.items())), identity)


def test_another_seed_draws_differently():
    text = LINE + "draws: {11: {9: 0.5, 15: 0.5}}\nseed: %d\n"
    names = [f"clip/{i:06d}" for i in range(64)]
    draws = [[own(text % seed).n_frames(11, name) for name in names] for seed in (0, 1)]
    assert draws[0] != draws[1]


def test_draw_of_certainty_never_takes_the_other():
    assert {recipe.draw({9: 0.0, 15: 1.0}, str(i)) for i in range(500)} == {15}


def test_star_serves_every_n_without_its_own_line():
    chosen = own('name: mine\nwindows: {7: [5], "*": [3]}\n')
    assert (chosen.n_frames(7, "a/1"), chosen.n_frames(21, "a/1")) == ((5, 7), (3, 21))


def test_official_window_can_be_left_out():
    assert own(LINE + "keep_official: false\n").n_frames(11, "a/1") == (9,)


def test_unnamed_native_n_is_an_error_that_names_the_clip():
    with pytest.raises(UsageError, match="no entry for clips of 15 frames") as caught:
        own(LINE).n_frames(15, "GOPR0001_15_00/000001")
    assert "GOPR0001_15_00" in caught.value.where
    assert "windows" in caught.value.cure


@pytest.mark.parametrize("name", WRONG)
def test_wrong_recipe_is_refused_with_all_three_parts(name):
    text, said = WRONG[name]
    with pytest.raises(UsageError) as caught:
        own(text)
    error = caught.value
    assert said in error.what
    assert error.where == "mine.yaml"
    assert error.cure
    assert error.exit_code == ExitCode.WRONG_USE


TYPOS = """
nmae: mine
abuot: x
widnows: {7: []}
drawss: {}
keep_oficial: true
averag: srgb
timestpe: {step: 20}
sead: 0
cuonts: {}
"""


def test_a_typo_in_every_key_is_answered_with_every_right_key():
    with pytest.raises(UsageError) as caught:
        own(TYPOS)
    meant = dict(part.split(" for ")[::-1] for part in
                 re.search(r"did you mean (.*)\?", caught.value.cure)[1].split(", "))  # fmt: skip
    assert list(meant.values()) == list(recipe.KEYS)
    assert list(meant) == [line.partition(":")[0] for line in TYPOS.split("\n") if line]


@pytest.mark.parametrize(
    ("line", "cure"),
    [("timestep: {steps: 10}", "step for steps"), ("counts: {bots: 1}", "both for bots")],
)
def test_a_typo_inside_a_key_is_refused(line, cure):
    with pytest.raises(UsageError, match="unknown keys") as caught:
        own(f"{LINE}{line}\n")
    assert cure in caught.value.cure


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: a\nwindows: {7: 5}\n", "`windows: 7` must be all, or a list such as [9, 7, 5]"),
        ("name: a\nwindows:\n", "`windows` must be a table such as {11: ...}, not None"),
        (LINE + "draws: {11: 9}\n", "`11` must be a table"),
        (LINE + "timestep: 20\n", "`timestep` must be a table"),
    ],
)
def test_a_value_of_the_wrong_kind_is_answered_with_the_right_kind(text, says):
    with pytest.raises(UsageError) as caught:
        own(text)
    assert says in caught.value.what


def test_longest_possible_window_has_49_frames():
    assert own("name: a\nwindows: {7: [49]}\n").n_frames(7, "a/1") == (7, 49)


def test_own_file_serves_as_a_recipe(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(LINE)
    assert recipe.load_recipe(str(path)).n_frames(11, "a/1") == (9, 11)


def test_absent_recipe_is_refused_with_the_built_in_names():
    with pytest.raises(UsageError) as caught:
        recipe.load_recipe("lucky")
    assert all(name in caught.value.where for name in BUILT_IN)


def test_misspelt_recipe_is_refused_with_the_nearest_name():
    with pytest.raises(UsageError) as caught:
        recipe.load_recipe("fidediff-7887")
    assert caught.value.cure == "did you mean fidediff-7877?"


def test_recipes_command_lists_all_and_marks_the_default():
    done = trajbuild("recipes")
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == [
        "fidediff-7877 (default)", "fidediff-supplement", "full-trajectory", "official"
    ]  # fmt: skip


def test_shown_recipe_is_a_file_that_loads_as_the_same(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(trajbuild("recipes", "--show", "fidediff-7877").stdout)
    assert recipe.load_recipe(str(path)) == recipe.load_recipe("fidediff-7877")


def test_unknown_recipe_on_the_command_line_is_wrong_use(small_source):
    done = trajbuild("plan", "--src", small_source.pairs, "--recipe", "fidedif")
    assert done.returncode == 2
    assert all(three_parts(done.stderr))


PAGE = (Path(__file__).parents[3] / "docs/recipes.md").read_text()
EXAMPLES = {own(text).name: text for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.S)}
COUNTED = re.findall(r"^\| `([\w-]+)`(?: \(default\))? \| ([\d,]+) \|", PAGE, re.M)
COUNTED += zip(EXAMPLES, re.findall(r"gives ([\d,]+) training\s+pairs", PAGE), strict=False)


def test_page_describes_every_key_and_every_built_in_recipe():
    keys = re.findall(r"^\| `(\w+)` \|", PAGE.partition("## Keys")[2], re.M)
    assert keys == list(recipe.KEYS)
    assert {name for name, _ in COUNTED} >= {*BUILT_IN}


@pytest.mark.parametrize(("name", "count"), COUNTED)
def test_count_in_the_page_is_the_plans(real_names, name, count):
    chosen = own(EXAMPLES[name]) if name in EXAMPLES else recipe.load_recipe(name)
    planned = gopro.plan_gopro(real_names.pairs, chosen, frames=real_names.frames)
    assert f"{planned.counts()['train']['pairs']:,}" == count


def test_page_has_three_examples_two_of_them_counted():
    assert list(EXAMPLES) == ["weak", "gamma-strong", "half-rate"]
    assert len(COUNTED) == len(BUILT_IN) + 2


def test_error_in_the_page_is_the_one_that_a_typo_gets():
    shown = re.search(r"^error: (the recipe has unknown keys.*?)```", PAGE, re.M | re.S)[1]
    with pytest.raises(UsageError) as caught:
        own("name: mine\nwindos: {7: []}\nkeep_oficial: true\n")
    assert str(caught.value) == shown.strip()
