"""Who may read what, by the configuration: private integration tokens, and what an OAuth login needs.

How grants are kept alive is in `oauth`, how a token is sent in `highlevel`.
"""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import structlog
from pydantic import SecretStr

from rankr_sync.config import Config, Location
from rankr_sync.errors import BadConfiguration, GrantMissing, TryLater
from rankr_sync.highlevel import Credentials, PrivateToken, Timeouts, TokenFile, make_client
from rankr_sync.highlevel.oauth import Application, OAuthEndpoints
from rankr_sync.oauth import Grant, Keeper, LocationGrant, Shelf, login
from rankr_sync.oauth.keys import find_keys
from rankr_sync.store import SqlStore

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet

log = structlog.get_logger()

LOG_IN = "rankr-sync auth login, and choose the location (or --agency)"


def open_client(config: Config) -> httpx.AsyncClient:
    """A client as the configuration wants it."""
    timeouts = Timeouts(config.api.connect_timeout.total_seconds(), config.api.read_timeout.total_seconds())
    return make_client(timeouts, config.api.concurrency + 8, tls=config.api.base_url.startswith("https:"))


def credentials_of(config: Config, location: Location, keeper: Keeper | None = None) -> Credentials:
    """A location's access: the token that is configured, else the OAuth login. Raises BadConfiguration."""
    found = _token_of(config, location)
    if found is not None:
        return found
    if keeper is not None:
        return LocationGrant(keeper, location.id)
    raise BadConfiguration(
        "no token is configured",
        hint="set RANKR_SYNC_API__TOKEN to a private integration token (or RANKR_SYNC_API__TOKEN_FILE)",
    )


def _token_of(config: Config, location: Location) -> Credentials | None:
    """Its own token or the one for all. What OAuth has found, only OAuth opens."""
    places = [(location.token, location.token_file)]
    if location in config.locations or config.oauth.client_id is None:
        places.append((config.api.token, config.api.token_file))
    for secret, file in places:
        if secret is not None and secret.get_secret_value().strip():
            return PrivateToken(secret.get_secret_value())
        if file is not None:
            return TokenFile(file)
    return None


# -- OAuth ---------------------------------------------------------------------------------------------


def needs_grants(config: Config, locations: Sequence[Location]) -> bool:
    """Whether OAuth is set up, and these locations are opened by it, or found by it."""
    if config.oauth.client_id is None:
        return False
    return not config.locations or any(_token_of(config, one) is None for one in locations)


def keeper_of(config: Config, store: SqlStore, client: httpx.AsyncClient, now: Callable[[], datetime]) -> Keeper:
    """What keeps the grants of this store alive. Raises BadConfiguration without a key or an app."""
    return Keeper(shelf_of(config, store), endpoints_of(config, client), now=now)


def shelf_of(config: Config, store: SqlStore) -> Shelf:
    """The grants of this store. Raises BadConfiguration without a key."""
    return Shelf(store, find_keys_of(config))


def find_keys_of(config: Config) -> "MultiFernet":
    """The keys that are configured. Raises BadConfiguration without one."""
    key = config.oauth.key.get_secret_value() if config.oauth.key else None
    return find_keys(key, config.oauth.key_file, keyring=config.oauth.keyring)


def endpoints_of(config: Config, client: httpx.AsyncClient) -> OAuthEndpoints:
    """The endpoints, for the app that is configured. Raises BadConfiguration where a part of it is missing."""
    return OAuthEndpoints(
        client, base_url=config.api.base_url, version=config.api.version, application=application_of(config)
    )


def application_of(config: Config) -> Application:
    """The app that is configured. Raises BadConfiguration where a part of it is missing."""
    oauth = config.oauth
    secret = _secret(oauth.client_secret, oauth.client_secret_file, "oauth.client_secret_file")
    for name, value in (
        ("client_id", oauth.client_id),
        ("client_secret", secret),
        ("redirect_uri", oauth.redirect_uri),
    ):
        if not value:
            raise BadConfiguration(
                f"oauth.{name} is not set",
                hint=f"set RANKR_SYNC_OAUTH__{name.upper()} as the app of the marketplace has it; see docs/oauth.md",
            )
    return Application(oauth.client_id or "", secret or "", oauth.redirect_uri or "")


def _secret(secret: SecretStr | None, file: Path | None, key: str) -> str | None:
    if secret is not None or file is None:
        return secret.get_secret_value().strip() if secret is not None else None
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        raise BadConfiguration(f"the file {file} cannot be read", hint=f"check {key} and its permissions") from None


async def opened_locations(keeper: Keeper, location: str | None = None) -> list[Location]:
    """What the logins open, or the one that is asked for; where HighLevel cannot be asked, what it told last.

    Raises GrantMissing when that is nothing.
    """
    try:
        found = await keeper.locations()
    except TryLater as error:
        found = await keeper.remembered_locations()
        if not found:
            raise
        log.warning("oauth.locations_remembered", locations=len(found), error=str(error))
    if not found:
        raise GrantMissing("no OAuth login opens a location", hint=LOG_IN)
    opened = [Location(id=id_, name=name) for id_, name in found.items()]
    chosen = [one for one in opened if location in (None, one.id, one.name)]
    if not chosen:
        raise GrantMissing(f"no OAuth login opens location {location}", hint=LOG_IN)
    return chosen


async def log_in(
    config: Config,
    store: SqlStore,
    client: httpx.AsyncClient,
    ask: Callable[[str], Awaitable[str]],
    now: Callable[[], datetime],
    *,
    agency: bool = False,
) -> Grant:
    """The whole login: `ask` shows a person the page's URL, and returns the URL that the browser was sent back to.

    The grant is stored when this returns. Raises BadConfiguration, TokenRefused or TryLater.
    """
    shelf, endpoints = shelf_of(config, store), endpoints_of(config, client)  # what is missing is said before
    begun = login.begin(config.oauth.authorize_url, endpoints.application, config.oauth.scopes, agency=agency)
    return await login.finish(begun, await ask(begun.url), endpoints, shelf, now())
