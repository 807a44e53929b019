"""What is in `deploy/` fits the program: the dashboard and the alerts ask for what is served, and all is explained."""

import asyncio
import json
import re
from itertools import combinations
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from mirror import account, backfill, configuration
from service import surface

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
BOARD = json.loads((DEPLOY / "grafana-dashboard.json").read_text(encoding="utf-8"))
RULES = [
    rule
    for group in yaml.safe_load((DEPLOY / "prometheus-rules.yaml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
QUERIES = {rule["alert"]: rule["expr"] for rule in RULES} | {
    f"{panel['title']} {target['refId']}": target["expr"] for panel in PANELS for target in panel["targets"]
}

FUNCTIONS = frozenset(
    {"absent", "changes", "count", "delta", "histogram_quantile", "increase", "max", "min", "min_over_time"}
    | {"rate", "sum"}
)
WORDS = frozenset({"and", "or", "unless"})
LABELS = re.compile(r"\{([^}]*)\}|\b(?:by|on) \(([^)]*)\)")
TOKENS = re.compile(r"\s+|[A-Za-z_]\w*|\d+(?:\.\d+)?|\[(?:\d+[smhdw]|\$__rate_interval)\]|==|<=|>=|[-+*/<>(),]")
OF_PROMETHEUS = frozenset({"job", "instance"})
"""Labels that Prometheus itself adds."""


def names(query: str) -> tuple[set[str], set[str]]:
    """The metrics and the labels that a query in PromQL names. Fails at what is no token, function or word of it."""
    labels = {
        name
        for matchers, grouping in LABELS.findall(query)
        for name in re.findall(r'(\w+)(?:=~|!~|!=|=)"[^"]*"', matchers) + re.findall(r"\w+", grouping)
    }
    rest = LABELS.sub("", query)
    tokens = TOKENS.findall(rest)
    assert "".join(tokens) == rest, query
    assert tokens.count("(") == tokens.count(")"), query
    called = {name for name in re.findall(r"([A-Za-z_]\w*)\s*\(", rest) if name not in WORDS}
    metrics = {token for token in tokens if re.match(r"[A-Za-z_]", token)} - FUNCTIONS - WORDS
    assert called <= FUNCTIONS, query
    return metrics, labels


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """What a program at work tells at `/metrics`: each name that can be asked for, with the labels it carries."""
    url = f"sqlite:///{tmp_path_factory.mktemp('served') / 'rankr.db'}"
    sandbox = account(4)
    backfill(sandbox, configuration(url))

    async def scrape() -> str:
        async with surface(url, sandbox) as one:
            return (await one.visitor.get("/metrics")).text

    written = {
        f"rankr_sync_{name}": set(re.findall(r"`(\w+)`", labels.partition("(")[0]))
        for name, labels in re.findall(r"^\| `rankr_sync_(\w+)` \| \w+ \|([^|]*)\|", OPERATIONS, flags=re.MULTILINE)
    }
    found: dict[str, set[str]] = {"up": set()}
    for family in text_string_to_metric_families(asyncio.run(scrape())):
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        labels = written.get(family.name, written.get(f"{family.name}_total", set()))
        for suffix in suffixes:
            found[family.name + suffix] = labels | ({"le"} if suffix == "_bucket" else set())
    return found


@pytest.mark.parametrize("query", QUERIES.values(), ids=list(QUERIES))
def test_every_query_asks_for_what_is_served(served: dict[str, set[str]], query: str) -> None:
    """Every metric of the dashboard and the alerts is at `/metrics`, and carries the labels that are asked for."""
    metrics, labels = names(query)
    assert metrics
    assert metrics <= served.keys()
    assert labels <= OF_PROMETHEUS.union(*(served[metric] for metric in metrics))


def test_a_query_that_is_wrong_is_found() -> None:
    """The check itself: a name, a label, a function or a bracket that does not belong there does not pass."""
    assert names('sum by (le) (rate(a_total{b=~"c|d"}[5m])) > 0.5') == ({"a_total"}, {"le", "b"})
    for wrong in ("sum(a", "rates(a[5m])", "rate(a[5 m])", "a ; b"):
        with pytest.raises(AssertionError):
            names(wrong)


def test_every_alert_says_what_it_is() -> None:
    """Each has a severity, a sentence, and a link to the page that explains it."""
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule["labels"]["severity"] in ("critical", "warning"), rule["alert"]
        assert rule["annotations"]["summary"].endswith("."), rule["alert"]
        assert rule["annotations"]["runbook_url"].endswith("/docs/operations.md#alerts"), rule["alert"]
        used = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
        assert used <= {"location", "stream"} & names(rule["expr"])[1], rule["alert"]


def test_every_alert_is_explained() -> None:
    """operations.md has one row for each alert, with its severity, what it means and what to do; and no other."""
    page = OPERATIONS.partition("\n### Alerts\n")[2].partition("\n## ")[0]
    explained = {
        name: (severity, meaning.strip(), remedy.strip())
        for name, severity, meaning, remedy in re.findall(
            r"^\| `(\w+)` \| (\w+) \|([^|]+)\|([^|]+)\|$", page, flags=re.MULTILINE
        )
    }
    assert {name: row[0] for name, row in explained.items()} == {
        rule["alert"]: rule["labels"]["severity"] for rule in RULES
    }
    assert all(meaning and remedy for _, meaning, remedy in explained.values())


def test_the_dashboard_is_whole() -> None:
    """Panels have ids and places of their own, a unit and a description, and follow the choice of data source."""
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])
    variables = {variable["name"] for variable in BOARD["templating"]["list"]}
    assert variables == {"datasource", "location"}
    for panel in PANELS:
        assert panel["description"].endswith((".", "list")), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}", panel["title"]
    for one, other in combinations(BOARD["panels"], 2):
        a, b = one["gridPos"], other["gridPos"]
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        assert beside or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"], (one["title"], other["title"])


def test_prometheus_finds_the_rules_and_the_program() -> None:
    """The configuration names the file of rules beside it, the job that the rules ask for, and the default address."""
    config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text(encoding="utf-8"))
    assert all((DEPLOY / name).is_file() for name in config["rule_files"])
    [job] = config["scrape_configs"]
    assert f'job="{job["job_name"]}"' in QUERIES["RankrSyncDown"]
    [target] = job["static_configs"]
    assert target["targets"] == ["127.0.0.1:8700"]
    assert f"`{target['targets'][0]}` unless set" in OPERATIONS
