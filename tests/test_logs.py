"""The log: one event a line, each run's lines held together by its id, and nobody's details in any."""

import asyncio
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
import structlog
from sqlalchemy import text

from mirror import account, configuration, run
from rankr_sync import logs
from rankr_sync.engine import LocationSync
from rankr_sync.errors import BadAnswer
from rankr_sync.sandbox import Sandbox
from rankr_sync.store import SqlStore

MARK = "Zyxwv"
"""What is in no word of ours."""


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """What `logs.configure` changes ends with the test."""
    root = logging.getLogger()
    handlers, level, was = root.handlers[:], root.level, structlog.get_config()
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.configure(**was)


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[[], list[dict[str, Any]]]:
    """Logging as JSON from debug up; gives the lines so far, each parsed by itself."""
    logs.configure("json", "debug")
    found: list[dict[str, Any]] = []

    def lines() -> list[dict[str, Any]]:
        found.extend(json.loads(line) for line in capsys.readouterr().err.splitlines())
        return found

    return lines


def test_the_lines_of_a_run_carry_its_id(sqlite_url: str, said: Callable[[], list[dict[str, Any]]]) -> None:
    """Requests, retries, failed visits and the canonical line: the id of the row in `sync_runs`."""
    sandbox, config = account(3), configuration(sqlite_url, api={"attempts": 2})
    sandbox.faults.next("500", "/contacts/*/notes", times=2)

    async def work(sync: LocationSync) -> None:
        await sync.backfill(["contacts", "notes"])

    run(sandbox, config, work)
    lines = said()
    with closing(SqlStore(sqlite_url)) as store, store.reading() as tx:
        found = tx.connection.execute(text("SELECT id, stream FROM sync_runs ORDER BY id"))
        runs = {row.id: row.stream for row in found}
    finished = {line["run"]: line["stream"] for line in lines if line["event"] == "run.finished"}
    assert finished == runs
    for line in lines:
        if line["event"] in ("request.retried", "visit.failed", "request.ended") and "notes" in str(line):
            assert runs[line["run"]] == "notes", line
    retried = [line for line in lines if line["event"] == "request.retried"]
    assert retried
    assert all(line["trace_id"] for line in retried)
    assert all("run" not in line for line in lines if line.get("route") == "/locations/{id}")


def test_an_error_of_the_api_carries_its_trace_id(sqlite_url: str, said: Callable[[], list[dict[str, Any]]]) -> None:
    """HighLevel's support asks for it: it is in the error's words and in the run's line."""
    sandbox, config = account(3), configuration(sqlite_url, api={"attempts": 1})
    with pytest.raises(BadAnswer, match="traceId") as caught:
        run(sandbox, config, _failing(sandbox))
    (line,) = (line for line in said() if line["event"] == "run.finished")
    assert line["trace_id"] == caught.value.trace_id
    assert line["status"] == "failed"


def _failing(sandbox: Sandbox) -> Callable[[LocationSync], Any]:
    async def work(sync: LocationSync) -> None:
        sandbox.faults.next("500", times=1)
        await sync.full_pass("contacts", "backfill")

    return work


def test_a_traceback_shows_places_and_our_words_only(said: Callable[[], list[dict[str, Any]]]) -> None:
    """Of an error of others the kind; causes and groups are followed; all of it is one line of JSON."""
    try:
        try:
            raise ExceptionGroup(MARK, [ValueError(MARK), BadAnswer("the answer is odd", trace_id="t1")])
        except ExceptionGroup as group:
            raise RuntimeError(MARK) from group
    except RuntimeError:
        structlog.get_logger().exception("job.crashed", job=object())
        logging.getLogger("uvicorn.error").exception("Exception in ASGI application\n")
        logging.getLogger("other").warning("went wrong: %s", ValueError(MARK))
    ours, theirs, other = said()
    assert ours["level"] == "error"
    assert ours["job"] == "<object>"
    for line in (ours, theirs):
        for words in ("test_logs.py", "RuntimeError", "ExceptionGroup", "ValueError", "the answer is odd (traceId t1)"):
            assert words in line["exception"]
    assert theirs["event"].startswith("Exception in ASGI")
    assert other["event"] == "went wrong: ValueError"
    assert MARK not in json.dumps([ours, theirs, other])


def test_other_libraries_speak_from_warnings_up(said: Callable[[], list[dict[str, Any]]]) -> None:
    """One form for all lines; httpx, SQLAlchemy and uvicorn tell no requests, statements or addresses."""
    for name in ("httpx", "sqlalchemy.engine", "uvicorn.access", "aiohttp.access", "urllib3", "apprise", "asyncio"):
        logging.getLogger(name).info("GET https://example.com/secret")
        logging.getLogger(name).debug("GET https://example.com/secret")
    assert said() == []
    logging.getLogger("uvicorn.error").warning("something of theirs")
    (line,) = said()
    assert (line["event"], line["level"]) == ("something of theirs", "warning")


def test_a_task_that_nobody_awaited_does_not_show_what_it_held(said: Callable[[], list[dict[str, Any]]]) -> None:
    """Asyncio tells of it with the error's own words; ours tell the kind."""

    async def main() -> None:
        async def crash() -> None:
            raise ValueError(MARK)

        task = asyncio.create_task(crash())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        del task

    asyncio.run(main())
    (line,) = said()
    assert "never retrieved" in line["event"]
    assert "ValueError" in line["exception"]
    assert MARK not in json.dumps(line)
