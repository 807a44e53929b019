"""`init`: what it writes loads and works, the token is not in it, and nothing is overwritten or half written."""

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer

from mirror import LOCATION
from rankr_sync.cli import app, common
from rankr_sync.config import load
from rankr_sync.sandbox import DEFAULT_TOKEN, RateLimit, Sandbox, SandboxOptions, running

LIMIT = RateLimit(1_000_000, 1.0)
Cli = Callable[..., int]


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, Sandbox]]:
    """A sandbox on a port, for all tests here."""
    with running(SandboxOptions(contacts=12, rate_limit=LIMIT)) as pair:
        yield pair


@pytest.fixture
def cli(served: tuple[str, Sandbox], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run a command in an empty folder with a token file beside it; gives its exit code."""
    for name in [name for name in os.environ if name.startswith("RANKR_SYNC_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RANKR_SYNC_API__BASE_URL", served[0])
    monkeypatch.setenv("RANKR_SYNC_HTTP__LISTEN", "off")  # who else listens on this machine is not asked
    monkeypatch.chdir(tmp_path)
    (tmp_path / "token").write_text(f"{DEFAULT_TOKEN}\n")
    command = typer.main.get_command(app)
    return lambda *words: common._code_of(lambda: command(list(words), standalone_mode=False))


GIVEN = ("init", "--token-file", "token", "--location", LOCATION, "--yes")


def test_the_written_file_works(cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It loads, `check` passes with it alone, the token is not in it, and only its owner may read it."""
    assert cli(*GIVEN, "--database", f"sqlite:///{tmp_path}/mine.db") == 0
    said, logged = capsys.readouterr()
    assert "12 contacts" in said
    assert "request.ended" not in said + logged, "a person reads this"
    assert "rankr-sync check" in said
    file = tmp_path / "config.toml"
    assert DEFAULT_TOKEN not in file.read_text() + said
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    config = load(file, environ={})
    assert [one.id for one in config.locations] == [LOCATION]
    assert config.database.url == f"sqlite:///{tmp_path}/mine.db"
    del os.environ["RANKR_SYNC_API__BASE_URL"]
    assert cli("check") == 0
    os.environ["RANKR_SYNC_API__BASE_URL"] = config.api.base_url


def test_the_database_is_the_same_from_every_folder(cli: Cli, tmp_path: Path) -> None:
    """A file that is named as it lies here is written with its whole path."""
    assert cli(*GIVEN, "--config", "mine.toml") == 0
    assert load(tmp_path / "mine.toml", environ={}).database.url == f"sqlite:///{tmp_path}/rankr.db"
    assert cli(*GIVEN, "--database", "postgresql://h/x") == 0
    assert load(tmp_path / "config.toml", environ={}).database.url == "postgresql://h/x"


def test_nothing_is_overwritten_unasked(cli: Cli, tmp_path: Path) -> None:
    """A file that is there stays; `--yes` replaces it."""
    (tmp_path / "other.toml").write_text("# mine\n")
    assert cli(*GIVEN[:-1], "--output", "other.toml") == 2
    assert (tmp_path / "other.toml").read_text() == "# mine\n"
    assert cli(*GIVEN, "--output", "other.toml") == 0
    assert LOCATION in (tmp_path / "other.toml").read_text()


def test_what_does_not_work_writes_nothing(cli: Cli, tmp_path: Path) -> None:
    """A refused token is 3, a database that is none is 2, nowhere to ask is 2; the folder stays as it was."""
    (tmp_path / "wrong").write_text("pit-wrong")
    before = sorted(tmp_path.iterdir())
    assert cli("init", "--token-file", "wrong", "--location", LOCATION, "--yes") == 3
    assert cli(*GIVEN, "--database", "mysql://h/x") == 2
    assert cli("init", "--token-file", "token", "--yes") == 2
    assert cli("init", "--location", LOCATION) == 2
    assert cli("init", "--token-file", "token", "--location", "no id", "--yes") == 2
    assert sorted(tmp_path.iterdir()) == before


def test_a_time_zone_that_is_closed_is_left_to_the_operator(
    cli: Cli, served: tuple[str, Sandbox], tmp_path: Path
) -> None:
    """With the scope for contacts alone the file is written all the same."""
    served[1].grant("pit-narrow", [LOCATION], ["contacts.readonly"])
    (tmp_path / "token").write_text("pit-narrow")
    assert cli(*GIVEN) == 0
    assert load(tmp_path / "config.toml", environ={}).locations[0].name is None
