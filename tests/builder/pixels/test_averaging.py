"""Means are exact, nested and independent of the order in which frames come."""

import weakref
from typing import get_args

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage import data

from trajectory_builder.pixels.averaging import Domain, in_one_pass, mean_of_window, nested_means

ODD = st.integers(0, 6).map(lambda half: 2 * half + 1)


def stacks(dtype=np.uint8, n_frames=ODD):
    shape = st.tuples(n_frames, st.integers(1, 5), st.integers(1, 5), st.just(3))
    return shape.flatmap(lambda shape: hnp.arrays(dtype, shape))


def plain_mean(frames):
    """The witness: float64 mean, rounded to nearest."""
    return np.rint(np.mean(np.stack(frames).astype(np.float64), axis=0)).astype(frames[0].dtype)


def gamma_mean(frames):
    light = np.mean((np.stack(frames) / 255.0) ** 2.2, axis=0)
    return np.rint(255.0 * light ** (1 / 2.2))


def photographs(count):
    """Frames of a photograph that drifts by a pixel a frame, so that sums are not all alike."""
    photo = data.chelsea()[:96]
    return [np.ascontiguousarray(photo[:, shift : shift + 128]) for shift in range(count)]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_mean_equals_the_rounded_float64_mean(dtype):
    @given(stacks(dtype))
    def holds(stack):
        assert np.array_equal(mean_of_window(list(stack)), plain_mean(stack))

    holds()


@given(stacks(n_frames=st.just(13)))
def test_every_nested_window_has_its_own_mean(stack):
    means = nested_means(list(stack), (5, 7, 9, 11, 13))
    for n, mean in means.items():
        first = 6 - n // 2
        assert np.array_equal(mean, plain_mean(stack[first : first + n]))


@pytest.mark.parametrize("n_frames", [3, 5, 7, 9, 11, 13, 15, 101, 255, 257])
def test_every_possible_sum_is_divided_exactly(n_frames):
    sums = np.arange(255 * n_frames + 1)
    whole, rest = np.divmod(sums, n_frames)
    frames = [np.minimum(whole + (k < rest), 255).astype(np.uint8) for k in range(n_frames)]
    assert np.array_equal(np.sum(frames, axis=0, dtype=np.int64), sums)
    nearest = (2 * sums + n_frames) // (2 * n_frames)  # n is odd: there is no tie
    assert np.array_equal(mean_of_window([f[None] for f in frames])[0], nearest)
    (streamed,) = in_one_pass(enumerate(frames), [(n_frames // 2, (n_frames,))])
    assert np.array_equal(streamed.pixels, nearest)


@pytest.mark.parametrize(("dtype", "peak"), [(np.uint8, 255), (np.uint16, 65535)])
@pytest.mark.parametrize("n_frames", [257, 259, 1001])
def test_many_white_frames_stay_white(dtype, peak, n_frames):
    white = np.full((2, 3, 3), peak, dtype)
    assert (mean_of_window([white] * n_frames) == peak).all()


@pytest.mark.parametrize("domain", get_args(Domain))
@pytest.mark.parametrize("n_frames", [1, 3, 7, 11, 13, 99, 301])
def test_mean_of_equal_frames_is_that_frame(domain, n_frames):
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(mean_of_window([levels] * n_frames, domain), levels)


@given(stacks())
def test_gamma_mean_is_within_one_level_of_float64(stack):
    found = mean_of_window(list(stack), "gamma2.2")
    assert np.abs(found - gamma_mean(stack)).max() <= 1


def test_gamma_mean_of_a_photograph_is_nearly_always_exact():
    frames = photographs(11)
    found = mean_of_window(frames, "gamma2.2")
    assert np.mean(found != gamma_mean(frames)) < 1e-3


def test_gamma_mean_is_brighter_than_the_plain_one():
    frames = photographs(11)
    assert mean_of_window(frames, "gamma2.2").mean() > mean_of_window(frames).mean() + 0.1


@pytest.mark.parametrize("domain", get_args(Domain))
def test_order_of_frames_does_not_change_a_bit(domain):
    @given(stacks(), st.randoms(use_true_random=False))
    def holds(stack, draw):
        shuffled = list(stack)
        draw.shuffle(shuffled)
        expected = mean_of_window(list(stack), domain)
        assert np.array_equal(mean_of_window(shuffled, domain), expected)

    holds()


def test_frames_are_left_as_they_were():
    frames = photographs(5)
    copies = [frame.copy() for frame in frames]
    nested_means(frames, (1, 3, 5))[1][:] = 0
    assert all(np.array_equal(*pair) for pair in zip(frames, copies, strict=True))


def test_frames_with_strides_give_the_same_mean():
    frames = [frame[:, ::-1, ::-1] for frame in photographs(5)]
    for domain in get_args(Domain):
        expected = mean_of_window([np.ascontiguousarray(f) for f in frames], domain)
        assert np.array_equal(mean_of_window(frames, domain), expected)


def test_number_of_opencv_threads_does_not_change_a_bit():
    frames, before = photographs(7), cv2.getNumThreads()
    try:
        found = []
        for threads in (1, 4):
            cv2.setNumThreads(threads)
            found.append([mean_of_window(frames, domain) for domain in get_args(Domain)])
    finally:
        cv2.setNumThreads(before)
    assert np.array_equal(found[0], found[1])


@pytest.mark.parametrize(
    ("length", "wanted"), [(4, (3,)), (5, (4,)), (5, (7,)), (5, ()), (5, (0,))]
)
def test_window_that_does_not_nest_is_refused(length, wanted):
    with pytest.raises(ValueError, match=r"nest|odd"):
        nested_means(photographs(length), wanted)


def test_frames_of_two_sizes_are_refused():
    frames = photographs(3)
    with pytest.raises(ValueError, match="the others are"):
        mean_of_window([frames[0], frames[1], frames[2][:1, :1]])


def test_frames_of_two_depths_are_refused():
    with pytest.raises(ValueError, match="the others are"):
        mean_of_window([np.full((2, 2, 3), 9, dtype) for dtype in (np.uint16, np.uint8, np.uint8)])


@pytest.mark.parametrize(("dtype", "domain"), [(np.float32, "srgb"), (np.uint16, "gamma2.2")])
def test_pixels_that_have_no_exact_mean_are_refused(dtype, domain):
    with pytest.raises(ValueError, match="cannot be averaged"):
        mean_of_window([np.zeros((2, 2, 3), dtype)] * 3, domain)


TRAJECTORIES = st.lists(
    st.tuples(st.integers(-3, 20), st.lists(ODD, min_size=1, max_size=4)), max_size=8
)


@pytest.mark.parametrize("domain", get_args(Domain))
def test_one_pass_equals_every_window_on_its_own(domain):
    @given(
        stacks(n_frames=st.integers(0, 18)), TRAJECTORIES, st.sets(st.integers(0, 17)), st.data()
    )
    @settings(max_examples=150, deadline=None)
    def holds(stack, trajectories, bad, draw):
        """Bad frames are told as None or not at all; exactly their windows are absent."""
        frames = {rank: frame for rank, frame in enumerate(stack) if rank not in bad}
        told = sorted(set(frames) | draw.draw(st.sets(st.sampled_from(sorted(bad) or [99]))))
        stream = [(rank, frames.get(rank)) for rank in told]
        expected = {}
        for number, (center, wanted) in enumerate(trajectories):
            for n in set(wanted):
                window = range(center - n // 2, center + n // 2 + 1)
                if all(rank in frames for rank in window):
                    mean = mean_of_window([frames[rank] for rank in window], domain)
                    expected.setdefault((center, n), []).append((number, mean))
        found = {}
        for center, n, mean in in_one_pass(stream, trajectories, domain):
            found.setdefault((center, n), []).append(mean)
        assert {key: len(means) for key, means in found.items()} == {
            key: len(means) for key, means in expected.items()
        }
        assert all(
            np.array_equal(mean, expected[key][0][1]) for key in found for mean in found[key]
        )

    holds()


def test_smaller_windows_outlive_a_bad_frame():
    frames = [(rank, None if rank == 8 else f) for rank, f in enumerate(photographs(11))]
    found = [
        (mean.center_index, mean.n_frames) for mean in in_one_pass(frames, [(5, (3, 5, 7, 11))])
    ]
    assert found == [(5, 3), (5, 5)]


def test_window_comes_out_with_its_last_frame():
    def stream():
        for rank, frame in enumerate(photographs(9)):
            seen.append(rank)
            yield rank, frame

    seen = []
    for mean in in_one_pass(stream(), [(4, (1, 3, 5))]):
        assert seen[-1] == mean.center_index + mean.n_frames // 2


def test_frames_behind_every_open_window_are_let_go():
    class Tracked(np.ndarray):
        pass

    def stream():
        for rank in range(200):
            frame = np.zeros((2, 2, 3), np.uint8).view(Tracked)
            told.append(weakref.ref(frame))
            yield rank, frame
            del frame
            alive.append(sum(frame() is not None for frame in told))

    told, alive = [], []
    trajectories = [(center, (3, 7, 13)) for center in range(6, 190)]
    assert sum(1 for _ in in_one_pass(stream(), trajectories)) == 3 * len(trajectories)
    assert max(alive) <= 13


@pytest.mark.parametrize("ranks", [(0, 0), (3, 2)])
def test_ranks_that_do_not_ascend_are_refused(ranks):
    frames = zip(ranks, photographs(2), strict=True)
    with pytest.raises(ValueError, match="came after"):
        list(in_one_pass(frames, [(1, (3,))]))
