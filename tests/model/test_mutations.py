"""The list of `tests/mutations.py` fits the code; running it takes minutes, so CI does at night."""

import mutations
import pytest

FAULTS = [(file, fault) for file, of_file in mutations.MUTATIONS.items() for fault in of_file]


@pytest.mark.parametrize(
    ("file", "mutation"), FAULTS, ids=[f"{file}: {fault.fault}" for file, fault in FAULTS]
)
def test_a_mutation_replaces_one_place_and_names_tests_that_exist(file, mutation):
    text = (mutations.ROOT / "fidediff_model" / file).read_text()
    assert text.count(mutation.before) == 1
    assert mutation.after != mutation.before
    tests = (mutations.ROOT / "tests/model" / mutation.test_file).read_text()
    assert mutation.tests in tests
