import io

import numpy as np
import pytest
from footage_maker import texture
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from trajectory_builder.pixels import camera, hand_motion
from trajectory_builder.pixels.hand_motion import HandMotion

HEIGHT, WIDTH, SLICES = 60, 90, 13
SETTINGS = HandMotion(slices=SLICES)
MARGIN = SETTINGS.margin
PHOTO = texture(HEIGHT + 2 * MARGIN, WIDTH + 2 * MARGIN)
POINTS = np.array([[0, 0], [HEIGHT // 2, WIDTH // 2], [HEIGHT - 1, WIDTH - 1], [7, 60]])


def path_of(seed, **changes):
    random = camera.generator(seed, "photo/path000", "path")
    return hand_motion.camera_path(HandMotion(slices=SLICES, **changes), HEIGHT, WIDTH, random)


def kernels(poses, n):
    return hand_motion.kernels_at(poses, n, POINTS, HEIGHT, WIDTH)


seeds = st.integers(0, 2**32)
odd = st.sampled_from(range(1, SLICES + 1, 2))


@settings(max_examples=25, deadline=None)
@given(seeds, odd)
def test_kernels_sum_to_one(seed, n):
    assert np.abs(kernels(path_of(seed), n).sum(axis=(1, 2)) - 1).max() < 1e-12


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_kernel_of_one_slice_is_the_identity(seed):
    delta = np.zeros((hand_motion.KERNEL_SIZE, hand_motion.KERNEL_SIZE))
    delta[hand_motion.KERNEL_SIZE // 2, hand_motion.KERNEL_SIZE // 2] = 1
    assert (kernels(path_of(seed), 1) == delta).all()


@settings(max_examples=25, deadline=None)
@given(seeds, odd.filter(lambda n: n >= 3))
def test_nested_mean_identity_holds(seed, n):
    poses = path_of(seed)
    middle = SLICES // 2
    outer = 0
    for index in (middle - n // 2, middle + n // 2):
        alone = np.repeat(poses[index][None], 1, axis=0)
        outer = outer + hand_motion.kernels_at(alone, 1, POINTS, HEIGHT, WIDTH)
    nested = ((n - 2) * kernels(poses, n - 2) + outer) / n
    assert np.abs(kernels(poses, n) - nested).max() < 1e-6


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_no_slice_reaches_farther_than_asked(seed):
    y, x = np.arange(HEIGHT)[:, None], np.arange(WIDTH)[None]
    reach = [
        np.hypot(*hand_motion.offsets(pose, y, x, HEIGHT, WIDTH)).max() for pose in path_of(seed)
    ]
    assert max(reach) <= SETTINGS.reach_px


@pytest.mark.parametrize("n", [3, 7, 13])
def test_blur_is_the_mean_of_rendered_slices(n):
    """The slices are rendered by SciPy, in float64."""
    poses = path_of(3)
    y, x = np.meshgrid(np.arange(HEIGHT), np.arange(WIDTH), indexing="ij")
    frames = []
    for pose in poses[SLICES // 2 - n // 2 : SLICES // 2 + n // 2 + 1]:
        dy, dx = hand_motion.offsets(pose, y, x, HEIGHT, WIDTH)
        at = np.stack([y + dy + MARGIN, x + dx + MARGIN])
        frames.append(
            np.stack(
                [map_coordinates(PHOTO[..., c].astype(float), at, order=1) for c in range(3)], -1
            )
        )
    true = np.mean(frames, axis=0)
    assert np.abs(hand_motion.blurs(PHOTO, poses, [n], MARGIN)[n] - true).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("n", [3, 7, 13])
def test_blur_is_the_photograph_under_its_true_kernels(n):
    poses = path_of(4)
    blur = hand_motion.blurs(PHOTO, poses, [n], MARGIN)[n]
    half = hand_motion.KERNEL_SIZE // 2
    for (y, x), kernel in zip(POINTS, kernels(poses, n), strict=True):
        patch = PHOTO[
            y + MARGIN - half : y + MARGIN + half + 1, x + MARGIN - half : x + MARGIN + half + 1
        ]
        value = (patch * kernel[..., None]).sum(axis=(0, 1))
        assert np.abs(blur[y, x] - value).max() <= 0.5 + 1e-3


def test_sharp_point_is_the_photograph():
    inside = PHOTO[MARGIN:-MARGIN, MARGIN:-MARGIN]
    assert (hand_motion.blurs(PHOTO, path_of(5), [1], MARGIN)[1] == inside).all()


def test_turning_makes_kernels_vary_over_the_picture():
    turned = kernels(path_of(6), 13)
    straight = kernels(path_of(6, rotation=False), 13)
    assert np.abs(turned[0] - turned[2]).max() > 0.02
    assert np.abs(straight[0] - straight[2]).max() < 1e-12


def test_camera_has_inertia():
    """Neighbouring steps of the way point alike, which a random walk's do not."""
    agreements = []
    for seed in range(40):
        steps = np.diff(path_of(seed)[:, 1:], axis=0)
        lengths = np.linalg.norm(steps, axis=1) + 1e-9
        agreements.append(
            ((steps[1:] * steps[:-1]).sum(axis=1) / (lengths[1:] * lengths[:-1])).mean()
        )
    assert np.mean(agreements) > 0.4


def test_paths_differ_in_reach():
    corners = [np.abs(path_of(seed)[:, 1:]).max() for seed in range(30)]
    assert max(corners) > 1.5 * min(corners)


def test_path_hangs_on_the_seed_alone():
    assert (path_of(9) == path_of(9)).all()
    assert (path_of(9) != path_of(10)).any()


def test_kernel_file_is_the_same_every_time():
    made = [hand_motion.kernel_file(path_of(1), [3, 13], HEIGHT, WIDTH) for _ in range(2)]
    assert made[0] == made[1]


def test_kernel_file_holds_the_true_kernels():
    poses = path_of(1)
    stored = np.load(io.BytesIO(hand_motion.kernel_file(poses, [3, 13], HEIGHT, WIDTH)))
    assert stored["kernels"].shape == (2, 2, 3, 19, 19)
    again = hand_motion.kernels_at(stored["poses"], 13, np.array([[32, 64]]), HEIGHT, WIDTH)
    assert np.abs(stored["kernels"][1, 1, 2] - again[0]).max() < 1e-6


def test_kernels_too_small_for_the_way_are_refused():
    with pytest.raises(ValueError, match="farther than 1"):
        hand_motion.kernels_at(path_of(1), 13, POINTS, HEIGHT, WIDTH, size=3)


@settings(max_examples=15, deadline=None)
@given(seeds, st.sampled_from([(2.0, 4.0), (12.0, 18.0), (40.0, 60.0)]))
def test_longest_kernel_has_the_strength_asked_for(seed, blur_px):
    y, x = np.arange(HEIGHT)[:, None], np.arange(WIDTH)[None]
    poses = path_of(seed, blur_px=blur_px)
    reach = max(np.hypot(*hand_motion.offsets(p, y, x, HEIGHT, WIDTH)).max() for p in poses)
    assert blur_px[0] / 2 - 0.1 <= reach <= blur_px[1] / 2


def test_kernels_grow_with_the_strength():
    strong = HandMotion(slices=SLICES, blur_px=(40, 60))
    assert (HandMotion(slices=SLICES).kernel_size, strong.kernel_size) == (19, 61)
    poses = path_of(1, blur_px=(40, 60))
    file = hand_motion.kernel_file(poses, [SLICES], HEIGHT, WIDTH, strong.kernel_size)
    kernels = np.load(io.BytesIO(file))["kernels"]
    assert kernels.shape[-1] == 61
    assert np.allclose(kernels.sum((-1, -2)), 1)
