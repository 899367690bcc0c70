"""The README and the readers' pages say what is there: files, headings, commands, flags, columns, calls."""

import argparse
import contextlib
import importlib
import io
import json
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from PIL import Image
from sqlalchemy import Engine

from pipelines.cli import COMMANDS
from pipelines.night_config import NightConfig
from recsys.data.importers.checks import COLUMNS
from recsys.request import FALLBACKS, PLACEMENTS
from recsys.schema import EVENT_TYPES
from service.app import create_app
from service.settings import Settings

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
STOREFRONT = ROOT / "docs" / "storefront.md"


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def without_code(text: str) -> str:
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def blocks(page: Path, *languages: str) -> list[tuple[str, str]]:
    """(language, content) of each fenced block in one of ``languages``, in order."""
    found = re.findall(r"```(\w*)\n(.*?)```", page.read_text(), re.DOTALL)
    return [(language, content) for language, content in found if language in languages]


def anchors(page: Path) -> set[str]:
    """What GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.*)$", without_code(page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text()))
    relative = [target for target in targets if "://" not in target]
    assert relative
    for target in relative:
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert file.is_relative_to(ROOT), target
        assert not anchor or anchor in anchors(file), target


def test_each_row_of_where_is_names_a_file() -> None:
    section = (ROOT / "README.md").read_text().partition("## Where is…")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ") and "---" not in line][1:]
    assert len(rows) > 5
    assert [row for row in rows if "](" not in row] == []


@cache
def parser_of(command: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(exit_on_error=False)
    importlib.import_module(COMMANDS[command][0]).add_arguments(parser)
    return parser


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_and_flag_exists(page: Path) -> None:
    """In sentences, blocks and unit files alike."""
    mentions = re.findall(r"\brecsys ([a-z][a-z-]+)([^\n`;]*)", "\n".join(code(page)))
    assert mentions
    for command, rest in mentions:
        assert command in COMMANDS, f"recsys {command}"
        for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]*", rest):
            assert flag in parser_of(command)._option_string_actions, f"recsys {command} {flag}"


def code(page: Path) -> Iterator[str]:
    """Everything that is set as code, in blocks and in sentences."""
    yield from (content.replace("\\\n", " ") for _, content in blocks(page, "bash", "ini", ""))
    yield from re.findall(r"`([^`]+)`", without_code(page.read_text()))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_line_of_a_block_can_be_parsed(page: Path) -> None:
    lines = [line for _, content in blocks(page, "bash") for line in content.splitlines() if "recsys " in line]
    assert [(line, problem) for line in lines if (problem := refused(line)) is not None] == []


def test_a_command_line_that_cannot_be_parsed_is_noticed() -> None:
    assert refused("recsys publish VERSION --config pipelines/nightly.toml") is None
    assert refused("RECSYS_HOST=x .venv/bin/recsys publish VERSION  # a comment") is None
    assert "unrecognized arguments: --now" in str(refused("recsys publish VERSION --now"))
    assert "required: VERSION" in str(refused("recsys publish"))
    assert "unknown command nothing" in str(refused("recsys nothing"))


def refused(line: str) -> str | None:
    """What is wrong with the commands of a shell line; None where they can be parsed."""
    words = shlex.split(line, comments=True)
    places = [place for place, word in enumerate(words) if word.rpartition("/")[2] == "recsys"]
    for place in places:
        command, *rest = words[place + 1 :]
        if command not in COMMANDS:
            return f"unknown command {command}"
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said):
                parser_of(command).parse_args(rest)
        except argparse.ArgumentError as error:
            return str(error)
        except SystemExit:  # how argparse refuses what exit_on_error does not cover
            return said.getvalue()
    return None


def test_every_make_target_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for page in PAGES:
        for target in re.findall(r"\bmake ([a-z]+)", "\n".join(code(page))):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_environment_variable_is_a_setting() -> None:
    for page in PAGES:
        for name in re.findall(r"\bRECSYS_([A-Z_]+)", page.read_text()):
            assert name.lower() in Settings.model_fields, name


def test_the_engineers_page_names_every_column_and_every_table_of_the_configuration() -> None:
    text = (ROOT / "docs" / "ml_engineer.md").read_text()
    columns = text.partition("## Your own data")[2].partition("\n## ")[0]
    wanted = {name for table in COLUMNS.values() for name in table}
    assert [name for name in sorted(wanted) if f"`{name}`" not in columns] == []
    tables = text.partition("## Configuration")[2].partition("\n## ")[0]
    assert [
        name for name in NightConfig.__dataclass_fields__ if f"`[{name}]`" not in tables and f"`{name}`" not in tables
    ] == []


def test_the_storefronts_page_names_every_event_placement_and_fallback() -> None:
    text = STOREFRONT.read_text()
    assert [name for name in (*EVENT_TYPES, *PLACEMENTS, *FALLBACKS) if f"`{name}`" not in text] == []


def dress_photo() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(file, "JPEG")
    return file.getvalue()


def test_every_call_of_the_storefronts_page_is_answered_as_it_says(sqlite_engine: Engine) -> None:
    """In order, on a shop without a release: what is compared is the form of the answers, not the recommendations."""
    found = blocks(STOREFRONT, "bash", "json")
    calls = 0
    with TestClient(create_app(Settings(database=str(sqlite_engine.url)))) as client:
        for (language, content), (next_language, answer) in zip(found, [*found[1:], ("", "")]):
            words = shlex.split(content.replace("\\\n", " ")) if language == "bash" else []
            if "curl" not in words or "localhost:8000/health/ready" in words:  # not ready without a release
                continue
            address = next(word for word in words if word.startswith("localhost:8000"))
            method = words[words.index("-X") + 1] if "-X" in words else "POST" if "--json" in words else "GET"
            body = json.loads(words[words.index("--json") + 1]) if "--json" in words else None
            form = [words[place + 1].partition("=") for place, word in enumerate(words) if word == "-F"]
            if form:
                fields = {name: value for name, _, value in form if value[0] != "@"}
                files = {name: dress_photo() for name, _, value in form if value[0] == "@"}
                came = client.post(address.removeprefix("localhost:8000"), data=fields, files=files)
            else:
                came = client.request(method, address.removeprefix("localhost:8000"), json=body)
            said = json.loads(answer) if next_language == "json" else {}
            if "items:similar" in address:  # an empty catalogue has no such item
                assert came.json()["type"] == "urn:recsys:problem:unknown-item"
            else:
                assert came.status_code in ({said["status"]} if "status" in said else {200, 201, 204}), came.text
                assert not said or came.json().keys() == said.keys()
            if "errors" in said or "rejected" in said:
                assert came.json() == said
            calls += 1
    assert calls > 8
