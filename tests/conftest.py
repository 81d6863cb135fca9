"""The tests' closing report: facts of the house, where its tests were among those that ran."""

import house_facts
import pytest
import unprivileged


@pytest.fixture
def permissions_hold():
    """Permission bits count for this test and its processes, for root as well."""
    with unprivileged.permissions_hold():
        yield


def pytest_terminal_summary(terminalreporter):
    """Print sizes, types and documentation, to be read; nothing here fails."""
    ran = terminalreporter.stats.get("passed", []) + terminalreporter.stats.get("failed", [])
    if any(report.nodeid.startswith("tests/test_architecture.py") for report in ran):
        terminalreporter.section("house facts")
        for line in house_facts.report():
            terminalreporter.write_line(line)
