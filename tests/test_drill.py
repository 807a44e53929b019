"""One task or note pulled alone, the contacts of a business, and contacts listed by what people know of them."""

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer

from mirror import LOCATION, account, backfill, calls, configuration, connected, differences, query, rows, run
from rankr_sync.cli import app as commands
from rankr_sync.cli import common
from rankr_sync.config import Config
from rankr_sync.engine import LocationSync
from rankr_sync.errors import BadAnswer, NotFound
from rankr_sync.sandbox import DEFAULT_TOKEN, Sandbox, SandboxOptions, create_app, running
from rankr_sync.streams import contacts as contact_stream

BUSINESS = "66f0a1b2c3d4e5f601234567"


def filled(database_url: str) -> tuple[Sandbox, str]:
    """An account that is copied, and a contact of it with a task and a note."""
    sandbox = account(12)
    id_ = min(sandbox.truth(LOCATION)["contacts"])
    sandbox.create_task(id_, title="Call")
    sandbox.create_note(id_, body="<p>Hello</p>")
    backfill(sandbox, configuration(database_url))
    return sandbox, id_


def alone(sandbox: Sandbox, config: Config, work: Callable[[LocationSync], Coroutine[Any, Any, bool]]) -> bool:
    """Do it as a command does: with what is stored of the location, and no request more."""

    async def connect() -> bool:
        async with connected(sandbox, config) as app:
            await app.locations[LOCATION].recall()
            return await work(app.locations[LOCATION])

    return asyncio.run(connect())


def of(sandbox: Sandbox, stream: str, contact_id: str) -> str:
    """The id of a child of this contact."""
    return next(id_ for id_, one in sandbox.truth(LOCATION)[stream].items() if one["contactId"] == contact_id)


@pytest.mark.parametrize(("stream", "edit"), [("tasks", "title"), ("notes", "body")])
def test_a_record_is_pulled_alone(database_url: str, stream: str, edit: str) -> None:
    """With one request; it is stored like any other, the other records and the contact's turn stay as they are."""
    sandbox, contact_id = filled(database_url)
    id_ = of(sandbox, stream, contact_id)
    change = sandbox.update_task if stream == "tasks" else sandbox.update_note
    change(id_, **{edit: "Changed"})
    sandbox.create_note(contact_id, body="<p>not asked for</p>")
    visits = query(database_url, "SELECT * FROM child_visits ORDER BY stream, contact_id")
    before = sandbox.stats()["requests"]
    assert alone(sandbox, configuration(database_url), lambda sync: sync.pull(stream, contact_id, id_))
    assert sandbox.stats()["requests"] - before == 1
    column = "title" if stream == "tasks" else "content_html"
    assert rows(database_url, stream)[id_][column] == "Changed"
    assert len(differences(sandbox, database_url)) == 1
    assert query(database_url, "SELECT * FROM child_visits ORDER BY stream, contact_id") == visits


@pytest.mark.parametrize("stream", ["tasks", "notes"])
def test_a_record_that_is_gone_is_tombstoned_when_the_list_says_so(database_url: str, stream: str) -> None:
    """A 404 alone removes nothing: another contact's id is answered with one, too."""
    sandbox, contact_id = filled(database_url)
    config, id_ = configuration(database_url), of(sandbox, stream, contact_id)
    other = max(sandbox.truth(LOCATION)["contacts"])
    assert not alone(sandbox, config, lambda sync: sync.pull(stream, other, id_))
    assert rows(database_url, stream, deleted=True) == {}
    (sandbox.delete_task if stream == "tasks" else sandbox.delete_note)(id_)
    assert not alone(sandbox, config, lambda sync: sync.pull(stream, contact_id, id_))
    assert set(rows(database_url, stream, deleted=True)) == {id_}
    assert differences(sandbox, database_url) == []


def test_nothing_is_kept_below_a_contact_that_is_not_stored(sqlite_url: str) -> None:
    """It would hang on nobody; no request is sent for it."""
    sandbox, contact_id = filled(sqlite_url)
    id_ = of(sandbox, "notes", contact_id)
    before = sandbox.stats()["requests"]
    with pytest.raises(NotFound):
        alone(sandbox, configuration(sqlite_url), lambda sync: sync.pull("notes", "stranger", id_))
    assert sandbox.stats()["requests"] == before


def test_the_contacts_of_a_business_are_read_page_by_page(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that no poll has shown yet; with their children due."""
    monkeypatch.setattr(contact_stream, "PAGE", 2)
    sandbox, _ = filled(database_url)
    for id_ in sorted(sandbox.truth(LOCATION)["contacts"])[:4]:
        sandbox.update_contact(id_, businessId=BUSINESS)
    new = sandbox.create_contact(firstName="New", businessId=BUSINESS)["id"]
    sandbox.create_note(new, body="<p>x</p>")
    config = configuration(database_url)
    assert run(sandbox, config, lambda sync: sync.pull_business(BUSINESS)) == 5
    assert calls(sandbox, "/contacts/business/{businessId}") == 3
    stored = query(database_url, f"SELECT id FROM contacts WHERE business_id = '{BUSINESS}'")
    assert len(stored) == 5
    run(sandbox, config, lambda sync: sync.visit_due())
    assert differences(sandbox, database_url) == []
    assert run(sandbox, config, lambda sync: sync.pull_business("66f0a1b2c3d4e5f6000000ff")) == 0


class Deaf(httpx.AsyncBaseTransport):
    """Does not hear `skip`."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._inner = httpx.ASGITransport(create_app(sandbox))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer with the first page."""
        url = request.url.copy_remove_param("skip") if "/business/" in request.url.path else request.url
        return await self._inner.handle_async_request(httpx.Request(request.method, url, headers=request.headers))


def test_a_business_that_goes_in_circles_ends(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that shows its first page for ever is told."""
    monkeypatch.setattr(contact_stream, "PAGE", 2)
    sandbox, _ = filled(sqlite_url)
    for id_ in sorted(sandbox.truth(LOCATION)["contacts"])[:8]:
        sandbox.update_contact(id_, businessId=BUSINESS)
    with pytest.raises(BadAnswer):
        run(
            sandbox,
            configuration(sqlite_url),
            lambda sync: sync.pull_business(BUSINESS),
            transport=Deaf(sandbox),
        )


# -- the commands --------------------------------------------------------------------------------------

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def served() -> Iterator[tuple[str, Sandbox]]:
    """The account behind a port."""
    with running(SandboxOptions(contacts=12, rate_limit=None)) as (base_url, sandbox):
        yield base_url, sandbox


@pytest.fixture
def cli(
    served: tuple[str, Sandbox],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Cli:
    """Run a command: exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "API__BASE_URL": served[0],
        "API__TOKEN": DEFAULT_TOKEN,
        "LOCATIONS": LOCATION,
        "DATABASE__URL": f"sqlite:///{tmp_path}/rankr.db",
    }.items():
        monkeypatch.setenv(f"RANKR_SYNC_{name}", value)
    command = typer.main.get_command(commands)

    def run_(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rankr-sync", *arguments])
        capfd.readouterr()
        code = common._code_of(lambda: command(list(arguments), standalone_mode=False))
        said = capfd.readouterr()
        return code, said.out, said.err

    return run_


@pytest.mark.parametrize("command", ["contacts", "contact someone", "rejects list", "summary", "mapping apply"])
def test_a_location_that_is_not_known_is_an_error(cli: Cli, command: str) -> None:
    """Known is what is configured or stored, by its id, our name or HighLevel's; of others nothing is told."""
    assert cli("backfill", "--stream", "contacts")[0] == 0
    code, out, err = cli(*command.split(), "--location", "elsewhere")
    assert (code, out) == (2, "")
    assert f"use one of: {LOCATION}" in err
    for known in (LOCATION, "Sandbox 00001"):
        code, out, err = cli("contacts", "--location", known, "--limit", "1", "--json")
        assert (code, len(json.loads(out))) == (0, 1), err


def test_the_commands(cli: Cli, served: tuple[str, Sandbox]) -> None:
    """`contact --task`, `--note`, and `contacts` by words, tag and business, with a business read anew."""
    sandbox = served[1]
    id_ = min(sandbox.truth(LOCATION)["contacts"])
    sandbox.update_contact(id_, firstName="Zoë", lastName="Quill", tags=["vip"], businessId=BUSINESS)
    note = sandbox.create_note(id_, body="<p>Hello</p>")["id"]
    task = sandbox.create_task(id_, title="Call")["id"]
    assert cli("backfill")[0] == 0
    sandbox.update_note(note, body="<p>Changed</p>")
    code, out, _ = cli("contact", id_, "--note", note, "--json")
    assert (code, json.loads(out)["content_html"]) == (0, "<p>Changed</p>")
    assert "Call" in cli("contact", id_, "--task", task)[1]
    sandbox.delete_task(task)
    code, out, err = cli("contact", id_, "--task", task, "--json")
    assert code == 0
    assert "does not know it any more" in err
    assert json.loads(out)["deleted_at"] is not None
    code, _, err = cli("contact", max(sandbox.truth(LOCATION)["contacts"]), "--note", note)
    assert code == 1, "it is another contact's, and there"
    assert f"rankr-sync contact {id_} --note {note}" in err
    assert "neither in the store nor at the source" in cli("contact", "nobody", "--refresh")[2]
    assert cli("contact", id_, "--task", "../x")[0] == 2
    assert cli("contact", id_, "--task", "nobody")[0] == 1
    for options in (("--query", "zoë quill"), ("--tag", "vip"), ("--business", BUSINESS)):
        code, out, _ = cli("contacts", *options, "--json")
        assert [row["id"] for row in json.loads(out)] == [id_], options
        assert "Quill" in cli("contacts", *options)[1]
    other = max(sandbox.truth(LOCATION)["contacts"])
    sandbox.update_contact(other, businessId=BUSINESS)
    assert len(json.loads(cli("contacts", "--business", BUSINESS, "--json")[1])) == 1
    code, out, err = cli("contacts", "--business", BUSINESS, "--refresh", "--json")
    assert {row["id"] for row in json.loads(out)} == {id_, other}
    assert "2 contacts of the business were read" in err
    assert len(json.loads(cli("contacts", "--limit", "5", "--json")[1])) == 5
    assert "no such contact" in cli("contacts", "--tag", "nobody")[1]
    assert cli("contacts", "--refresh")[0] == 2
