"""In a terminal: the real program on a pseudo-terminal of 80 columns, and what it prints where there is none."""

import fcntl
import os
import re
import select
import socket
import stat
import struct
import subprocess
import sys
import termios
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Self

import pytest

from mirror import LOCATION, backfill, configuration, query
from rankr_sync.cli.show import columns, fitting, table
from rankr_sync.config import load
from rankr_sync.sandbox import CLIENT_ID, CLIENT_SECRET, DEFAULT_TOKEN, RateLimit, Sandbox, SandboxOptions, running
from test_interrupted import environment

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
CTRL_C = "\x03"
PATIENCE = 30.0
"""Seconds for the slowest step on a busy machine."""


PROGRAM = """
import fcntl, runpy, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
runpy.run_module("rankr_sync", run_name="__main__", alter_sys=True)
"""
"""Takes standard input as its controlling terminal, without which Ctrl-C is a letter like any other."""


class Terminal:
    """A program in a pseudo-terminal of its own, and what it wrote there so far."""

    def __init__(self, words: list[str], env: dict[str, str], folder: Path, columns: int = 80) -> None:
        self.said = ""
        self._terminal, side = os.openpty()
        fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        command = [sys.executable, "-c", PROGRAM, *words]
        self._process = subprocess.Popen(
            command, env=env, cwd=folder, stdin=side, stdout=side, stderr=side, start_new_session=True
        )
        os.close(side)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._terminal)

    def type(self, words: str) -> None:
        """Type as a person does."""
        os.write(self._terminal, words.encode())

    def wait_for(self, words: str) -> None:
        """Read on until the program has said so."""
        deadline = time.monotonic() + PATIENCE
        while words not in CONTROL.sub("", self.said):
            assert time.monotonic() < deadline, f"{words!r} was not said in {self.said!r}"
            assert self._read(), f"it ended before {words!r}: {self.said!r}"

    def end(self) -> int:
        """Read to the end; gives the exit code."""
        deadline = time.monotonic() + PATIENCE
        while self._read():
            assert time.monotonic() < deadline, f"it did not end: {self.said!r}"
        return self._process.wait(PATIENCE)

    def _read(self) -> bool:
        if not select.select([self._terminal], [], [], 0.2)[0]:
            return True
        try:
            found = os.read(self._terminal, 65_536)
        except OSError:  # Linux tells the end of the other side so
            return False
        self.said += found.decode(errors="replace")
        return bool(found)


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, Sandbox]]:
    """A sandbox on a port, for all tests here."""
    limit = RateLimit(1_000_000, 1.0)
    with running(SandboxOptions(contacts=30, rate_limit=limit, http_redirects=True)) as pair:
        yield pair


@pytest.fixture
def env(served: tuple[str, Sandbox], tmp_path: Path) -> dict[str, str]:
    """The environment of a person at a terminal that knows colours."""
    found = environment(served[0], f"sqlite:///{tmp_path}/rankr.db", TERM="xterm-256color")
    return {key: value for key, value in found.items() if key not in ("NO_COLOR", "COLUMNS", "LINES", "FORCE_COLOR")}


@pytest.mark.process
def test_ctrl_c_ends_a_backfill_and_the_next_goes_on(
    env: dict[str, str], served: tuple[str, Sandbox], tmp_path: Path
) -> None:
    """Ctrl-C ends it soon with 130 and says how to go on; done so, the bar runs to its end and shows the cursor."""
    sandbox, usual = served[1], served[1].options
    sandbox.options = replace(usual, latency_ms=300.0)  # 65 requests, two at once: there is much left
    with Terminal(["backfill"], env | {"RANKR_SYNC_API__CONCURRENCY": "2"}, tmp_path) as slow:
        slow.wait_for("contacts 30")
        slow.type(CTRL_C)
        at = time.monotonic()
        assert slow.end() == 130, slow.said
    sandbox.options = usual
    assert time.monotonic() - at < 10
    assert "run the same command again to go on" in slow.said
    assert "Traceback" not in slow.said
    with Terminal(["backfill"], env, tmp_path) as again:
        assert again.end() == 0, again.said
    for bar in (slow.said, again.said):
        assert "copying" in bar
        assert bar.rindex("\x1b[?25h") > bar.rindex("\x1b[?25l"), "the cursor stays hidden"


@pytest.mark.process
def test_status_fits_the_terminal(env: dict[str, str], served: tuple[str, Sandbox], tmp_path: Path) -> None:
    """80 columns where the terminal has no more, else all of it; no colours where none are wanted."""
    backfill(served[1], configuration(f"sqlite:///{tmp_path}/rankr.db"))
    with Terminal(["status"], env, tmp_path) as narrow:
        assert narrow.end() == 0, narrow.said
    assert COLOUR.search(narrow.said)
    lines = CONTROL.sub("", narrow.said).splitlines()
    assert [line for line in lines if len(line) > 80 and not line.startswith("store ")] == []
    assert any("a wider terminal shows: watermark (UTC)" in line for line in lines)
    assert any(re.match(r"contacts +30 ", line) for line in lines)

    with Terminal(["status"], env | {"NO_COLOR": "1"}, tmp_path, columns=200) as wide:
        assert wide.end() == 0, wide.said
    assert "\x1b" not in wide.said
    assert re.search(r"last success +watermark \(UTC\)", wide.said)
    assert "a wider terminal" not in wide.said


@pytest.mark.process
def test_init_asks_in_a_terminal(env: dict[str, str], tmp_path: Path) -> None:
    """Its questions are answered by typing; the token is never shown, and what is written loads."""
    asked = {key: env[key] for key in env if key not in ("RANKR_SYNC_API__TOKEN", "RANKR_SYNC_LOCATIONS")}
    with Terminal(["init"], asked, tmp_path) as init:
        init.wait_for("Private integration token (not shown): ")
        init.type(f"{DEFAULT_TOKEN}\n")
        init.wait_for("HighLevel pages): ")
        init.type(f"{LOCATION}\n")
        init.wait_for("rankr.db]: ")
        init.type("\n")
        assert init.end() == 0, init.said
    assert DEFAULT_TOKEN not in init.said
    assert LOCATION in init.said, "what is no secret is echoed"
    assert "rankr-sync check" in init.said
    config = load(tmp_path / "config.toml", environ={})
    assert [one.id for one in config.locations] == [LOCATION]


@pytest.mark.process
def test_init_logs_in_by_oauth(env: dict[str, str], tmp_path: Path, database_url: str) -> None:
    """A person types what the app is and chooses a location; what is written mirrors it, and holds no secret."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        redirect = f"http://127.0.0.1:{free.getsockname()[1]}/callback"
    kept = {key: env[key] for key in env if key not in ("RANKR_SYNC_API__TOKEN", "RANKR_SYNC_LOCATIONS")}
    base_url = env["RANKR_SYNC_API__BASE_URL"]
    page = {"RANKR_SYNC_OAUTH__AUTHORIZE_URL": f"{base_url}/v2/oauth/chooselocation", "BROWSER": "true"}
    answers = {
        "marketplace: ": CLIENT_ID,
        "Redirect URL of the app: ": redirect,
        "Client secret of the app (not shown): ": CLIENT_SECRET,
    }
    with Terminal(["init", "--oauth", "--database", database_url], kept | page, tmp_path) as init:
        for question, answer in answers.items():
            init.wait_for(question)
            init.type(f"{answer}\n")
        init.wait_for("&state=")
        init.wait_for("\r\n")
        [url] = re.findall(rf"{base_url}/v2\S+", init.said)
        with urllib.request.urlopen(f"{url}&choice={LOCATION}") as thanks:
            assert b"Thank you" in thanks.read()
        assert init.end() == 0, init.said
    assert "30 contacts" in init.said
    config = load(tmp_path / "config.toml", environ={})
    assert (config.locations, config.oauth.client_id) == ((), CLIENT_ID)
    written = [tmp_path / name for name in ("config.toml", "highlevel_client_secret", "oauth_key")]
    assert [stat.S_IMODE(file.stat().st_mode) for file in written] == [0o600] * 3
    for secret in (CLIENT_SECRET, written[2].read_text().strip()):
        assert secret not in init.said + written[0].read_text()
    bare = {key: value for key, value in env.items() if not key.startswith("RANKR_SYNC_")}
    command = [sys.executable, "-m", "rankr_sync", "backfill", "--stream", "contacts"]
    done = subprocess.run(command, env=bare, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert query(database_url, "SELECT count(*) AS n FROM contacts") == [{"n": 30}]


@pytest.mark.parametrize(
    ("room", "shown"), [(None, [0, 1, 2]), (34, [0, 1, 2]), (33, [0, 2]), (22, [0, 2]), (21, [0]), (1, [0])]
)
def test_columns_are_left_out_only_as_needed(room: int | None, shown: list[int]) -> None:
    """The least important first, none where all fit, and what is not expendable stays."""
    assert fitting([10, 10, 10], [1, 2], room) == shown


def test_columns_are_aligned_whatever_is_written_in_them(capsys: pytest.CaptureFixture[str]) -> None:
    """Signs that take two columns of a terminal, and marks that take none."""
    names = ["Ada", "Casey 田中", "Robin ✨ Lee", "Zoe\u0308", "श\u094dर"]
    table("", ("name", "id"), [(name, "x") for name in names])
    lines = capsys.readouterr().out.splitlines()
    assert {columns(line[: line.rindex(" ") + 1]) for line in lines[1:]} == {len("Robin ✨ Lee") + 3}
    assert [columns(name) for name in names] == [3, 10, 12, 3, 2]
