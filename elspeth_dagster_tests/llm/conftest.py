"""One fault server process for the tests of the wire, clean for each of them, and no provider in the environment."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from elspeth_dagster_tests.fault_server import FaultServer

FROM_ENVIRONMENT = (
    "OPENAI_API_KEY OPENAI_BASE_URL OPENAI_ORG_ID OPENAI_PROJECT_ID OPENAI_CUSTOM_HEADERS OPENAI_API_VERSION "
    "AZURE_OPENAI_API_KEY AZURE_OPENAI_AD_TOKEN AZURE_OPENAI_ENDPOINT "
    "HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY http_proxy https_proxy all_proxy no_proxy NETRC"
)


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the machine's user has set must not decide a test."""
    for name in FROM_ENVIRONMENT.split():
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def server_process() -> Iterator[FaultServer]:
    """The process, for all tests."""
    with FaultServer(record=True) as server:
        yield server


@pytest.fixture
def server(server_process: FaultServer) -> FaultServer:
    """The server, well-behaved, having seen nothing, recording every request."""
    server_process.configure()
    server_process.reset()
    return server_process
