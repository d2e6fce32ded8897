"""How the database is opened: with settings that hold on every connection, or not at all."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from elspeth_dagster.core.errors import LandscapeError, SchemaVersionError, SettingsError
from elspeth_dagster.landscape.database import Database
from elspeth_dagster.landscape.records import Payload
from elspeth_dagster.landscape.writing import insert
from elspeth_dagster_tests.conftest import PostgresServer

PRAGMAS = {
    "foreign_keys": 1,
    "synchronous": 2,
    "journal_mode": "wal",
    "busy_timeout": 60_000,
    "wal_autocheckpoint": 4000,
    "secure_delete": 1,
}
PASSWORD = "s3cret-pw"


def pragmas(connection: sa.Connection) -> dict[str, object]:
    """The settings of a SQLite connection that we rely on."""
    return {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in PRAGMAS}


def on_connections(database: Database, count: int) -> list[dict[str, object]]:
    """The settings of several connections that are open at once, each on its own thread."""
    all_open, found = threading.Barrier(count), []

    def look() -> None:
        with database.read() as connection:
            all_open.wait(timeout=30)
            found.append(pragmas(connection))

    threads = [threading.Thread(target=look) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_every_sqlite_connection_has_the_settings_on_whatever_thread(sqlite_url: str) -> None:
    with closing(Database.open(sqlite_url)) as database:
        assert on_connections(database, 8) == [PRAGMAS] * 8
        database.engine.dispose()
        assert on_connections(database, 2) == [PRAGMAS] * 2


def test_a_bare_sqlite_connection_would_not_have_them(sqlite_url: str) -> None:
    engine = sa.create_engine(sqlite_url)
    with engine.connect() as connection:
        bare = {"foreign_keys": 0, "busy_timeout": 5000, "wal_autocheckpoint": 1000}
        found = {**pragmas(connection), "secure_delete": 1}  # which some builds of SQLite have by themselves
        assert found == {**PRAGMAS, **bare}
    engine.dispose()


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///{folder}/x.sqlite?mode=memory&uri=true",
        "sqlite:///{folder}/x.sqlite?timeout=1",
        "sqlite://data/x.sqlite",
        "sqlite:///x.sqlite",
        "mysql://host/name",
        "mysql+pymysql://host/name",
        "duckdb:///{folder}/x.duckdb",
        "{folder}/x.sqlite",
        "postgresql://host:port/name",
        "",
    ],
)
def test_what_is_no_file_and_no_server_is_refused_as_a_setting(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match=r"sqlite:////data/landscape\.sqlite|SQLite or PostgreSQL, not"):
        Database.open(url.format(folder=tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_holds_signs_of_a_url_is_taken_literally(tmp_path: Path) -> None:
    path = tmp_path / "a b%3Fmode=memory" / "file:x.sqlite"
    Database.open(sa.URL.create("sqlite", database=str(path)).render_as_string()).close()
    assert path.exists()


def test_opening_without_creating_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(LandscapeError, match="there is no landscape at"):
        Database.open(f"sqlite:///{tmp_path}/new/landscape.sqlite", create=False)
    assert list(tmp_path.iterdir()) == []


def test_opening_an_empty_database_without_creating_makes_no_tables(empty_url: str) -> None:
    sa.create_engine(with_driver(empty_url)).connect().close()
    with pytest.raises(SchemaVersionError, match="has no tables yet"):
        Database.open(empty_url, create=False)
    assert sa.inspect(sa.create_engine(with_driver(empty_url))).get_table_names() == []


def with_driver(url: str) -> str:
    return url.replace("postgresql://", "postgresql+psycopg://")


def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database, but longer than a header" * 10)
    before = path.read_bytes()
    with pytest.raises(LandscapeError, match="file is not a database"):
        Database.open(f"sqlite:///{path}")
    assert path.read_bytes() == before


def test_a_folder_that_can_not_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LandscapeError, match="can't be made"):
        Database.open(f"sqlite:///{tmp_path}/file/landscape.sqlite")


def test_a_database_of_something_else_is_left_as_it_is(empty_url: str) -> None:
    """Such as Dagster's own, which has a table `runs` and a version of its own."""
    engine = sa.create_engine(with_driver(empty_url))
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE runs (id integer)")
        connection.exec_driver_sql("CREATE TABLE alembic_version (version_num varchar(32))")
        connection.exec_driver_sql("INSERT INTO alembic_version VALUES ('16e3655b4d9b')")
    with pytest.raises(LandscapeError, match="holds tables of something else"):
        Database.open(empty_url)
    assert set(sa.inspect(engine).get_table_names()) == {"runs", "alembic_version"}
    engine.dispose()


@pytest.mark.parametrize("spelling", ["postgresql", "postgres", "postgresql+psycopg", "postgresql+psycopg2"])
def test_any_spelling_of_postgresql_opens_it(postgresql_url: str, spelling: str) -> None:
    with closing(Database.open(postgresql_url.replace("postgresql", spelling, 1))) as database:
        assert database.engine.driver == "psycopg"


@pytest.mark.parametrize("level", ["off", "local"])
def test_postgresql_that_acknowledges_before_it_is_durable_is_refused(
    postgres: PostgresServer, postgresql_url: str, level: str
) -> None:
    name = sa.make_url(postgresql_url).database
    postgres.run(f"ALTER DATABASE {name} SET synchronous_commit = {level}")
    with pytest.raises(LandscapeError, match=rf"^PostgreSQL has synchronous_commit = {level}: it could lose commits"):
        Database.open(postgresql_url)


def test_a_connection_opened_after_postgresql_was_set_so_is_refused_too(
    postgres: PostgresServer, postgresql_url: str
) -> None:
    with closing(Database.open(postgresql_url)) as database:
        name = sa.make_url(postgresql_url).database
        postgres.run(f"ALTER DATABASE {name} SET synchronous_commit = off")
        database.engine.dispose()
        with pytest.raises(LandscapeError, match="synchronous_commit = off"), database.write() as connection:
            insert(connection, [Payload.of(b"never")])


@pytest.mark.filterwarnings("ignore:XDG_RUNTIME_DIR")
def test_a_postgresql_server_without_fsync_or_full_page_writes_is_refused(own_postgres: PostgresServer) -> None:
    url = own_postgres.url("postgres")
    for name in ("fsync", "full_page_writes"):
        own_postgres.run(f"ALTER SYSTEM SET {name} = off")
        own_postgres.run("SELECT pg_reload_conf()")
        wait_until(url, name, "off")
        with pytest.raises(LandscapeError, match=f"^PostgreSQL has {name} = off: it could lose commits"):
            Database.open(url)
        own_postgres.run(f"ALTER SYSTEM RESET {name}")


def test_a_postgresql_table_that_a_crash_would_empty_is_refused(postgresql_url: str) -> None:
    with psycopg.connect(postgresql_url, autocommit=True) as admin:
        admin.execute("ALTER TABLE artifacts SET UNLOGGED")
    with pytest.raises(LandscapeError, match="PostgreSQL keeps artifacts UNLOGGED: it would be empty"):
        Database.open(postgresql_url)


def wait_until(url: str, name: str, value: str) -> None:
    """Return when new connections see a setting."""
    for _ in range(500):
        with psycopg.connect(url) as connection:
            if connection.execute(f"SHOW {name}".encode()).fetchone() == (value,):
                return
    raise AssertionError(f"{name} never became {value}")


def test_a_postgresql_database_that_can_not_keep_every_text_is_refused(postgres: PostgresServer) -> None:
    postgres.run("CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    with pytest.raises(LandscapeError, match=r"server_encoding = LATIN1: it can't keep every text"):
        Database.open(postgres.url("latin"))
    postgres.drop("latin")


def test_text_is_utf8_whatever_the_client_was_told(postgresql_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    with closing(Database.open(postgresql_url)) as database, database.read() as connection:
        assert connection.scalar(sa.select(sa.literal("日本"))) == "日本"


def test_no_error_tells_the_password(tmp_path: Path) -> None:
    for url in (
        f"postgresql://user:{PASSWORD}@/none?host={tmp_path}",
        f"postgresql:///none?host={tmp_path}&password={PASSWORD}",
        f"postgresql://user:{PASSWORD}@host/name?no_such_option={PASSWORD}",
    ):
        with pytest.raises(LandscapeError, match="can't be opened") as refused:
            Database.open(url, patience=0.5)
        assert PASSWORD not in str(refused.value)


def test_a_new_sqlite_file_that_another_is_just_making_is_waited_for(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "new.sqlite", check_same_thread=False, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    other.execute("CREATE TABLE of_another (name text)")
    threading.Timer(0.3, lambda: other.execute("COMMIT")).start()
    Database.open(f"sqlite:///{tmp_path}/new.sqlite").close()
    other.close()


def test_a_locked_sqlite_file_is_waited_for_not_refused(sqlite_url: str) -> None:
    other = sqlite3.connect(str(sa.make_url(sqlite_url).database), check_same_thread=False, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    threading.Timer(0.5, lambda: other.execute("COMMIT")).start()
    with closing(Database.open(sqlite_url)) as database, database.write() as connection:
        insert(connection, [Payload.of(b"waited")])
    other.close()
