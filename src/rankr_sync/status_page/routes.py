"""The routes of the status page, and the page on which people sign in.

What a request carries by the time it gets here; `service.access` has checked it:

- `request.app.state.app`: the `App`: configuration, store, engines (`app.locations[id].refresh(contact_id)`).
- `request.app.state.reading`: the `Reading`: `await reading.now(look)` for what must be of this moment, and
  `await reading.lately(key, look)` for figures that may be some seconds old; `look` takes a connection (`store.look`).
- `request.state.csrf`: goes into each form that changes something, as the hidden field `csrf`; a script sends it as the
  header `X-CSRF-Token`. Forms are `application/x-www-form-urlencoded`, at most 64 KiB.
- `request.state.signed_in`: whether a password is set and the visitor has given it: offer a form that posts to
  `/logout`.

What is below `/static/` needs no sign-in. Scripts, styles and images come from there only, never inline
(`style="..."` too): the Content-Security-Policy refuses all else.
"""

import html

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute


def routes() -> list[BaseRoute]:
    """Every route of the status page, static files included."""
    return []


def login_page(request: Request, *, next_path: str, problem: str | None = None, status_code: int = 200) -> Response:
    """Asks for the password and posts it, as `password`, to `/login`, with `next` and `csrf`; `problem` is what went
    wrong with the last try.
    """
    said = f'<p role="alert">{html.escape(problem)}</p>' if problem else ""
    return HTMLResponse(
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Sign in - rankr-sync</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"></head><body><main><h1>rankr-sync</h1>'
        f'{said}<form method="post" action="/login">'
        f'<input type="hidden" name="csrf" value="{html.escape(request.state.csrf)}">'
        f'<input type="hidden" name="next" value="{html.escape(next_path)}">'
        '<p><label for="password">Password</label>'
        '<input id="password" name="password" type="password" autocomplete="current-password" required autofocus></p>'
        '<p><button type="submit">Sign in</button></p></form></main></body></html>',
        status_code=status_code,
    )
