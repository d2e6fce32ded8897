"""What the pages say, held to the code: tables, keys, words, names, links, and the queries and scripts on them."""

from __future__ import annotations

import json
import random
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml
from pydantic import BaseModel

from elspeth_dagster.core import checks_spec, partitions_spec, settings, source_spec, spec, timing_spec
from elspeth_dagster.core.canonical import sha256
from elspeth_dagster.landscape import scopes
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.records import Dictionary, Payload
from elspeth_dagster.landscape.schema import metadata
from elspeth_dagster.stages.answering import FINAL, Refusal
from elspeth_dagster.stages.calling import ErrorClass, is_fatal, is_transient
from elspeth_dagster.stages.finding import RejectionReason
from elspeth_dagster.stages.tabling import REJECTIONS, TAKEN

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *DOCS.rglob("*.md")])
NAMES = {page: str(page.relative_to(ROOT)) for page in PAGES}

PARTS: dict[str, type[BaseModel]] = {
    "The assessment": spec.AssessmentSpec,
    "`source`": source_spec.SourceSpec,
    "`partitions`": partitions_spec.PartitionsSpec,
    "`multi`": partitions_spec.DimensionSpec,
    "`sensor`": timing_spec.SensorSpec,
    "`aggregate`": spec.AggregateSpec,
    "`llm`": spec.LLMSpec,
    "`price`": spec.PriceSpec,
    "`endpoints`": spec.EndpointSpec,
    "`prompt`": spec.PromptSpec,
    "`case_studies`": spec.CaseStudySpec,
    "`criteria`": spec.CriterionSpec,
    "`queries`": spec.NamedQuerySpec,
    "`answer`": spec.AnswerField,
    "`errors`": spec.ErrorsSpec,
    "`budget`": spec.BudgetSpec,
    "`checks`": checks_spec.ChecksSpec,
    "`freshness`": timing_spec.FreshnessSpec,
    "`automation`": timing_spec.AutomationSpec,
}
CHECKS: dict[str, type[BaseModel]] = {
    "A check of the record": checks_spec.CheckSpec,
    "`failure_rate`": checks_spec.FailureRateSpec,
    "`drift`": checks_spec.DriftSpec,
    "`verified`": checks_spec.VerifiedSpec,
}
VOCABULARIES: dict[str, type[StrEnum]] = {
    "Rejection reasons": RejectionReason,
    "Refusal reasons": Refusal,
    "Error classes": ErrorClass,
}


def text(page: str) -> str:
    return (DOCS / page).read_text("utf-8")


def sections(page: str, level: int) -> dict[str, str]:
    """The sections of a page under their headings of this level."""
    parts = re.split(rf"^{'#' * level} (.+)$", text(page), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def lines_of_table(section: str, head: str) -> list[list[str]]:
    """The cells of the first table in a section whose first column is called `head`."""
    found = re.search(rf"^\| {head} \|.*\n\|[-|]+\|\n((?:\|.*\n?)*)", section, re.MULTILINE)
    return [line.strip("| ").split(" | ") for line in found.group(1).splitlines()] if found else []


def words(lines: list[list[str]]) -> list[str]:
    """The first cells that are names in code, without their backquotes."""
    return [line[0].strip("`") for line in lines if line[0].startswith("`")]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text(page), re.MULTILINE | re.DOTALL)


def test_every_table_and_column_of_the_landscape_is_told_and_no_other() -> None:
    told = {
        heading.strip("`"): words(lines_of_table(section, "column"))
        for heading, section in sections("landscape.md", 3).items()
        if heading.startswith("`")
    }
    assert told == {name: table.columns.keys() for name, table in metadata.tables.items()}


def test_no_model_of_the_spec_is_left_out() -> None:
    modules = (spec, source_spec, partitions_spec, checks_spec, timing_spec)
    found = [value for module in modules for value in vars(module).values() if isinstance(value, type)]
    models = {model for model in found if issubclass(model, spec.SpecModel)}
    assert models - {spec.SpecModel, checks_spec.GravitySpec} == {*PARTS.values(), *CHECKS.values()}


@pytest.mark.parametrize("heading", PARTS)
def test_every_key_of_the_spec_is_told_with_its_default(heading: str) -> None:
    lines = lines_of_table(sections("declaring.md", 2)[heading], "key")
    told = {line[0].strip("`"): line[1] for line in lines}
    assert told == {name: default_in_words(field) for name, field in PARTS[heading].model_fields.items()}


@pytest.mark.parametrize("heading", CHECKS)
def test_every_key_of_a_check_is_told_with_its_default(heading: str) -> None:
    lines = lines_of_table(sections("declaring.md", 3)[heading], "key")
    told = {line[0].strip("`"): line[1] for line in lines}
    assert told == {name: default_in_words(field) for name, field in CHECKS[heading].model_fields.items()}


def default_in_words(field: Any) -> str:
    if field.is_required():
        return "required"
    if field.default is None:
        return "none"
    if isinstance(field.default, BaseModel):
        return "see there"
    return f"`{field.default}`" if field.default or isinstance(field.default, int) else "empty"


def whole_example() -> dict[str, Any]:
    return dict(yaml.safe_load(blocks("declaring.md", "yaml")[0])["attributes"])


@pytest.mark.parametrize("number", range(len(blocks("declaring.md", "yaml"))))
def test_every_example_of_a_declaration_is_accepted(number: int) -> None:
    example = yaml.safe_load(blocks("declaring.md", "yaml")[number])
    attributes = example.get("attributes", {**whole_example(), **example})
    assert spec.AssessmentSpec.model_validate(attributes).name == "case_studies"


@pytest.mark.parametrize("heading", VOCABULARIES)
def test_every_reason_is_told_and_no_other(heading: str) -> None:
    section = sections("declaring.md", 2)[heading]
    told = words(lines_of_table(section, "reason") or lines_of_table(section, "class"))
    assert sorted(told) == sorted(VOCABULARIES[heading])


def test_which_refusals_are_asked_again_is_told_right() -> None:
    table = lines_of_table(sections("declaring.md", 2)["Refusal reasons"], "reason")
    never_sent = {Refusal.BLANK_INPUT, Refusal.ROW_NOT_ASKED, Refusal.TEMPLATE, Refusal.UNKNOWN_CALL}
    never_sent |= {Refusal.NOT_ON_RECORD, Refusal.ERASED}
    for word, _, again in table:
        assert again == ("no" if word.strip("`") in FINAL | never_sent else "yes"), word


def test_what_follows_an_error_is_told_right() -> None:
    for word, _, follows in lines_of_table(sections("declaring.md", 2)["Error classes"], "class"):
        error = ErrorClass(word.strip("`"))
        final = "the step stops" if is_fatal(error) or error is ErrorClass.NOT_SENT else "the question is refused"
        assert follows.startswith("tried again" if is_transient(error) else final), word


@pytest.mark.parametrize(
    ("table", "columns"),
    [
        ("`answers`", ["row_index", "question", *(name for name, _ in TAKEN)]),
        ("`rejections`", REJECTIONS.names),
    ],
)
def test_every_column_of_the_tables_is_told_and_no_other(table: str, columns: list[str]) -> None:
    assert words(lines_of_table(sections("declaring.md", 3)[table], "column")) == columns


def test_every_variable_of_the_environment_is_told_and_no_other() -> None:
    source = Path(settings.__file__).read_text("utf-8")
    read = set(re.findall(r"\b(?:ELSPETH|OPENAI|AZURE_OPENAI|DAGSTER)_[A-Z_]+\b", source))
    assert set(words(lines_of_table(sections("operations.md", 2)["Settings"], "variable"))) == read


def code_names() -> list[str]:
    """Names like `asking.Desk.ask` in the walk, which start at a module of the package."""
    modules = {path.stem for path in (ROOT / "elspeth_dagster").iterdir()}
    found = re.findall(r"`([a-z_]+(?:\.[A-Za-z_]+)+)`", text("walk.md"))
    return sorted({name for name in found if name.split(".")[0] in modules and not name.endswith(".yaml")})


@pytest.mark.parametrize("name", code_names())
def test_what_the_walk_names_is_there(name: str) -> None:
    found: Any = import_module("elspeth_dagster")
    for part in name.split("."):
        found = getattr(found, part, None) or import_module(f"{found.__name__}.{part}")


@pytest.mark.parametrize("page", PAGES, ids=NAMES.values())
def test_every_source_file_that_a_page_names_is_there(page: Path) -> None:
    ours = [*ROOT.glob("elspeth_dagster*/**/*.py"), *ROOT.glob("benchmarks/*.py")]
    files = [f"/{path.relative_to(ROOT)}" for path in ours]
    named = re.findall(r"`([\w/]+\.py)`", page.read_text("utf-8"))
    assert [name for name in named if not any(file.endswith(f"/{name}") for file in files)] == []


@pytest.mark.parametrize("page", PAGES, ids=NAMES.values())
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    dead = [link for link in links(page) if not leads_somewhere(page, link)]
    assert dead == []


def links(page: Path) -> Iterator[str]:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if not re.match(r"[a-z]+:", link):
            yield link


def leads_somewhere(page: Path, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    return target.exists() and (not anchor or anchor in anchors(target))


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_a_decision_fits_on_a_page_and_they_are_numbered() -> None:
    decisions = sorted((DOCS / "decisions").glob("*.md"))
    assert [int(page.name[:4]) for page in decisions] == list(range(1, len(decisions) + 1))
    for number, page in enumerate(decisions, 1):
        lines = page.read_text("utf-8").splitlines()
        assert lines[0].startswith(f"# {number}. ")
        assert len(lines) <= 40


def landscape_file(url: str) -> str:
    path = sa.make_url(url).database
    assert path
    return path


@pytest.mark.parametrize("query", blocks("landscape.md", "sql"))
def test_every_query_for_auditors_runs(query: str, sqlite_url: str) -> None:
    with sqlite3.connect(f"file:{landscape_file(sqlite_url)}?mode=ro", uri=True) as database:
        assert database.execute(query, {"run": "1", "row": "1"}).fetchall() == []


ROW = json.dumps({"text": [random.Random(7).random() for _ in range(2000)]}).encode()  # more than a window
ASKED = b"What do you think of this? " + ROW[-3000:]


@pytest.fixture
def landscape_with_a_forged_payload(sqlite_url: str) -> str:
    with Landscape.open(sqlite_url) as landscape:
        landscape.write(Payload.of(b"as it was said " * 9), Payload.of(b"short"))
        scope = scopes.of_rows(landscape, "trial", ["R1"])["R1"]
        landscape.write(row := Payload.of(ROW, scope))
        landscape.write(Payload.of(ASKED, scope).leaning_on(Dictionary(row.ref, ROW)))
        landscape.write(Payload.of(b"something else")._replace(ref=sha256(b"what was said")))
    return landscape_file(sqlite_url)


def run_script(number: int, *arguments: str) -> str:
    command = [sys.executable, "-c", blocks("landscape.md", "python")[number], *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_script_that_checks_payloads_finds_the_forged_one(landscape_with_a_forged_payload: str) -> None:
    forged = sha256(b"what was said").removeprefix("sha256:")
    told = run_script(0, landscape_with_a_forged_payload)
    assert told == f"6 payloads, 1 with other bytes than their name says {forged}\n"


@pytest.mark.parametrize("data", [b"as it was said " * 9, b"short", ROW, ASKED])
def test_the_script_that_prints_a_payload_does(landscape_with_a_forged_payload: str, data: bytes) -> None:
    with sqlite3.connect(landscape_with_a_forged_payload) as database:
        found = database.execute("SELECT hex(ref), dictionary_ref FROM payloads WHERE size = ?", [len(data)])
        [(ref, leant_on)] = found.fetchall()
    assert run_script(1, landscape_with_a_forged_payload, ref) == data.decode()
    assert (leant_on is not None) == (data is ASKED)
