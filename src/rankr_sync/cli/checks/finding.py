"""One line of `check`: how it is, what it is about, and what to do."""

from dataclasses import dataclass

from rankr_sync.errors import RankrSyncError

OK, WARNING, PROBLEM = "ok", "warning", "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line. `problem`: a sync would stop there; `exit_code` is then what the command ends with."""

    verdict: str
    subject: str
    words: str
    hint: str | None = None
    location: str | None = None
    exit_code: int = 0


def of_error(error: RankrSyncError, subject: str, *, location: str | None = None) -> Finding:
    """The problem that an error tells of."""
    return Finding(PROBLEM, subject, str(error), error.hint, location, error.exit_code)
