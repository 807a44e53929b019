"""The documents in `docs/` are true: links, names, tables, rules, SQL and events are those of the code."""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mirror import query
from rankr_sync.config import Config, Retention, Schedule, Visits, load
from rankr_sync.mapping import FieldRule
from rankr_sync.model import JsonObject, LocationFacts
from rankr_sync.store import SqlStore
from rankr_sync.streams import STREAMS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SOURCE = ROOT / "src" / "rankr_sync"
PAGES = {page.relative_to(DOCS).as_posix(): page.read_text(encoding="utf-8") for page in sorted(DOCS.rglob("*.md"))}

FACTS = LocationFacts(
    "loc", "Europe/Zurich", "CH", {"budget": "zbZtm5dpVI8eNJ87", "zbztm5dpvi8enj87": "zbZtm5dpVI8eNJ87"}
)
"""The location of the examples in mapping.md."""


def blocks(page: str, *languages: str) -> list[str]:
    """The fenced blocks of a page in one of these languages, in their order."""
    found = re.findall(r"^```(\w+)\n(.*?)^```$", PAGES[page], flags=re.MULTILINE | re.DOTALL)
    return [text for language, text in found if language in languages]


def section(page: str, title: str) -> str:
    """What stands below a heading of the second level."""
    return PAGES[page].partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def every(language: str) -> list[Any]:
    """Each block of a language in the whole folder, as a test parameter."""
    return [
        pytest.param(text, id=f"{page} {number}")
        for page in PAGES
        for number, text in enumerate(blocks(page, language), 1)
    ]


def configured(toml: str) -> Config:
    """The configuration that a snippet makes."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.toml"
        file.write_text(toml, encoding="utf-8")
        return load(file, environ={})


# -- links and names ----------------------------------------------------------------------------------


def anchors(text: str) -> set[str]:
    """What a link to a heading of this page may end with."""
    titles = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    """Every relative link is a file or folder, and its anchor a heading there."""
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", PAGES[page]):
        path, _, anchor = target.partition("#")
        file = (DOCS / page).parent / path if path else DOCS / page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file.read_text(encoding="utf-8")), target


@pytest.mark.parametrize("page", PAGES)
def test_no_page_names_a_place_of_one_machine(page: str) -> None:
    """Nothing points to where only its writer can look."""
    assert not re.search(r"/(root|home|Users|work)/\w", PAGES[page])


@pytest.mark.parametrize("page", PAGES)
def test_named_modules_exist(page: str) -> None:
    """Whatever is written as `name.py` or `folder/name.py` is a file of the checkout."""
    made_there = {"streams/businesses.py", "0002_businesses.py"} if page == "adding-an-entity.md" else set()
    for name in set(re.findall(r"`([\w./-]+\.py)(?:::\w+)?`", PAGES[page])):
        places = [ROOT / name, SOURCE / name, ROOT / "tests" / name]
        assert name.removeprefix("src/rankr_sync/") in made_there or any(place.is_file() for place in places), name


@pytest.mark.parametrize("page", PAGES)
def test_named_tests_exist(page: str) -> None:
    """Whatever is written as `test_module.py::test_name` is a test of that module, and a lone `test_name` of any."""
    everything = "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "tests").rglob("*.py"))
    for module, name in re.findall(r"`(?:tests/)?((?:\w+/)*test_\w+\.py)::(test_\w+)`", PAGES[page]):
        written = (ROOT / "tests" / module).read_text(encoding="utf-8")
        assert f"def {name}(" in written, f"{module}::{name}"
    for name in re.findall(r"`(test_\w+)`", PAGES[page]):
        assert f"def {name}(" in everything, name


# -- configuration ------------------------------------------------------------------------------------


@pytest.mark.parametrize("toml", every("toml"))
def test_snippets_of_configuration_load(toml: str) -> None:
    """Every TOML snippet is a configuration."""
    configured(toml)


@pytest.mark.parametrize("table", [Schedule, Visits, Retention])
def test_every_key_of_time_is_in_the_operations(table: type[Schedule | Visits | Retention]) -> None:
    """A person who reads operations.md has met every key of the schedule, of visits and of the retention."""
    name = table.__name__.lower()
    missing = [key for key in table.model_fields if f"`{name}.{key}`" not in PAGES["operations.md"]]
    assert missing == []


# -- mapping ------------------------------------------------------------------------------------------


def default_table(fields: Mapping[str, FieldRule]) -> str:
    """The rules of a stream as they are written in mapping.md."""
    lines = ["| column | from | type | default |", "|---|---|---|---|"]
    for target, rule in fields.items():
        default = "" if rule.default is None else f"`{json.dumps(rule.default)}`"
        lines.append(f"| `{target}` | {rule.describe()} | {rule.type} | {default} |")
    return "\n".join(lines)


@pytest.mark.parametrize("name", STREAMS)
def test_the_tables_of_rules_are_those_of_the_code(name: str) -> None:
    """mapping.md shows every default rule of every stream, and no other."""
    assert f"### {name}\n\n{default_table(STREAMS[name].fields)}\n\n" in PAGES["mapping.md"]


def examples() -> list[Any]:
    """Each `payload -> target = value` of mapping.md, with the rules written before it; of contacts unless it says."""
    rules, found = "", []
    for text in blocks("mapping.md", "toml", "text"):
        if "  ->  " not in text:
            rules = text
            continue
        for line in text.splitlines():
            payload, _, result = line.partition("  ->  ")
            target, _, value = result.partition(" = ")
            stream, _, fields = payload.partition("{")
            example = (stream.strip() or "contacts", json.loads("{" + fields), target, json.loads(value))
            found.append(pytest.param(rules, *example, id=f"{target} {len(found)}"))
    return found


@pytest.mark.parametrize(("toml", "stream_name", "payload", "target", "value"), examples())
def test_the_worked_examples_are_true(
    toml: str, stream_name: str, payload: JsonObject, target: str, value: Any
) -> None:
    """Each rule of mapping.md makes of its payload what the document says, and complains of nothing."""
    stream = STREAMS[stream_name]
    rules = stream.rules(stream.mapping(configured(toml).mapping[stream_name], FACTS), FACTS)
    mapped = rules.map(payload, rules.normalise(payload))
    assert {**mapped.row, **mapped.row["extra"]}[target] == value
    assert mapped.problems == ()


# -- SQL ----------------------------------------------------------------------------------------------


def test_the_sql_of_the_documents_runs(database_url: str) -> None:
    """Every SQL snippet runs on both databases, with the mapping of the cookbook."""
    overrides: dict[str, dict[str, FieldRule]] = {}
    for toml in blocks("mapping.md", "toml"):
        for stream, rules in configured(toml).mapping.items():
            overrides.setdefault(stream, {}).update(rules)
    with closing(SqlStore(database_url)) as store:
        store.upgrade()
        store.make_views(overrides, datetime(2026, 9, 1, tzinfo=UTC))
    statements = [s for page in PAGES for text in blocks(page, "sql") for s in text.split(";") if s.strip()]
    assert statements
    for statement in statements:
        query(database_url, statement)


# -- events and errors --------------------------------------------------------------------------------


def code() -> str:
    """Everything in the package but the sandbox."""
    files = [file for file in sorted(SOURCE.rglob("*.py")) if "sandbox" not in file.parts]
    return "\n".join(file.read_text(encoding="utf-8") for file in files)


def test_every_event_of_the_log_is_explained() -> None:
    """operations.md has one row for each event name in the code, and no other."""
    logged = set(re.findall(r"\blog\.\w+\(\s*\"(\w+\.\w+)\"", code()))
    explained = set(re.findall(r"^\| `(\w+\.\w+)` \|", section("operations.md", "The log"), flags=re.MULTILINE))
    assert explained == logged


def test_the_errors_that_are_explained_are_those_of_the_code() -> None:
    """The sentences of the table of errors are in the code, word for word; `...` stands for what differs."""
    written = re.sub(r'"\s*f?"', "", code())
    sentences = re.findall(r"^\| `([^`]+)`", section("operations.md", "What each error means"), flags=re.MULTILINE)
    assert len(sentences) > 20
    parts = [part.strip() for sentence in sentences for part in sentence.split("...")]
    assert [part for part in parts if part not in written] == []


# -- adding an entity ---------------------------------------------------------------------------------

PROVE = """
import sys
from rankr_sync import schema
from rankr_sync.model import LocationFacts
space = {"__name__": "rankr_sync.streams.businesses"}
exec(sys.stdin.read(), space)
stream, facts = space["STREAM"], LocationFacts("loc")
assert stream.name in schema.metadata.tables and set(stream.fields) == stream.columns
walk, position, seen = stream.walks[0], {}, []
for items in ([{"id": "a", "name": "A"}, {"name": "no id"}], [{"id": "b", "name": "B"}], []):
    assert dict(walk.request("loc", position).query)["skip"] == str(position.get("skip", 0))
    page = walk.parse(position, {"businesses": items})
    seen += [record.id for record in page.records]
    position = page.next
assert (seen, position, page.whole) == (["a", "b"], None, True)
rules = stream.rules(stream.mapping({}, facts), facts)
print(rules.map({"id": "a", "name": "A"}, rules.normalise({"id": "a", "name": "A"})).row["name"])
"""


def test_the_stream_of_the_first_exercise_works() -> None:
    """The module in adding-an-entity.md, as it is written there, walks, reads and maps."""
    [module] = blocks("adding-an-entity.md", "python")
    done = subprocess.run([sys.executable, "-c", PROVE], input=module, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("A\n", "")
