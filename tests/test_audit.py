"""The audit: how right the mirror is, and whether walks show all there is."""

import asyncio
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from mirror import LOCATION, account, backfill, configuration, connected, differences, query, rows, run
from rankr_sync.engine import LocationSync
from rankr_sync.sandbox import Sandbox


def audited(database_url: str) -> dict[str, tuple[int, int]]:
    """Rows compared and rows out of date, by stream."""
    found = query(
        database_url, "SELECT stream, sum(rows) AS rows, sum(stale) AS stale FROM sync_audits GROUP BY stream"
    )
    return {row["stream"]: (row["rows"], row["stale"]) for row in found}


def audits(times: int, seed: int = 1) -> Callable[[LocationSync], Any]:
    """So many audits."""

    async def work(sync: LocationSync) -> None:
        chance = random.Random(seed)
        for _ in range(times):
            await sync.audit(chance)

    return work


def test_an_equal_mirror_is_found_current(database_url: str) -> None:
    """Every row that an audit reads again is as it is at the source, and nothing is written but the count."""
    sandbox, config = account(20), configuration(database_url)
    backfill(sandbox, config)
    before = {stream: rows(database_url, stream) for stream in config.streams}
    run(sandbox, config, audits(30))
    found = audited(database_url)
    assert {stream: stale for stream, (_, stale) in found.items()} == {"tasks": 0, "notes": 0, "appointments": 0}
    assert found["notes"][0] > 10
    assert {stream: rows(database_url, stream) for stream in config.streams} == before


def test_what_is_out_of_date_is_counted_and_mended(database_url: str) -> None:
    """A note that was written, changed or deleted silently counts as one row each, and is right afterwards."""
    sandbox, config = account(1), configuration(database_url)
    (contact_id,) = sandbox.truth()["contacts"]
    first, second = (sandbox.create_note(contact_id, body=f"note {n}")["id"] for n in range(2))
    backfill(sandbox, config)
    sandbox.create_note(contact_id, body="new")
    sandbox.update_note(first, body="changed")
    sandbox.delete_note(second)
    with capture_logs() as logs:
        run(sandbox, config, audits(1))
    assert audited(database_url)["notes"][1] == 3
    assert [(line["stream"], line["rows"]) for line in logs if line["event"] == "audit.differs"] == [("notes", 3)]
    assert differences(sandbox, database_url) == []


def test_an_audit_of_an_empty_location_asks_nothing(database_url: str) -> None:
    """There is nobody to draw."""
    sandbox, config = account(0), configuration(database_url)
    backfill(sandbox, config)
    before = len(sandbox.calls)
    assert run(sandbox, config, lambda sync: sync.audit(random.Random(1))) == 0
    asked = {call.path for call in list(sandbox.calls)[before:]}
    assert not any("notes" in path for path in asked)


class Forgetful(httpx.AsyncBaseTransport):
    """An account whose task search never shows some of the tasks."""

    def __init__(self, inner: httpx.AsyncBaseTransport, hidden: set[str]) -> None:
        self._inner = inner
        self._hidden = hidden

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The answer, without these tasks if it is of the search."""
        answer = await self._inner.handle_async_request(request)
        if not request.url.path.endswith("/tasks/search"):
            return answer
        payload = httpx.Response(200, content=await answer.aread()).json()
        payload["tasks"] = [task for task in payload["tasks"] if task.get("_id", task.get("id")) not in self._hidden]
        return httpx.Response(answer.status_code, json=payload, headers={"content-type": "application/json"})


async def with_forgetful(sandbox: Sandbox, config: Any, hidden: set[str], work: Any, **options: Any) -> Any:
    """Do some work against the account whose search hides these tasks."""
    async with connected(sandbox, config, **options) as app:
        app.client._transport = Forgetful(app.client._transport, hidden)
        sync = app.locations[LOCATION]
        await sync.learn()
        return await work(sync)


@pytest.fixture
def hiding(database_url: str) -> tuple[Sandbox, Any, set[str]]:
    """An account of twelve contacts with a task each, of which the search does not show two; mirrored."""
    sandbox, config = account(12), configuration(database_url)
    for contact_id in sandbox.truth()["contacts"]:
        sandbox.create_task(contact_id, title="x")
    hidden = set(sorted(sandbox.truth()["tasks"])[:2])
    asyncio.run(with_forgetful(sandbox, config, hidden, lambda sync: sync.backfill(config.streams)))
    return sandbox, config, hidden


def test_a_search_that_hides_tasks_is_found_out(hiding: tuple[Sandbox, Any, set[str]], database_url: str) -> None:
    """Audits find the tasks, walks do not show them: then tasks are read contact by contact, and all are there."""
    sandbox, config, hidden = hiding
    assert rows(database_url, "tasks").keys().isdisjoint(hidden)

    async def until_found(sync: LocationSync) -> None:
        await audits(120)(sync)
        for _ in range(5):
            await sync.full_pass("tasks", "poll")
            await sync.visit_due()

    with capture_logs() as logs:
        asyncio.run(with_forgetful(sandbox, config, hidden, until_found))
    assert [line["stream"] for line in logs if line["event"] == "walk.incomplete"] == ["tasks"]
    assert differences(sandbox, database_url) == []
    assert audited(database_url)["tasks"][1] == 2
    (status,) = query(database_url, "SELECT last_error FROM sync_status WHERE stream = 'tasks'")
    assert "does not show all there are" in status["last_error"]
    # A restart remembers it: a new task comes by a visit. The next day the search is tried again.
    visited = asyncio.run(with_forgetful(sandbox, config, hidden, _visited))
    assert "tasks" in visited
    tomorrow = {"now": lambda: datetime.now(UTC) + timedelta(hours=25)}
    visited = asyncio.run(with_forgetful(sandbox, config, hidden, _visited, **tomorrow))
    assert "tasks" not in visited


async def _visited(sync: LocationSync) -> list[str]:
    return sync.context.visited_streams()


def test_a_task_that_is_missed_once_is_no_reason(database_url: str) -> None:
    """A single record that one walk did not show is looked for at its contact, and the walk is believed again."""
    sandbox, config = account(12), configuration(database_url)
    backfill(sandbox, config)
    hidden = set(sorted(sandbox.truth()["tasks"])[:1])

    async def once(sync: LocationSync) -> list[str]:
        await sync.full_pass("tasks", "poll")
        await sync.visit_due()
        return sync.context.visited_streams()

    assert "tasks" not in asyncio.run(with_forgetful(sandbox, config, hidden, once))
    assert differences(sandbox, database_url) == []


def test_tasks_that_are_gone_do_not_make_the_search_suspect(database_url: str) -> None:
    """What a walk did not show because it was deleted speaks for the walk."""
    sandbox, config = account(12), configuration(database_url)
    for contact_id in sandbox.truth()["contacts"]:
        sandbox.create_task(contact_id, title="x")
    backfill(sandbox, config)
    for task_id in list(sandbox.truth()["tasks"]):
        sandbox.delete_task(task_id)

    async def walk(sync: LocationSync) -> list[str]:
        await sync.full_pass("tasks", "poll")
        await sync.visit_due()
        return sync.context.visited_streams()

    assert "tasks" not in run(sandbox, config, walk)
    assert differences(sandbox, database_url) == []
