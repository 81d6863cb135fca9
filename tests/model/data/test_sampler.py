"""The order of draws is a function of seed, epoch and position."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fidediff_model.data.sampler import TrajectorySampler, epoch_order


def _first(count, size=7, **settings):
    return list(itertools.islice(TrajectorySampler(size, **settings), count))


@given(size=st.integers(1, 50), epoch=st.integers(0, 5), seed=st.integers(0, 2**40))
def test_each_epoch_takes_every_trajectory_once(size, epoch, seed):
    assert sorted(epoch_order(size, seed=seed, epoch=epoch)) == list(range(size))


def test_epochs_differ_in_their_order():
    orders = {tuple(epoch_order(20, seed=0, epoch=epoch)) for epoch in range(5)}
    assert len(orders) == 5


def test_seeds_differ_in_their_order():
    assert _first(20, size=20, seed=1) != _first(20, size=20, seed=2)


def test_epoch_of_a_draw_counts_whole_passes():
    assert [draw.epoch for draw in _first(15)] == [0] * 7 + [1] * 7 + [2]


@given(offset=st.integers(0, 40))
def test_resuming_at_a_position_goes_on_with_the_same_draws(offset):
    assert _first(10, offset=offset) == _first(offset + 10)[offset:]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_together_take_what_one_would(world_size):
    by_rank = [
        _first(24 // world_size, rank=rank, world_size=world_size) for rank in range(world_size)
    ]
    assert [draw for turn in zip(*by_rank, strict=True) for draw in turn] == _first(24)


def test_count_ends_the_order():
    assert len(list(TrajectorySampler(7, count=17))) == 17


@pytest.mark.parametrize("wrong", [{"size": 0}, {"size": 3, "offset": -1}, {"size": 3, "rank": 1}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError, match="world_size"):
        TrajectorySampler(**wrong)
