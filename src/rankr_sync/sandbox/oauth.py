"""OAuth 2.0 as the account remembers it: where the app is installed, codes, refresh tokens, and what each opens.

What requests and answers look like is in `routes_oauth`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .access import Tokens
from .errors import ApiError, bad

APP_ID = "6578278e879ad2646715ba9c"
CLIENT_ID = f"{APP_ID}-sandbox1"
CLIENT_SECRET = "sandbox-client-secret"  # noqa: S105 - opens nothing real
COMPANY_ID = "SandboxCompany000001"
CODE_LASTS = 600.0
"""Seconds for which an authorization code can be exchanged."""

UserType = Literal["Company", "Location"]


@dataclass(frozen=True, slots=True)
class Holder:
    """Who let the app in, and for what: the whole agency, or one location."""

    user_type: UserType
    id: str
    scopes: frozenset[str]


@dataclass(frozen=True, slots=True)
class Pair:
    """What the token endpoint gives out."""

    holder: Holder
    access_token: str
    expires_in: int
    refresh_token: str | None


class Authority:
    """One app, one agency. Refresh tokens are single use; a spent one gets no grace."""

    def __init__(self, tokens: Tokens, locations: list[str], lasts: float) -> None:
        """`lasts`: seconds that an access token is good for."""
        self.lasts = lasts
        self.installed: set[str] = set()
        """The locations that have the app."""
        self.paused: set[str] = set()
        """Locations that are unpaid or paused: their refresh tokens wait until they are active again."""
        self.reconnects = True
        """Whether `/oauth/reconnect` helps an app that is still installed."""
        self._tokens = tokens
        self._locations = locations
        self._codes: dict[str, tuple[Holder, float]] = {}
        self._refresh: dict[str, Holder] = {}
        self._holders: dict[str, Holder] = {}
        self._made = 0

    def install(self, user_type: UserType, id_: str, scopes: frozenset[str], now: float) -> str:
        """Somebody chose a location, or the agency with all of its locations. Returns the authorization code."""
        holder = Holder(user_type, id_, scopes)
        self._holders[id_] = holder
        self.installed.update(self._locations if user_type == "Company" else [id_])
        return self._code(holder, now)

    def uninstall(self, id_: str) -> None:
        """The app is removed from a location, or from the agency and all of its locations."""
        gone = {COMPANY_ID, *self._locations} if id_ == COMPANY_ID else {id_}
        self.installed -= gone
        for name in gone:
            self._holders.pop(name, None)
        self._refresh = {token: holder for token, holder in self._refresh.items() if holder.id not in gone}

    def exchange(self, code: str, now: float) -> Pair:
        """A pair for a code, which is spent by that."""
        holder, ends = self._codes.pop(code, (None, 0.0))
        if holder is None or ends <= now:
            # Whatever the credentials (field).
            raise ApiError(401, "Authorization code not found", error="UnAuthorized!")
        return self._pair(holder, now)

    def refresh(self, token: str, now: float) -> Pair:
        """A new pair for a refresh token, which is spent by that."""
        holder = self._refresh.get(token)
        if holder is None:
            raise bad("Invalid grant: refresh token is invalid")
        if holder.id in self.paused:
            raise bad("Location is not active")
        del self._refresh[token]
        return self._pair(holder, now)

    def reconnect(self, id_: str, now: float) -> tuple[str, float]:
        """A code, and when it ends, for an app that is still installed."""
        holder = self._holders.get(id_)
        if holder is None or not self.reconnects:
            raise bad("App is not installed")  # the real words are not known
        return self._code(holder, now), now + CODE_LASTS

    def mint(self, company: Holder, location_id: str, now: float) -> Pair:
        """A location's access token for an agency's."""
        if location_id not in self.installed:
            raise bad("Location not found or the app is not installed on it")
        scopes = company.scopes - {"oauth.readonly", "oauth.write"}
        return self._pair(Holder("Location", location_id, scopes), now, refreshable=False)

    def _code(self, holder: Holder, now: float) -> str:
        code = self._new("code")
        self._codes[code] = (holder, now + CODE_LASTS)
        return code

    def _pair(self, holder: Holder, now: float, *, refreshable: bool = True) -> Pair:
        access = self._new("access")
        self._tokens.grant_until(access, holder.user_type, holder.id, holder.scopes, now + self.lasts)
        refresh = self._new("refresh") if refreshable else None
        if refresh is not None:
            self._refresh[refresh] = holder
        return Pair(holder, access, max(0, round(self.lasts) - 1), refresh)

    def _new(self, kind: str) -> str:
        self._made += 1
        return f"sandbox-{kind}-{self._made:08d}"
