"""How a person lets the app in: the page to open, what comes back, and the grant that is kept.

No PKCE: HighLevel documents none, and the app has a secret. The `state` is what ties the answer to this login.
"""

import hmac
import secrets
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import parse_qs, urlencode, urlsplit

from rankr_sync.errors import BadConfiguration
from rankr_sync.highlevel.oauth import COMPANY, LOCATION, Application, OAuthEndpoints
from rankr_sync.oauth.shelf import Grant, Shelf, grant_of

AGENCY_SCOPES = ("oauth.readonly", "oauth.write")
"""What an agency's grant needs beside: to list its locations, and to make tokens for them."""

AGAIN = "begin anew: rankr-sync auth login"


@dataclass(frozen=True, slots=True)
class Login:
    """A login that was begun. `url` is the page that the person opens."""

    url: str
    state: str = field(repr=False)
    user_type: str

    def code_of(self, redirected_to: str) -> str:
        """The code in the URL that the browser was sent to. Raises BadConfiguration where it is not of this login."""
        query = {name: values[0] for name, values in parse_qs(urlsplit(redirected_to.strip()).query).items()}
        # First the state: what comes of another login, or of somebody else's link, is not even read.
        if not hmac.compare_digest(query.get("state", "").encode(), self.state.encode()):
            raise BadConfiguration("what came back is not of this login (its state is another)", hint=AGAIN)
        if "error" in query:
            raise BadConfiguration("HighLevel did not let the app in (it redirected with an error)", hint=AGAIN)
        if not query.get("code"):
            raise BadConfiguration("what came back holds no code", hint=AGAIN)
        return query["code"]


def begin(authorize_url: str, application: Application, scopes: tuple[str, ...], *, agency: bool) -> Login:
    """Begin a login: to one location, or to an agency with all of its locations."""
    state = secrets.token_urlsafe(24)
    asked = (*scopes, *(scope for scope in AGENCY_SCOPES if scope not in scopes)) if agency else scopes
    query = {
        "response_type": "code",
        "client_id": application.client_id,
        "redirect_uri": application.redirect_uri,
        "scope": " ".join(asked),
        "state": state,
        "version_id": application.app_id,  # private apps answer `error.noversionid` without it
    }
    url = f"{authorize_url}{'&' if urlsplit(authorize_url).query else '?'}{urlencode(query)}"
    return Login(url, state, COMPANY if agency else LOCATION)


async def finish(login: Login, redirected_to: str, endpoints: OAuthEndpoints, shelf: Shelf, now: datetime) -> Grant:
    """Exchange the code for tokens and keep them: the grant is durable when this returns."""
    granted = await endpoints.exchange(login.code_of(redirected_to), login.user_type)
    grant = grant_of(granted, now)
    if not (grant.company_id if grant.user_type == COMPANY else grant.location_id):
        raise BadConfiguration("the answer does not say which location or agency was chosen", hint=AGAIN)
    shelf.save(grant)
    return grant
