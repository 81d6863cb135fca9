import pytest
from hypothesis import given
from hypothesis import strategies as st

from trajectory_builder.errors import UsageError
from trajectory_builder.plan import windows
from trajectory_builder.plan.recipe import Recipe
from trajectory_builder.plan.windows import WindowChoice


def choice(sizes=(5, 7, 9, 11, 13), **changes):
    recipe = windows.own_recipe(sizes, "srgb")
    return WindowChoice(recipe, windows.native_of(recipe), **changes)


@pytest.mark.parametrize("sizes", [(4,), (5, 6), (1,), (5, 5), ()])
def test_numbers_of_frames_that_cannot_be_are_refused(sizes):
    with pytest.raises(UsageError):
        windows.own_recipe(sizes, "srgb")


def test_even_number_is_named_with_the_cure():
    with pytest.raises(UsageError, match="not 8") as caught:
        windows.own_recipe((5, 8), "srgb")
    assert "--n-frames" in caught.value.cure


@pytest.mark.parametrize(("n", "t"), [(1, 0), (7, 120), (11, 200), (13, 240)])
def test_timestep_by_frames_is_the_formula_at_any_rate(n, t):
    assert windows.timestep_of(n, 30, "frames") == t


@pytest.mark.parametrize(
    ("n", "fps", "t"), [(7, 240, 120), (7, 120, 240), (7, 480, 60), (1, 30, 0)]
)
def test_timestep_by_exposure_counts_frames_of_240_fps(n, fps, t):
    assert windows.timestep_of(n, fps, "exposure") == t


def test_equal_exposures_have_equal_timesteps():
    assert windows.timestep_of(13, 240, "exposure") == windows.timestep_of(7, 120, "exposure")


def test_exposure_without_a_rate_is_refused():
    with pytest.raises(UsageError) as caught:
        windows.timestep_of(5, 0, "exposure")
    assert "--fps" in caught.value.cure


def test_largest_number_that_works_is_named():
    with pytest.raises(UsageError, match="t = 1000") as caught:
        windows.check_timesteps(choice((51,)), 240, "clip")
    assert "--n-frames 49" in caught.value.cure


def test_largest_number_by_exposure_hangs_on_the_rate():
    with pytest.raises(UsageError) as caught:
        windows.check_timesteps(choice((13,), timestep_map="exposure"), 30, "clip")
    assert "--n-frames 7" in caught.value.cure


def test_wanted_numbers_that_work_are_named():
    with pytest.raises(UsageError) as caught:
        windows.check_timesteps(choice(timestep_map="exposure"), 30, "clip")
    assert "--n-frames 5,7, or --timestep-map frames" in caught.value.cure


def test_footage_too_slow_for_any_exposure_is_told_the_other_map():
    with pytest.raises(UsageError) as caught:
        windows.check_timesteps(choice(timestep_map="exposure"), 4, "clip")
    assert "--n-frames" not in caught.value.cure
    assert "--timestep-map frames" in caught.value.cure


def test_49_frames_are_within_the_schedule():
    windows.check_timesteps(choice((49,)), 240, "clip")


@given(st.integers(1, 200), st.integers(1, 20), st.integers(0, 5))
def test_every_longest_window_fits_into_the_clip(length, every, between):
    factor = between + 1
    for center in windows.centers(choice(every=every), length, factor=factor):
        assert center * factor - 6 >= 0
        assert center * factor + 6 <= (length - 1) * factor


def test_windows_do_not_overlap_unless_asked():
    assert windows.centers(choice(), 40) == [6, 19, 32]


def test_every_sets_the_distance():
    assert windows.centers(choice(every=4), 22) == [6, 10, 14]


def test_interpolated_windows_span_fewer_frames_as_shot():
    assert windows.centers(choice(), 10, factor=4) == [2, 6]


@given(st.integers(13, 500), st.integers(1, 9))
def test_at_most_so_many_are_taken_and_spread(length, most):
    everything = windows.centers(choice(every=1), length)
    found = windows.centers(choice(every=1, max_per_clip=most), length)
    assert len(found) == min(most, len(everything))
    assert set(found) <= set(everything)
    if most > 1 and len(everything) >= most:
        assert (found[0], found[-1]) == (everything[0], everything[-1])


def test_clip_of_fewer_frames_has_no_window():
    assert windows.centers(choice(), 12) == []


def test_recipe_for_any_clip_takes_thirteen_frames():
    assert windows.native_of(Recipe(name="x", windows={"*": None})) == 13


def test_split_text_is_read():
    assert windows.parse_split("train=0.9, test=0.1") == {"train": 0.9, "test": 0.1}


@pytest.mark.parametrize(
    "text", ["train", "train=0.5", "train=0.5,train=0.5", "dev=1", "train=-1,test=2", "train=x"]
)
def test_split_text_that_cannot_be_is_refused(text):
    with pytest.raises(UsageError):
        windows.parse_split(text)


names = st.sets(st.text("abc123", min_size=1), min_size=1, max_size=40)


@given(names, st.integers(0, 99))
def test_every_shot_has_one_split_and_shares_hold(shots, seed):
    found = windows.split_shots(sorted(shots), {"train": 0.75, "test": 0.25}, seed)
    assert found.keys() == shots
    tests = sum(split == "test" for split in found.values())
    assert abs(tests - 0.25 * len(shots)) <= 1


@given(names, st.integers(0, 99))
def test_split_does_not_hang_on_the_order(shots, seed):
    shares = {"train": 0.5, "validation": 0.25, "test": 0.25}
    forth = windows.split_shots(sorted(shots), shares, seed)
    assert windows.split_shots(sorted(shots, reverse=True), shares, seed) == forth


def test_seed_changes_the_split():
    shots = [f"clip{i}" for i in range(20)]
    shares = {"train": 0.5, "test": 0.5}
    assert windows.split_shots(shots, shares, 0) != windows.split_shots(shots, shares, 1)


def test_small_share_still_gets_a_shot():
    found = windows.split_shots(["a", "b", "c"], {"train": 0.9, "test": 0.1}, 0)
    assert sorted(found.values()) == ["test", "train", "train"]
