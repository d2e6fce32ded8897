"""Timestamps by a real service, openssl behind a port: asked for, kept, and held to the checkpoints by openssl."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from elspeth_dagster.cli import main
from elspeth_dagster.core.errors import SettingsError
from elspeth_dagster.landscape import anchoring, auditing, sealing
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster_tests.landscape.sealed import FIRST, OURS, SECOND, write_run
from elspeth_dagster_tests.landscape.test_only_growing import drop_triggers

CONFIGURATION = """
[tsa]
default_tsa = service
[service]
serial = {folder}/serial
signer_cert = {folder}/service.pem
certs = {folder}/service.pem
signer_key = {folder}/service.key
signer_digest = sha256
default_policy = 1.2.3.4
digests = sha256
ess_cert_id_alg = sha256
"""


class Service(NamedTuple):
    """A timestamping service: where it is, and the certificate that it is trusted by."""

    url: str
    certificate: Path


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("tsa")
    certificate(folder, "service", "extendedKeyUsage=critical,timeStamping")
    certificate(folder, "stranger", "extendedKeyUsage=critical,timeStamping")
    (folder / "serial").write_text("01")
    (folder / "tsa.cnf").write_text(CONFIGURATION.format(folder=folder))

    class Stamping(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.headers["Content-Type"] == "application/timestamp-query"
            (folder / "query").write_bytes(self.rfile.read(int(self.headers["Content-Length"])))
            words = ["-reply", "-config", folder / "tsa.cnf", "-queryfile", folder / "query", "-out", folder / "reply"]
            done = subprocess.run(["openssl", "ts", *words], capture_output=True, check=False)
            replies = {"/refuses": b"0\x050\x03\x02\x01\x02", "/talks": b"no timestamp"}
            self.send_response(500 if done.returncode else 200)
            self.end_headers()
            self.wfile.write(replies.get(self.path, (folder / "reply").read_bytes()))

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Stamping)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Service(f"http://127.0.0.1:{server.server_port}", folder / "service.pem")
    server.shutdown()
    server.server_close()


def certificate(folder: Path, name: str, extension: str) -> None:
    """A certificate of its own, with its key."""
    files = ["-keyout", folder / f"{name}.key", "-out", folder / f"{name}.pem"]
    of_it = ["-subj", f"/CN={name}", "-addext", extension, "-days", "9"]
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *files, *of_it]
    subprocess.run(words, check=True, capture_output=True)


def test_a_timestamp_is_kept_and_fits_its_checkpoint_alone(landscape: Landscape, service: Service) -> None:
    landscape.anchors, landscape.signer = (f"tsa:{service.url}/tsr",), OURS
    for run_id in (FIRST, SECOND):
        write_run(landscape, run_id)
        assert sealing.seal_ended(landscape).warnings == []
    report = auditing.verify(landscape, certificates=service.certificate)
    assert report.findings == [] and any(" stated at " in remark for remark in report.remarks)
    with landscape.read() as connection:
        assert auditing.overdue(connection) == []
    assert "2 timestamps were not checked: give --tsa-certificates" in auditing.verify(landscape).remarks
    stranger = auditing.verify(landscape, certificates=service.certificate.with_name("stranger.pem"))
    assert [finding.kind for finding in stranger.findings] == ["anchor", "anchor"]

    drop_triggers(landscape._database, "anchor_receipts")
    with landscape._database.write() as connection:
        newest = "(SELECT receipt FROM anchor_receipts ORDER BY log_size DESC LIMIT 1)"
        connection.execute(sa.text(f"UPDATE anchor_receipts SET receipt = {newest}"))
    [found] = auditing.verify(landscape, certificates=service.certificate).findings
    with landscape.read() as connection:
        assert found.key["log_size"] == connection.scalar(sa.text("SELECT min(log_size) FROM anchor_receipts"))


@pytest.mark.parametrize(
    ("path", "told"), [("refuses", "without a timestamp"), ("talks", "without a timestamp"), (":1", "tsa:")]
)
@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_a_service_that_gives_none_stops_nothing_and_is_told(
    landscape: Landscape, service: Service, path: str, told: str
) -> None:
    landscape.anchors = (f"tsa:{service.url}/{path}" if ":" not in path else "tsa:http://127.0.0.1:1/x",)
    write_run(landscape, FIRST)
    sealed = sealing.seal_ended(landscape)
    assert sealed.run_ids == [FIRST] and told in sealed.warnings[0]
    assert auditing.verify(landscape, certificates=service.certificate).findings == []


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_the_command_takes_certificates(landscape: Landscape, service: Service, database_url: str) -> None:
    landscape.anchors, landscape.signer = (f"tsa:{service.url}/tsr",), OURS
    write_run(landscape, FIRST)
    sealing.seal_ended(landscape)
    words = ["verify", "--all", "--landscape", database_url, "--key", OURS.verifier.vkey, "--tsa-certificates"]
    told = CliRunner().invoke(main, [*words, str(service.certificate)])
    assert told.exit_code == 0 and " stated at " in told.output
    assert CliRunner().invoke(main, [*words, f"{service.certificate}.none"]).exit_code == 2


@pytest.mark.parametrize("setting", ["tsa:", "tsa:/a/file", "tsa:ftp://tsa.example"])
def test_a_service_without_a_url_is_refused(setting: str) -> None:
    with pytest.raises(SettingsError, match="ELSPETH_ANCHORS"):
        anchoring.read_anchors(setting)
