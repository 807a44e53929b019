"""What `check` looks at, each part by itself. A part never raises: what it finds wrong is a finding."""

from rankr_sync.cli.checks.finding import OK, PROBLEM, WARNING, Finding, of_error

__all__ = ["OK", "PROBLEM", "WARNING", "Finding", "of_error"]
