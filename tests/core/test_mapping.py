"""Field mapping: rules, what they find, and what they say when they cannot."""

from datetime import UTC, date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rankr_sync.mapping import FieldMapping, FieldRule, MappedField, check_target
from rankr_sync.model import LocationFacts
from rankr_sync.streams import STREAMS
from rankr_sync.streams.base import FILLED_BY_US

FACTS = LocationFacts(
    "loc",
    timezone="Europe/Zurich",
    country="CH",
    custom_fields={"cf1": "cf1", "contact.plan": "cf1", "plan": "cf1", "grösse": "cf2"},
)

PAYLOAD = {
    "name": "jane DOE",
    "lower": "jane doe",
    "empty": "",
    "null": None,
    "none": [],
    "phone": "079 123 45 67",
    "at": "2026-07-17 09:00:00",
    "day": "1990-05-17T00:00:00.000Z",
    "count": "1,234",
    "flag": "yes",
    "tags": ["b", "a"],
    "deep": {"er": {"est": "gold"}, "text": "x"},
    "customFields": [
        {"id": "cf0", "value": "no"},
        {"id": "cf1", "value": ["basic", "extra"]},
        {"id": "cf2", "value": 5},
    ],
}


def mapped(rule, payload=PAYLOAD, facts=FACTS):
    """What a rule makes of a payload, with its problems."""
    mapping = FieldMapping({"target": FieldRule.model_validate(rule)}, {}, frozenset({"target"}), facts)
    row, problems = mapping.row(payload)
    return row["target"], problems


@pytest.mark.parametrize(
    ("rule", "value"),
    [
        ("name", "jane DOE"),
        ({"from": "name"}, "jane DOE"),
        ("missing", None),
        ("deep.er.est", "gold"),
        ("deep.text.est", None),
        ("deep.nothing.est", None),
        (["empty", "null", "none", "missing", "name", "lower"], "jane DOE"),
        (["empty", "missing"], None),
        ({"from": ["missing", "deep.text"]}, "x"),
        ({"join": ["name", "empty", "deep.text"]}, "jane DOE x"),
        ({"join": ["name", "count"], "separator": ", "}, "jane DOE, 1,234"),
        ({"join": "name"}, "jane DOE"),
        ({"join": ["empty", "missing"]}, None),
        ({"constant": "HighLevel"}, "HighLevel"),
        ({"constant": False, "type": "boolean"}, False),
        ({"constant": 0, "type": "number"}, 0),
        ({"constant": "2026-07-17", "type": "date"}, date(2026, 7, 17)),
        ({"constant": date(2026, 7, 17), "type": "date"}, date(2026, 7, 17)),
        ({"from": "missing", "default": "n/a"}, "n/a"),
        ({"from": "name", "default": "n/a"}, "jane DOE"),
        ({"from": "missing", "default": "1990-05-17", "type": "date"}, date(1990, 5, 17)),
        ({"from": "missing", "default": date(1990, 5, 17), "type": "date"}, date(1990, 5, 17)),
        (
            {"from": "missing", "default": "2026-07-17 09:00:00", "type": "datetime"},
            datetime(2026, 7, 17, 7, tzinfo=UTC),
        ),
        ({"from": "missing", "default": "7", "type": "number"}, 7),
        ({"from": "missing", "default": "no", "type": "boolean"}, False),
        ({"from": "missing", "default": 7}, "7"),
        ({"from": "missing", "default": ["x"], "type": "json"}, ["x"]),
        ({"from": "name", "case": "lower"}, "jane doe"),
        ({"from": "name", "case": "upper"}, "JANE DOE"),
        ({"from": "name", "case": "keep"}, "jane DOE"),
        ({"from": "lower", "case": "title"}, "Jane Doe"),
        ({"from": "missing", "case": "title"}, None),
        ({"from": "phone", "type": "phone"}, "+41791234567"),
        ({"from": "phone", "type": "phone", "region": "DE"}, "+49791234567"),
        ({"from": "at", "type": "datetime"}, datetime(2026, 7, 17, 7, tzinfo=UTC)),
        ({"from": "day", "type": "date"}, date(1990, 5, 17)),
        ({"from": "count", "type": "number"}, 1234),
        ({"from": "flag", "type": "boolean"}, True),
        ({"from": "tags", "type": "json"}, ["b", "a"]),
        ({"from": "deep.er", "type": "json"}, {"est": "gold"}),
        ({"custom_field": "cf1"}, "basic, extra"),
        ({"custom_field": "Plan"}, "basic, extra"),
        ({"custom_field": "contact.plan"}, "basic, extra"),
        ({"custom_field": "Größe"}, "5"),
        ({"custom_field": "cf2", "type": "number"}, 5),
        ({"custom_field": "cf1", "type": "json"}, ["basic", "extra"]),
        ({"custom_field": "cf9"}, None),
        ({"custom_field": "cf9", "default": "free"}, "free"),
    ],
)
def test_each_kind_of_rule(rule, value):
    """Every way to fill a target, and what it fills it with."""
    assert mapped(rule) == (value, ())


@pytest.mark.parametrize(
    ("payload", "facts", "phone"),
    [
        ({"phone": "079 123 45 67"}, FACTS, "+41791234567"),
        ({"phone": "079 123 45 67", "country": "DE"}, FACTS, "+49791234567"),
        ({"phone": "079 123 45 67", "country": "Germany"}, FACTS, "+41791234567"),
        ({"phone": "079 123 45 67", "country": {}}, FACTS, "+41791234567"),
        ({"phone": "(202) 555-0143"}, LocationFacts("loc"), "+12025550143"),
    ],
)
def test_the_country_of_a_phone(payload, facts, phone):
    """The rule's region goes before the contact's country, that before the location's."""
    assert mapped({"from": "phone", "type": "phone"}, payload, facts) == (phone, ())


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        ("tags", "target: expected text, got a list"),
        ({"from": "name", "type": "datetime"}, "target: impossible date"),
        ({"from": "name", "type": "date"}, "target: impossible date"),
        ({"from": "name", "type": "number"}, "target: expected a number, got other text"),
        ({"from": "name", "type": "boolean"}, "target: expected true or false, got text"),
        ({"from": "deep", "type": "phone"}, "target: expected text, got an object"),
        ({"join": ["name", "deep"]}, "target: expected text, got an object"),
    ],
)
def test_what_cannot_be_read_is_told_and_left_out(rule, problem):
    """The target stays empty, or gets its default; the reason names the target and no value."""
    assert mapped(rule) == (None, (problem,))
    origin = {"from": rule} if isinstance(rule, str) else rule
    default = {"datetime": "2026-07-17T07:00:00Z", "date": "2026-07-17", "number": 1, "boolean": True}.get(
        origin.get("type", "text"), "x"
    )
    value, problems = mapped({**origin, "default": default})
    assert value is not None
    assert problems == (problem,)


@pytest.mark.parametrize("entries", ["text", 5, {}, {"id": "cf1"}, [5, None, {"id": "cf1"}], [{"value": 1}]])
def test_odd_custom_fields_are_no_values(entries):
    """A payload whose custom fields are not what was promised has none."""
    assert mapped({"custom_field": "cf1"}, {"customFields": entries}) == (None, ())


@pytest.mark.parametrize(
    "rule",
    [
        {},
        {"default": "x"},
        {"from": "a", "join": ["b"]},
        {"from": "a", "constant": 1},
        {"join": "a", "custom_field": "b"},
        {"constant": False, "from": "a"},
        {"from": []},
    ],
)
def test_a_rule_has_exactly_one_origin(rule):
    """None and two are refused alike."""
    with pytest.raises(ValidationError, match="exactly one of from, join, custom_field and constant"):
        FieldRule.model_validate(rule)


@pytest.mark.parametrize(
    "rule",
    [
        {"from": "a", "type": "money"},
        {"from": "a", "case": "camel"},
        {"from": "a", "form": "b"},
        {"from": 5},
        {"from": "a", "type": "date", "default": "some day"},
        {"from": "a", "type": "number", "default": "many"},
        {"from": "a", "default": {"no": "text"}},
        {"constant": "perhaps", "type": "boolean"},
    ],
)
def test_a_wrong_rule_is_refused(rule):
    """Unknown keys and kinds, and constants and defaults that are not of the type, are told at once."""
    with pytest.raises(ValidationError):
        FieldRule.model_validate(rule)


def test_targets_that_are_no_columns_land_in_extra():
    """Columns are filled, everything else is kept, typed, in `extra`; rules replace the defaults."""
    mapping = FieldMapping(
        {"name": FieldRule(source="name"), "gone": FieldRule(source="lower")},
        {
            "name": FieldRule(source="name", case="lower"),
            "joined_on": FieldRule(source="at", type="datetime"),
            "born_on": FieldRule(source="day", type="date"),
            "score": FieldRule(source="count", type="number"),
            "nothing": FieldRule(source="missing"),
        },
        frozenset({"name", "gone"}),
        FACTS,
    )
    row, problems = mapping.row(PAYLOAD)
    assert problems == ()
    assert row == {
        "name": "jane doe",
        "gone": "jane doe",
        "extra": {"joined_on": "2026-07-17T07:00:00+00:00", "born_on": "1990-05-17", "score": 1234, "nothing": None},
    }


def test_the_preview_tells_origin_value_and_problem():
    """What a person needs to see of each target."""
    mapping = FieldMapping(
        {},
        {
            "a": FieldRule(source=("missing", "name")),
            "b": FieldRule(join=("name", "lower")),
            "c": FieldRule(custom_field="Plan"),
            "d": FieldRule(constant=1, type="number"),
            "e": FieldRule(source="name", type="number", default=0),
        },
        frozenset(),
        FACTS,
    )
    assert mapping.preview(PAYLOAD) == [
        MappedField("a", "missing or name", "jane DOE"),
        MappedField("b", "name + lower", "jane DOE jane doe"),
        MappedField("c", "custom field 'Plan'", "basic, extra"),
        MappedField("d", "constant", 1),
        MappedField("e", "name", 0, "expected a number, got other text"),
    ]


@pytest.mark.parametrize(
    "name", ["id", "raw", "digest", "extra", "deleted_at", "synced_at", "location_id", "contact_id"]
)
def test_reserved_targets_are_refused(name):
    """What rankr-sync fills itself cannot be mapped, in any stream."""
    for stream in STREAMS.values():
        with pytest.raises(ValueError, match="filled by rankr-sync itself"):
            check_target(name, stream.columns, FILLED_BY_US)


@pytest.mark.parametrize("name", ["", "Name", "9lives", "_x", "a-b", "a b", "a.b", "a;drop", "ä", "a" * 64, "a\n"])
def test_unusable_targets_are_refused(name):
    """A target must be able to be a column of the view."""
    with pytest.raises(ValueError, match="not a usable column name"):
        check_target(name, frozenset(), FILLED_BY_US)


@pytest.mark.parametrize("name", ["first_name", "x", "x9_", "a" * 63])
def test_usable_targets(name):
    """Columns, and lower-case names."""
    check_target(name, STREAMS["contacts"].columns, FILLED_BY_US)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["id", "value", "x"]), inner, max_size=2)
    ),
    max_leaves=4,
)


@pytest.mark.parametrize("name", list(STREAMS))
@given(data=st.data())
def test_any_payload_is_mapped(name, data):
    """Whatever the API puts into its keys: every column gets a value or None, and nothing raises."""
    stream = STREAMS[name]
    keys = sorted(
        {path for rule in stream.fields.values() for path in rule.source} | {"customFields", "status", "address"}
    )
    raw = data.draw(st.dictionaries(st.sampled_from(keys), json_values))
    rules = stream.rules(stream.mapping({"extra_one": FieldRule(custom_field="x")}, FACTS), FACTS)
    mapped = rules.map(raw, rules.normalise(raw))
    assert set(mapped.row) == stream.columns | {"extra"}
