"""Nothing the program writes holds a token, and no log holds a contact's details: also when everything goes wrong."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mirror import LOCATION
from rankr_sync.sandbox import DEFAULT_TOKEN, Sandbox, SandboxOptions, running

PERSONAL = {
    "contacts": ("email", "phone", "address1", "postalCode", "dateOfBirth", "website"),
    "notes": ("body", "bodyText"),
    "tasks": ("title", "body"),
    "appointments": ("title", "notes", "address"),
}
WRONG = "pit-wrong-and-secret"


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, Sandbox]]:
    """An account on a port, with faults."""
    with running(Sandbox(SandboxOptions(contacts=40, rate_limit=None, fault_rate=0.03))) as (base_url, sandbox):
        yield base_url, sandbox


@pytest.mark.process
@pytest.mark.parametrize("form", ["console", "json"])
def test_nothing_written_holds_the_token_and_no_log_a_contacts_details(
    served: tuple[str, Sandbox], tmp_path: Path, form: str
) -> None:
    """Faults, wrong tokens, tracebacks, `check` and `status --json`, at debug level: no secret, no one."""
    base_url, sandbox = served
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PYTHONPATH": str(Path(__file__).parents[1] / "src"),
        "RANKR_SYNC_API__BASE_URL": base_url,
        "RANKR_SYNC_API__TOKEN": DEFAULT_TOKEN,
        "RANKR_SYNC_API__RATE_LIMIT": "none",
        "RANKR_SYNC_LOCATIONS": LOCATION,
        "RANKR_SYNC_DATABASE__URL": f"sqlite:///{tmp_path / 'rankr.db'}",
        "RANKR_SYNC_LOG__FORMAT": form,
        "RANKR_SYNC_LOG__LEVEL": "debug",
        "RANKR_SYNC_API__RETRY_FOR": "20s",
    }
    wrong = {"RANKR_SYNC_API__TOKEN": WRONG, "RANKR_SYNC_API__ATTEMPTS": "1"}
    nowhere = {"RANKR_SYNC_API__BASE_URL": "http://127.0.0.1:1", "RANKR_SYNC_API__ATTEMPTS": "1"}
    said = [
        _said(["backfill"], env, tmp_path),
        _said(["backfill", "--debug"], env | wrong, tmp_path),
        _said(["backfill", "--debug"], env | nowhere, tmp_path),
        _said(["check"], env, tmp_path),
        _said(["check", "--debug"], env | wrong, tmp_path),
        _said(["status", "--json"], env, tmp_path),
        _said(["status"], env, tmp_path),
    ]
    everything = "".join(out + err for out, err in said).encode()
    for file in tmp_path.rglob("*"):
        everything += file.read_bytes() if file.is_file() else b""
    assert len(everything) > 50_000
    assert b"run.finished" in everything, said[0][1][-600:]
    for token in (DEFAULT_TOKEN, WRONG):
        assert token.encode() not in everything
    logs = "".join(err for _, err in said)
    details = {detail for detail in _details(sandbox) if len(detail) > 5}
    assert len(details) > 150
    assert [detail for detail in details if detail in logs] == []


def _details(sandbox: Sandbox) -> Iterator[str]:
    """What is known of people, and what was written about them."""
    truth = sandbox.truth(LOCATION)
    for contact in truth["contacts"].values():
        yield " ".join(filter(None, (contact.get("firstName"), contact.get("lastName"))))
    for stream, keys in PERSONAL.items():
        for record in truth[stream].values():
            yield from (record[key] for key in keys if isinstance(record.get(key), str))


def _said(words: list[str], env: dict[str, str], folder: Path) -> tuple[str, str]:
    command = [sys.executable, "-m", "rankr_sync", *words]
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout, done.stderr
