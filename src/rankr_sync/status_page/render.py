"""From a template and its values to an answer. Everything is escaped; a value that is missing is an error."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nh3
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from rankr_sync import __version__, spans
from rankr_sync.status_page import words

HERE = Path(__file__).parent

_NOT_OF_A_NOTE = {
    *("area", "img", "map"),
    *("article", "aside", "footer", "header", "hgroup", "nav", "h1", "h2"),  # the page's own structure
}
_TAGS = nh3.ALLOWED_TAGS - _NOT_OF_A_NOTE
"""What a note may be written with. No images: the page would tell their server who reads it, and when."""


def note_html(content: str) -> Markup:
    """A note's HTML with nothing in it that runs, loads, or looks other than text: no scripts, images, styles."""
    return Markup(  # noqa: S704 - this is where it is made safe
        nh3.clean(
            content,
            tags=_TAGS,
            attributes={"a": {"href", "title"}},
            url_schemes={"http", "https", "mailto", "tel"},
            link_rel="noopener nofollow noreferrer",
        )
    )


def address(written: str) -> Markup:
    """An e-mail address that may be broken behind its @, where a line is too short for it."""
    return Markup("@<wbr>").join(written.split("@"))


def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "address": address,
        "clock": words.clock,
        "lasting": spans.lasting,
        "moment": words.moment,
        "note_html": note_html,
        "stamp": words.stamp,
        "value": words.value,
    }
    made.globals |= {"ago": spans.ago, "many": words.many, "version": __version__}
    return made


_TEMPLATES = _environment()


def render(request: Request, template: str, *, status_code: int = 200, **values: Any) -> Response:
    """The page. What every page needs of the request is there: `csrf`, `signed_in`, `path`, `now`."""
    content = _TEMPLATES.get_template(template).render(
        csrf=request.state.csrf,
        signed_in=request.state.signed_in,
        path=request.url.path,
        **{"now": datetime.now(UTC), **values},
    )
    return HTMLResponse(content, status_code, headers={"Cache-Control": "no-store"})
