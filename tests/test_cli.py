"""The command line as people and scripts meet it: words, exit codes, what is on which stream, and no secret in any."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import structlog
import typer

from rankr_sync import __version__, logs
from rankr_sync.cli import app, common
from rankr_sync.sandbox import DEFAULT_LOCATION_ID, DEFAULT_TOKEN, Sandbox, SandboxOptions, running
from rankr_sync.store import SqlStore

LOCATION = DEFAULT_LOCATION_ID
SECRET = "pit-very-geheim"
CONTACTS = 24


@dataclass(frozen=True)
class Result:
    """What a command said and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output, which holds JSON and nothing else."""
        return json.loads(self.out)

    def failed(self, code: int, *words: str, arrow: bool = True) -> None:
        """It ended with this code, one sentence with these words and one line of what to do; no traceback."""
        assert self.code == code, self
        errors = [line for line in self.err.splitlines() if line.startswith("error: ")]
        arrows = [line for line in self.err.splitlines() if line.startswith("  -> ")]
        assert len(errors) == 1, self
        assert len(arrows) == (1 if arrow else 0), self
        for word in words:
            assert word in self.err, self
        assert "Traceback" not in self.err
        assert self.out == ""


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, Sandbox]]:
    """A sandbox on a port, for all tests here."""
    with running(SandboxOptions(contacts=CONTACTS, rate_limit=None, locations=2)) as (base_url, sandbox):
        yield base_url, sandbox


@pytest.fixture
def sandbox(served: tuple[str, Sandbox]) -> Iterator[Sandbox]:
    """The account behind the port; what a test plans for it ends with the test."""
    yield served[1]
    served[1].faults.clear()
    served[1].revoke(SECRET)


@pytest.fixture
def environment(served: tuple[str, Sandbox], tmp_path: Path) -> dict[str, str]:
    """The variables of a user of the sandbox, and nothing of ours."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "RANKR_SYNC_API__BASE_URL": served[0],
        "RANKR_SYNC_API__TOKEN": DEFAULT_TOKEN,
        "RANKR_SYNC_API__RATE_LIMIT": "none",
        "RANKR_SYNC_HTTP__LISTEN": "127.0.0.1:0",
        "RANKR_SYNC_API__ATTEMPTS": "2",
        "RANKR_SYNC_API__RETRY_FOR": "2s",
        "RANKR_SYNC_LOCATIONS": LOCATION,
        "RANKR_SYNC_DATABASE__URL": f"sqlite:///{tmp_path / 'cli.db'}",
    }


Cli = Callable[..., Result]


@pytest.fixture
def cli(
    environment: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Iterator[Cli]:
    """Run a command in this process, as `main` does; keyword arguments are variables without their prefix."""
    for name in [name for name in os.environ if name.startswith("RANKR_SYNC_")]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    command = typer.main.get_command(app)

    def run(*arguments: str, **variables: str) -> Result:
        for name, value in variables.items():
            monkeypatch.setenv(f"RANKR_SYNC_{name}", value)
        monkeypatch.setattr(sys, "argv", ["rankr-sync", *arguments])
        capfd.readouterr()
        code = common._code_of(lambda: command(list(arguments), standalone_mode=False))
        said = capfd.readouterr()
        assert DEFAULT_TOKEN not in said.out + said.err
        assert SECRET not in said.out + said.err
        return Result(code, said.out, said.err)

    yield run
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def process(environment: dict[str, str], tmp_path: Path) -> Cli:
    """Run a command as a process of its own, in a clean environment and an empty folder."""

    def run(*arguments: str, **variables: str) -> Result:
        env = environment | {f"RANKR_SYNC_{name}": value for name, value in variables.items()}
        command = [sys.executable, "-m", "rankr_sync", *arguments]
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        assert DEFAULT_TOKEN not in done.stdout + done.stderr
        return Result(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="module")
def copied(served: tuple[str, Sandbox], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that a backfill has filled once, to be copied by each test that only looks."""
    file = tmp_path_factory.mktemp("copied") / "copied.db"
    env = {
        "PATH": os.environ["PATH"],
        "RANKR_SYNC_API__BASE_URL": served[0],
        "RANKR_SYNC_API__TOKEN": DEFAULT_TOKEN,
        "RANKR_SYNC_LOCATIONS": LOCATION,
        "RANKR_SYNC_DATABASE__URL": f"sqlite:///{file}",
    }
    command = [sys.executable, "-m", "rankr_sync", "backfill"]
    subprocess.run(command, env=env, cwd=file.parent, check=True, capture_output=True, timeout=60)
    return file


@pytest.fixture
def filled(cli: Cli, copied: Path, tmp_path: Path) -> Cli:
    """The command line over a filled store."""
    shutil.copy(copied, tmp_path / "cli.db")
    return cli


def sql(tmp_path: Path, query: str) -> list[dict[str, Any]]:
    """Rows of the test's store."""
    store = SqlStore(f"sqlite:///{tmp_path / 'cli.db'}")
    with store.reading() as tx:
        found = [dict(row) for row in tx.connection.exec_driver_sql(query).mappings()]
    store.close()
    return found


def execute(tmp_path: Path, statement: str) -> None:
    """Change the test's store behind the program's back."""
    store = SqlStore(f"sqlite:///{tmp_path / 'cli.db'}")
    with store.transaction() as tx:
        tx.connection.exec_driver_sql(statement)
    store.close()


# -- help and usage ----------------------------------------------------------------------------------


def commands() -> list[tuple[str, ...]]:
    """Every command by its words."""
    found: list[tuple[str, ...]] = []

    def walk(command: Any, words: tuple[str, ...]) -> None:
        children = getattr(command, "commands", None)
        if children is None:
            found.append(words)
        for name, child in (children or {}).items():
            walk(child, (*words, name))

    walk(typer.main.get_command(app), ())
    return found


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_has_help_with_an_example(cli: Cli, words: tuple[str, ...]) -> None:
    """`--help` says what a command does, shows how it is typed, and which options it takes."""
    result = cli(*words, "--help")
    assert result.code == 0
    assert f"  rankr-sync {' '.join(words)}" in result.out
    assert "Example" in result.out
    assert "--debug" in result.out
    assert "--verbose" in result.out
    assert "--config" in result.out


def test_the_promised_commands_are_there() -> None:
    """Names of commands are promises."""
    there = {" ".join(words) for words in commands()}
    assert there >= {
        *("demo", "sandbox", "init", "check", "plan", "backfill", "run", "status", "contact"),
        *("rejects list", "rejects show", "rejects retry", "mapping preview", "mapping apply"),
        *("db upgrade", "db current", "db purge"),
    }


def test_version(cli: Cli) -> None:
    """The version is one line."""
    assert cli("--version").out == f"rankr-sync {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("backfil",), "backfil"),
        (("rejects", "lst"), "lst"),
        (("status", "--jsn"), "--jsn"),
        (("contact",), "ID"),
        (("rejects", "show", "x"), "ID"),
        (("backfill", "--location"), "--location"),
        (("backfill", "--stream", "emails"), "emails"),
        (("mapping", "preview", "--stream", "emails"), "emails"),
        (("sandbox", "--rate-limit", "fast"), "fast"),
        (("sandbox", "--rate-window", "odd"), "odd"),
    ],
)
def test_wrong_usage_is_2(cli: Cli, arguments: tuple[str, ...], words: str) -> None:
    """What was typed wrongly, and what to type instead."""
    cli(*arguments).failed(2, words)


def test_no_command_is_help(cli: Cli) -> None:
    """Without a command the help is shown, and it counts as wrong usage."""
    result = cli()
    assert result.code == 2
    assert "backfill" in result.err


# -- configuration -----------------------------------------------------------------------------------


def test_unknown_keys_are_2(cli: Cli, tmp_path: Path) -> None:
    """In the environment and in the file, each with the nearest known key."""
    cli("status", API_TOKEN=SECRET).failed(2, "RANKR_SYNC_API_TOKEN", "RANKR_SYNC_API__TOKEN?")
    (tmp_path / "config.toml").write_text(f'[api]\ntokn = "{SECRET}"')
    os.environ.pop("RANKR_SYNC_API_TOKEN")
    cli("status").failed(2, "api.tokn", "api.token?")


@pytest.mark.parametrize("command", ["status", "backfill", "db current", "rejects list", "mapping preview", "run"])
def test_a_missing_configuration_file_is_2(cli: Cli, command: str) -> None:
    """Every command takes `--config`, and a file that is named must exist."""
    cli(*command.split(), "--config", "nowhere.toml").failed(2, "nowhere.toml")


def test_no_location_is_2(cli: Cli) -> None:
    """Nothing to mirror is a matter of configuration."""
    cli("backfill", LOCATIONS="").failed(2, "no location", "RANKR_SYNC_LOCATIONS")


def test_no_token_is_2(cli: Cli) -> None:
    """So is the lack of a token."""
    cli("backfill", API__TOKEN="").failed(2, "no token", "RANKR_SYNC_API__TOKEN")


def test_a_location_that_is_not_configured_is_2(cli: Cli) -> None:
    """A location is chosen among those that are configured."""
    cli("backfill", "--location", "elsewhere").failed(2, "elsewhere", LOCATION)


def test_plain_http_to_another_host_is_2(cli: Cli) -> None:
    """No token travels readable by mistake."""
    cli("backfill", API__BASE_URL="http://example.com").failed(2, "example.com", "insecure_hosts")


@pytest.mark.parametrize("url", ["mysql://u:very-geheim@h/x", "nonsense", "postgresql://u:very-geheim@h:x/y"])
def test_an_unusable_database_url_is_2(cli: Cli, url: str) -> None:
    """Which databases there are, without the password."""
    result = cli("status", DATABASE__URL=url)
    result.failed(2, "database.url")
    assert "geheim" not in result.err


# -- credentials and the API -------------------------------------------------------------------------


@pytest.mark.process
def test_a_wrong_token_is_3(process: Cli, sandbox: Sandbox) -> None:
    """In a real process: one sentence, one thing to do, exit code 3, and the token is nowhere in the output."""
    result = process("backfill", API__TOKEN=SECRET)
    result.failed(3, "refuses the token", "RANKR_SYNC_API__TOKEN")
    assert SECRET not in result.err


def test_a_wrong_location_is_3(cli: Cli, sandbox: Sandbox) -> None:
    """The token is of another location."""
    cli("backfill", LOCATIONS="SandboxLocation00002").failed(3, "no access to this location")


def test_a_missing_scope_is_3_with_its_name(cli: Cli, sandbox: Sandbox) -> None:
    """Without the scope for contacts nothing can be copied; the scope to add is named."""
    sandbox.grant(SECRET, [LOCATION], ["locations.readonly"])
    cli("backfill", API__TOKEN=SECRET).failed(3, "contacts.readonly")


def test_without_a_scope_another_way_is_taken(cli: Cli, sandbox: Sandbox, tmp_path: Path) -> None:
    """Tasks can be read contact by contact, and reference data can be done without: the copy is whole."""
    sandbox.grant(SECRET, [LOCATION], ["contacts.readonly"])
    assert cli("backfill", API__TOKEN=SECRET).code == 0
    truth = sandbox.truth(LOCATION)
    for entity in ("contacts", "tasks", "notes", "appointments"):
        assert sql(tmp_path, f"SELECT count(*) AS n FROM {entity}") == [{"n": len(truth[entity])}], entity


def test_an_unreachable_api_is_1_within_bounds(cli: Cli) -> None:
    """A few attempts, then a sentence with the host's name."""
    began = time.monotonic()
    cli("backfill", API__BASE_URL="http://127.0.0.1:1", API__CONNECT_TIMEOUT="1s").failed(1, "127.0.0.1")
    assert time.monotonic() - began < 10


def test_a_failing_api_is_1_with_the_trace_id(cli: Cli, sandbox: Sandbox) -> None:
    """What their support asks for is in the sentence."""
    sandbox.faults.next("500", "*", times=20)
    cli("backfill").failed(1, "500", "traceId", arrow=False)


def test_a_gateway_page_is_1(cli: Cli, sandbox: Sandbox) -> None:
    """Another server that answers in HTML is not taken for the API."""
    sandbox.faults.next("200-html", "*", times=20)
    cli("backfill").failed(1, "web page", "api.base_url")


def test_a_wrong_version_is_told(cli: Cli, sandbox: Sandbox) -> None:
    """A version that the API does not know is a thing of the configuration, and named as such."""
    result = cli("backfill", API__VERSION="2099-01-01")
    assert result.code in (1, 2)
    assert "api.version" in result.err


# -- the database ------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["status", "backfill", "db upgrade", "contact x"])
def test_a_database_that_cannot_be_opened_is_1(cli: Cli, tmp_path: Path, command: str) -> None:
    """A path below a file can be no database, whoever asks."""
    (tmp_path / "file").write_text("")
    url = f"sqlite:///{tmp_path}/file/rankr.db"
    cli(*command.split(), DATABASE__URL=url).failed(1, "file/rankr.db", "RANKR_SYNC_DATABASE__URL")


def test_a_file_that_is_no_database_is_1(cli: Cli, tmp_path: Path) -> None:
    """Some other file is left alone."""
    (tmp_path / "cli.db").write_text("important notes " * 200)
    result = cli("status")
    assert result.code == 1
    assert "cli.db" in result.err
    assert (tmp_path / "cli.db").read_text() == "important notes " * 200


def test_a_missing_folder_is_made(cli: Cli, tmp_path: Path) -> None:
    """A new installation begins with a path, not with mkdir."""
    assert cli("db", "upgrade", DATABASE__URL=f"sqlite:///{tmp_path}/new/folder/rankr.db").code == 0
    assert (tmp_path / "new/folder/rankr.db").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_1(cli: Cli, tmp_path: Path) -> None:
    """Permissions are told as what they are."""
    (tmp_path / "locked").mkdir(mode=0o500)
    cli("status", DATABASE__URL=f"sqlite:///{tmp_path}/locked/rankr.db").failed(1, "Permission denied")


def test_an_unreachable_server_is_1_without_the_password(cli: Cli) -> None:
    """A database that is not there."""
    result = cli("status", DATABASE__URL="postgresql://rankr:very-geheim@127.0.0.1:1/rankr")
    result.failed(1, "127.0.0.1")
    assert "geheim" not in result.err


def test_a_newer_schema_is_2(filled: Cli, tmp_path: Path) -> None:
    """A store of a later release is not touched."""
    execute(tmp_path, "UPDATE alembic_version SET version_num = '9999'")
    filled("status").failed(2, "9999", "newer")


def test_db_commands(cli: Cli, tmp_path: Path) -> None:
    """The schema is shown, made, and shown again; purging tells what went."""
    assert "schema empty" in cli("db", "current").out
    assert "(was empty)" in cli("db", "upgrade").out
    assert "(was" not in cli("db", "upgrade").out
    assert "schema empty" not in cli("db", "current").out
    assert cli("db", "purge").out == "nothing to remove\n"


def test_db_purge_removes_what_is_past_its_retention(filled: Cli, tmp_path: Path) -> None:
    """Tombstones go after the time that is configured."""
    execute(tmp_path, "UPDATE notes SET deleted_at = '2020-01-01 00:00:00.000000'")
    notes = sql(tmp_path, "SELECT count(*) AS n FROM notes")[0]["n"]
    assert "nothing" in filled("db", "purge", RETENTION__DELETED="99999d").out
    assert f"{notes} rows of notes" in filled("db", "purge", RETENTION__DELETED="90d").out
    assert sql(tmp_path, "SELECT count(*) AS n FROM notes") == [{"n": 0}]


# -- backfill ----------------------------------------------------------------------------------------


@pytest.mark.process
def test_a_backfill_is_copied_again_and_logs_json(process: Cli, sandbox: Sandbox, tmp_path: Path) -> None:
    """A second backfill is a new full pass that changes nothing; each log line is JSON; standard output is empty."""
    first, second = process("backfill", LOG__FORMAT="json"), process("backfill", LOG__FORMAT="json")
    assert (first.code, second.code) == (0, 0)
    assert first.out == second.out == ""
    runs = [json.loads(line) for line in second.err.splitlines() if line.startswith("{")]
    assert {run["stream"] for run in runs if run["event"] == "run.finished"} == {
        *("contacts", "tasks", "notes", "appointments")
    }
    assert f"contacts: {CONTACTS} read, {CONTACTS} new" in first.err
    assert f"contacts: {CONTACTS} read, 0 new, 0 changed" in second.err


def test_backfill_of_one_stream(cli: Cli, sandbox: Sandbox, tmp_path: Path) -> None:
    """Only what is asked for is copied, and the contacts that it belongs to."""
    assert cli("backfill", "--stream", "notes").code == 0
    assert sql(tmp_path, "SELECT count(*) AS n FROM contacts") == [{"n": CONTACTS}]
    assert sql(tmp_path, "SELECT count(*) > 0 AS some FROM notes") == [{"some": 1}]
    assert sql(tmp_path, "SELECT count(*) AS n FROM appointments") == [{"n": 0}]


def test_backfill_restart_begins_again(filled: Cli, sandbox: Sandbox, tmp_path: Path) -> None:
    """`--restart` goes over everything, whatever was done."""
    before = sandbox.requests
    assert f"contacts: {CONTACTS} read, 0 new" in filled("backfill", "--restart").err
    assert sandbox.requests - before >= 2 * CONTACTS


def test_a_dry_run_writes_nothing_and_says_what_it_would(filled: Cli, sandbox: Sandbox, tmp_path: Path) -> None:
    """`--dry-run` fetches and compares; the counts are those of the real thing, the store stays as it was."""
    execute(tmp_path, "DELETE FROM contacts WHERE id IN (SELECT id FROM contacts ORDER BY id LIMIT 3)")
    before = {table: sql(tmp_path, f"SELECT * FROM {table}") for table in ("contacts", "sync_cursors", "sync_runs")}
    dry = filled("backfill", "--dry-run")
    assert dry.code == 0
    assert f"contacts: {CONTACTS} read, 3 new" in dry.err
    assert "nothing was written" in dry.err
    for table, rows in before.items():
        assert sql(tmp_path, f"SELECT * FROM {table}") == rows
    assert f"contacts: {CONTACTS} read, 3 new" in filled("backfill").err


@pytest.mark.process
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_backfill_and_the_same_command_goes_on(
    environment: dict[str, str], tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """Ended in the middle it says so; run again it does the rest, and no page or visit that was stored twice."""
    options = SandboxOptions(contacts=150, rate_limit=None, latency_ms=20)
    with running(options) as (base_url, sandbox):
        env = environment | {"RANKR_SYNC_API__BASE_URL": base_url, "RANKR_SYNC_API__CONCURRENCY": "4"}
        command = [sys.executable, "-m", "rankr_sync", "backfill", "--stream", "contacts", "--stream", "notes"]
        started = subprocess.Popen(command, env=env, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 30
        while sum(call.path.endswith("/notes") for call in list(sandbox.calls)) < 40 and time.monotonic() < deadline:
            time.sleep(0.02)
        started.send_signal(number)
        err = started.communicate(timeout=30)[1]
        assert started.returncode == code, err
        assert "run the same command again" in err
        assert "Traceback" not in err
        stored = sql(tmp_path, "SELECT count(*) AS n FROM child_visits WHERE last_visited_at IS NOT NULL")[0]["n"]
        assert 0 < stored < 150
        before = len(sandbox.calls)
        again = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, timeout=60, check=False)
        assert again.returncode == 0
        asked = [call for call in list(sandbox.calls)[before:] if call.path.endswith("/notes")]
        assert len(asked) == 150 - stored
        assert sql(tmp_path, "SELECT count(*) AS n FROM notes") == [{"n": len(sandbox.truth(LOCATION)["notes"])}]


# -- status ------------------------------------------------------------------------------------------


def test_status_of_an_empty_store_says_what_to_type(cli: Cli) -> None:
    """Before the first backfill."""
    result = cli("status")
    assert result.code == 0
    assert "-> rankr-sync backfill" in result.out


def test_status_for_people(filled: Cli) -> None:
    """A table with every stream."""
    result = filled("status")
    assert result.code == 0
    assert all(name in result.out for name in ("contacts", "tasks", "notes", "appointments", LOCATION, "complete"))
    assert result.err == ""


def test_status_for_programs(filled: Cli) -> None:
    """JSON and nothing else."""
    found = filled("status", "--json").json
    (location,) = found["locations"]
    assert location["id"] == LOCATION
    streams = {one["stream"]: one for one in location["streams"]}
    assert streams["contacts"]["rows"] == CONTACTS
    assert all(one["lag_seconds"] >= 0 and one["phase"] == "complete" for one in streams.values())
    assert location["quota"]["requests"] > 0


def test_status_for_programs_of_an_empty_store(cli: Cli) -> None:
    """Also JSON."""
    assert cli("status", "--json").json["locations"] == []


# -- contact -----------------------------------------------------------------------------------------


def some_contact(sandbox: Sandbox) -> dict[str, Any]:
    """A contact with an e-mail address and a phone number of its own."""
    contacts = sorted(sandbox.truth(LOCATION)["contacts"].values(), key=lambda one: one["id"])
    emails = [one.get("email") for one in contacts]
    phones = [one.get("phone") for one in contacts]
    return next(
        one
        for one in contacts
        if one.get("email") and one.get("phone") and emails.count(one["email"]) == phones.count(one["phone"]) == 1
    )


def test_a_contact_by_what_people_have(filled: Cli, sandbox: Sandbox) -> None:
    """By id, by e-mail address in another case, by phone number in other punctuation: the same view."""
    one = some_contact(sandbox)
    phone = one["phone"]
    views = [
        filled("contact", wanted, "--json").json
        for wanted in (one["id"], one["email"].upper(), f"{phone[:3]} ({phone[3:6]}) {phone[6:9]}-{phone[9:]}")
    ]
    assert views[0] == views[1] == views[2]
    assert views[0]["contact"]["id"] == one["id"]
    assert views[0].keys() >= {"contact", "tags", "custom_fields", "tasks", "notes", "appointments"}


def test_a_contact_for_people(filled: Cli, sandbox: Sandbox) -> None:
    """The unified view on one screen."""
    result = filled("contact", some_contact(sandbox)["id"])
    assert result.code == 0
    assert all(word in result.out for word in ("tasks (", "notes (", "appointments (", "email"))


def test_a_contact_that_is_not_there(filled: Cli) -> None:
    """Says so, and how it could be pulled."""
    filled("contact", "nobody@example.com").failed(1, "no such contact", "--refresh")


def test_two_contacts_with_one_address(filled: Cli, sandbox: Sandbox, tmp_path: Path) -> None:
    """Both ids are told to choose from, also with `--refresh`, which then asks nothing."""
    execute(tmp_path, "UPDATE contacts SET email = 'both@example.com' WHERE id IN (SELECT id FROM contacts LIMIT 2)")
    ids = [row["id"] for row in sql(tmp_path, "SELECT id FROM contacts WHERE email = 'both@example.com'")]
    before = sandbox.requests
    for arguments in ((), ("--refresh",)):
        filled("contact", "Both@example.com", *arguments).failed(1, "2 contacts", *ids)
    assert sandbox.requests == before


def test_refresh_pulls_the_contact_first(filled: Cli, sandbox: Sandbox) -> None:
    """What changed at the source is shown and stored."""
    made = sandbox.create_contact(firstName="Neu", email="neu@example.com")
    sandbox.create_note(made["id"], body="first note")
    try:
        filled("contact", made["id"]).failed(1, "no such contact")
        view = filled("contact", made["id"], "--refresh", "--json").json
        assert view["contact"]["first_name"] == "Neu"
        assert [note["content"] for note in view["notes"]] == ["first note"]
        sandbox.update_contact(made["id"], firstName="Neuer")
        assert filled("contact", "NEU@example.com", "--refresh", "--json").json["contact"]["first_name"] == "Neuer"
    finally:
        sandbox.delete_contact(made["id"])
    gone = filled("contact", made["id"], "--refresh", "--json")
    assert gone.json["contact"]["first_name"] == "Neuer"
    assert "does not know this contact" in gone.err
    before = sandbox.requests
    for nobody in ("no such id/ü", "nobody@example.com", "+41 44 668 18 00"):
        filled("contact", nobody, "--refresh").failed(1, "no such contact")
    assert sandbox.requests == before


def test_a_location_may_be_named(filled: Cli, sandbox: Sandbox, tmp_path: Path) -> None:
    """`--location` takes the name of the configuration wherever it takes an id."""
    (tmp_path / "config.toml").write_text(f'[[locations]]\nid = "{LOCATION}"\nname = "Main office"')
    os.environ.pop("RANKR_SYNC_LOCATIONS")
    id_ = some_contact(sandbox)["id"]
    execute(
        tmp_path,
        "INSERT INTO sync_rejects (location_id, stream, reject_key, shape, reason, raw, first_seen_at, last_seen_at)"
        f" VALUES ('{LOCATION}', 'notes', 'k', '', 'odd', '1', '2026-01-01', '2026-01-01')",
    )
    for location in ("Main office", LOCATION):
        assert filled("contact", id_, "--location", location, "--json").json["contact"]["id"] == id_
        assert len(filled("rejects", "list", "--location", location, "--json").json) == 1
        assert filled("mapping", "preview", "--location", location, "--json").json
        assert f"{LOCATION} contacts: {CONTACTS} read" in filled("mapping", "apply", "--location", location).out


# -- mapping -----------------------------------------------------------------------------------------

NICKNAME = '[mapping.contacts]\nnickname = { from = "firstName", case = "upper" }\n'


def test_apply_maps_stored_rows_without_a_request(filled: Cli, sandbox: Sandbox, tmp_path: Path) -> None:
    """A rule that is added later is told by `status`, reaches every stored contact, and is told no more."""
    (tmp_path / "config.toml").write_text(NICKNAME)
    before = sandbox.requests
    told = f"mapping changed: {CONTACTS} contacts are of the former rules\n  -> rankr-sync mapping apply"
    assert told in filled("status").out
    assert filled("status", "--json").json["locations"][0]["rows_of_former_mapping"] == {"contacts": CONTACTS}
    dry, first, second = filled("mapping", "apply", "--dry-run"), filled("mapping", "apply"), filled("mapping", "apply")
    assert f"contacts: {CONTACTS} read, {CONTACTS} changed, 0 not in full (nothing was written)" in dry.out
    assert f"contacts: {CONTACTS} read, {CONTACTS} changed" in first.out
    assert f"contacts: {CONTACTS} read, 0 changed" in second.out
    assert "mapping changed" not in filled("status").out
    assert sandbox.requests == before
    found = sql(tmp_path, "SELECT first_name, nickname FROM contacts_mapped WHERE first_name IS NOT NULL")
    assert found
    assert all(row["nickname"] == row["first_name"].upper() for row in found)


def test_a_changed_mapping_is_told_where_a_sync_begins(filled: Cli, tmp_path: Path) -> None:
    """`check` and `backfill` say what to type."""
    (tmp_path / "config.toml").write_text(NICKNAME)
    checked = filled("check")
    assert checked.code == 0
    assert (
        f"mapping changed: {CONTACTS} contacts are of the former rules\n        -> rankr-sync mapping apply"
        in checked.out
    )
    copied = filled("backfill", "--stream", "contacts")
    assert copied.code == 0
    assert "mapping changed: " in copied.err


# -- rejects -----------------------------------------------------------------------------------------


def test_rejects_are_listed_shown_and_tried_again(cli: Cli, sandbox: Sandbox, tmp_path: Path) -> None:
    """From the first odd record to the rule that settles it."""
    odd = some_contact(sandbox)["id"]
    sandbox.corrupt("contacts", odd, lambda one: {**one, "dateOfBirth": "not a day"})
    try:
        assert cli("backfill", "--stream", "contacts").code == 0
    finally:
        sandbox.heal("contacts", odd)
    (one,) = cli("rejects", "list", "--json").json
    assert (one["external_id"], one["stream"]) == (odd, "contacts")
    assert "date_of_birth" in one["reason"]
    assert odd in cli("rejects", "list", "--stream", "contacts").out
    assert cli("rejects", "list", "--stream", "notes").out == "no rejects\n"
    shown = cli("rejects", "show", str(one["id"])).json
    assert shown["raw"]["dateOfBirth"] == "not a day"
    cli("rejects", "show", "999").failed(1, "999", "rejects list")
    cli("rejects", "retry", "999").failed(1, "999", "rejects list")
    assert cli("rejects", "retry").out == "1 tried, 0 mapped, 1 still rejected\n"
    assert len(cli("rejects", "list", "--json").json) == 1
    (tmp_path / "config.toml").write_text('[mapping.contacts]\ndate_of_birth = { from = "nothing", type = "date" }\n')
    assert cli("rejects", "retry", str(one["id"])).out == "1 tried, 1 mapped, 0 still rejected\n"
    assert cli("rejects", "list", "--json").json == []


# -- check, demo, sandbox, run -----------------------------------------------------------------------


def test_check_says_what_works(cli: Cli, sandbox: Sandbox) -> None:
    """Every line ok, exit code 0."""
    result = cli("check")
    assert result.code == 0
    assert "problem" not in result.out


def test_check_says_what_does_not(cli: Cli, sandbox: Sandbox) -> None:
    """A wrong token stops a sync: exit code 3, and what to do."""
    result = cli("check", API__TOKEN=SECRET)
    assert result.code == 3
    assert "problem" in result.out
    assert "-> " in result.out


@pytest.mark.process
def test_the_demo_needs_no_account(process: Cli, tmp_path: Path) -> None:
    """It copies a simulated account, shows the status and a contact; the user's own settings are left out of it."""
    result = process(
        "demo",
        "--contacts",
        "60",
        "--fast",
        API__BASE_URL="http://127.0.0.1:1",
        LOCATIONS="real",
        DATABASE__URL=f"sqlite:///{tmp_path}/real.db",
    )
    assert result.code == 0, result
    assert "contacts" in result.out
    assert "notes (" in result.out
    assert (tmp_path / "rankr-demo.db").exists()
    assert not (tmp_path / "real.db").exists()


def test_the_demo_shows_no_password(cli: Cli) -> None:
    """A database that is given with its password is shown without."""
    result = cli("demo", "--contacts", "5", "--fast", "--database", "postgresql://u:very-geheim@127.0.0.1:1/x")
    assert result.code == 1
    assert "geheim" not in result.out + result.err


def test_a_port_that_is_taken_is_told(cli: Cli, served: tuple[str, Sandbox]) -> None:
    """The sandbox cannot be where something else is."""
    cli("sandbox", "--port", served[0].rsplit(":", 1)[1]).failed(2, "cannot be used", "--port 0")


def test_who_looks_is_told_that_the_store_had_to_be_made(cli: Cli, tmp_path: Path) -> None:
    """Another folder or URL may have been meant; whoever fills it, or looks again, is told nothing."""
    first, again = cli("status", "--json"), cli("status", "--json")
    assert "store.empty" in first.err
    assert "RANKR_SYNC_DATABASE__URL" in first.err
    assert first.json.keys() == again.json.keys()
    for result in (again, cli("backfill", DATABASE__URL=f"sqlite:///{tmp_path}/other.db")):
        assert "store.empty" not in result.err


@pytest.mark.parametrize("words", [("backfill",), ("status", "--json"), ("demo", "--contacts", "3", "--fast")])
def test_verbose_logs_every_request_this_time(cli: Cli, words: tuple[str, ...]) -> None:
    """Whatever level is configured, on standard error; standard output and the next command are as ever."""
    cli("backfill")
    loud, quiet = cli(*words, "--verbose", LOG__LEVEL="error"), cli(*words)
    if words[0] != "status":
        assert "request.ended" in loud.err
        assert "/contacts/{id}/notes" in loud.err
    assert "request.ended" not in quiet.err + quiet.out + loud.out
    assert len(loud.out.splitlines()) == len(quiet.out.splitlines())


def test_a_reload_does_not_silence_verbose(capsys: pytest.CaptureFixture[str]) -> None:
    """What was asked for at the command line holds for the whole process."""
    logs.lower_level("debug")
    for level in ("info", "error"):
        logs.configure("json", level)
        structlog.get_logger().debug("request.ended")
        assert json.loads(capsys.readouterr().err)["event"] == "request.ended"


@pytest.mark.process
def test_debug_shows_the_traceback(process: Cli) -> None:
    """Only when it is asked for."""
    quiet, loud = process("contact", "x"), process("contact", "x", "--debug")
    assert "Traceback" not in quiet.err
    assert "Traceback" in loud.err
    assert quiet.code == loud.code == 1


@pytest.mark.process
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", ["status", "run"])
def test_a_signal_while_it_still_loads_ends_it_without_a_word(
    environment: dict[str, str], number: signal.Signals, command: str
) -> None:
    """Loading takes a second, longer on a busy machine: who types Ctrl-C in it sees no traceback."""
    script = (
        "import os, sys\n"
        "class Ends:\n"
        "    def find_spec(self, name, *rest):\n"
        f"        name == 'rankr_sync.cli' and os.kill(os.getpid(), {int(number)})\n"
        "sys.meta_path.insert(0, Ends())\n"
        f"sys.argv = ['rankr-sync', '{command}']\n"
        "from rankr_sync.__main__ import main\n"
        "main()\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, check=False)
    code = 0 if command == "run" else 128 + number
    assert (ended.returncode, ended.stdout, ended.stderr) == (code, b"", b"")


@pytest.mark.process
def test_a_reader_that_has_gone_is_no_failure(environment: dict[str, str], tmp_path: Path) -> None:
    """`status | head -1` exits 0 and says nothing, also under `set -o pipefail`."""
    SqlStore(environment["RANKR_SYNC_DATABASE__URL"]).upgrade()
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "rankr_sync", "status", "--json"]
    ended = subprocess.run(command, env=environment, cwd=tmp_path, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (0, b"")


@pytest.mark.process
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_daemon_ends_well(
    environment: dict[str, str], sandbox: Sandbox, tmp_path: Path, number: signal.Signals
) -> None:
    """`run` copies, and either signal ends it with exit code 0, JSON lines on standard error and nothing running."""
    env = environment | {"RANKR_SYNC_LOG__FORMAT": "json", "RANKR_SYNC_SCHEDULE__POLL": "1s"}
    command = [sys.executable, "-m", "rankr_sync", "run"]
    started = subprocess.Popen(
        command, env=env, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert started.stderr is not None
    lines = []
    for line in started.stderr:
        lines.append(line)
        if '"run.finished"' in line and '"contacts"' in line:
            break
    started.send_signal(number)
    out, err = started.communicate(timeout=30)
    events = [json.loads(line)["event"] for line in [*lines, *err.splitlines()]]
    assert started.returncode == 0
    assert out == ""
    assert events[-1] == "daemon.ended"
    assert DEFAULT_TOKEN not in "".join(lines) + err
    assert sql(tmp_path, "SELECT count(*) AS n FROM sync_runs WHERE status = 'running'") == [{"n": 0}]
