"""The rate limit: what is admitted, what the headers tell, what is counted."""

import random

import httpx
import pytest

from rankr_sync.sandbox import RateLimit, SandboxOptions, location_id, token_of
from rankr_sync.sandbox.limits import Bucket, FixedWindow, SlidingWindow

from .conftest import LOCATION, START, Api, Clock, Make

PATH = f"/locations/{LOCATION}"
HEADERS = {
    "x-ratelimit-max",
    "x-ratelimit-remaining",
    "x-ratelimit-interval-milliseconds",
    "x-ratelimit-limit-daily",
    "x-ratelimit-daily-remaining",
    "x-ratelimit-daily-reset",
}


def test_all_six_headers_are_on_every_answer(make: Make) -> None:
    """Lower-case, also on errors and on 429."""
    api = make(rate_limit=RateLimit(3, 10.0), daily_limit=1000)
    for path, status in ((PATH, 200), ("/nope", 404), (f"/contacts/{'x' * 20}", 400), (PATH, 429)):
        answer = api.get(path)
        assert answer.status_code == status
        names = {name.decode() for name, _ in answer.headers.raw}
        assert names >= HEADERS, status
    assert answer.headers["x-ratelimit-max"] == "3"
    assert answer.headers["x-ratelimit-interval-milliseconds"] == "10000"
    assert answer.headers["x-ratelimit-remaining"] == "0"
    assert answer.headers["x-ratelimit-daily-remaining"] == "997"
    assert answer.headers["x-ratelimit-daily-reset"] == "86400000"
    assert answer.json()["message"] == "Too Many Requests"


def test_the_window_slides(make: Make, clock: Clock) -> None:
    """Room comes back one request at a time, exactly when each is 10 seconds old."""
    api = make(rate_limit=RateLimit(2, 10.0))
    for offset, status in ((0, 200), (4, 200), (9.75, 429), (10, 200), (13.75, 429), (14, 200)):
        clock.time = START + offset
        assert api.get(PATH).status_code == status, offset


def test_the_fixed_window_lets_twice_the_limit_through_at_its_boundary(make: Make, clock: Clock) -> None:
    """Windows are aligned to the epoch; the excess over the sliding one is counted all the same."""
    api = make(rate_limit=RateLimit(2, 10.0), rate_window="fixed")
    for offset, status in ((9.5, 200), (9.75, 200), (10, 200), (10.25, 200), (10.5, 429)):
        clock.time = START + offset
        assert api.get(PATH).status_code == status, offset
    stats = api.sandbox.stats()
    assert (stats["throttled"], stats["sliding_excess"], stats["fixed_excess"]) == (1, 3, 1)


def test_the_sliding_window_admits_exactly_what_the_definition_says() -> None:
    """Compared with counting by hand, over a thousand random arrivals."""
    rng, window, admitted, now = random.Random(7), SlidingWindow(RateLimit(5, 10.0)), [], 0.0
    for _ in range(1000):
        now += rng.choice((0.0, 0.25, 0.5, 1.0, 3.0, 10.0))
        room = sum(now - at < 10.0 for at in admitted) < 5
        assert window.wait(now) == 0.0 if room else window.wait(now) > 0
        assert window.take(now) is room
        if room:
            admitted.append(now)


def test_waiting_as_told_is_enough() -> None:
    """Both windows say truly when one more fits."""
    for window in (SlidingWindow(RateLimit(3, 10.0)), FixedWindow(RateLimit(3, 10.0))):
        now = 3.5
        for _ in range(50):
            now += window.wait(now)
            assert window.take(now)


def test_a_429_says_when_to_come_back(make: Make, clock: Clock) -> None:
    """Retry-After in whole seconds, rounded up."""
    api = make(rate_limit=RateLimit(1, 10.0))
    api.get(PATH)
    clock.time += 2.5
    assert api.get(PATH).headers["retry-after"] == "8"


def test_retry_after_can_be_left_out(make: Make) -> None:
    """It is undocumented on the real API."""
    api = make(rate_limit=RateLimit(1, 10.0), retry_after=False)
    api.get(PATH)
    answer = api.get(PATH)
    assert answer.status_code == 429
    assert "retry-after" not in answer.headers


def test_the_day_begins_with_the_first_call(make: Make, clock: Clock) -> None:
    """A fixed window of 24 hours, not from midnight (Nango recordings 2026-07-17)."""
    api = make(rate_limit=RateLimit(100, 10.0), daily_limit=2)
    api.get(PATH)
    clock.time += 3600.25
    answer = api.get(PATH)
    assert answer.headers["x-ratelimit-daily-remaining"] == "0"
    assert answer.headers["x-ratelimit-daily-reset"] == str((86400 - 3600) * 1000)
    answer = api.get(PATH)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, str(86400 - 3600))
    clock.time = START + 86400
    assert api.get(PATH).status_code == 200


def test_each_location_has_a_bucket_and_its_tokens_share_it(make: Make) -> None:
    """The limit is per app and location."""
    api = make(rate_limit=RateLimit(2, 10.0), locations=2, contacts=1)
    api.sandbox.grant("second", [LOCATION])

    def ask(token: str, number: int) -> httpx.Response:
        return api("GET", f"/locations/{location_id(number)}", headers={"Authorization": f"Bearer {token}"})

    assert [ask(token_of(1), 1).status_code, ask("second", 1).status_code, ask("second", 1).status_code] == [
        200,
        200,
        429,
    ]
    assert ask(token_of(2), 2).status_code == 200
    assert api.sandbox.stats()["locations"][LOCATION]["throttled"] == 1


def test_a_refused_request_counts_unless_its_token_is_unknown(make: Make) -> None:
    """Asking for what is not there costs quota too."""
    api = make(rate_limit=RateLimit(2, 10.0))
    api("GET", PATH, headers={"Authorization": "Bearer nobody"})
    assert [api.get("/nope").status_code, api.get("/nope").status_code, api.get(PATH).status_code] == [404, 404, 429]


def test_without_a_limit_nothing_is_counted_or_told(api: Api) -> None:
    """For benchmarks."""
    answer = api.get(PATH)
    assert not HEADERS & set(answer.headers)
    assert api.sandbox.stats()["sliding_excess"] == 0


def test_a_pace_of_one_request_a_slot_never_exceeds_either_window() -> None:
    """What a well-paced client looks like in the counters."""
    bucket = Bucket(SandboxOptions(rate_limit=RateLimit(100, 10.0)))
    assert all(bucket.take(START + number * 0.125).admitted for number in range(500))
    assert bucket.stats() == {"throttled": 0, "sliding_excess": 0, "fixed_excess": 0}


@pytest.mark.parametrize(
    ("text", "limit"),
    [("100/10s", RateLimit(100, 10.0)), ("5/0.5", RateLimit(5, 0.5)), ("600/1m", RateLimit(600, 60.0))],
)
def test_a_limit_is_read_from_text(text: str, limit: RateLimit) -> None:
    """As the command line writes it."""
    assert RateLimit.parse(text) == limit


@pytest.mark.parametrize("text", ["", "100", "0/10s", "x/10s", "100/0s", "100/10d"])
def test_a_text_that_is_no_limit_is_refused(text: str) -> None:
    """With a ValueError."""
    with pytest.raises(ValueError, match="limit"):
        RateLimit.parse(text)
