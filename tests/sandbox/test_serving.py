"""The sandbox as a process of its own: its window for tests, its log of calls, real connections."""

import os
import signal
import subprocess
import sys
import time

import httpx
import pytest

from rankr_sync.sandbox import DEFAULT_TOKEN, Sandbox, SandboxOptions, running

from .conftest import LOCATION, START, Api, Clock, Make, first

HEADERS = {"Authorization": f"Bearer {DEFAULT_TOKEN}", "Version": "2021-07-28"}


def test_the_greeting_tells_how_to_begin(make: Make) -> None:
    """Base URL, locations, tokens; no token needed."""
    api = make(locations=2, contacts=1)
    hello = api("GET", "/", headers={"Authorization": ""}).json()
    assert hello["base_url"] == "http://sandbox"
    assert [item["token"] for item in hello["locations"]] == ["pit-sandbox-00001", "pit-sandbox-00002"]


def test_the_admin_window_is_outside_the_limits_and_the_log(api: Api, clock: Clock) -> None:
    """Truth, statistics, calls and faults over HTTP."""
    api.get(f"/contacts/{first(api)}", x="1")
    clock.time += 1
    api.search(pageLimit=1)
    assert api.ok("/sandbox/truth", locationId=LOCATION)["contacts"][first(api)]["id"] == first(api)
    assert api.get("/sandbox/truth", locationId="nowhere").status_code == 404
    stats = api.ok("/sandbox/stats")
    assert stats["requests"] == 2
    assert stats["by_route"] == {"GET /contacts/{contactId}": 1, "POST /contacts/search": 1}
    calls = api.ok("/sandbox/calls")["calls"]
    assert [(call["method"], call["status"], call["location_id"]) for call in calls] == [
        ("GET", 200, LOCATION),
        ("POST", 200, LOCATION),
    ]
    assert calls[0]["query"] == {"x": "1"}
    assert calls[1]["body"]["pageLimit"] == 1
    assert len(api.ok("/sandbox/calls", since=START + 0.5)["calls"]) == 1
    assert api("POST", "/sandbox/faults", json={"kind": "500", "route": "/contacts/*"}).status_code == 200
    assert api.get(f"/contacts/{first(api)}").status_code == 500
    assert api("POST", "/sandbox/faults", json={"kind": "boom"}).status_code == 400
    assert api.get("/sandbox/nothing").status_code == 404


def test_the_log_of_calls_is_bounded(make: Make) -> None:
    """The newest are kept."""
    api = make(maxlen=3)
    for number in range(5):
        api.get("/nope", number=number)
    assert [call.query["number"] for call in api.sandbox.calls] == ["2", "3", "4"]


@pytest.mark.enable_socket
def test_running_serves_real_connections_and_real_faults() -> None:
    """A dropped connection and a short body look like what they are."""
    with (
        running(SandboxOptions(contacts=20, rate_limit=None)) as (base_url, sandbox),
        httpx.Client(base_url=base_url, headers=HEADERS, timeout=5) as client,
    ):
        contact_id = next(iter(sandbox.locations[LOCATION].contacts))
        path = f"/contacts/{contact_id}"
        assert client.get(path).json()["contact"] == sandbox.truth()["contacts"][contact_id]
        assert client.get("/").json()["base_url"] == base_url
        for kind, words in (("reset", "disconnected"), ("truncated", "without sending complete")):
            sandbox.faults.next(kind)  # type: ignore[arg-type]
            with pytest.raises(httpx.TransportError, match=words):
                client.get(path)
        assert client.get(path).status_code == 200
        sandbox.faults.next("stall")
        with pytest.raises(httpx.ReadTimeout):
            client.get(path, timeout=0.2)
        sandbox.update_contact(contact_id, city="Elsewhere")
        assert client.get(path).json()["contact"]["city"] == "Elsewhere"


@pytest.mark.enable_socket
def test_running_takes_a_sandbox_that_is_already_there() -> None:
    """So that a test may prepare it."""
    sandbox = Sandbox(SandboxOptions(contacts=3))
    with running(sandbox) as (base_url, same):
        assert same is sandbox
        answer = httpx.get(f"{base_url}/locations/{LOCATION}", headers=HEADERS)
    assert answer.headers["x-ratelimit-max"] == "100"
    assert answer.headers["date"]
    with pytest.raises(httpx.ConnectError):
        httpx.get(base_url)


PROGRAM = """
from rankr_sync.sandbox import SandboxOptions, serve
serve(SandboxOptions(contacts=3), on_ready=lambda url: print(url, flush=True))
print("stopped", flush=True)
"""


@pytest.mark.enable_socket
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_stops_on_a_signal_and_returns(number: signal.Signals) -> None:
    """Ready when it says so; afterwards the program goes on."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        base_url = process.stdout.readline().strip()
        assert httpx.get(f"{base_url}/sandbox/stats").json()["requests"] == 0
        process.send_signal(number)
        started = time.monotonic()
        assert process.stdout.read() == "stopped\n"
        assert process.wait(10) == 0
        assert time.monotonic() - started < 5
