"""Where grants are kept: tokens open in memory, sealed in the table."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from rankr_sync.errors import BadConfiguration
from rankr_sync.highlevel.oauth import COMPANY, Granted
from rankr_sync.store import SqlStore, grants

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet

ACTIVE, ENDED = "active", "ended"
LOCATIONS_KEY = "oauth.locations"
"""The setting that remembers which locations agencies' grants open."""


@dataclass(frozen=True, slots=True)
class Grant:
    """Access to an agency or a location, with its tokens. Without a refresh token it was made of an agency's."""

    id: str
    user_type: str
    company_id: str | None
    location_id: str | None
    scopes: tuple[str, ...]
    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)
    expires_at: datetime
    got_at: datetime
    status: str = ACTIVE
    error: str | None = None
    claimed_by: str | None = None

    def is_good(self, now: datetime, refused: str | None = None) -> bool:
        """Whether its access token can be used: it has not ended, and is not the one that was refused."""
        return self.status == ACTIVE and now < self.expires_at and self.access_token != refused

    def is_due(self, now: datetime, before: timedelta) -> bool:
        """Whether to refresh it: `before` its end, or for the last quarter of a shorter life."""
        return now >= self.expires_at - min(before, (self.expires_at - self.got_at) / 4)


def company_grant(company_id: str) -> str:
    """The id of an agency's grant."""
    return f"company:{company_id}"


def location_grant(location_id: str) -> str:
    """The id of a location's grant."""
    return f"location:{location_id}"


def grant_of(granted: Granted, now: datetime, before: Grant | None = None) -> Grant:
    """What was granted as something to keep; what the answer does not repeat stays as it was `before`."""
    company_id = granted.company_id or (before.company_id if before else None)
    location_id = granted.location_id or (before.location_id if before else None)
    user_type = before.user_type if before else granted.user_type
    id_ = company_grant(company_id or "") if user_type == COMPANY else location_grant(location_id or "")
    return Grant(
        before.id if before else id_,
        user_type,
        company_id,
        None if user_type == COMPANY else location_id,
        granted.scopes or (before.scopes if before else ()),
        granted.access_token,
        granted.refresh_token or (before.refresh_token if before else None),
        now + timedelta(seconds=granted.expires_in),
        now,
    )


class Shelf:
    """The grants of a store, with the keys that open them."""

    def __init__(self, store: SqlStore, keys: "MultiFernet") -> None:
        self._store = store
        self._keys = keys

    def find(self, id_: str) -> Grant | None:
        """The grant of this id. Raises BadConfiguration when no key opens it."""
        with self._store.reading() as tx:
            row = grants.find(tx.connection, id_)
        return self._open(row) if row is not None else None

    def companies(self) -> list[Grant]:
        """The grants of agencies."""
        return [grant for grant in self._every() if grant.user_type == COMPANY]

    def own_locations(self) -> list[Grant]:
        """The grants of locations that somebody logged in to."""
        return [grant for grant in self._every() if grant.user_type != COMPANY and grant.refresh_token is not None]

    def _every(self) -> list[Grant]:
        with self._store.reading() as tx:
            rows = grants.every(tx.connection)
        return [self._open(row) for row in rows]

    def claim(self, id_: str, holder: str, now: datetime, lasts: timedelta) -> Grant | None:
        """Claim the refreshing of a grant; it is ours if `claimed_by` is, and a claim that was forgotten ends."""
        with self._store.transaction() as tx:
            row = grants.claim(tx.connection, id_, holder, now, now + lasts)
        return self._open(row) if row is not None else None

    def release(self, id_: str, holder: str, error: str | None = None) -> None:
        """Give the claim back; `error`: why there are no new tokens."""
        with self._store.transaction() as tx:
            grants.release(tx.connection, id_, holder, error=error)

    def end(self, id_: str, holder: str, error: str) -> None:
        """The grant is over, until somebody logs in again."""
        with self._store.transaction() as tx:
            grants.release(tx.connection, id_, holder, error=error, status=ENDED)

    def save(self, grant: Grant) -> None:
        """Keep a grant with new tokens, without a claim."""
        with self._store.transaction() as tx:
            grants.save(tx.connection, self._sealed(grant))

    def locations(self) -> list[dict[str, str | None]]:
        """The locations that agencies' grants were last seen to open: id, name, company_id."""
        with self._store.reading() as tx:
            return list(tx.setting(LOCATIONS_KEY) or [])

    def save_locations(self, found: list[dict[str, str | None]], now: datetime) -> None:
        """Remember them."""
        with self._store.transaction() as tx:
            if tx.setting(LOCATIONS_KEY) != found:
                tx.save_setting(LOCATIONS_KEY, found, now)

    def _sealed(self, grant: Grant) -> grants.GrantRow:
        return grants.GrantRow(
            grant.id,
            grant.user_type,
            grant.company_id,
            grant.location_id,
            " ".join(grant.scopes),
            self._seal(grant.access_token),
            None if grant.refresh_token is None else self._seal(grant.refresh_token),
            grant.expires_at,
            grant.status,
            grant.error,
            grant.got_at,
        )

    def _open(self, row: grants.GrantRow) -> Grant:
        from cryptography.fernet import InvalidToken

        try:
            access, refresh = (
                None if sealed is None else self._keys.decrypt(sealed.encode()).decode()
                for sealed in (row.access_token, row.refresh_token)
            )
        except InvalidToken:
            raise BadConfiguration(
                f"the stored tokens of {row.id} were encrypted with another key",
                hint="give that key too, after the new one, or log in again: rankr-sync auth login",
            ) from None
        return Grant(
            row.id,
            row.user_type,
            row.company_id,
            row.location_id,
            tuple((row.scopes or "").split()),
            access or "",
            refresh,
            row.expires_at,
            row.updated_at,
            row.status,
            row.error,
            row.refreshing_by,
        )

    def _seal(self, token: str) -> str:
        return self._keys.encrypt(token.encode()).decode()
