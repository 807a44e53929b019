"""From the bytes of an answer to a JSON object, without losing a page to one bad character.

The fast parser refuses a whole document for a lone surrogate in it, and PostgreSQL refuses NUL in text; both
come from people's keyboards. They become U+FFFD, and everything else arrives as it was sent.
"""

import json
import re
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from rankr_sync.errors import BadAnswer
from rankr_sync.model import JsonObject

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
REPLACEMENT = "�"
DEEPEST = 200
"""Levels of nesting. The fast parser, which also reads what the store holds, takes no more."""


class Body(BaseModel):
    """What every answer is: a JSON object, in which only the trace id is sure."""

    model_config = ConfigDict(extra="allow")

    traceId: Any = None  # noqa: N815 - the API's own name


_validator = Body.__pydantic_validator__


def decode(body: bytes, content_type: str | None) -> JsonObject:
    """The JSON object in `body`. Raises BadAnswer for anything else, whatever the status was."""
    if content_type is not None and "html" in content_type:
        raise BadAnswer("the answer is a web page, not JSON", hint="check api.base_url, or try again later")
    try:
        found = _validator.validate_json(body)
    except ValidationError:
        return _decode_slowly(body)
    payload: JsonObject = found.__pydantic_extra__ or {}
    if "traceId" in found.model_fields_set:
        payload["traceId"] = found.traceId
    return _clean(payload) if b"\\u0000" in body else payload


def _decode_slowly(body: bytes) -> JsonObject:
    try:
        payload = json.loads(body)
    except (ValueError, RecursionError):
        raise BadAnswer("the answer is not JSON" if body else "the answer is empty") from None
    if not isinstance(payload, dict):
        raise BadAnswer("the answer is JSON of the wrong shape: not an object")
    cleaned: JsonObject = _clean(payload)
    return cleaned


def _clean(value: Any, depth: int = 0) -> Any:
    if isinstance(value, str):
        return _UNSTORABLE.sub(REPLACEMENT, value)
    if depth >= DEEPEST:
        raise BadAnswer("the answer is nested too deeply")
    if isinstance(value, list):
        return [_clean(item, depth + 1) for item in value]
    if isinstance(value, dict):
        return {_clean(key): _clean(item, depth + 1) for key, item in value.items()}
    return value
