from __future__ import annotations

import hashlib
import io
import os
import shutil

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from elspeth_dagster.core.errors import SourceError
from elspeth_dagster.core.source_spec import SourceSpec
from elspeth_dagster.resources.source import SourceReader, open_source
from elspeth_dagster.stages.reading import read_records


@pytest.fixture
def memory():
    files = fsspec.filesystem("memory")
    yield files
    files.rm("/source-tests", recursive=True)


def content(path, root, partition=None):
    with open_source(path, root, partition) as (stream, _):
        return stream.read()


def test_a_relative_path_starts_at_the_root_and_the_name_is_the_resolved_path(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.csv").write_bytes(b"x\n1\n")
    with open_source("data/a.csv", tmp_path, None) as (stream, name):
        assert stream.read() == b"x\n1\n"
    assert name == str(tmp_path / "data" / "a.csv")


def test_an_absolute_path_and_a_file_url_stand_for_themselves(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"x")
    elsewhere = tmp_path / "elsewhere"
    assert content(str(tmp_path / "a.csv"), elsewhere) == b"x"
    assert content(f"file://{tmp_path}/a.csv", elsewhere) == b"x"


def test_a_url_is_opened_by_its_filesystem(tmp_path, memory):
    memory.pipe("/source-tests/2026-01-31.csv", b"from memory")
    assert content("memory://source-tests/{partition}.csv", tmp_path, "2026-01-31") == b"from memory"


def test_the_partition_key_is_put_in_literally_and_other_braces_stay(tmp_path):
    (tmp_path / "{x} %s {0}|a:b {0}|a:b.csv").write_bytes(b"x")
    assert content("{x} %s {partition} {partition}.csv", tmp_path, "{0}|a:b") == b"x"


def test_a_path_without_a_place_for_the_partition_is_the_same_for_all(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"x")
    assert content("a.csv", tmp_path, "../2026") == b"x"


@pytest.mark.parametrize("key", ["../secret", "..", "a/b", "a\\b", "/etc/passwd", "x::file", "a\0", "a\nb"])
def test_a_partition_key_that_could_lead_elsewhere_is_refused(tmp_path, key):
    (tmp_path / "data").mkdir()
    (tmp_path / "secret.csv").write_bytes(b"x")
    with pytest.raises(SourceError, match="can't stand in a path"):
        content("data/{partition}.csv", tmp_path, key)


@pytest.mark.parametrize("key", [None, ""])
def test_a_path_with_a_partition_needs_a_key(tmp_path, key):
    with pytest.raises(SourceError, match="needs a partition key"):
        content("{partition}.csv", tmp_path, key)


def test_a_missing_file_is_named_with_its_partition(tmp_path):
    with pytest.raises(SourceError) as caught:
        content("data/{partition}.csv", tmp_path, "2026-01-31")
    assert str(caught.value).startswith(
        f"{tmp_path}/data/2026-01-31.csv (partition '2026-01-31'): there is no such file"
    )


def test_a_missing_file_of_another_filesystem_is_named_too(tmp_path, memory):
    memory.pipe("/source-tests/a.csv", b"")
    with pytest.raises(SourceError, match=r"memory://source-tests/b\.csv: there is no such file"):
        content("memory://source-tests/b.csv", tmp_path)


def test_a_folder_is_no_source(tmp_path, memory):
    memory.makedirs("/source-tests")
    with pytest.raises(SourceError, match="is a folder"):
        content(".", tmp_path)
    with pytest.raises(SourceError, match="is a folder"):
        content("memory://source-tests", tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(tmp_path):
    (tmp_path / "a.csv").touch(mode=0)
    with pytest.raises(SourceError, match="may not be read"):
        content("a.csv", tmp_path)


def test_a_filesystem_that_is_not_known_is_named(tmp_path):
    with pytest.raises(SourceError, match=r"nowhere://a\.csv: can't be opened \(ValueError: Unsupported"):
        content("nowhere://a.csv", tmp_path)


def test_secrets_of_a_url_stay_out_of_the_message(tmp_path):
    with pytest.raises(SourceError) as caught:
        content("nowhere://user:pass-word@host/a.csv?sig=tok-en", tmp_path)
    assert str(caught.value) == "nowhere://***@host/a.csv?***: can't be opened (ValueError)."
    assert "pass-word" not in str(caught.value) and "tok-en" not in str(caught.value)
    assert caught.value.__context__ is None
    with pytest.raises(SourceError) as caught:
        content("s3://user:pass-word@host/{partition}", tmp_path, "..")
    assert "pass-word" not in str(caught.value)


def test_the_file_is_closed_at_the_end(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"x")
    with open_source("a.csv", tmp_path, None) as (stream, _):
        pass
    with pytest.raises(SourceError, match="broke off after 0 bytes"):
        stream.read()


def parquet_bytes():
    sink = io.BytesIO()
    pq.write_table(pa.table({"id": [str(n) for n in range(3000)]}), sink)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.csv", b"id\r\n" + b"".join(b"%d\r\n" % n for n in range(3000))),
        ("a.jsonl", b"".join(b'{"id": "%d"}\n' % n for n in range(3000))),
        ("a.json", b"[" + b",".join(b'{"id": "%d"}' % n for n in range(3000)) + b"]"),
        ("a.parquet", parquet_bytes()),
    ],
)
def test_after_all_records_are_read_the_bytes_of_the_source_are_known(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    spec = SourceSpec(path=name, key=["id"], columns={"id": "str"})
    with open_source(name, tmp_path, None) as (stream, shown):
        records = read_records(stream, shown, spec)
        assert [record.key for record in records] == [str(n) for n in range(3000)]
        assert stream.sha256 == "sha256:" + hashlib.sha256(data).hexdigest()
        assert stream.size == len(data)


@pytest.mark.parametrize("data", [b"", b"x", b"x" * 100_000])
def test_hash_and_size_are_those_of_the_bytes_however_they_are_read(data):
    for copy in (lambda stream: shutil.copyfileobj(stream, io.BytesIO(), 1000), lambda stream: stream.read()):
        stream = SourceReader(io.BytesIO(data), "x")
        copy(stream)
        assert (stream.sha256, stream.size) == ("sha256:" + hashlib.sha256(data).hexdigest(), len(data))


def test_there_is_no_hash_before_the_end():
    stream = SourceReader(io.BytesIO(b"abc"), "x")
    stream.read(3)
    with pytest.raises(ValueError, match="not read to its end"):
        _ = stream.sha256


def test_a_stream_that_breaks_off_is_a_source_error_with_its_name():
    class Cut(io.RawIOBase):
        sent = False

        def read(self, size=-1, /):
            if self.sent:
                raise ConnectionResetError("peer")
            self.sent = True
            return b"id\n1\n"

    spec = SourceSpec(path="a.csv", key=["id"], columns={"id": "str"})
    records = read_records(SourceReader(Cut(), "s3://bucket/a.csv"), "s3://bucket/a.csv", spec)
    with pytest.raises(SourceError, match=r"s3://bucket/a\.csv: broke off after 5 bytes"):
        list(records)
