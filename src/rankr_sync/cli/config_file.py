"""The files that `init` writes: the configuration, and beside it a file for each secret."""

import json
import os
import tempfile
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from rankr_sync.cli import plan
from rankr_sync.config import Api, Config
from rankr_sync.errors import BadConfiguration
from rankr_sync.store.connect import file_of

TOKEN_FILE = "highlevel_token"  # noqa: S105 - a file's name
CLIENT_SECRET_FILE = "highlevel_client_secret"  # noqa: S105 - a file's name
KEY_FILE = "oauth_key"


def toml(config: Config, max_age: timedelta) -> str:
    """The configuration: only what differs from the defaults, and what a person will look for. No secret is in it."""
    sections = [
        _section("[api]", [*_token_file(config), *_api(config.api)]),
        _section("[oauth]", _oauth(config)),
        *(_section("[[locations]]", _location(one.id, one.name, one.timezone)) for one in config.locations),
        _section("[database]", [f"url = {_quoted(_absolute(config.database.url))}"]),
    ]
    if max_age != config.visits.max_age:
        line = f'max_age = "{plan.typed(max_age)}"  # what the quota buys: rankr-sync plan'
        sections.append(_section("[visits]", [line]))
    head = (
        "# Written by rankr-sync init. Every other key, with its default: config.example.toml.\n"
        "# Each can be set from the environment instead, e.g. RANKR_SYNC_SCHEDULE__POLL=30s.\n"
    )
    return head + "".join(sections)


def _section(name: str, lines: Sequence[str]) -> str:
    return "\n" + "\n".join([name, *lines]) + "\n" if lines else ""


def _token_file(config: Config) -> list[str]:
    file = config.api.token_file
    return [f"token_file = {_quoted(file.resolve())}  # read again when it changes"] if file is not None else []


def _api(api: Api) -> list[str]:
    usual = Api()
    changed = [key for key in ("base_url", "version", "rate_limit") if getattr(api, key) != getattr(usual, key)]
    return [f"{key} = {_quoted(getattr(api, key))}" for key in changed]


def _oauth(config: Config) -> list[str]:
    oauth = config.oauth
    if oauth.client_id is None:
        return []
    lines = [f"client_id = {_quoted(oauth.client_id)}"]
    if oauth.client_secret_file is not None:
        lines.append(f"client_secret_file = {_quoted(oauth.client_secret_file.resolve())}")
    lines.append(f"redirect_uri = {_quoted(oauth.redirect_uri)}")
    if oauth.authorize_url != type(oauth)().authorize_url:
        lines.append(f"authorize_url = {_quoted(oauth.authorize_url)}")
    if oauth.key_file is not None:
        lines.append(f"key_file = {_quoted(oauth.key_file.resolve())}  # opens the stored tokens: keep it")
    if oauth.keyring:
        lines.append("keyring = true")
    return lines


def _location(id_: str, name: str | None, zone: str | None) -> list[str]:
    lines = [f"id = {_quoted(id_)}"]
    if name:
        lines.append(f"name = {_quoted(name)}")
    if zone is not None:
        lines.append(f"timezone = {_quoted(zone)}  # the token may not read the location's own")
    return lines


def _absolute(url: str) -> str:
    """The same database from whatever folder the program is started in."""
    file = file_of(url)
    return url if file is None or file.is_absolute() else f"sqlite:///{file.resolve()}"


def _quoted(value: object) -> str:
    return json.dumps(str(value), ensure_ascii=False)  # TOML's basic strings are JSON's


def write(file: Path, content: str) -> None:
    """Write a file as a whole or not at all, for its owner only. Raises BadConfiguration where that is not possible."""
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)  # made with mode 0600
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as partial:
                partial.write(content)
            Path(name).replace(file)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise BadConfiguration(
            f"{file} cannot be written: {error.strerror}", hint="choose a place you may write to with --output FILE"
        ) from None
