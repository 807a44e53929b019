"""The SQL cookbook is true: every question is answered, alike on both databases, and as the account would answer it."""

import re
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from mirror import LOCATION, account, backfill, configuration, poll, query
from rankr_sync.sandbox import Sandbox
from rankr_sync.store import SqlStore
from rankr_sync.store.copy import copy_store

PAGE = (Path(__file__).parents[1] / "docs" / "sql-cookbook.md").read_text(encoding="utf-8")


def questions() -> dict[str, dict[str, str]]:
    """Each question with its query for each database."""
    found: dict[str, dict[str, str]] = {}
    for part in PAGE.split("\n### ")[1:]:
        blocks = dict(re.findall(r"^```(\w+)\n(.*?)^```$", part, flags=re.MULTILINE | re.DOTALL))
        both = {"sqlite": blocks["sql"], "postgresql": blocks["sql"]} if "sql" in blocks else blocks
        found[part.partition("\n")[0]] = both
    return found


QUESTIONS = questions()


@dataclass(frozen=True)
class Mirror:
    """An account in which everything has happened that is asked for, and its complete copy in SQLite."""

    sandbox: Sandbox
    url: str
    deleted: frozenset[str]


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Mirror:
    """The account of the examples, copied, changed, and copied again."""
    url = f"sqlite:///{tmp_path_factory.mktemp('cookbook') / 'rankr.db'}"
    sandbox = account(40)
    config = configuration(url)
    now = datetime.now(UTC)
    days = lambda number: (now + timedelta(days=number)).isoformat()  # noqa: E731
    born = f"1980-{now.month:02d}-05"
    jane = sandbox.create_contact(firstName="Jane", email="jane@example.com", phone="+12025550143", dateOfBirth=born)
    twin = sandbox.create_contact(firstName="Jane", email="Jane@Example.com", phone="+12025550143", dnd=True)
    sandbox.create_note(jane["id"], title="Call", body="<p>Wants a <b>Quote</b></p>")
    sandbox.create_task(jane["id"], title="Send it", dueDate=days(-2), completed=False)
    for contact, status, day in ((jane, "confirmed", 2), (twin, "noshow", -20), (twin, "showed", -30)):
        sandbox.create_appointment(
            contact["id"],
            appointmentStatus=status,
            startTime=days(day),
            endTime=days(day + 0.02),
            calendarId=next(iter(sandbox.truth()["appointments"].values()))["calendarId"],
            title="Demo",
        )
    backfill(sandbox, config)
    truth = sandbox.truth()
    gone = sorted(set(truth["contacts"]) - {jane["id"], twin["id"]})[0]
    note = sorted(id_ for id_, note in truth["notes"].items() if note["contactId"] not in (gone, jane["id"]))[0]
    sandbox.delete_note(note)
    sandbox.delete_contact(gone)
    children = {
        id_
        for stream in ("tasks", "notes", "appointments")
        for id_, record in truth[stream].items()
        if record["contactId"] == gone
    }
    backfill(sandbox, config)
    poll(sandbox, config)
    return Mirror(sandbox, url, frozenset({gone, note, *children}))


def answer(url: str, database: str, question: str) -> list[dict[str, Any]]:
    """The rows of an answer, with times, numbers and truths as both databases would say them."""
    return [{name: _plain(value) for name, value in row.items()} for row in query(url, QUESTIONS[question][database])]


def _plain(value: Any) -> Any:
    match value:
        case datetime():
            return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
        case date():
            return value.isoformat()
        case Decimal() | float() | int():
            return round(float(value), 6)
    return value


def test_there_are_twenty_questions() -> None:
    """Each has one query for both databases, or one for each."""
    assert len(QUESTIONS) >= 20
    assert all(set(queries) == {"sqlite", "postgresql"} for queries in QUESTIONS.values())
    assert PAGE.count("\n```") == 2 * sum(len(set(queries.values())) for queries in QUESTIONS.values())


@pytest.mark.parametrize("question", QUESTIONS)
def test_every_question_has_an_answer(mirror: Mirror, question: str) -> None:
    """On an account in which all of it has happened, no answer is empty, and no column is empty throughout."""
    found = answer(mirror.url, "sqlite", question)
    assert found
    empty = [name for name in found[0] if all(row[name] is None for row in found)]
    assert set(empty) <= {"daily_remaining"}  # an account without limits tells none


def test_postgresql_gives_the_same_answers(mirror: Mirror, postgres_url: str) -> None:
    """Every question is answered alike on both databases, row for row."""
    with closing(SqlStore(mirror.url)) as source, closing(SqlStore(postgres_url)) as target:
        target.upgrade()
        list(copy_store(source, target, datetime.now(UTC)))
        target.make_views({}, datetime.now(UTC))
    for question in QUESTIONS:
        one, other = answer(mirror.url, "sqlite", question), answer(postgres_url, "postgresql", question)
        assert Counter(map(repr, one)) == Counter(map(repr, other)), question


def test_the_answers_are_those_of_the_account(mirror: Mirror) -> None:
    """What the account itself holds gives the same numbers."""
    truth = mirror.sandbox.truth(LOCATION)
    now = datetime.now(UTC)
    open_tasks = [task for task in truth["tasks"].values() if not task["completed"]]
    overdue = [task for task in open_tasks if datetime.fromisoformat(task["dueDate"]) < now]
    busy = {task["contactId"] for task in open_tasks}
    tags = Counter(tag for contact in truth["contacts"].values() for tag in contact["tags"])
    noted = {id_ for id_, note in truth["notes"].items() if "quote" in note["body"].lower()}

    def asked(question: str) -> list[dict[str, Any]]:
        return answer(mirror.url, "sqlite", question)

    assert {row["id"] for row in asked("Which contacts have no open task?")} == truth["contacts"].keys() - busy
    assert sum(row["overdue"] for row in asked("How many tasks are overdue, and whose are they?")) == len(overdue)
    assert len(asked("Which overdue tasks are they, with the person to call?")) == len(overdue)
    assert sum(row["open_tasks"] for row in asked("How much is on each person's desk?")) == len(open_tasks)
    assert {row["tag"]: row["contacts"] for row in asked("How many contacts has each tag?")} == tags
    assert len(asked("In which notes does a word occur?")) == len(noted)
    assert {row["id"] for row in asked("What was deleted?")} == mirror.deleted
    twins = asked("Who is there twice, by e-mail address?")
    assert [(row["address"], row["contacts"]) for row in twins] == [("jane@example.com", 2)]
    assert ("+12025550143", 2) in [
        (row["phone"], row["contacts"]) for row in asked("Who is there twice, by phone number?")
    ]
    assert {row["kind"] for row in asked("Everything about one person, in order of time")} == {
        "task",
        "note",
        "appointment",
    }
    channels = asked("What is in the pipeline, by a custom field?")
    assert sum(row["contacts"] for row in channels) == sum(
        any(field["value"] in ("Phone", "E-mail", "SMS", "WhatsApp") for field in _fields(contact))
        for contact in truth["contacts"].values()
    )


def _fields(contact: dict[str, Any]) -> list[dict[str, Any]]:
    return [field for field in contact.get("customFields", []) if isinstance(field["value"], str)]
