"""Tables as Parquet files: written aside, made durable, put in place in one step, hashed and put on record.

A killed write leaves the old file or the new one, never half of one. Any asset can take such a table in as a pandas
DataFrame, and any DataFrame can be kept this way.
"""

import glob
import hashlib
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import dagster as dg
from upath import UPath

from elspeth_dagster.core.errors import AuditError, OvertakenError
from elspeth_dagster.core.ids import new_id
from elspeth_dagster.landscape import states
from elspeth_dagster.landscape.ledger import Landscape, now
from elspeth_dagster.landscape.records import Artifact, NodeState

if TYPE_CHECKING:  # slow to import, and definitions are loaded far more often than tables
    import pandas as pd
    import pyarrow as pa

ROWS_A_GROUP = 20_000
BYTES_A_GROUP = 8 << 20


@dataclass(frozen=True)
class Table:
    """A table as it comes from the record, a batch at a time, and the state that makes it.

    `facts` are metadata that is known when all batches have come.
    """

    schema: "pa.Schema"
    batches: Iterator["pa.RecordBatch"]
    state: NodeState
    facts: Callable[[], Mapping[str, Any]] = dict

    def telling(self, more: Mapping[str, Any]) -> "Table":
        """The same table, with more to tell of it."""
        return replace(self, facts=lambda: {**more, **self.facts()})


@dataclass(frozen=True)
class Tables:
    """A table for each partition of a run that takes several."""

    of_partitions: Mapping[str, Table]


class ParquetIOManager(dg.UPathIOManager):
    """Keeps a `Table` or a DataFrame per asset and partition, `Tables` each in its own; gives back a DataFrame.

    Integers and booleans come back exact: columns with nulls have pandas' Int64 and boolean dtypes.
    """

    extension = ".parquet"

    def __init__(self, base_path: UPath, landscape: Landscape) -> None:
        super().__init__(base_path=base_path)
        self._landscape = landscape

    def handle_output(self, context: dg.OutputContext, obj: "Table | Tables | pd.DataFrame") -> None:
        """Keep a table. Of a run with several partitions each has its file, its artifact and its own metadata."""
        if not isinstance(obj, Tables):
            super().handle_output(context, obj)
            return
        paths = {str(partition): path for partition, path in self._get_paths_for_partitions(context).items()}
        if paths.keys() != obj.of_partitions.keys():
            raise AuditError("this run has other partitions now than when it was read: launch it again")
        for partition, table in obj.of_partitions.items():
            path = paths[partition]
            self._handle_transition_to_partitioned_asset(context, path.parent)
            self.make_directory(path.parent)
            facts = {**self._keep(context, table, path, partition), "path": dg.MetadataValue.path(str(path))}
            context.step_context.add_asset_metadata(facts, context.asset_key, partition)

    def dump_to_path(self, context: dg.OutputContext, obj: "Table | pd.DataFrame", path: UPath) -> None:
        if not isinstance(obj, Table):
            context.add_output_metadata(_facts(_replace(obj, path)))
            return
        partition = str(context.asset_partition_key) if context.has_asset_partitions else None
        context.add_output_metadata(self._keep(context, obj, path, partition))

    def _keep(self, context: dg.OutputContext, table: Table, path: UPath, partition: str | None) -> dict[str, Any]:
        """Write a table and put it on record; return what there is to tell of it."""
        with self._unless_overtaken(table.state):
            written = _replace(table, path, before=lambda: states.check_goes_on(self._landscape, table.state))
            self._landscape.write(_artifact(context, table.state, path, partition, written))
        return {**_facts(written), **table.facts()}

    @contextmanager
    def _unless_overtaken(self, state: NodeState) -> Iterator[None]:
        """Write nothing for an attempt that another one took over from, and don't let Dagster retry it."""
        try:
            states.check_goes_on(self._landscape, state)
            yield
        except AuditError as error:
            try:
                states.check_goes_on(self._landscape, state)
            except OvertakenError as overtaken:
                raise dg.Failure(f"Nothing was written: {overtaken}.", allow_retries=False) from error
            raise

    def load_from_path(self, context: dg.InputContext, path: UPath) -> "pd.DataFrame":
        import pandas as pd
        import pyarrow as pa
        import pyarrow.parquet as pq

        exact = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
        with path.open("rb") as file:
            frame: pd.DataFrame = pq.read_table(file).to_pandas(types_mapper=exact.get)
        return frame


class Written(NamedTuple):
    """What a file holds: rows, bytes, and the hash of these."""

    rows: int
    size: int
    sha256: str


def read_pages(uri: str, names: Sequence[str]) -> "Iterator[pa.Table]":
    """Some columns of a table that was kept here, a row group at a time; those that it does not have are left out.

    The first page is empty, and tells which there are. Raises OSError, ValueError for what is no such table.
    """
    import pyarrow.parquet as pq

    with UPath(uri).open("rb") as file:
        table = pq.ParquetFile(file)
        here = [name for name in names if name in table.schema_arrow.names]
        yield table.schema_arrow.empty_table().select(here)
        for group in range(table.num_row_groups):
            yield table.read_row_group(group, columns=here)


def _facts(written: Written) -> dict[str, Any]:
    return {"dagster/row_count": written.rows, "sha256": written.sha256}


def _replace(table: "Table | pd.DataFrame", path: UPath, before: Callable[[], None] = lambda: None) -> Written:
    """Write a table aside, and put it in place unless `before` raises. What killed writes left aside goes."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*") if path.parent.exists() else ():
        left.unlink(missing_ok=True)
    aside = path.with_name(f".{path.name}.{new_id()}")
    try:
        written = _write(table, aside)
        before()
        _put_in_place(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    return written


def _write(table: "Table | pd.DataFrame", path: UPath) -> Written:
    """Write a table durably, a row group at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema, batches = _parts(table)
    rows = 0
    with path.open("wb") as file:
        with pq.ParquetWriter(file, schema) as writer:
            for group in _groups(batches):
                writer.write_table(pa.Table.from_batches(group))
                rows += sum(batch.num_rows for batch in group)
        _make_durable(file)
    return Written(rows, path.stat().st_size, _sha256(path))


def _groups(batches: Iterator["pa.RecordBatch"]) -> "Iterator[list[pa.RecordBatch]]":
    """So many batches as make a row group: few rows cost readers time, many cost us memory."""
    group: list[pa.RecordBatch] = []
    for batch in batches:
        group.append(batch)
        rows, size = sum(one.num_rows for one in group), sum(one.nbytes for one in group)
        if rows >= ROWS_A_GROUP or size >= BYTES_A_GROUP:
            yield group
            group = []
    if group:
        yield group


def _parts(table: "Table | pd.DataFrame") -> "tuple[pa.Schema, Iterator[pa.RecordBatch]]":
    if isinstance(table, Table):
        return table.schema, table.batches
    import pyarrow as pa

    whole = pa.Table.from_pandas(table, preserve_index=False)
    return whole.schema, iter(whole.to_batches())


def _make_durable(file: Any) -> None:
    file.flush()
    with suppress(AttributeError, io.UnsupportedOperation):  # an object store's file is durable once it is closed
        os.fsync(file.fileno())


def _put_in_place(aside: UPath, path: UPath) -> None:
    if path.protocol in ("", "file"):
        Path(str(aside)).replace(str(path))
        folder = os.open(str(path.parent), os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    else:
        path.fs.cp_file(aside.path, path.path)  # a rename would take brackets in a name for a pattern


def _sha256(path: UPath) -> str:
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def _artifact(
    context: dg.OutputContext, state: NodeState, path: UPath, partition: str | None, written: Written
) -> Artifact:
    return Artifact(
        artifact_id=new_id(),
        run_id=state.run_id,
        state_id=state.state_id,
        asset_key="/".join(context.asset_key.path),
        partition_key=partition,
        uri=str(path),
        content_hash=written.sha256,
        size=written.size,
        row_count=written.rows,
        written_at=now(),
    )


@dg.io_manager(
    required_resource_keys={"landscape"},
    config_schema={
        "base_path": dg.Field(
            dg.Noneable(str),
            default_value=None,
            description="Folder or fsspec url of the tables; default: storage in Dagster's own folder.",
        )
    },
    description="Tables as Parquet files, each hashed and put on record; downstream they are pandas DataFrames.",
)
def parquet_io_manager(context: dg.InitResourceContext) -> ParquetIOManager:
    """The Parquet IO manager, which shares the `landscape` resource with the ops."""
    base = context.resource_config["base_path"]
    if base is None:
        assert context.instance is not None
        base = context.instance.storage_directory()
    return ParquetIOManager(UPath(base), context.resources.landscape)
