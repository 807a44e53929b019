# ruff: noqa: T201 - printing is what it does
"""Breaks the product on purpose, one break at a time, and looks whether the tests notice: `make breaks`.

Each break is applied to a copy of the tree; there the tests that must notice are run, and each must fail by an
assertion, or by an error of the product's own where success is demanded. A break that goes unnoticed is a promise
that nobody keeps: write the test that does.
"""

import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIST = Path(__file__).with_name("breaks.toml")
AT_ONCE = 2
LEFT_OUT = (".*", "__pycache__", "dist", "*.db*")
BY_ASSERTION = ("assert", "AssertionError", "Failed: DID NOT RAISE", "rankr_sync.errors.")
"""How the message of a test begins that failed, rather than crashed: it may also demand that nothing is raised."""


@dataclass(frozen=True)
class Break:
    """One way to break the product."""

    name: str
    means: str
    """What it would be for whoever uses the product."""
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def apply(self, root: Path) -> None:
        """Break the tree at `root`. Raises ValueError when the text to replace is not there exactly once."""
        text = (root / self.file).read_text(encoding="utf-8")
        if text.count(self.old) != 1:
            raise ValueError(f"{self.name}: the text to replace is {text.count(self.old)} times in {self.file}")
        (root / self.file).write_text(text.replace(self.old, self.new), encoding="utf-8")

    def row(self) -> str:
        """This break in the table of docs/reliability.md."""
        tests = ", ".join(f"`{test.partition('[')[0]}`" for test in self.tests)
        return f"| {self.name} | {self.means} | {tests} |"


def breaks() -> list[Break]:
    """All of them."""
    found = tomllib.loads(LIST.read_text(encoding="utf-8"))["break"]
    return [Break(**{**one, "tests": tuple(one["tests"])}) for one in found]


def unnoticed(one: Break) -> Iterator[str]:
    """Break a copy of the tree and run the tests there: yields what is wrong with each that did not notice."""
    with tempfile.TemporaryDirectory(prefix="rankr-break-") as folder:
        copy = Path(folder, "tree")
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*LEFT_OUT))
        try:
            one.apply(copy)
        except ValueError as error:
            yield str(error)
            return
        for test in one.tests:
            report = Path(folder, "report.xml")
            report.unlink(missing_ok=True)
            command = ["-m", "pytest", "-q", "-x", "-p", "no:randomly", "-p", "no:cacheprovider", "--timeout", "300"]
            done = subprocess.run(
                [sys.executable, *command, f"--junitxml={report}", f"tests/{test}"],
                cwd=copy,
                capture_output=True,
                text=True,
                check=False,
            )
            wrong = _verdict(report)
            if wrong is not None:
                yield f"{test}: {wrong}\n{done.stdout[-1500:] if wrong != 'passed' else ''}"


def _verdict(report: Path) -> str | None:
    """None when a test failed by an assertion; else what happened."""
    if not report.exists():
        return "was not run"
    cases = list(ET.parse(report).iter("testcase"))
    if not cases or any(case.find("error") is not None for case in cases):
        return "could not be run"
    failures = [failure for case in cases if (failure := case.find("failure")) is not None]
    if not failures:
        return "passed"
    message = failures[0].get("message", "")
    return None if message.startswith(BY_ASSERTION) else f"crashed: {message[:200]}"


def main(names: list[str]) -> int:
    """Try all breaks, or those whose name holds one of these words; tell what was noticed by which test."""
    chosen = [one for one in breaks() if not names or any(name in one.name for name in names)]

    def attempt(one: Break) -> tuple[Break, list[str], float]:
        began = time.monotonic()
        return one, list(unnoticed(one)), time.monotonic() - began

    missed = 0
    with ThreadPoolExecutor(AT_ONCE) as threads:
        for one, wrong, seconds in threads.map(attempt, chosen):
            missed += bool(wrong)
            print(f"{'NOT NOTICED' if wrong else 'noticed':<12}{seconds:5.0f} s  {one.name}  ({', '.join(one.tests)})")
            for line in wrong:
                print(f"            {line}")
            sys.stdout.flush()
    print(f"{len(chosen) - missed} of {len(chosen)} breaks were noticed by every test that must")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
