"""A real server, a real model, real questions of the sample assessment."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, Request, build_opener

import pytest

from elspeth_dagster.core.errors import ProviderError
from elspeth_dagster.llm.local import LocalModel, check_port
from elspeth_dagster.stages.answering import accepted_values, read_completion
from elspeth_dagster.stages.prompting import messages
from elspeth_dagster.stages.querying import questions, request
from elspeth_dagster.stages.reading import Record
from elspeth_dagster_tests.llm_local.sample import WEIGHTS_CACHE, sample_assessment, sample_records

pytestmark = pytest.mark.skipif(
    find_spec("xllamacpp") is None, reason="xllamacpp is not installed: pip install 'elspeth-dagster[local]'"
)

ASSESSMENT = sample_assessment()
QUESTIONS = questions(ASSESSMENT)
OPENER = build_opener(ProxyHandler({}))
DIES_WITHOUT_GOODBYE = """
import sys, time
from pathlib import Path
from elspeth_dagster.llm.local import LocalModel
with LocalModel(Path(sys.argv[1]), cache=Path(sys.argv[2])) as model:
    print(model.base_url, flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalModel]:
    with LocalModel(tmp_path_factory.mktemp("model") / "model.log", cache=WEIGHTS_CACHE) as model:
        yield model


def body_of(row: int, question: int) -> bytes:
    record = sample_records("2026-01-05")[row]
    assert isinstance(record, Record)
    asked = messages(QUESTIONS[question], record.values, ASSESSMENT.lookup)
    return request(ASSESSMENT.spec, QUESTIONS[question], asked, bounded_schema=True).body


def post(model: LocalModel, body: bytes) -> bytes:
    request = Request(f"{model.base_url}/chat/completions", body, {"content-type": "application/json"})
    with OPENER.open(request, timeout=120) as reply:
        return bytes(reply.read())


def port_of(base_url: str) -> int:
    return urlsplit(base_url).port or 0


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_question_of_the_sample_gets_an_answer_that_is_accepted(model: LocalModel) -> None:
    completion = read_completion(post(model, body_of(row=0, question=0)))
    values = accepted_values(completion, ASSESSMENT.spec.answer)
    assert completion.finish_reason == "stop"
    assert isinstance(values["score"], int)
    assert 0 <= values["score"] <= 100
    assert 0 < len(values["rationale"]) <= 200


def test_the_same_question_gets_the_same_reply_whatever_was_asked_between(model: LocalModel) -> None:
    first, _, second = (
        read_completion(post(model, body_of(row=0, question=question))).content for question in (1, 3, 1)
    )
    assert first == second


def test_a_reply_names_the_model_that_gave_it_and_what_it_used(model: LocalModel) -> None:
    reply = json.loads(post(model, b'{"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}'))
    assert reply["model"] == "SmolLM2-135M-Instruct.Q4_1"
    assert reply["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize("path", ["/", "/slots"])
def test_the_web_page_and_other_callers_prompts_are_not_served(model: LocalModel, path: str) -> None:
    with pytest.raises(HTTPError) as refused:
        OPENER.open(model.base_url.removesuffix("/v1") + path)
    assert refused.value.code in (404, 501)


def test_scripts_of_other_web_pages_are_not_let_in(model: LocalModel) -> None:
    request = Request(f"{model.base_url}/models", headers={"Origin": "https://example.org"})
    with OPENER.open(request) as reply:
        assert reply.headers["Access-Control-Allow-Origin"] not in ("*", "https://example.org")


def test_a_taken_port_is_refused_in_one_sentence(model: LocalModel, tmp_path: Path) -> None:
    port = port_of(model.base_url)
    with (
        pytest.raises(ProviderError, match=f"can't listen on port {port}: Address already in use"),
        LocalModel(tmp_path / "second.log", port=port, cache=WEIGHTS_CACHE),
    ):
        pass
    assert is_listening(port)


def test_a_file_that_is_no_model_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "notes.gguf").write_text("not a model")
    with (
        pytest.raises(ProviderError, match=r"notes\.gguf can't be served"),
        LocalModel(tmp_path / "model.log", model=tmp_path / "notes.gguf"),
    ):
        pass


def test_used_wrongly_the_command_ends_with_2_and_a_sentence(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "elspeth_dagster.llm.local",
        "serve",
        f"--model={tmp_path / 'none.gguf'}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "none.gguf' does not exist" in done.stderr
    assert "Traceback" not in done.stderr


def test_it_stops_at_once_though_a_reply_is_under_way(tmp_path: Path) -> None:
    with LocalModel(tmp_path / "model.log", cache=WEIGHTS_CACHE) as model:
        story = b'{"messages": [{"role": "user", "content": "Tell a long story."}], "max_tokens": 1900}'
        asking = Thread(target=_ignoring_the_end, args=(model, story))
        asking.start()
        time.sleep(1)
        began = time.monotonic()
    assert time.monotonic() - began < 5
    asking.join(timeout=5)
    assert not asking.is_alive()
    check_port(port_of(model.base_url))
    assert (tmp_path / "model.log").read_text().endswith("stopped\n")


def _ignoring_the_end(model: LocalModel, body: bytes) -> None:
    with suppress(ConnectionError):
        post(model, body)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell a process that its parent ended")
def test_it_stops_when_its_parent_is_killed(tmp_path: Path) -> None:
    program = [sys.executable, "-c", DIES_WITHOUT_GOODBYE, str(tmp_path / "model.log"), str(WEIGHTS_CACHE)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        port = port_of(parent.stdout.readline().strip())
        assert is_listening(port)
        parent.kill()
    deadline = time.monotonic() + 15
    while is_listening(port) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not is_listening(port)


def test_ctrl_c_ends_the_command_in_order() -> None:
    command = [
        sys.executable,
        "-m",
        "elspeth_dagster.llm.local",
        "serve",
        "--port=0",
        f"--cache={WEIGHTS_CACHE}",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        assert server.stdout.readline().startswith("serving SmolLM2-135M-Instruct.Q4_1.gguf at http://127.0.0.1:")
        os.kill(server.pid, signal.SIGINT)
        assert server.stdout.read() == "stopped\n"
        assert server.wait(10) == 0
