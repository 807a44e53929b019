"""Values as the API sends them, in every form that was seen or is documented."""

import contextlib
import time
from datetime import UTC, date, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankr_sync import values
from rankr_sync.values import BadValue

ZURICH = ZoneInfo("Europe/Zurich")
NEW_YORK = ZoneInfo("America/New_York")
WHEN = datetime(2026, 7, 17, 7, 11, 57, 939000, tzinfo=UTC)

junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)


@pytest.mark.parametrize(
    ("sent", "zone", "moment"),
    [
        (None, UTC, None),
        ("", UTC, None),
        ("2026-07-17T07:11:57.939Z", ZURICH, WHEN),
        ("2026-07-17T09:11:57.939+02:00", UTC, WHEN),
        ("2026-07-17T07:11:57.939+0000", UTC, WHEN),
        ("2026-07-17T07:11:57.9390000Z", UTC, WHEN),
        (1784272317939, ZURICH, WHEN),
        (1784272317939.0, ZURICH, WHEN),
        ("1784272317939", ZURICH, WHEN),
        (0, UTC, datetime(1970, 1, 1, tzinfo=UTC)),
        (-1000, UTC, datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)),
        ("2026-07-20 11:00:00", UTC, datetime(2026, 7, 20, 11, tzinfo=UTC)),
        ("2026-07-20 11:00:00", ZURICH, datetime(2026, 7, 20, 9, tzinfo=UTC)),
        ("2026-01-20 11:00:00", ZURICH, datetime(2026, 1, 20, 10, tzinfo=UTC)),
        ("2026-07-20 11:00:00", NEW_YORK, datetime(2026, 7, 20, 15, tzinfo=UTC)),
        ("2026-03-29 02:30:00", ZURICH, datetime(2026, 3, 29, 1, 30, tzinfo=UTC)),  # an hour that does not exist
        ("2026-10-25 02:30:00", ZURICH, datetime(2026, 10, 25, 0, 30, tzinfo=UTC)),  # one that comes twice
        ("2026-07-20", ZURICH, datetime(2026, 7, 19, 22, tzinfo=UTC)),
    ],
)
def test_moments(sent, zone, moment):
    """Every form of a time is the same moment in UTC; without a zone, the given one is meant."""
    assert values.moment(sent, zone) == moment
    assert moment is None or values.moment(sent, zone).tzinfo is UTC


@pytest.mark.parametrize(
    "sent",
    [
        "tomorrow",
        "2026-02-30T00:00:00Z",
        "2026-13-01",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
        "9999999999999999",
        10**18,
        -(10**400),
        10**400,
        float("nan"),
        float("inf"),
        " ",
    ],
)
def test_impossible_moments(sent):
    """A time that cannot be is told, without repeating it."""
    with pytest.raises(BadValue, match=r"\Aimpossible date\Z"):
        values.moment(sent)


@pytest.mark.parametrize("read", [values.moment, values.day])
@pytest.mark.parametrize(("sent", "kind"), [(True, "true/false"), ([], "a list"), ({"on": "2026-07-20"}, "an object")])
def test_what_is_no_date(read, sent, kind):
    """The reason names the type that was found."""
    with pytest.raises(BadValue, match=f"expected a date, got {kind}"):
        read(sent)


@given(
    st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1)),
    st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes))),
)
def test_moments_survive_any_offset(naive, zone):
    """Written with an offset and read again, a moment is the same."""
    moment = naive.replace(tzinfo=zone)
    assert values.moment(moment.isoformat(), NEW_YORK) == moment


@given(st.integers(-(10**11), 4 * 10**12))
def test_epoch_milliseconds_are_read_alike(ms):
    """As a number and as text of usual length, epoch milliseconds are the same moment, to the millisecond."""
    found = values.moment(ms)
    assert round(found.timestamp() * 1000) == ms
    if len(str(abs(ms))) >= 9:
        assert values.moment(str(ms)) == found


@pytest.mark.parametrize(
    ("sent", "day"),
    [
        (None, None),
        ("", None),
        ("1990-05-17", date(1990, 5, 17)),
        ("1990-05-17T00:00:00.000Z", date(1990, 5, 17)),
        ("1990-05-17T00:00:00+02:00", date(1990, 5, 17)),
        (" 1990-05-17 ", date(1990, 5, 17)),
        ("1990/05/17", date(1990, 5, 17)),
        ("05/17/1990", date(1990, 5, 17)),
        ("05-17-1990", date(1990, 5, 17)),
        ("05.17.1990", date(1990, 5, 17)),
        ("May 17, 1990", date(1990, 5, 17)),
        ("May 17 1990", date(1990, 5, 17)),
        ("17 May 1990", date(1990, 5, 17)),
        (642902400000, date(1990, 5, 17)),
        ("642902400000", date(1990, 5, 17)),
        (-86_400_000, date(1969, 12, 31)),
    ],
)
def test_days(sent, day):
    """A day is a day, in no zone, in each of the forms that people and endpoints write."""
    assert values.day(sent) == day


@pytest.mark.parametrize("sent", ["1990-02-30", "17/05/1990", "soon", "9999999999999999", 10**18, float("nan")])
def test_impossible_days(sent):
    """A day that cannot be is told."""
    with pytest.raises(BadValue, match="impossible date"):
        values.day(sent)


@pytest.mark.parametrize(
    ("sent", "number"),
    [
        (None, None),
        ("", None),
        (7, 7),
        (7.5, 7.5),
        (True, 1),
        ("7", 7),
        ("-7.25", -7.25),
        ("1,234.50", 1234.5),
        ("$ 99", 99),
        ("€10", 10),
        ("12 000", 12000),
        ("15 %", 15),
        ("12,345,678", 12345678),
        ("12,34,567", 1234567),
        ("1e3", 1000.0),
        (10**30, 10**30),
    ],
)
def test_numbers(sent, number):
    """Numbers, also as people write them."""
    assert values.number(sent) == number


@pytest.mark.parametrize(
    "sent",
    [
        "many",
        "1,5",
        "1.234,50",
        "12,34",
        "nan",
        "inf",
        "1e999",
        "9" * 5000,
        " ",
        "1-2",
        [],
        {},
        float("nan"),
        float("inf"),
        float("-inf"),
    ],
)
def test_what_is_no_number(sent):
    """What is not surely one number is refused: a decimal comma is not made a thousand times larger."""
    with pytest.raises(BadValue, match="expected a"):
        values.number(sent)


@pytest.mark.parametrize(
    ("sent", "truth"),
    [
        (None, None),
        ("", None),
        (" ", None),
        (True, True),
        (False, False),
        (1, True),
        (0, False),
        (0.0, False),
        ("true", True),
        ("Yes", True),
        (" Y ", True),
        ("1", True),
        ("on", True),
        ("false", False),
        ("NO", False),
        ("n", False),
        ("0", False),
        ("off", False),
    ],
)
def test_booleans(sent, truth):
    """True and false, also as words."""
    assert values.boolean(sent) is truth


@pytest.mark.parametrize("sent", ["maybe", [], {}])
def test_what_is_no_boolean(sent):
    """Other words are refused."""
    with pytest.raises(BadValue, match="expected true or false"):
        values.boolean(sent)


@pytest.mark.parametrize(
    ("sent", "text", "joined"),
    [(None, None, None), ("", "", ""), ("x", "x", "x"), (5, "5", "5"), (0.5, "0.5", "0.5"), (True, "true", "true")],
)
def test_text(sent, text, joined):
    """Text as it is, numbers and booleans written out."""
    assert values.text(sent) == text
    assert values.joined_text(sent) == joined


def test_a_list_is_text_only_where_choices_are_joined():
    """A multiple choice is joined with commas; anywhere else a list is not text."""
    assert values.joined_text(["a", None, "", 3, "b"]) == "a, 3, b"
    assert values.joined_text([]) == ""
    with pytest.raises(BadValue, match="expected text, got a list"):
        values.text(["a"])
    with pytest.raises(BadValue, match="expected text, got an object"):
        values.joined_text([{}])


@pytest.mark.parametrize(
    ("sent", "region", "phone"),
    [
        (None, "US", None),
        ("", "US", None),
        ("+15550100001", "CH", "+15550100001"),
        ("+41791234567", None, "+41791234567"),
        ("+41 79 123 45 67", "US", "+41791234567"),
        ("0041 79 123 45 67", "CH", "+41791234567"),
        ("079 123 45 67", "CH", "+41791234567"),
        ("079 123 45 67", "ch", "+41791234567"),
        ("(202) 555-0143", "US", "+12025550143"),
        ("(202) 555-0143", None, "+12025550143"),
        (2025550143, "US", "+12025550143"),
        ("555-0143", "US", "555-0143"),
        ("call me", "US", "call me"),
        ("12", "US", "12"),
        ("+99912345", "US", "+99912345"),
        ("079 123 45 67", "XX", "079 123 45 67"),
        ("1" * 300, "US", "1" * 300),
    ],
)
def test_phones(sent, region, phone):
    """E.164 where the number is understood, else as it was written: nothing is made up, nothing lost."""
    assert values.phone(sent, region) == phone


@pytest.mark.parametrize(
    ("case", "sent", "changed"),
    [
        ("title", "mary-jane o'neil", "Mary-Jane O'Neil"),
        ("title", "élise müller", "Élise Müller"),
        ("title", "McDonald", "McDonald"),
        ("title", "ANNA", "ANNA"),
        ("title", "3rd street", "3rd Street"),
        ("title", "", ""),
        ("lower", "MiXed", "mixed"),
        ("upper", "MiXed", "MIXED"),
    ],
)
def test_cases(case, sent, changed):
    """Names get capitals only where they have none."""
    assert values.CASES[case](sent) == changed


@given(junk, st.sampled_from(["US", "CH", "xx", ""]))
def test_no_value_raises_anything_but_bad_value(value, region):
    """Whatever arrives: it is read, or refused."""
    for read in (values.text, values.joined_text, values.moment, values.day, values.number, values.boolean):
        with contextlib.suppress(BadValue):
            read(value)
    with contextlib.suppress(BadValue):
        values.phone(value, region)


@pytest.mark.parametrize("read", [values.moment, values.day, values.number, values.boolean])
def test_a_reason_holds_nothing_of_the_value(read):
    """It may be personal data, and the reason may be logged."""
    with pytest.raises(BadValue) as caught:
        read("jane@example.com")
    assert "jane" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("plain  text\n with  room ", "plain  text\n with  room "),
        ("", ""),
        ("<p>One</p><p>Two</p>", "One\n\nTwo"),
        ("One<br>Two<br/>Three<BR />Four", "One\nTwo\nThree\nFour"),
        ("Fish &amp; chips &lt;b&gt; &#233;&nbsp;x &unknown; &", "Fish & chips <b> é x &unknown; &"),
        ("<ul><li>a</li><li>b</li></ul>", "a\n\nb"),
        ('<div>a <b>bold</b> <a href="http://x/?a=1&b=2">link</a></div>', "a bold link"),
        ("a<script>if (a < b) { x('</p>') }</script>b", "ab"),
        ("a<style type='text/css'>p > a { }</STYLE >b", "ab"),
        ("a<script>never closed <p>b</p>", "a"),
        ("a<script src='x'/>b", "ab"),
        ("a<!-- <p>hidden</p> -->b", "ab"),
        ("a<!-- never closed <p>b", "a"),
        ("<!DOCTYPE html><?xml version='1.0'?><![CDATA[x]]>b", "b"),
        ("1 < 2 and 3 > 2", "1 < 2 and 3 > 2"),
        ("a <b", "a <b"),
        ("<p title=it's>a</p><p>it's</p>", "a\n\nit's"),
        ("<a title='1 > 0' href=\"<x>\">a</a>", "a"),
        ("<table><tr><td>a</td><td>b</td></tr><tr><td>c</td></tr></table>", "a b\n\nc"),
        ("<p>a</p>\n\n\n\n<p>b</p>", "a\n\nb"),
        ("<p>&#0;&#xD800;</p>", "\ufffd\ufffd"),
    ],
)
def test_html_becomes_text(html, text):
    """What a person would read, with lines where the page has them; what is no markup stays."""
    assert values.plain_text(html) == text


fragments = st.lists(
    st.sampled_from(
        [
            "<",
            ">",
            "</",
            "/>",
            "<!",
            "<!--",
            "-->",
            "<![",
            "<![if x",
            "<![CDATA[",
            "]]>",
            "<?",
            "&",
            "&#",
            ";",
            "&#x",
            "p",
            "br",
            "script",
            "<script>",
            "</script",
            "style",
            "=",
            '"',
            "'",
            " ",
            "\n",
            "a",
            '="',
            "='",
            "\x00",
        ]
    ),
    max_size=30,
).map("".join)


@given(fragments | st.text())
def test_malformed_html_never_raises(html):
    """Any text at all is turned into text."""
    assert isinstance(values.plain_text(html), str)


@given(st.text(st.characters(blacklist_characters="<&", blacklist_categories=["Cs"])))
def test_text_without_markup_is_left_alone(text):
    """Nothing is changed where nothing is marked up."""
    assert values.plain_text(text) == text


MEGABYTES = 2_000_000


@pytest.mark.parametrize(
    "piece",
    [
        "<p>Hello <b>x</b> &amp; y</p>\n",
        "<br>",
        "<",
        "<a ",
        '<a href="',
        "<a b='",
        "<!--",
        "<!",
        "</",
        "&#",
        "<br>\n",
        "<script>",
        "<script></script>",
        "<a =\"<b ='",
        "x",
    ],
)
def test_a_large_note_takes_well_under_a_second(piece):
    """Two megabytes of HTML, well formed or not, do not hold up the rest (counted in time of the processor)."""
    html = "<p>" + piece * (MEGABYTES // len(piece))
    begin = time.process_time()
    values.plain_text(html)
    assert time.process_time() - begin < 2.0
