"""Who may read the pages, what every answer carries, and that nothing can be written through them."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPMessage
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from elspeth_dagster.cli import main
from elspeth_dagster.core.errors import StorageError
from elspeth_dagster.explorer.guarding import HEADERS
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster_tests.explorer.conftest import TOKEN, served
from elspeth_dagster_tests.landscape.sample import a_run

COMMAND = [sys.executable, "-c", "from elspeth_dagster.cli import main; main()"]


class Answer(NamedTuple):
    status: int
    headers: HTTPMessage
    text: str


def ask(address: str, path: str = "/", method: str = "GET", **headers: str) -> Answer:
    """One request, with these headers."""
    with closing(http.client.HTTPConnection(urlsplit(address).netloc, timeout=10)) as connection:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        reply = connection.getresponse()
        return Answer(reply.status, reply.headers, reply.read().decode())


@pytest.fixture(scope="module")
def landscape_url(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A landscape without facts."""
    path = tmp_path_factory.mktemp("guarded") / "landscape.sqlite"
    shutil.copy(sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture(scope="module")
def open_address(landscape_url: str) -> Iterator[str]:
    """An explorer that asks for no token."""
    with served(landscape_url, names=["audit.example"]) as found:
        yield found


@pytest.fixture(scope="module")
def locked_address(landscape_url: str) -> Iterator[str]:
    """An explorer that asks for one."""
    with served(landscape_url, token=TOKEN) as found:
        yield found


# Headers, hosts and methods ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "status"),
    [("/", 200), ("/assets/explorer.css", 200), ("/nothing", 404), ("/runs/none", 404), ("/?status=odd", 400)],
)
def test_every_answer_carries_the_headers(open_address: str, path: str, status: int) -> None:
    found = ask(open_address, path)
    assert found.status == status
    assert {name: found.headers[name] for name in HEADERS} == HEADERS


def test_the_policy_lets_nothing_in_from_elsewhere(open_address: str) -> None:
    rules = dict(rule.split(" ", 1) for rule in ask(open_address).headers["Content-Security-Policy"].split("; "))
    assert rules.pop("default-src") == rules.pop("frame-ancestors") == rules.pop("base-uri") == "'none'"
    assert set(rules.values()) == {"'self'"}


@pytest.mark.parametrize("path", ["/", "/nothing"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_only_reading_is_answered(open_address: str, method: str, path: str) -> None:
    found = ask(open_address, path, method)
    assert (found.status, found.headers["Allow"]) == (405, "GET, HEAD")


def test_a_head_is_a_get_without_its_text(open_address: str) -> None:
    assert (ask(open_address, method="HEAD").status, ask(open_address, method="HEAD").text) == (200, "")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:1", 200),
        ("localhost", 200),
        ("[::1]:3001", 200),
        ("AUDIT.example:80", 200),
        ("elsewhere.example", 421),
        ("127.0.0.1.elsewhere.example", 421),
        ("audit.example.elsewhere.example", 421),
        ("", 421),
    ],
)
def test_a_foreign_name_is_not_answered(open_address: str, host: str, status: int) -> None:
    assert ask(open_address, Host=host).status == status


@pytest.mark.parametrize(
    "path",
    [
        "/runs/%ed%a0%80", "/runs/..%2f..%2fetc", "/runs/r/%00", "/?after=x", "/?after=9999999999999999999~x",
        "/?least=1e9", "/?most=-1", "/?order=%ff", "/runs/latest", "/runs/latest/a/rows/-1", "/assets/../explorer.css",
        "/assets/%2e%2e/routes.py", "/runs/latest/a/rows/999999999999999999999", "/runs/latest/find", "/%",
        "/" + "x" * 9000,
    ],
)  # fmt: skip
def test_an_odd_address_is_the_readers_mistake(open_address: str, path: str) -> None:
    assert ask(open_address, path).status in (400, 404)


def test_a_name_with_a_nul_is_no_name(open_address: str) -> None:
    assert ask(open_address, "/runs/a%00b").status == ask(open_address, "/?partition=%00").status == 400


# The token -----------------------------------------------------------------------------------------------------------


def test_the_token_goes_from_the_address_into_a_cookie(locked_address: str) -> None:
    found = ask(locked_address, f"/?order=oldest&token={TOKEN}")
    assert (found.status, found.headers["Location"]) == (303, "/?order=oldest")
    cookie, *attributes = found.headers["Set-Cookie"].split("; ")
    assert TOKEN not in cookie and {"HttpOnly", "SameSite=strict", "Path=/"} <= set(attributes)
    assert ask(locked_address, "/?order=oldest", Cookie=cookie).status == 200


def test_the_cookie_of_a_reader_who_came_by_https_is_for_https_alone(locked_address: str) -> None:
    by_proxy = ask(locked_address, f"/?token={TOKEN}", X_Forwarded_Proto="https")
    assert "Secure" in by_proxy.headers["Set-Cookie"]
    assert "Secure" not in ask(locked_address, f"/?token={TOKEN}").headers["Set-Cookie"]


def test_the_token_never_leads_to_another_host(locked_address: str) -> None:
    assert ask(locked_address, f"//elsewhere.example/?token={TOKEN}").headers["Location"] == "/elsewhere.example/"


def test_a_bearer_of_the_token_may_read(locked_address: str) -> None:
    assert ask(locked_address, Authorization=f"Bearer {TOKEN}").status == 200


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/", {}),
        ("/nothing", {}),
        ("/assets/explorer.css", {"Cookie": "elspeth_0=0"}),
        (f"/?token={TOKEN[:-1]}", {}),
        ("/?token=", {}),
        ("/?token=%ff", {}),
        ("/", {"Authorization": f"Basic {TOKEN}"}),
        ("/", {"Authorization": "Bearer \u00ff"}),
        ("/", {"Cookie": f"token={TOKEN}"}),
    ],
)
def test_nobody_else_may(locked_address: str, path: str, headers: dict[str, str]) -> None:
    found = ask(locked_address, path, **headers)
    assert (found.status, found.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert "A token is needed" in found.text and TOKEN not in found.text and "Runs" not in found.text


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0 lets other machines in"),
        (["--host", "::"], "--host :: lets other machines in"),
        (["--host", "audit.example"], "--host audit.example lets other machines in"),
        (["--token", "short"], "--token must have 16 ASCII characters or more"),
        (["--dagster-url", "javascript:alert(1)"], "--dagster-url must begin with http"),
    ],
)
def test_what_would_let_anybody_in_is_refused(landscape_url: str, options: list[str], says: str) -> None:
    found = CliRunner().invoke(main, ["explorer", "--landscape", landscape_url, *options])
    assert found.exit_code == 2
    assert says in found.stderr


# The database --------------------------------------------------------------------------------------------------------


def test_nothing_can_be_written_through_what_the_explorer_opens(database_url: str) -> None:
    with Landscape.look_at(database_url, patience=1) as landscape, pytest.raises(StorageError, match=r"read.?only"):
        landscape.decide(lambda connection: connection.execute(sa.text("DELETE FROM limit_buckets")))


def test_what_a_run_writes_meanwhile_is_seen(database_url: str) -> None:
    with served(database_url) as address, Landscape.open(database_url) as landscape:
        assert ask(address, "/runs/r1").status == 404
        landscape.write(*a_run("r1"))
        assert ask(address, "/runs/r1/batches/r1-flush").status == 200


def test_a_database_that_is_gone_is_told_and_found_again(sqlite_url: str, tmp_path: Path) -> None:
    file, away = tmp_path / "landscape.sqlite", tmp_path / "away.sqlite"
    with served(sqlite_url) as address:
        file.rename(away)
        found = ask(address)
        assert found.status == 503 and "The landscape can&#39;t be read" in found.text
        away.rename(file)
        assert ask(address).status == 200


def test_an_absent_or_older_landscape_is_refused(tmp_path: Path, sqlite_url: str) -> None:
    absent = CliRunner().invoke(main, ["explorer", "--landscape", f"sqlite:///{tmp_path}/absent.sqlite"])
    assert (absent.exit_code, absent.stderr) == (1, f"Error: there is no landscape at {tmp_path}/absent.sqlite\n")
    engine = sa.create_engine(sqlite_url)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE landscape_version SET version_num = '0001'"))
    engine.dispose()
    older = CliRunner().invoke(main, ["explorer", "--landscape", sqlite_url])
    assert older.exit_code == 1 and "run `elspeth-dagster upgrade`" in older.stderr


def test_the_command_serves_until_it_is_interrupted(landscape_url: str) -> None:
    env = {**os.environ, "ELSPETH_EXPLORER_TOKEN": TOKEN, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [*COMMAND, "explorer", "--port", "0", "--landscape", landscape_url]
    process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    line = process.stderr.readline()
    address = re.search(r"http://[^/]*", line)
    assert address and line.endswith(f"/?token={TOKEN} (Ctrl-C ends it)\n")
    assert ask(address[0]).status == 401
    assert ask(address[0], Authorization=f"Bearer {TOKEN}").status == 200
    taken = CliRunner().invoke(main, [*command[3:], "--port", address[0].rpartition(":")[2]])
    assert taken.exit_code == 2 and "give another --port" in taken.stderr
    process.send_signal(signal.SIGTERM)
    assert (process.wait(timeout=10), process.stderr.read()) == (-signal.SIGTERM, "")
