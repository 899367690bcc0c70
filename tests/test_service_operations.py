"""Metrics, OpenAPI, and the command that runs the service."""

import argparse
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import httpx2 as httpx
import pytest
from fastapi.testclient import TestClient
from pydantic import TypeAdapter
from service_shop import serve, settings_for
from sqlalchemy import Engine, func, select

from recsys.data.tables import Recommendation
from recsys.errors import ConfigError
from service import schemas, schemas_shop
from service.deps import Service
from service.problems import Problem
from service.serve import add_arguments
from service.settings import read_settings


@pytest.fixture
def running(sqlite_shop: Engine) -> Iterator[tuple[TestClient, Service]]:
    with serve(sqlite_shop) as started:
        yield started


def test_metrics_count_what_happened(running: tuple[TestClient, Service]) -> None:
    client, service = running
    for _ in range(3):
        release = client.post("/v1/recommendations", json={}).json()["release"]
    client.post("/v1/recommendations", json={"limit": 0})
    client.get("/v1/items/nothing")
    client.get("/wp-admin.php")
    event = {"event_id": "e1", "event_type": "purchase", "user_id": "u", "item_id": "red-01"}
    client.post("/v1/events", json={"events": [event, event, {}]})
    service.slate_log.flush()
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    lines = dict(line.rsplit(" ", 1) for line in answer.text.splitlines() if not line.startswith("#"))
    expected = {
        'recsys_http_requests_total{method="POST",route="/v1/recommendations",status="200"}': 3,
        'recsys_http_requests_total{method="POST",route="/v1/recommendations",status="422"}': 1,
        'recsys_http_requests_total{method="GET",route="/v1/items/{item_id}",status="404"}': 1,
        'recsys_http_requests_total{method="any",route="unmatched",status="404"}': 1,
        'recsys_http_request_duration_seconds_count{method="POST",route="/v1/recommendations"}': 4,
        f'recsys_recommendations_total{{fallback="trending",placement="home",release="{release}"}}': 3,
        'recsys_events_total{outcome="accepted"}': 1,
        'recsys_events_total{outcome="duplicate"}': 1,
        'recsys_events_total{outcome="rejected"}': 1,
        'recsys_release_loads_total{outcome="loaded"}': 1,
        'recsys_slates_total{outcome="written"}': 3,
        'recsys_slates_total{outcome="dropped"}': 0,
        "recsys_slates_waiting": 0,
    }
    assert {name: float(lines.get(name, "nan")) for name in expected} == expected
    assert float(lines["recsys_release_age_seconds"]) > 0


def test_every_body_and_answer_has_an_example_that_is_valid(running: tuple[TestClient, Service]) -> None:
    schema = running[0].get("/openapi.json").json()
    components = schema["components"]["schemas"]
    examined = 0
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            contents = [operation.get("requestBody", {}).get("content", {})]
            for status, response in operation["responses"].items():
                if status[0] in "45":
                    assert set(response["content"]) == {"application/problem+json"}, (path, status)
                contents.append(response.get("content", {}))
            for content in contents:
                reference = content.get("application/json", {}).get("schema", {}).get("$ref")
                if reference is None:
                    continue
                name = reference.rsplit("/", 1)[1]
                adapter = TypeAdapter(getattr(schemas, name, None) or getattr(schemas_shop, name))
                examples = components[name].get("examples", [])
                assert examples, f"{name} of {path} has no example"
                for example in examples:
                    adapter.validate_json(json.dumps(example))
                examined += 1
    assert examined >= 10
    assert not {"HTTPValidationError", "ValidationError"} & set(components)
    Problem.model_validate(components["Problem"]["example"])


def test_the_examples_work_as_they_stand(running: tuple[TestClient, Service]) -> None:
    client, _ = running
    schema = client.get("/openapi.json").json()
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            body = operation.get("requestBody", {}).get("content", {}).get("application/json")
            if body is None:
                continue
            name = body["schema"]["$ref"].rsplit("/", 1)[1]
            for example in schema["components"]["schemas"][name]["examples"]:
                # The examples' items are not in this shop; the one that must be is put first.
                client.put("/v1/items/sku-310", json={"title": "Red wrap dress"})
                answer = client.request(method, path.replace("{item_id}", "sku-58"), json=example)
                assert answer.status_code in (200, 201), (path, answer.text)


def test_the_documentation_page_needs_no_other_host(running: tuple[TestClient, Service]) -> None:
    client, _ = running
    page = client.get("/docs").text
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(loaded) >= 2
    for path in loaded:
        assert client.get(path).status_code == 200, path


def arguments(*flags: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(flags)


def test_flags_come_before_environment_before_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "nightly.toml"
    config.write_text('[paths]\ndatabase = "sqlite:///from-config.db"\n')
    assert read_settings(arguments()).port == 8000
    assert read_settings(arguments("--config", str(config))).database == "sqlite:///from-config.db"
    monkeypatch.setenv("RECSYS_DATABASE", "sqlite:///from-environment.db")
    monkeypatch.setenv("RECSYS_PORT", "9000")
    settings = read_settings(arguments("--config", str(config), "--port", "9001", "--workers", "2"))
    assert (settings.database, settings.port, settings.workers) == ("sqlite:///from-environment.db", 9001, 2)
    monkeypatch.setenv("RECSYS_PORT", "high")
    with pytest.raises(ConfigError, match=r"port: .*integer.*high"):
        read_settings(arguments())


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("2026-03-05", "2026-03-05T00:00:00+00:00"),
        ("2026-03-05T12:00:00", "2026-03-05T12:00:00+00:00"),
        ("2026-03-05T12:00:00+01:00", "2026-03-05T12:00:00+01:00"),
    ],
)
def test_a_moment_without_a_zone_is_utc_as_in_every_command(sqlite_engine: Engine, written: str, meant: str) -> None:
    assert settings_for(sqlite_engine, as_of=written).now() == datetime.fromisoformat(meant)


def test_an_answer_can_be_made_for_a_moment_of_the_past(sqlite_shop: Engine) -> None:
    with serve(sqlite_shop, settings_for(sqlite_shop, as_of="2026-03-05T12:00:00Z")) as (client, service):
        client.post("/v1/recommendations", json={})
        service.slate_log.flush()
    with sqlite_shop.connect() as connection:
        assert connection.scalar(select(Recommendation.requested_at)).isoformat() == "2026-03-05T12:00:00+00:00"


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_the_command_serves_counts_over_its_workers_and_ends_in_order(
    sqlite_shop: Engine, tmp_path: Path, workers: int
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "pipelines.cli", "serve", "--port", str(port), "--workers", str(workers)]
    environment = {**os.environ, "RECSYS_DATABASE": str(sqlite_shop.url)}
    root = Path(__file__).parents[1]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, cwd=root)
    try:
        assert process.stderr is not None
        started, said = 0, ""
        while started < workers:  # each worker says so when its release is loaded
            line = process.stderr.readline()
            said += line
            assert line, said
            assert "Error" not in line, said
            started += "Application startup complete" in line
        answers = []
        for _ in range(20):  # each on its own connection, so that both workers get some
            answers.append(httpx.post(f"http://127.0.0.1:{port}/v1/recommendations", json={}).json())
        assert all(len(answer["items"]) == 12 for answer in answers)
        text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        counted = re.search(r'recsys_http_requests_total\{.*"/v1/recommendations".*\} (\S+)', text)
        assert counted is not None
        assert float(counted[1]) == 20
        process.send_signal(signal.SIGTERM)
        said = process.stderr.read()
        assert process.wait(30) in (0, -signal.SIGTERM), said
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
    with sqlite_shop.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(Recommendation)) == 20
