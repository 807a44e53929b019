"""The configuration: file, environment over it, and a sentence that names the key for whatever is wrong."""

import contextlib
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankr_sync.config import REAL_API, Config, check_transport, load, parse_duration
from rankr_sync.errors import BadConfiguration
from rankr_sync.pacing import RateLimit
from rankr_sync.streams import STREAMS

Read = Callable[..., Config]


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Read:
    """Read a file's text and variables (without their prefix), in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def read_(toml: str | None = None, **variables: str) -> Config:
        for name, value in variables.items():
            monkeypatch.setenv(f"RANKR_SYNC_{name}", value)
        path = None
        if toml is not None:
            path = tmp_path / "given.toml"
            path.write_text(toml)
        return load(path)

    return read_


@pytest.fixture
def refused(read: Read) -> Callable[..., str]:
    """The sentence with which a configuration is refused."""

    def refused_(toml: str | None = None, **variables: str) -> str:
        with pytest.raises(BadConfiguration) as caught:
            read(toml, **variables)
        assert caught.value.exit_code == 2
        assert caught.value.hint
        assert "\n" not in caught.value.message
        return caught.value.message

    return refused_


# -- where it comes from -----------------------------------------------------------------------------


def test_nothing_set_is_the_defaults(read: Read) -> None:
    """Without a file and variables everything has its default."""
    config = read()
    assert config == Config()
    assert config.api.base_url == REAL_API
    assert config.api.version == "2021-07-28"
    assert config.streams == tuple(STREAMS)
    assert config.database.url == "sqlite:///rankr.db"
    assert config.rate_limit == RateLimit(100, 10)
    assert config.log.format == "console"


FILE = """
streams = ["notes", "contacts"]

[api]
token = "from-file"
version = "v3"

[[locations]]
id = "LocA"
name = "Main"
token = "own"
timezone = "Europe/Zurich"

[[locations]]
id = "LocB"

[database]
url = "sqlite:///file.db"

[schedule]
poll = "90s"
full_pass = "1d12h"

[mapping.contacts]
nickname = "nick"
"""


def test_the_file_is_read(read: Read) -> None:
    """Every table of the file arrives."""
    config = read(FILE)
    assert config.api.token is not None
    assert config.api.token.get_secret_value() == "from-file"
    assert [location.id for location in config.locations] == ["LocA", "LocB"]
    assert config.locations[0].timezone == "Europe/Zurich"
    assert config.schedule.poll == timedelta(seconds=90)
    assert config.schedule.full_pass == timedelta(hours=36)
    assert config.schedule.walk == Config().schedule.walk
    assert config.streams == ("contacts", "notes")


def test_the_environment_wins_over_the_file(read: Read) -> None:
    """Single keys are replaced; their neighbours in the file stay."""
    config = read(
        FILE,
        API__TOKEN="from-env",
        LOCATIONS="LocC, LocD,",
        DATABASE__URL="sqlite:///env.db",
        SCHEDULE__POLL="5m",
        STREAMS="tasks",
        LOG__FORMAT="json",
        log__level="debug",
    )
    assert config.api.token is not None
    assert config.api.token.get_secret_value() == "from-env"
    assert config.api.version == "v3"
    assert [location.id for location in config.locations] == ["LocC", "LocD"]
    assert config.database.url == "sqlite:///env.db"
    assert (config.schedule.poll, config.schedule.full_pass) == (timedelta(minutes=5), timedelta(hours=36))
    assert config.streams == ("tasks",)
    assert (config.log.format, config.log.level) == ("json", "debug")


def test_a_container_needs_no_file(read: Read) -> None:
    """The variables alone are enough."""
    config = read(API__TOKEN="t", LOCATIONS="LocA", DATABASE__URL="postgresql://u:p@db/rankr")
    assert config.locations[0].id == "LocA"


def test_the_file_is_the_one_given_else_the_variable_else_the_folders(tmp_path: Path, read: Read) -> None:
    """`--config`, else RANKR_SYNC_CONFIG, else ./config.toml."""
    (tmp_path / "config.toml").write_text('streams = ["tasks"]')
    assert read().streams == ("tasks",)
    (tmp_path / "other.toml").write_text('streams = ["notes"]')
    assert read(CONFIG=str(tmp_path / "other.toml")).streams == ("notes",)
    assert read('streams = ["contacts"]').streams == ("contacts",)


@pytest.mark.parametrize("how", ["option", "variable"])
def test_a_file_that_is_named_must_exist(tmp_path: Path, refused: Callable[..., str], how: str) -> None:
    """A wrong path is not silently the defaults."""
    if how == "variable":
        assert "nowhere.toml" in refused(CONFIG="nowhere.toml")
    else:
        with pytest.raises(BadConfiguration, match=r"nowhere\.toml"):
            load(tmp_path / "nowhere.toml")


@pytest.mark.parametrize("content", [b"a = ", b"[api\n", b'a = "\xff"', b"a = 1\na = 2"])
def test_a_file_that_is_no_toml_is_named(tmp_path: Path, content: bytes) -> None:
    """Broken TOML is a sentence with the file's name."""
    (tmp_path / "broken.toml").write_bytes(content)
    with pytest.raises(BadConfiguration, match=r"broken\.toml is not valid TOML"):
        load(tmp_path / "broken.toml")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    """A path that cannot be read is a sentence too."""
    with pytest.raises(BadConfiguration, match="cannot be read"):
        load(tmp_path)


# -- unknown keys ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("toml", "key", "nearest"),
    [
        ('[api]\ntokn = "x"', "api.tokn", "api.token"),
        ('[databse]\nurl = "x"', "databse", "database"),
        ('token = "x"', "token", "api.token"),
        ('[[locations]]\nid = "a"\ntimezon = "UTC"', "locations.0.timezon", "locations.timezone"),
        ("[schedule]\npol = 5", "schedule.pol", "schedule.poll"),
        ('[mapping.contacts.x]\nfrm = "y"', "mapping.contacts.x.frm", "from"),
    ],
)
def test_an_unknown_key_of_the_file_names_the_nearest(
    refused: Callable[..., str], toml: str, key: str, nearest: str
) -> None:
    """A slip of the pen is told with what was probably meant."""
    assert f"unknown key {key}; did you mean {nearest}?" in refused(toml)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("API_TOKEN", "API__TOKEN"),
        ("API__TOKN", "API__TOKEN"),
        ("LOCATION", "LOCATIONS"),
        ("DATABASE_URL", "DATABASE__URL"),
        ("LOG_LEVEL", "LOG__LEVEL"),
        ("LOCATIONS__TOKEN", "LOCATIONS"),
    ],
)
def test_an_unknown_variable_names_the_nearest(refused: Callable[..., str], name: str, nearest: str) -> None:
    """The same for the environment; the value is not shown, it may be a secret."""
    message = refused(**{name: "pit-geheim"})
    assert f"unknown variable RANKR_SYNC_{name}; did you mean RANKR_SYNC_{nearest}?" in message
    assert "geheim" not in message


def test_kubernetes_and_foreign_variables_are_ignored(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    """Links to services that are named like us are no configuration, nor are variables of others or of the tests."""
    monkeypatch.setenv("RANKR_SYNCHRONISER", "x")
    config = read(
        SERVICE_HOST="10.0.0.1",
        SERVICE_PORT="80",
        SERVICE_PORT_HTTP="80",
        PORT="tcp://10.0.0.1:80",
        PORT_80_TCP="tcp://10.0.0.1:80",
        PORT_80_TCP_ADDR="10.0.0.1",
        POSTGRESQL_SERVICE_HOST="10.0.0.2",
        POSTGRESQL_SERVICE_PORT_TCP_POSTGRESQL="5432",
        POSTGRESQL_PORT="tcp://10.0.0.2:5432",
        POSTGRESQL_PORT_5432_TCP_PROTO="tcp",
        TEST_POSTGRES_URL="postgresql://x",
    )
    assert config == Config()


def test_an_empty_variable_is_not_set(read: Read) -> None:
    """`TOKEN=${TOKEN:-}` in a compose file leaves the default, or the file's value, as it is."""
    config = read('[api]\ntoken = "from-file"', API__TOKEN="", LOCATIONS="", STREAMS="", DATABASE__URL="")
    assert config.api.token is not None
    assert config.api.token.get_secret_value() == "from-file"
    assert config.streams == tuple(STREAMS)
    assert config.database.url == "sqlite:///rankr.db"


# -- values ------------------------------------------------------------------------------------------


def test_lists_are_separated_by_commas(read: Read) -> None:
    """In the environment, and where somebody writes them so in the file."""
    config = read('locations = "a,b"', PRIVACY__DROP="ssn, notes.body", API__INSECURE_HOSTS="sandbox,proxy")
    assert [location.id for location in config.locations] == ["a", "b"]
    assert config.privacy.drop == ("ssn", "notes.body")
    assert config.api.insecure_hosts == ("sandbox", "proxy")


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("90s", 90),
        ("15m", 900),
        ("24h", 86_400),
        ("7d", 604_800),
        ("1h30m", 5_400),
        ("1d2h3m4.5s", 93_784.5),
        (" 5m ", 300),
        ("90", 90),
        (" 90 ", 90),
        ("1.5", 1.5),
        (90, 90),
        (0.5, 0.5),
        (0, 0),
    ],
)
def test_durations(written: Any, seconds: float) -> None:
    """With units, joined, or as a number of seconds."""
    assert parse_duration(written) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "written",
    ["soon", "", "5 minutes", "-5s", "5w", "1m1h", "s", "99999999999d", -5, float("inf"), float("nan"), True, []],
)
def test_nonsense_is_no_duration(written: Any) -> None:
    """Whatever cannot be a duration is a ValueError, never another crash."""
    with pytest.raises(ValueError, match="duration"):
        parse_duration(written)


@given(st.one_of(st.text(), st.integers(), st.floats(), st.none(), st.booleans()))
def test_no_value_can_crash_the_duration(value: Any) -> None:
    """Anything is a duration of zero or more, or a ValueError."""
    with contextlib.suppress(ValueError):
        assert parse_duration(value) >= timedelta(0)


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ('[schedule]\npoll = "soon"', "schedule.poll: write a duration as"),
        ("[schedule]\npoll = inf", "schedule.poll: a duration cannot"),
        ("[schedule]\npoll = -5", "schedule.poll: write a duration as"),
        ('[api]\nrate_limit = "fast"', "api.rate_limit: 'fast' is not a rate such as 100/10s"),
        ('[api]\nrate_limit = "0/10s"', "api.rate_limit"),
        ("[api]\nattempts = 0", "api.attempts: "),
        ("[api]\nconcurrency = 1000", "api.concurrency: "),
        ('[api]\nversion = "v3\\nX-Evil: 1"', "api.version: a version is written as"),
        ('[api]\nlisting = "both"', "api.listing: "),
        ('[api]\nbase_url = "api.example.com"', "api.base_url: write a URL such as"),
        ('[api]\nbase_url = "ftp://api.example.com"', "api.base_url: write a URL such as"),
        ('[api]\nbase_url = "https://h:port"', "api.base_url: write a URL such as"),
        ('[api]\nbase_url = "https://h/?a=b"', "api.base_url: write a URL such as"),
        ('[api]\nbase_url = "https://h/#x"', "api.base_url: write a URL such as"),
        ('[api]\nbase_url = "https://user:geheim@h/"', "api.base_url: write a URL such as"),
        ('[api]\nbase_url = "https://[::1"', "api.base_url: "),
        ('[[locations]]\nid = "a"\ntimezone = "Mars/Base"', "locations.0.timezone: write a time zone as"),
        ('[[locations]]\nid = "a"\ntimezone = "../../etc"', "locations.0.timezone: write a time zone as"),
        ('[[locations]]\nid = "a"\n[[locations]]\nid = "a"', "locations: the same location is listed twice"),
        ('[[locations]]\nid = "a b"', "locations.0.id: "),
        ("[[locations]]\nname = 'x'", "locations.0.id: "),
        ('[locations]\nid = "a"', "locations: write [[locations]]"),
        ('streams = ["contacts", "emails"]', "streams: 'emails' is no stream; there are contacts, tasks"),
        ('[log]\nlevel = "loud"', "log.level: "),
        ('[log]\nformat = "xml"', "log.format: "),
        ("[api]\ntoken = 5", "api.token: "),
    ],
)
def test_a_bad_value_names_its_key(refused: Callable[..., str], toml: str, words: str) -> None:
    """The sentence begins with the key; where the value may be a secret it is not in it."""
    message = refused(toml)
    assert message.startswith(words)
    assert "geheim" not in message


@pytest.mark.parametrize(("key", "path"), [("tags", "tags"), ("businesses", "businessId")])
def test_a_part_needs_what_it_is_told_by(read: Read, refused: Callable[..., str], key: str, path: str) -> None:
    """Where privacy.drop removes it no contact would be of the part, and all would seem to leave."""
    part, drop = f'[only]\n{key} = ["a"]\n', f'[privacy]\ndrop = ["ssn", "{path}"]\n'
    words = refused(part + drop)
    assert words.startswith(f"only: {key} cannot be told: privacy.drop")
    assert getattr(read(part).only, key) == ("a",)
    assert path in read(drop).privacy.drop


@pytest.mark.parametrize("id_", ["Wrong Location", "x" * 65, "ä", "a/b"])
def test_what_is_no_location_id_is_told_by_an_example(refused: Callable[..., str], id_: str) -> None:
    """In words, not as a pattern."""
    words = refused(LOCATIONS=id_)
    assert words.startswith("locations.0.id: this is no location id; one looks like ve9EPM")


def test_several_problems_are_told_together(refused: Callable[..., str]) -> None:
    """One run of the command tells everything that is wrong."""
    message = refused('[api]\nattempts = 0\n[log]\nlevel = "loud"\n[schedule]\npol = 1')
    assert all(key in message for key in ("api.attempts", "log.level", "schedule.pol"))


@pytest.mark.parametrize(
    ("toml", "variables"),
    [
        ('[api]\ntoken = ["pit-geheim"]', {}),
        ('[[locations]]\nid = "a"\ntoken = {x = "pit-geheim"}', {}),
        ('[database]\nurl = ["postgresql://u:geheim@h/x"]', {}),
        (None, {"API": "pit-geheim"}),
        (None, {"API": '{"token": ["pit-geheim"]}'}),
        (None, {"LOCATIONS": "pit/geheim"}),
        ('[api]\ntoken = "pit-geheim', {}),
    ],
)
def test_no_problem_shows_a_secret(refused: Callable[..., str], toml: str | None, variables: dict[str, str]) -> None:
    """Whatever is wrong with a secret, or takes its place, it is not repeated."""
    assert "geheim" not in refused(toml, **variables)


def test_a_configuration_can_be_shown(read: Read) -> None:
    """Printing or logging a configuration by mistake shows no token."""
    config = read('[[locations]]\nid = "a"\ntoken = "pit-geheim-1"', API__TOKEN="pit-geheim-2")
    assert "geheim" not in f"{config!r} {config} {config.model_dump()} {config.model_dump_json()}"


# -- mapping -----------------------------------------------------------------------------------------


def test_mapping_rules_have_a_short_form(read: Read) -> None:
    """Text is a path, a list are alternatives, a table says everything."""
    rules = read(
        """
        [mapping.contacts]
        nickname = "nick"
        medium = ["attributionSource.medium", "lastAttributionSource.medium"]
        vip = { custom_field = "VIP?", type = "boolean", default = false }
        source = { constant = "CRM" }
        full_name = { join = ["firstName", "lastName"], separator = "-", case = "title" }
        """
    ).mapping["contacts"]
    assert rules["nickname"].source == ("nick",)
    assert rules["medium"].source == ("attributionSource.medium", "lastAttributionSource.medium")
    assert (rules["vip"].custom_field, rules["vip"].default, rules["vip"].type) == ("VIP?", False, "boolean")
    assert rules["source"].constant == "CRM"
    assert (rules["full_name"].join, rules["full_name"].separator) == (("firstName", "lastName"), "-")


def test_mapping_may_come_from_the_environment(read: Read) -> None:
    """As JSON, like every table."""
    assert read(MAPPING__CONTACTS='{"x": "y"}').mapping["contacts"]["x"].source == ("y",)


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ("[mapping.contacts]\nx = {}", "mapping.contacts.x: give exactly one of from, join, custom_field and constant"),
        ('[mapping.contacts]\nx = {from = "a", constant = 1}', "mapping.contacts.x: give exactly one of"),
        ('[mapping.contacts]\nx = {from = "a", type = "money"}', "mapping.contacts.x.type: "),
        ('[mapping.contacts]\nx = {from = "a", case = "camel"}', "mapping.contacts.x.case: "),
        ('[mapping.contacts]\nid = "a"', "mapping: 'id' is filled by rankr-sync itself"),
        ('[mapping.contacts]\nraw = "a"', "mapping: 'raw' is filled by rankr-sync itself"),
        ('[mapping.contacts]\nBad-Name = "a"', "mapping: 'Bad-Name' is not a usable column name"),
        ('[mapping.contacts]\n"x\\"; DROP" = "a"', "mapping: "),
        ('[mapping.people]\nx = "a"', "mapping: 'people' is no stream; there are"),
        ("[mapping.contacts]\nx = 5", "mapping.contacts.x: "),
    ],
)
def test_a_bad_mapping_rule_is_told(refused: Callable[..., str], rules: str, words: str) -> None:
    """Which rule, and what is wrong with it."""
    assert refused(rules).startswith(words)


# -- transport ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url", ["https://proxy.example.com", "http://localhost:8711", "http://127.0.0.1", "http://[::1]:1"]
)
def test_a_token_may_travel_encrypted_or_at_home(read: Read, url: str) -> None:
    """Https anywhere, plain http on this machine."""
    config = read(API__BASE_URL=url)
    assert config.api.base_url == url
    check_transport(config)


@pytest.mark.parametrize("host", ["sandbox", "services.leadconnectorhq.com", "localhost.example.com", "10.0.0.1"])
def test_plain_http_elsewhere_is_refused_unless_allowed_by_name(read: Read, host: str) -> None:
    """A token is not sent readable over a network by mistake; who means it names the host."""
    config = read(API__BASE_URL=f"http://{host}:8711")
    with pytest.raises(BadConfiguration, match=host) as caught:
        check_transport(config)
    assert "insecure_hosts" in (caught.value.hint or "")
    check_transport(read(API__BASE_URL=f"http://{host}:8711", API__INSECURE_HOSTS=f"other,{host}"))


def test_the_base_url_ends_without_a_slash(read: Read) -> None:
    """So that paths can be put behind it."""
    assert read(API__BASE_URL="https://h/api/").api.base_url == "https://h/api"
