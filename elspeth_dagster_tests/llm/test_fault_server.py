"""The test server is itself right: valid answers where asked for, faults where told, the same ones each time."""

from __future__ import annotations

import asyncio
import http.client
import json
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletion

from elspeth_dagster.core.canonical import sha256
from elspeth_dagster_tests import fault_server
from elspeth_dagster_tests.fault_server import FaultServer

SCHEMA = {
    "type": "object",
    "properties": {
        "score": {"type": "integer", "minimum": 3, "maximum": 5},
        "share": {"type": "number", "minimum": -1.5, "maximum": -1},
        "grade": {"type": "string", "enum": ["good", "bad"]},
        "why": {"type": "string", "maxLength": 7},
        "sure": {"type": "boolean"},
        "note": {"type": ["string", "null"]},
        "parts": {"type": "array", "items": {"type": "integer"}, "minItems": 2},
        "either": {"anyOf": [{"type": "null"}, {"type": "string"}]},
    },
}


def post(
    server: FaultServer, text: str = "How good?", path: str = "/v1/chat/completions", **fields: Any
) -> tuple[int, Any]:
    """Status and decoded body of one answer."""
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": text}], **fields})
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request("POST", path, body, {"authorization": "Bearer key-1"})
    answer = connection.getresponse()
    read = answer.read()
    connection.close()
    return answer.status, json.loads(read) if read else None


def choice(server: FaultServer, text: str, **fields: Any) -> dict[str, Any]:
    status, body = post(server, text, **fields)
    assert status == 200
    found: dict[str, Any] = body["choices"][0]
    return found


def content(server: FaultServer, text: str, **fields: Any) -> Any:
    return choice(server, text, **fields)["message"]["content"]


def asked_for(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}


def test_the_openai_client_reads_its_answers(server: FaultServer) -> None:
    async def ask() -> tuple[ChatCompletion, list[str]]:
        async with AsyncOpenAI(api_key="k", base_url=server.base_url) as client:
            answer = await client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "?"}])
            return answer, [model.id async for model in client.models.list()]

    answer, models = asyncio.run(ask())
    ChatCompletion.model_validate(answer.model_dump(), strict=True)
    assert (answer.model, answer.choices[0].finish_reason) == ("gpt-4o", "stop")
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert models == ["fault-model"]


@pytest.mark.parametrize("number", range(20))
def test_an_answer_fits_the_schema_that_was_asked_for(server: FaultServer, number: int) -> None:
    answer = json.loads(content(server, f"number {number}", response_format=asked_for(SCHEMA)))
    assert answer.keys() == SCHEMA["properties"].keys()  # type: ignore[attr-defined]
    assert answer["score"] in (3, 4, 5)
    assert -1.5 <= answer["share"] <= -1
    assert answer["grade"] in ("good", "bad")
    assert len(answer["why"]) <= 7
    assert isinstance(answer["sure"], bool)
    assert isinstance(answer["note"], str)
    assert [type(part) for part in answer["parts"]] == [int, int]
    assert answer["either"] is None


def test_without_a_schema_the_answer_is_what_was_configured(server: FaultServer) -> None:
    assert set(json.loads(content(server, "?"))) == {"score", "rationale"}
    server.configure(content={"grade": "A"})
    assert json.loads(content(server, "?")) == {"grade": "A"}
    server.configure(content="as text")
    assert content(server, "?") == "as text"


def test_answers_follow_from_body_try_and_seed(server: FaultServer) -> None:
    first, second = content(server, "a"), content(server, "a")
    assert first != second
    server.reset()
    assert [content(server, "a"), content(server, "a")] == [first, second]
    server.configure(seed=1)
    server.reset()
    assert content(server, "a") != first


def test_content_may_follow_from_the_body_alone(server: FaultServer) -> None:
    server.configure(content_by="body")
    of_a = {content(server, "a") for _ in range(5)}
    assert len(of_a) == 1
    assert of_a != {content(server, "b")}


def test_texts_of_an_answer_are_as_long_as_asked(server: FaultServer) -> None:
    server.configure(text_length=200)
    texts = [text for n in range(3) for text in json.loads(content(server, f"{n}")).values() if isinstance(text, str)]
    assert len(set(texts)) == 3
    assert all(200 <= len(text) < 220 for text in texts)


def test_a_share_of_bodies_fares_alike_at_every_try(server: FaultServer) -> None:
    server.configure(body_shares={"400": 0.3})
    statuses = [[post(server, f"number {n}")[0] for _ in range(3)] for n in range(100)]
    assert all(len(set(of_body)) == 1 for of_body in statuses)
    assert 15 <= sum(of_body[0] == 400 for of_body in statuses) <= 45


def test_every_answer_has_its_own_id(server: FaultServer) -> None:
    ids = {post(server, text)[1]["id"] for text in "aabbcc"}
    assert len(ids) == 6


def test_faults_by_share_fall_on_the_same_requests_again(server: FaultServer) -> None:
    server.configure(shares={"429": 0.2, "500": 0.1})
    statuses = [post(server, f"number {n}")[0] for n in range(200)]
    server.reset()
    assert [post(server, f"number {n}")[0] for n in range(200)] == statuses
    assert 20 <= statuses.count(429) <= 60
    assert 8 <= statuses.count(500) <= 36
    assert server.stats()["outcomes"] == {
        "ok": statuses.count(200),
        "429": statuses.count(429),
        "500": statuses.count(500),
    }


def test_only_the_first_tries_of_a_body_fail(server: FaultServer) -> None:
    server.configure(first_tries={"status": 503, "times": 2})
    assert [post(server, text)[0] for text in ("a", "b", "a", "a", "b", "b")] == [
        503,
        503,
        503,
        200,
        503,
        200,
    ]
    stats = server.stats()
    assert (stats["received"], stats["paid"], stats["paid_extra"]) == (6, 2, 0)


def test_a_rule_may_be_for_bodies_that_hold_a_text(server: FaultServer) -> None:
    server.configure(rules=[{"contains": "bad", "status": 400, "message": "bad words"}])
    assert post(server, "good")[0] == 200
    status, body = post(server, "bad")
    assert (status, body["error"]["message"]) == (400, "bad words")


OFF_ANSWERS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "null_content": lambda found: found["message"]["content"] is None,
    "truncated": lambda found: found["finish_reason"] == "length" and not found["message"]["content"].endswith("}"),
    "list": lambda found: isinstance(json.loads(found["message"]["content"]), list),
    "nan": lambda found: "NaN" in found["message"]["content"],
    "duplicate_keys": lambda found: found["message"]["content"].count('"score"') == 2,
    "fenced": lambda found: found["message"]["content"].startswith("```json\n{"),
    "refusal": lambda found: found["message"]["refusal"] and found["message"]["content"] is None,
    "content_filter": lambda found: found["finish_reason"] == "content_filter",
    "not_json": lambda found: "{" not in found["message"]["content"],
    "tool_calls": lambda found: found["message"]["tool_calls"][0]["function"]["name"] == "answer",
    "wrong_types": lambda found: isinstance(json.loads(found["message"]["content"])["score"], str),
    "echo_key": lambda found: found["message"]["content"] == "You came with key-1.",
}


@pytest.mark.parametrize("act", OFF_ANSWERS)
def test_a_marker_in_the_prompt_asks_for_an_answer_that_is_off(server: FaultServer, act: str) -> None:
    assert OFF_ANSWERS[act](choice(server, f"Please [[{act.upper()}]] now"))


def test_a_marker_may_ask_for_a_body_that_is_off(server: FaultServer) -> None:
    assert post(server, "[[EMPTY_CHOICES]]")[1]["choices"] == []
    assert "choices" not in post(server, "[[NO_CHOICES]]")[1]
    assert "usage" not in post(server, "[[NO_USAGE]]")[1]
    assert post(server, "[[EMPTY_BODY]]") == (200, None)
    with pytest.raises(json.JSONDecodeError):
        post(server, "[[HTML]]")


def test_a_marker_may_ask_for_a_status_and_an_unknown_one_asks_for_nothing(server: FaultServer) -> None:
    assert post(server, "[[503]]")[0] == 503
    assert post(server, "[[PLACEHOLDER]] [[1]]")[0] == 200


@pytest.mark.parametrize(
    ("text", "broken"), [("[[RESET]]", ConnectionResetError), ("[[CUT]]", http.client.IncompleteRead)]
)
def test_a_connection_breaks_on_request(server: FaultServer, text: str, broken: type[Exception]) -> None:
    with pytest.raises(broken):
        post(server, text)


def test_a_key_that_is_not_expected_is_refused_and_repeated_only_when_asked_to(server: FaultServer) -> None:
    server.configure(expected_key="another")
    assert post(server)[1]["error"]["message"] == "Incorrect API key"
    server.configure(expected_key="another", echo_key=True)
    assert post(server)[1]["error"]["message"] == "Incorrect API key provided: key-1"
    server.configure(expected_key="key-1")
    assert post(server)[0] == 200


def test_it_is_asked_at_any_path_that_ends_in_chat_completions(server: FaultServer) -> None:
    assert post(server, path="/openai/deployments/m/chat/completions?api-version=1")[0] == 200
    assert post(server, path="/v1/completions")[0] == 404


def test_a_body_that_is_no_request_is_refused(server: FaultServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    for body in (b"{", b"[]", b"\xff"):
        connection.request("POST", "/v1/chat/completions", body)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 400
    connection.close()


def test_it_records_requests_only_when_told_to(server: FaultServer) -> None:
    server.configure(record=False)
    post(server)
    assert server.stats()["requests"] == []
    server.configure(record=True)
    post(server)
    (request,) = server.stats()["requests"]
    assert (request["status"], request["act"], request["path"]) == (200, "ok", "/v1/chat/completions")
    assert server.stats()["tries"] == {request["sha256"]: 2}
    body = {"model": "m", "messages": [{"role": "user", "content": "How good?"}]}
    assert request["sha256"] == sha256(json.dumps(body).encode())


def test_configuring_replaces_what_was_configured(server: FaultServer) -> None:
    server.configure(rules=[{"status": 500}])
    server.configure(latency_ms=1)
    assert post(server)[0] == 200


@pytest.mark.parametrize(
    "behaviour",
    [{"latency": 5}, {"shares": {"explode": 1}}, {"rules": [{"status": 700}]}, {"first_tries": {"times": 2}}],
)
def test_what_it_cannot_do_is_refused(server: FaultServer, behaviour: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no such"):
        server.configure(**behaviour)
    with pytest.raises(ValueError, match="no such"):
        FaultServer(**behaviour)


def test_many_are_answered_at_once(server: FaultServer) -> None:
    server.configure(latency_ms=[50, 100])
    with ThreadPoolExecutor(10) as threads:
        statuses = list(threads.map(lambda n: post(server, str(n))[0], range(10)))
    assert statuses == [200] * 10
    stats = server.stats()
    assert (stats["in_flight_max"] > 1, stats["in_flight"]) == (True, 0)


def test_it_ends_with_the_process_that_started_it() -> None:
    command = [sys.executable, fault_server.__file__, "--while-stdin"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert int(process.stdout.readline()) > 0
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(timeout=60) == 0
    process.stdout.close()


def test_it_starts_by_hand_on_a_free_port_and_says_which() -> None:
    command = [
        sys.executable,
        "-m",
        "elspeth_dagster_tests.fault_server",
        "--port",
        "0",
        "--behaviour",
        '{"seed": 1}',
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    port = int(process.stdout.readline())
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/stats")
    assert json.load(connection.getresponse())["received"] == 0
    connection.close()
    process.kill()  # a parent that ignores SIGTERM hands that down
    process.communicate(timeout=60)


def test_more_at_a_time_than_it_bears_are_refused_at_once() -> None:
    with FaultServer(max_in_flight=3, latency_ms=300, retry_after="2") as server, ThreadPoolExecutor(8) as threads:
        statuses = [status for status, _ in threads.map(lambda n: post(server, str(n)), range(8))]
        assert sorted(statuses) == [200] * 3 + [429] * 5
        assert post(server)[0] == 200


def test_more_a_second_than_it_bears_are_refused() -> None:
    with FaultServer(requests_per_second=5, record=True) as server:
        assert [post(server)[0] for _ in range(7)] == [200] * 5 + [429] * 2
        time.sleep(1)
        assert post(server)[0] == 200
        requests = server.stats()["requests"]
        assert requests[-1]["at"] - requests[0]["at"] > 1
        assert [request["tokens"] > 0 for request in requests] == [True] * 5 + [False] * 2 + [True]
