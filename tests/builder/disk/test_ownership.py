"""One answer to whose folder it is: equal configs go on, others are refused by name."""

import pytest

from trajectory_builder.disk.ownership import differences, refuse_other_config
from trajectory_builder.errors import ExitCode, OutputError

STORED = {"recipe": {"name": "own", "windows": {"7": [5]}}, "every": 13, "crop": None}


def test_equal_configs_differ_in_nothing():
    assert differences(STORED, dict(STORED)) == {}


def test_a_tuple_equals_the_list_that_json_made_of_it():
    assert differences({"n_frames": [5, 7]}, {"n_frames": (5, 7)}) == {}


def test_nested_keys_are_named_with_dots_in_order():
    wanted = {"recipe": {"name": "own", "windows": {"7": [3]}}, "every": 4, "crop": None}
    assert differences(STORED, wanted) == {"every": (13, 4), "recipe.windows.7": ([5], [3])}


def test_a_key_on_one_side_alone_differs_from_one_not_given():
    assert differences({}, {"seed": 3}) == {"seed": (None, 3)}


def test_another_config_is_refused_with_its_keys_values_and_5(tmp_path):
    with pytest.raises(OutputError) as caught:
        refuse_other_config(
            tmp_path, STORED, STORED | {"every": 4, "crop": 64}, file="c.json", contents="a build"
        )
    error = caught.value
    assert error.exit_code == ExitCode.OTHER_CONFIG
    assert error.what == f"{tmp_path} contains a build of another config"
    changes = "crop: not given -> 64, every: 13 -> 4"
    assert error.where == f"{tmp_path}/c.json, differing keys: {changes}"
    assert "--out" in error.cure


def test_the_same_config_is_not_refused(tmp_path):
    refuse_other_config(tmp_path, STORED, dict(STORED), file="c.json", contents="a build")
