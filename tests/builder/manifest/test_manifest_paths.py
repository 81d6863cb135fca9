"""The check of one path agrees with the check of a column of them."""

import pyarrow as pa
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trajectory_builder.manifest import hostile_paths, is_hostile


@settings(deadline=None)
@given(st.text(st.sampled_from("ab/.~\\:\n\x00\x7f\u00e9e\u0301C"), max_size=8))
@example("")
@example("a" * 256)
@example("a/" + "b" * 255)
@example("a/\n")
@example("caf\u0065\u0301.png")
def test_one_path_is_judged_like_a_column_of_it(path):
    assert is_hostile(path) == bool(hostile_paths(pa.table({"path": [path]}), ["path"]))
