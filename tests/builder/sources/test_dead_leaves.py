"""Scenes without photographs: what the seed decides, and what the dead-leaves model promises."""

import hashlib

import numpy as np
import pytest

from trajectory_builder.sources import dead_leaves
from trajectory_builder.sources.dead_leaves import draw_scene


def test_the_same_seed_gives_the_same_bytes():
    first, again = (draw_scene(7, 64, 96) for _ in range(2))
    assert first.shape == (64, 96, 3)
    assert first.dtype == np.uint8
    assert first.tobytes() == again.tobytes()


def test_scenes_do_not_depend_on_what_was_drawn_before():
    alone = draw_scene(3, 48, 48)
    draw_scene(2, 48, 48)
    np.random.default_rng(0).random(1000)
    assert draw_scene(3, 48, 48).tobytes() == alone.tobytes()


def test_neighbouring_seeds_give_other_scenes():
    digests = {hashlib.sha256(draw_scene(seed, 32, 32).tobytes()).digest() for seed in range(20)}
    assert len(digests) == 20


@pytest.mark.parametrize("exponent", [1.8, 3.0])
def test_radii_follow_the_power_law(exponent):
    random = np.random.default_rng(0)
    sizes = dead_leaves.radii(200_000, 2.0, 200.0, exponent, random)
    assert sizes.min() >= 2.0
    assert sizes.max() <= 200.0
    edges = np.geomspace(2, 100, 9)
    counts, _ = np.histogram(sizes, edges)
    density = counts / np.diff(edges)
    slope = np.polyfit(np.log(np.sqrt(edges[1:] * edges[:-1])), np.log(density), 1)[0]
    assert slope == pytest.approx(-exponent, abs=0.1)


def test_palettes_differ_between_scenes_and_stay_in_range():
    palettes = [dead_leaves.palette(np.random.default_rng(seed)) for seed in range(30)]
    assert all(p.shape == (dead_leaves.COLOURS, 3) for p in palettes)
    assert all(p.min() >= 0 and p.max() <= 1 for p in palettes)
    means = np.array([p.mean(axis=0) for p in palettes])
    assert means.std(axis=0).min() > 0.03


def test_a_texture_has_mean_0_and_deviation_1():
    for seed in range(12):
        plane = dead_leaves.texture(80, 120, np.random.default_rng(seed))
        assert plane.shape == (80, 120)
        assert abs(float(plane.mean())) < 0.05
        assert float(plane.std()) == pytest.approx(1, abs=0.1)


def test_scenes_have_edges_at_all_sizes_and_a_share_has_a_smooth_sky():
    scenes = [draw_scene(seed, 128, 128).astype(np.float32) for seed in range(60)]
    # Mean absolute steps of the upper half, in values of 0 to 255: flat in a sky alone.
    steps = np.array([np.abs(np.diff(s[:48], axis=1)).mean() for s in scenes])
    skies = steps < 0.6
    assert 0.05 < skies.mean() < 0.4
    # Natural images: at half the size, differences of neighbours hardly shrink.
    coarse = np.array([np.abs(np.diff(s[::2, ::2], axis=1)).mean() for s in scenes])
    fine = np.array([np.abs(np.diff(s, axis=1)).mean() for s in scenes])
    assert 1.0 < np.median(coarse[~skies] / fine[~skies]) < 2.0
    assert np.median([s.std() for s in scenes]) > 20
