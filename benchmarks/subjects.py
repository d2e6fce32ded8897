"""One system asks so many questions of a chat completions server; run by `compare.py`, each in a process of its own.

    python benchmarks/subjects.py NAME BASE_URL CALLS CONCURRENCY [LANDSCAPE_URL]

Prints the wall seconds and CPU seconds of the asking alone, imports and start aside, as JSON. Peers are asked as their
own documentation shows; their caches, displays and telemetry are off.
"""

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from workload import QUESTIONS, SPEC, TEMPLATES, values

MODEL = "gpt-4o-mini"
Measured = tuple[float, float]


def requests(calls: int) -> list[bytes]:
    """The requests that our ask step sends about so many rows × questions."""
    from elspeth_dagster.core.assessment import Assessment
    from elspeth_dagster.core.spec import AssessmentSpec
    from elspeth_dagster.stages.prompting import messages
    from elspeth_dagster.stages.querying import Form, questions

    assessment = Assessment(AssessmentSpec.model_validate(SPEC), TEMPLATES)
    asked = [(one, Form(assessment.spec, one, bounded_schema=False)) for one in questions(assessment)]
    rows = map(values, range(calls // len(asked)))
    return [form.request(messages(question, row, None)).body for row in rows for question, form in asked]


def prompts(calls: int) -> list[str]:
    """The same questions, for peers that make requests of their own."""
    texts = [text for row in range(calls // QUESTIONS) for text in list(values(row).values())[1:]]
    asked = "Judge c{} (How well does it say what it has to?) of this text:\n{}"
    return [asked.format(number, text) for text in texts for number in range(QUESTIONS // 2)]


def measured(work: Callable[[], object]) -> Measured:
    """Wall and CPU seconds of this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


async def in_flight(count: int, concurrency: int, ask: Callable[[int], Awaitable[object]]) -> None:
    waiting = iter(range(count))

    async def work() -> None:
        for number in waiting:
            await ask(number)

    await asyncio.gather(*(work() for _ in range(concurrency)))


def bare(url: str, calls: int, concurrency: int) -> Measured:
    import aiohttp

    bodies = requests(calls)
    headers = {"content-type": "application/json", "authorization": "Bearer sk-benchmark-key"}

    async def run() -> None:
        connector = aiohttp.TCPConnector(limit=concurrency)
        async with aiohttp.ClientSession(headers=headers, connector=connector) as session:

            async def ask(number: int) -> None:
                async with session.post(f"{url}/chat/completions", data=bodies[number]) as reply:
                    reply.raise_for_status()
                    await reply.read()

            await in_flight(calls, concurrency, ask)

    return measured(lambda: asyncio.run(run()))


def openai_sdk(url: str, calls: int, concurrency: int) -> Measured:
    import openai

    bodies = [json.loads(request) for request in requests(calls)]

    async def run() -> None:
        async with openai.AsyncOpenAI(api_key="sk-benchmark-key", base_url=url, max_retries=0) as client:

            async def ask(number: int) -> None:
                await client.chat.completions.create(**bodies[number])

            await in_flight(calls, concurrency, ask)

    return measured(lambda: asyncio.run(run()))


def curator(url: str, calls: int, concurrency: int) -> Measured:
    tokenizers = find_spec("litellm")  # it has those that curator would download
    if tokenizers is not None and tokenizers.origin is not None:
        os.environ["TIKTOKEN_CACHE_DIR"] = str(Path(tokenizers.origin).parent / "litellm_core_utils" / "tokenizers")
    from bespokelabs import curator as bespoke

    class Judge(bespoke.LLM):
        def prompt(self, input: dict[str, str]) -> str:  # noqa: A002
            return input["prompt"]

        def parse(self, input: dict[str, str], response: str) -> dict[str, str]:  # noqa: A002
            return {"answer": response}

    limits = {"max_concurrent_requests": concurrency, "max_requests_per_minute": 10**7, "max_tokens_per_minute": 10**10}
    judge = Judge(model_name=MODEL, backend="openai", backend_params={"base_url": url, **limits})
    rows = [{"prompt": prompt} for prompt in prompts(calls)]
    with tempfile.TemporaryDirectory() as folder:
        return measured(lambda: judge(rows, working_dir=folder))


def inspect(url: str, calls: int, concurrency: int) -> Measured:
    from inspect_ai import Task
    from inspect_ai import eval as ask_all
    from inspect_ai.dataset import MemoryDataset, Sample
    from inspect_ai.solver import generate

    task = Task(dataset=MemoryDataset([Sample(input=prompt) for prompt in prompts(calls)]), solver=generate())
    many: Any = {"max_connections": concurrency, "max_samples": concurrency, "log_model_api": True}
    with tempfile.TemporaryDirectory() as folder:
        return measured(lambda: ask_all(task, model="openai-api/fake/fake", display="none", log_dir=folder, **many))


def ours(url: str, calls: int, concurrency: int) -> Measured:
    import ask_step

    from elspeth_dagster.landscape.ledger import Landscape

    with tempfile.TemporaryDirectory() as folder:
        given = sys.argv[5] if len(sys.argv) > 5 else f"sqlite:///{folder}/landscape.sqlite"
        with Landscape.open(given) as landscape:
            wall = ask_step.ask(landscape, url, calls // QUESTIONS, concurrency)
        file = Path(folder, "landscape.sqlite")
        if file.exists():
            KEPT.append(file.stat().st_size / calls)
        return wall, ask_step.ASK_CPU[0]


KEPT: list[float] = []
"""Bytes a call that are on record."""
SUBJECTS = {"bare": bare, "ours": ours, "openai": openai_sdk, "curator": curator, "inspect": inspect}

if __name__ == "__main__":
    name, base_url, count, at_once = sys.argv[1:5]
    seconds, cpu_seconds = SUBJECTS[name](base_url, int(count), int(at_once))
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "kept": KEPT[0] if KEPT else None}))
