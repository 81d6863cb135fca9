"""What `verify` reports."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from trajectory_builder.errors import ExitCode

BUILD_AGAIN = "run the command that built it again; it restores just what is missing"


@dataclass(frozen=True)
class Finding:
    """One thing that is not as the manifest says.

    Attributes:
        reason: a short fixed word, e.g. `file-missing`.
        what: the sentence for a person.
        file: relative to the data set's folder.
        cure: what to do.
    """

    reason: str
    what: str
    file: str = ""
    cure: str = BUILD_AGAIN


@dataclass(frozen=True)
class VerifyReport:
    """What `verify` looked at and what it found.

    Attributes:
        problems: rows of problems.parquet: what the build could not make, and said so.
        rebuilt: blurs that level `deep` rendered again; the others were taken over as they are.
    """

    folder: Path
    level: str
    rows: int
    files: int
    findings: tuple[Finding, ...]
    problems: int = 0
    rebuilt: int = 0

    @property
    def exit_code(self) -> ExitCode:
        """Done, or problems found."""
        return ExitCode.PROBLEMS_FOUND if self.findings else ExitCode.DONE

    def as_data(self) -> dict[str, object]:
        """Plain values for `--json`."""
        return {
            "folder": str(self.folder),
            "level": self.level,
            "rows": self.rows,
            "files": self.files,
            "problems": self.problems,
            "rebuilt": self.rebuilt,
            "findings": [asdict(finding) for finding in self.findings],
        }
