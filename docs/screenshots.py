"""The pictures of README and docs, made from the very pages: python docs/screenshots.py

The sample is assessed in real Dagster runs, by a judge of ours who answers at once and knows nothing of medicine; then
a real Chromium looks at the explorer's pages. Everything else is made in a folder that is removed afterwards.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from playwright.sync_api import Page, sync_playwright

from elspeth_dagster_tests.explorer.browser import chromium_path
from elspeth_dagster_tests.explorer.conftest import served

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"
PARTITIONS = ("2026-01-05", "2026-01-06", "2026-01-07")
MOST_BYTES = 150_000
PRICES = "SmolLM2-135M-Instruct: {input_mtok: 0.15, output_mtok: 0.6}\n"
REASONS = (
    "Names the dangerous cause first and says which finding speaks for it.",
    "The diagnosis fits, but no alternative is weighed against it.",
    "The urgent step comes first; dose and route are stated.",
    "Follow-up is stated, the dose is not.",
    "The main finding is explained away, so the plan starts too late.",
    "Sound and complete; a second look after four weeks is planned.",
)


class Judge(BaseHTTPRequestHandler):
    """A provider whose verdict follows from the prompt's hash. Every seventh prompt it is busy, once."""

    asked: set[str] = set()  # noqa: RUF012  # for all requests

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        name = hashlib.sha256(body).hexdigest()
        lot = int(name[:8], 16)
        is_busy = lot % 7 == 0 and name not in self.asked
        self.asked.add(name)
        self._reply(429, {"error": {"message": "Busy."}}) if is_busy else self._reply(200, completion(body, lot))

    def _reply(self, status: int, document: dict[str, Any]) -> None:
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def completion(body: bytes, lot: int) -> dict[str, Any]:
    """A chat completion; every ninth is no JSON."""
    verdict = {"rationale": REASONS[lot % len(REASONS)], "score": 35 + lot % 61}
    content = "I would rather not give a number." if lot % 9 == 0 else json.dumps(verdict)
    usage = {"prompt_tokens": len(body) // 4, "completion_tokens": len(content) // 4}
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    model = json.loads(body)["model"]
    return {"id": "c", "object": "chat.completion", "created": 0, "model": model, "choices": [choice], "usage": usage}


@contextmanager
def judging() -> Iterator[str]:
    """The judge's address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Judge)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()


def assess(folder: Path) -> tuple[str, list[str]]:
    """Assess the sample. The landscape's url, and the runs."""
    (folder / "dagster.yaml").write_text("telemetry: {enabled: false}\nnux: {enabled: false}\n")
    (folder / "prices.yaml").write_text(PRICES)
    url = f"sqlite:///{folder}/landscape.sqlite"
    with judging() as address:
        os.environ |= {
            "DAGSTER_HOME": str(folder), "ELSPETH_LANDSCAPE_URL": url, "ELSPETH_PRICES": str(folder / "prices.yaml"),
            "ELSPETH_LLM": "openai", "OPENAI_API_KEY": "none", "OPENAI_BASE_URL": address,
            "ELSPETH_EXPLORER_URL": "http://127.0.0.1:3001",
        }  # fmt: skip
        return url, [run(partition) for partition in PARTITIONS]


def run(partition: str) -> str:
    """A run of a partition, and its id."""
    import dagster as dg

    from elspeth_dagster.definitions import defs

    with dg.DagsterInstance.get() as instance:
        job = defs().resolve_job_def("case_studies_job")
        return job.execute_in_process(instance=instance, partition_key=partition, raise_on_error=False).run_id


@contextmanager
def dagster_pages() -> Iterator[str]:
    """Dagster's own pages, over the same instance."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "dagster_webserver", "-h", "127.0.0.1", "-p", str(port), "-w", "workspace.yaml"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def wait_for(address: str, seconds: float = 120) -> None:
    """Wait until somebody answers there."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with suppress(OSError), urlopen(address):
            return
        time.sleep(0.5)
    raise TimeoutError(address)


def take(page: Page, address: str, name: str, height: int) -> None:
    """A picture of a page, as high as that."""
    page.set_viewport_size({"width": 1200, "height": height})
    page.goto(address, wait_until="networkidle")
    page.wait_for_timeout(1000)  # Dagster's pages fade in
    path = PICTURES / f"{name}.png"
    page.screenshot(path=path)
    size = path.stat().st_size
    assert size < MOST_BYTES, f"{path} has {size} bytes"
    print(f"{path}  {size:,} bytes")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        url, runs = assess(Path(folder))
        with served(url) as address, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium_path(), args=["--no-sandbox"])
            page = browser.new_page(color_scheme="light")
            take(page, f"{address}/", "explorer_runs", 440)
            take(page, f"{address}/runs/{runs[0]}", "explorer_run", 900)
            take(page, f"{address}/runs/{runs[0]}/case_studies/rows/1/cs1_safety", "explorer_cell", 1000)
            take(page, f"{address}/runs/{runs[0]}/case_studies/grid", "explorer_grid", 900)
            with dagster_pages() as dagster:
                wait_for(f"{dagster}/server_info")
                take(page, f"{dagster}/assets/case_studies/results?view=overview", "dagster_results", 800)
            browser.close()


if __name__ == "__main__":
    main()
