"""The README is true: its commands run, its links lead somewhere, the example configuration is complete."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from rankr_sync.cli import app
from rankr_sync.config import Config, load
from rankr_sync.sandbox import RateLimit, SandboxOptions, running
from test_interrupted import environment

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^\s*\$ (.+)$", README, flags=re.MULTILINE)
OURS = list(dict.fromkeys(command for command in COMMANDS if command.startswith("rankr-sync ")))
NEVER_END = ("rankr-sync run", "rankr-sync sandbox")


def test_every_command_of_the_readme_is_known() -> None:
    """A new kind of command in the README needs a test of its own."""
    others = {command.split()[0] for command in COMMANDS} - {"rankr-sync"}
    assert others == {"make", "export", "docker"}
    assert {c for c in COMMANDS if c.startswith("make")} == {"make demo", "make test"}


@pytest.mark.process
@pytest.mark.timeout(400)
def test_the_commands_of_the_readme_run(tmp_path: Path) -> None:
    """Every `rankr-sync` command of the README, in its order, exits 0 on an account in which Jane exists."""
    limit = RateLimit(1_000_000, 1.0)
    with running(SandboxOptions(contacts=20, rate_limit=limit)) as (base_url, sandbox):
        sandbox.create_contact(firstName="Jane", email="jane@example.com", phone="+12025550143")
        env = environment(base_url, f"sqlite:///{tmp_path}/rankr.db")
        for command in OURS:
            if command.startswith(NEVER_END):
                continue  # tested by test_the_daemon_copies_follows_and_ends_on_sigterm and by `make demo`
            done = subprocess.run(
                [sys.executable, "-m", "rankr_sync", *shlex.split(command)[1:]],
                env=env,
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert done.returncode == 0, f"{command}: {done.stderr}"


@pytest.mark.process
def test_make_demo_is_the_demo(tmp_path: Path) -> None:
    """What `make demo` runs ends with the status and a contact, whatever the environment says."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "\n\t$(BIN)/rankr-sync demo\n" in makefile
    env = {
        **os.environ,
        "RANKR_SYNC_API__TOKEN": "pit-mine",
        "RANKR_SYNC_LOCATIONS": "mine",
        "RANKR_SYNC_STREAMS": "notes",
    }
    env |= {
        "RANKR_SYNC_API__BASE_URL": "http://127.0.0.1:9",
        "RANKR_SYNC_DATABASE__URL": f"sqlite:///{tmp_path}/mine.db",
    }
    command = [sys.executable, "-m", "rankr_sync", "demo", "--contacts", "40"]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "refused by the rate limit: 0" in done.stdout
    assert re.search(r"contacts +40 ", done.stdout)
    assert "created_at" in done.stdout
    assert (tmp_path / "rankr-demo.db").exists()
    assert not (tmp_path / "mine.db").exists()


def test_links_lead_somewhere() -> None:
    """Every relative link of the README is a file or folder."""
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", README):
        assert (ROOT / target).exists(), target


def test_every_command_is_in_the_readme() -> None:
    """A person who reads the README has met every command."""
    names = [info.name or info.callback.__name__ for info in app.registered_commands if info.callback]
    names += [group.name for group in app.registered_groups if group.name]
    missing = [name for name in names if not re.search(rf"\b{name}\b", README)]
    assert missing == []


def test_the_example_configuration_loads_and_has_every_key(tmp_path: Path) -> None:
    """`config.example.toml` is accepted as it is, names every key, and shows the true defaults."""
    file = ROOT / "config.example.toml"
    config = load(file, environ={})
    written = file.read_text(encoding="utf-8")
    content = tomllib.loads(written)
    for name, section in Config.model_fields.items():
        fields = getattr(section.annotation, "model_fields", None)
        if fields is None:
            assert name in content
            continue
        for key in fields:
            assert re.search(rf"^#? ?{key} = ", written, flags=re.MULTILINE), f"{name}.{key}"
    defaults = load(None, environ={})
    for name in set(Config.model_fields) - {"locations", "mapping"}:
        assert getattr(config, name) == getattr(defaults, name), name
