"""What disturbed builds came to: a row for each kind of blow, runs joined, the committed table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kill_fuzz import Trial

KILLS = ("group", "parent", "worker", "fault")
SIGNALS = ("term-group", "term-parent", "int-group", "int-parent")


def summary(trials: list[Trial]) -> Iterator[dict[str, Any]]:
    """One row for each kind of blow."""
    for kind in (*KILLS, *SIGNALS):
        same = [trial for trial in trials if trial.kind == kind]
        met = [trial for trial in same if trial.met]
        if not same:
            continue
        exits = Counter(trial.first_exit for trial in met)
        yield {
            "kind": kind,
            "blows": len(same),
            "met a running build": len(met),
            "first exit codes": {str(code): n for code, n in sorted(exits.items())},
            "temporary files met": sum(trial.temporaries_met for trial in same),
            "slowest end, s": max((trial.seconds_to_end for trial in met), default=0.0),
            "went wrong": sum(bool(trial.wrong) for trial in same),
        }


def joined(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Two runs' reports as one."""
    kinds = {row["kind"]: row for row in one["kinds"]}
    for row in other["kinds"]:
        old = kinds.get(row["kind"], row)
        if old is not row:
            exits = Counter(old["first exit codes"]) + Counter(row["first exit codes"])
            summed = {key: old[key] + row[key] for key in row if isinstance(row[key], int)}
            slowest = max(old["slowest end, s"], row["slowest end, s"])
            row = {**row, **summed, "first exit codes": dict(exits), "slowest end, s": slowest}
        kinds[row["kind"]] = row
    return {
        **other,
        "seconds": round(one["seconds"] + other["seconds"], 1),
        "seeds": one["seeds"] + other["seeds"],
        "kinds": [kinds[kind] for kind in (*KILLS, *SIGNALS) if kind in kinds],
        "wrong": one["wrong"] + other["wrong"],
    }


def markdown(report: dict[str, Any]) -> str:
    """The committed table."""
    heads = list(report["kinds"][0])
    rows = ["| " + " | ".join(_cell(row[head]) for head in heads) + " |" for row in report["kinds"]]
    total = sum(row["blows"] for row in report["kinds"])
    lines = [
        "# Kill-fuzz",
        "",
        f"{total} builds disturbed once each, {len(report['wrong'])} of them wrong afterwards;"
        f" {report['machine']}, {report['seconds']} s; {report['files_in_quiet_build']} files a"
        f" build; seeds {', '.join(str(seed) for seed in report['seeds'])}. Made by"
        " `benchmarks/kill_fuzz.py`, which says what is demanded.",
        "",
        "| " + " | ".join(heads) + " |",
        "|" + "---|" * len(heads),
        *rows,
        "",
    ]
    lines += [f"- {trial['kind']} {trial['detail']}: {trial['wrong']}" for trial in report["wrong"]]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{code}: {n}" for code, n in value.items())
    return str(value)
