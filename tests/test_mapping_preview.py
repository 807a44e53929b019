"""`mapping preview`: what a mapping makes of stored, live and sample records, with every problem marked."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from mirror import LOCATION, account, backfill, configuration
from rankr_sync.cli import app, common
from rankr_sync.mapping import FieldMapping, FieldRule
from rankr_sync.model import LocationFacts
from rankr_sync.preview import doubts
from rankr_sync.sandbox import DEFAULT_TOKEN, SandboxOptions, running
from rankr_sync.streams import STREAMS

CONTACTS = STREAMS["contacts"]
Preview = Callable[..., tuple[int, str]]


@pytest.fixture
def preview(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Preview:
    """`mapping preview` with these options, in an empty folder: exit code and standard output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RANKR_SYNC_DATABASE__URL", f"sqlite:///{tmp_path}/rankr.db")
    command = typer.main.get_command(app)

    def run(*options: str) -> tuple[int, str]:
        arguments = ["mapping", "preview", *options]
        monkeypatch.setattr(sys, "argv", ["rankr-sync", *arguments])
        capfd.readouterr()
        code = common._code_of(lambda: command(arguments, standalone_mode=False))
        return code, capfd.readouterr().out

    return run


def sample(folder: Path, content: Any) -> tuple[str, str]:
    """The options for a sample of this content."""
    (folder / "sample.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return "--sample", "sample.json"


def mapped(facts: LocationFacts, **overrides: FieldRule) -> FieldMapping:
    """The mapping of contacts with these rules."""
    return CONTACTS.mapping(overrides, facts)


# -- what is doubtful ----------------------------------------------------------------------------------

FACTS = LocationFacts("loc", custom_fields={"deal size": "f1", "f1": "f1"})
RECORDS = [
    {"id": "a", "city": None, "attributionSource": {"medium": "form"}},
    {"id": "b", "customFields": [{"id": "f9"}]},
]


@pytest.mark.parametrize(
    ("target", "rule", "words"),
    [
        ("town", FieldRule(source="city"), None),
        ("town", FieldRule(source="town"), "none of 2 records has town"),
        ("town", FieldRule(source="town", default="?"), None),
        ("town", FieldRule(source=("town", "city")), None),
        ("label", FieldRule(join=("city", "town")), "none of 2 records has town"),
        ("medium", FieldRule(source="attributionSource.medium"), None),
        ("medium", FieldRule(source="attributionSource.median"), "none of 2 records has attributionSource.median"),
        ("deal", FieldRule(custom_field="Deal Size"), None),
        ("deal", FieldRule(custom_field="f9"), None),
        (
            "deal",
            FieldRule(custom_field="Deal sise"),
            "no custom field 'Deal sise' is known; did you mean 'deal size'?",
        ),
        ("deal", FieldRule(custom_field="xyz"), "no custom field 'xyz' is known"),
        ("source", FieldRule(source="city"), "the column source loses its own source, source"),
        ("city", FieldRule(source="city", case="title"), None),
        ("crm", FieldRule(constant="x"), None),
        ("email", FieldRule(constant="x"), "the column email loses its own source, email"),
    ],
)
def test_what_is_doubtful_is_told(target: str, rule: FieldRule, words: str | None) -> None:
    """A field that no record has, a custom field nobody knows, a column that loses its own source; and nothing else."""
    assert doubts(mapped(FACTS, **{target: rule}), RECORDS) == ({} if words is None else {target: words})


def test_rules_that_come_with_us_are_not_doubted() -> None:
    """The API leaves out what a record has no value for: only what a person wrote may be a slip."""
    assert doubts(mapped(FACTS), [{"id": "a"}]) == {}


# -- records of three kinds ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["record", "list", "answer", "one in an answer"])
def test_a_sample_is_a_record_a_list_or_an_answer(preview: Preview, tmp_path: Path, kind: str) -> None:
    """All show the same; what cannot be read is marked and exits 1; nothing is asked."""
    record = {"id": "x", "firstName": "Ana", "dateAdded": "someday"}
    contents = {
        "record": record,
        "list": [record],
        "answer": {"meta": {"total": 1}, "contacts": [record], "traceId": "t"},
        "one in an answer": {"contact": record, "traceId": "t"},
    }
    code, out = preview(*sample(tmp_path, contents[kind]), "--json")
    found = {field["target"]: field for field in json.loads(out)}
    assert code == 1
    assert found["first_name"] == {
        "record": "x",
        "target": "first_name",
        "origin": "firstName",
        "value": "Ana",
        "problem": None,
    }
    assert [target for target, field in found.items() if field["problem"]] == ["created_at"]
    code, out = preview(*sample(tmp_path, contents[kind]))
    assert code == 1
    assert "! dateAdded" in out


def test_tasks_of_a_search_are_a_sample(preview: Preview, tmp_path: Path) -> None:
    """Their ids are spelled `_id`; as many records are shown as asked for."""
    answer = {"tasks": [{"_id": f"t{n}", "title": "Call", "completed": False} for n in range(4)]}
    code, out = preview("--stream", "tasks", *sample(tmp_path, answer), "--records", "2", "--json")
    assert code == 0
    assert {field["record"] for field in json.loads(out)} == {"t0", "t1"}


@pytest.mark.parametrize("content", ["", "{", "[]", "5", '"x"', "[5]"])
def test_a_sample_without_a_record_is_2(preview: Preview, tmp_path: Path, content: str) -> None:
    """A file that is no sample is a matter of usage."""
    assert preview(*sample(tmp_path, content)) == (2, "")


def test_live_needs_a_contact(preview: Preview) -> None:
    """Which one, nobody can guess."""
    assert preview("--live") == (2, "")


def test_stored_and_live_records(preview: Preview, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few that are stored by default, one on demand, or as the API sends it now, which is not stored."""
    sandbox = account(12)
    backfill(sandbox, configuration(f"sqlite:///{tmp_path}/rankr.db"))
    id_ = min(sandbox.truth(LOCATION)["contacts"])
    (tmp_path / "config.toml").write_text('[mapping.contacts]\nnickname = { from = "firstName", case = "upper" }\n')
    code, out = preview()
    assert code == 0
    assert out.count(": source, target, value") == 3
    assert out.endswith("no problems\n")
    with running(SandboxOptions(contacts=12, rate_limit=None)) as (base_url, served):
        monkeypatch.setenv("RANKR_SYNC_API__BASE_URL", base_url)
        monkeypatch.setenv("RANKR_SYNC_API__TOKEN", DEFAULT_TOKEN)
        monkeypatch.setenv("RANKR_SYNC_LOCATIONS", LOCATION)
        served.update_contact(id_, firstName="Zoë")
        values = {}
        for way in ((), ("--live",), ()):
            code, out = preview("--contact", id_, *way, "--json")
            assert code == 0
            (one,) = [field["value"] for field in json.loads(out) if field["target"] == "nickname"]
            values.setdefault(way, []).append(one)
        assert values["--live",] == ["ZOË"]
        assert "ZOË" not in values[()]
        assert preview("--contact", "nobody", "--live")[0] == 1
        assert preview("--contact", id_, "--stream", "notes", "--live")[0] == 0
    assert preview("--contact", "nobody") == (1, "")
