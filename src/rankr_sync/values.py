"""From values as the API sends them to values as the store keeps them. Pure functions, one a type.

Each takes the decoded JSON value and returns the typed one, None for "no value". Raises `BadValue` with a
reason that names the type of what was found, never the value itself (it may be personal data).
"""

import math
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, tzinfo
from html import unescape
from typing import Any

_E164 = re.compile(r"\+[1-9]\d{6,14}\Z")
_DIGITS = re.compile(r"-?\d{9,16}\Z")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:,\d{2,3})*,\d{3}(?:\.\d*)?\Z")
_TRUE = frozenset({"true", "yes", "y", "1", "on"})
_FALSE = frozenset({"false", "no", "n", "0", "off", ""})
_DATE_FORMATS = ("%Y/%m/%d", "%m/%d/%Y", "%m-%d-%Y", "%m.%d.%Y", "%b %d %Y", "%B %d %Y", "%d %b %Y")
_BLOCKS = frozenset(
    {
        *("address", "article", "blockquote", "br", "dd", "div", "dl", "dt", "fieldset", "figure", "footer", "form"),
        *("h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main", "nav", "ol", "p", "pre", "section"),
        *("table", "tr", "ul"),
    }
)
_CELLS = frozenset({"td", "th"})


class BadValue(ValueError):
    """A value that cannot be read as the wanted type."""


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true/false", int: "a number"}
    return names.get(type(value), "a number" if isinstance(value, float) else type(value).__name__)


def is_empty(value: Any) -> bool:
    """Whether the API's ways of saying nothing (null, "", [], {}) are meant: shapes differ in which they use."""
    return value is None or value == "" or value == [] or value == {}


def text(value: Any) -> str | None:
    """Text as it is; numbers and booleans are written out."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        try:
            return str(value)
        except ValueError:  # Python writes out no more than some thousand digits
            raise BadValue("expected text, got a number of thousands of digits") from None
    raise BadValue(f"expected text, got {_kind(value)}")


def joined_text(value: Any) -> str | None:
    """Like `text`, but a list of texts (a multiple choice) is joined with commas."""
    if isinstance(value, list):
        return ", ".join(part for item in value if (part := text(item)))
    return text(value)


def moment(value: Any, zone: tzinfo = UTC) -> datetime | None:
    """A moment in UTC, from every form the API uses: ISO with Z or offset, ISO without zone (then `zone`
    is meant), epoch milliseconds as number or text.
    """
    if value is None or value == "":
        return None
    try:
        if isinstance(value, str):
            if _DIGITS.match(value):
                return datetime.fromtimestamp(int(value) / 1000, UTC)
            parsed = datetime.fromisoformat(value)
            return parsed.replace(tzinfo=zone).astimezone(UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return datetime.fromtimestamp(value / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        raise BadValue("impossible date") from None
    raise BadValue(f"expected a date, got {_kind(value)}")


def day(value: Any) -> date | None:
    """A calendar day without a zone: `YYYY-MM-DD`, alone or before a time, and the forms people may write."""
    if value is None or value == "":
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        found = moment(value)
        return found.date() if found else None
    if not isinstance(value, str):
        raise BadValue(f"expected a date, got {_kind(value)}")
    written = value.strip()
    try:
        return date.fromisoformat(written[:10])
    except ValueError:
        pass
    if _DIGITS.match(written):
        return day(int(written))
    for form in _DATE_FORMATS:
        try:
            return datetime.strptime(written.replace(",", ""), form).date()
        except ValueError:
            continue
    raise BadValue("impossible date")


def number(value: Any) -> int | float | None:
    """A number, also from text such as `1,234.50` or `$ 99`."""
    if value is None or value == "":
        return None
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, (int, float)):
        return _finite(value)
    if not isinstance(value, str):
        raise BadValue(f"expected a number, got {_kind(value)}")
    bare = re.sub(r"[\s_$€£%]", "", value)
    if "," in bare:
        if not _THOUSANDS.match(bare):
            raise BadValue("expected a number, got commas that do not part thousands")
        bare = bare.replace(",", "")
    try:
        return int(bare)
    except ValueError:
        pass
    try:
        found = float(bare)
    except ValueError:
        raise BadValue("expected a number, got other text") from None
    return _finite(found)


def _finite(found: float) -> float:
    if isinstance(found, float) and not math.isfinite(found):
        raise BadValue("expected a finite number")
    return found


def boolean(value: Any) -> bool | None:
    """True or false, also from `yes`, `no`, `1`, `0`."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (int, float)):
        return bool(value)
    if isinstance(value, str):
        word = value.strip().lower()
        if word in _TRUE:
            return True
        if word in _FALSE:
            return False if word else None
    raise BadValue(f"expected true or false, got {_kind(value)}")


def phone(value: Any, region: str | None = None) -> str | None:
    """E.164 (`+15550100001`) where the number can be understood, else as it was written.

    `region` is the two-letter country that a number without a country code is taken to be of.
    """
    written = text(value)
    if not written or _E164.match(written):
        return written or None
    import phonenumbers  # slow to import, and most numbers arrive as E.164

    try:
        parsed = phonenumbers.parse(written, (region or "US").upper())
    except phonenumbers.NumberParseException:
        return written
    if phonenumbers.is_possible_number_with_reason(parsed) != phonenumbers.ValidationResult.IS_POSSIBLE:
        return written  # also numbers without their area code: no country can be put before these
    return phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.E164)


def title_case(value: str) -> str:
    """`mary-jane o'neil` -> `Mary-Jane O'Neil`; leaves text alone that already has capitals."""
    if value != value.lower():
        return value
    return re.sub(r"(?<![^\W_])[^\W\d_]", lambda letter: letter[0].upper(), value)


CASES: dict[str, Callable[[str], str]] = {"lower": str.lower, "upper": str.upper, "title": title_case}


_MARKUP = re.compile(
    r"<!--.*?(?:-->|\Z)"
    r"|<(?P<close>/?)(?P<tag>[a-zA-Z][a-zA-Z0-9:-]*+)(?:[^<>=]++|=\s*+\"[^\"]*+\"|=\s*+'[^']*+'|=)*+>"
    r"|<[!?/][^<>]*+>",
    re.DOTALL,
)
"""Comments, tags, declarations. Matched without going back: html.parser takes minutes for a malformed page."""
_ENDS = {tag: re.compile(rf"</{tag}\s*+>", re.IGNORECASE) for tag in ("script", "style")}


def plain_text(html: str) -> str:
    """The readable text of an HTML fragment; text without markup comes back as it is.

    Block elements begin a new line. What only looks like markup (`a < b`) is text.
    """
    if "<" not in html and "&" not in html:
        return html
    parts: list[str] = []
    position = 0
    while (found := _MARKUP.search(html, position)) is not None:
        parts.append(unescape(html[position : found.start()]))
        position = found.end()
        tag = (found["tag"] or "").lower()
        if tag in _BLOCKS:
            parts.append("\n")
        elif tag in _CELLS:
            parts.append(" ")
        elif tag in _ENDS and not found["close"] and not found[0].endswith("/>"):
            end = _ENDS[tag].search(html, position)
            position = end.end() if end else len(html)
    parts.append(unescape(html[position:]))
    lines = (" ".join(line.split()) for line in "".join(parts).splitlines())
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
