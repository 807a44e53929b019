"""From bytes to a JSON object, whatever people have typed."""

import contextlib
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankr_sync.decode import DEEPEST, REPLACEMENT, decode
from rankr_sync.errors import BadAnswer

JSON = "application/json; charset=utf-8"


@pytest.mark.parametrize(
    ("body", "payload"),
    [
        (rb'{"a": "\ud83d"}', {"a": REPLACEMENT}),
        (rb'{"a": "x\udc00y"}', {"a": f"x{REPLACEMENT}y"}),
        (rb'{"a": "\ud83d\ude00"}', {"a": "\U0001f600"}),
        (rb'{"a": "\ud83d \ud83d\ude00"}', {"a": f"{REPLACEMENT} \U0001f600"}),
        (rb'{"a": "x\u0000y"}', {"a": f"x{REPLACEMENT}y"}),
        (rb'{"k\u0000": [{"b": "\u0000"}, 1, null]}', {f"k{REPLACEMENT}": [{"b": REPLACEMENT}, 1, None]}),
        (rb'{"a": "\\u0000"}', {"a": "\\u0000"}),
        (b'{"a": "\xed\xa0\x80"}', {"a": REPLACEMENT}),
        (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
        ('{"a": "\U0001f600 é"}'.encode(), {"a": "\U0001f600 é"}),
        (rb'{"traceId": "t", "a": "\ud800"}', {"traceId": "t", "a": REPLACEMENT}),
        (rb'{"traceId": "\u0000"}', {"traceId": REPLACEMENT}),
        (b'{"traceId": null}', {"traceId": None}),
        (b'{"traceId": 5, "model_config": 1, "__class__": 2}', {"traceId": 5, "model_config": 1, "__class__": 2}),
        (b"{}", {}),
        (b' \n{"a": 1, "a": 2}\n', {"a": 2}),
        (b'{"a": 123456789012345678901234567890}', {"a": 123456789012345678901234567890}),
        (b'{"a": ' + b"9" * 4000 + b"}", {"a": int("9" * 4000)}),
        (b'{"a": 1e999}', {"a": math.inf}),
    ],
)
def test_one_bad_character_costs_one_character(body, payload):
    """Lone surrogates and NUL become U+FFFD; everything else arrives as it was sent."""
    assert decode(body, JSON) == payload
    assert decode(body, None) == payload


def test_nan_does_not_cost_the_page():
    """NaN is not JSON, but its neighbours are of use."""
    payload = decode(b'{"a": NaN, "b": 1}', JSON)
    assert math.isnan(payload["a"])
    assert payload["b"] == 1


@pytest.mark.parametrize(
    ("body", "content_type", "reason"),
    [
        (b"<html>Just a moment...</html>", "text/html; charset=UTF-8", "web page"),
        (b'{"contacts": []}', "text/html", "web page"),
        (b"<html></html>", JSON, "not JSON"),
        (b"", JSON, "empty"),
        (b" ", JSON, "not JSON"),
        (b'{"contacts": [{"id": "a"', JSON, "not JSON"),
        (b'{"a": 1} trailing', JSON, "not JSON"),
        (b"[]", JSON, "not an object"),
        (b'[{"id": "a"}]', JSON, "not an object"),
        (b"null", JSON, "not an object"),
        (b'"text"', JSON, "not an object"),
        (b"5", JSON, "not an object"),
        (b'{"a": "\xff"}', JSON, "not JSON"),
        (b'{"a": "x\x00y"}', JSON, "not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", JSON, "not JSON"),
    ],
)
def test_what_is_no_json_object(body, content_type, reason):
    """Anything else is a bad answer, which may be better next time."""
    with pytest.raises(BadAnswer, match=reason):
        decode(body, content_type)


@pytest.mark.parametrize("suspect", [b"", rb"\ud800"])
@pytest.mark.parametrize("levels", [10, DEEPEST - 1, DEEPEST, 300, 600, 900, 5000, 100_000])
def test_deep_nesting(levels, suspect):
    """What is nested too deeply to be stored and read again is a bad answer, never a crash."""
    body = b'{"a": ' + b"[" * levels + b'"' + suspect + b'"' + b"]" * levels + b"}"
    if levels < DEEPEST:
        assert "a" in decode(body, JSON)
    else:
        with pytest.raises(BadAnswer):
            decode(body, JSON)


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\x00"))
)
clean_keys = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\x00")) | st.just("traceId")
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(clean_keys, inner, max_size=4),
    max_leaves=15,
)


@given(st.dictionaries(clean_keys, json_values), st.booleans())
def test_any_object_survives_unchanged(payload, ascii_only):
    """Without suspect characters, what arrives is what the standard parser reads, type by type."""
    body = json.dumps(payload, ensure_ascii=ascii_only).encode()
    found = decode(body, JSON)
    assert found == json.loads(body)
    assert json.dumps(found, sort_keys=True) == json.dumps(payload, sort_keys=True)


@given(st.dictionaries(st.text(max_size=3), st.text(max_size=5) | st.lists(st.text(max_size=5), max_size=3)))
def test_any_text_becomes_storable(payload):
    """Whatever characters come, escaped as JSON allows: no NUL and no surrogate is left, and nothing is lost."""
    stored = json.dumps(decode(json.dumps(payload).encode(), JSON), ensure_ascii=False)
    stored.encode()
    assert "\\u0000" not in stored.replace("\\\\", "")


@given(st.binary(max_size=60), st.sampled_from([None, JSON, "text/html"]))
def test_any_bytes_are_an_object_or_a_bad_answer(body, content_type):
    """No body at all raises anything but BadAnswer."""
    with contextlib.suppress(BadAnswer):
        assert isinstance(decode(body, content_type), dict)
