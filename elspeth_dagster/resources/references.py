"""What steps tell each other, as JSON files: ids and counts, where every host finds them.

Dagster's own choice would be a pickle in a folder of one host. Nothing of a row is in here.

A storage that several hosts are to share has a marker, a file with an id of its own. A run names it, and each step
looks for it: a folder that is another one on each host is found out before anything is asked.
"""

import json
import socket
from typing import Any

import dagster as dg
from upath import UPath

from elspeth_dagster.core.errors import SettingsError
from elspeth_dagster.core.ids import new_id

STORAGE_TAG = "elspeth/storage"
MARKER = ".elspeth-storage"


class ReferenceIOManager(dg.UPathIOManager):
    """Keeps what a step hands on as a JSON file per output."""

    extension = ".json"

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Keep a reference, in the storage that the run goes by."""
        _check_shared(self._base_path, context.step_context.run_tags)
        super().handle_output(context, obj)

    def load_input(self, context: dg.InputContext) -> Any:
        """A reference, from the storage that the run goes by."""
        _check_shared(self._base_path, context.step_context.run_tags)
        return super().load_input(context)

    def dump_to_path(self, context: dg.OutputContext, obj: Any, path: UPath) -> None:
        """Write a reference, so that nobody finds half of one: object stores show whole files alone."""
        told, is_local = json.dumps(obj, allow_nan=False), path.protocol in ("", "file")
        aside = path.with_name(f".{path.name}.{new_id()}") if is_local else path
        aside.write_text(told, encoding="utf-8")
        if is_local:
            aside.rename(path)

    def load_from_path(self, context: dg.InputContext, path: UPath) -> Any:
        """Read a reference. Raises Failure where this host doesn't have what another one wrote."""
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            gone = f"{path} is not there: what an earlier step of this run told is lost. {LOOK}"
            raise dg.Failure(gone, allow_retries=False) from error


LOOK = "ELSPETH_STORAGE must be a folder that all hosts share, at the same path on each, or an fsspec url."


def mark(base_path: str) -> str:
    """The id of a storage, which gets one. Raises SettingsError where it can't be written."""
    marker = UPath(base_path) / MARKER
    try:
        if not marker.exists():
            marker.parent.mkdir(parents=True, exist_ok=True)
            marker.write_text(new_id(), encoding="utf-8")
        return str(marker.read_text(encoding="utf-8"))
    except Exception as error:  # each filesystem of fsspec has its own errors
        raise SettingsError(f"ELSPETH_STORAGE can't be used: {type(error).__name__} at {marker}. {LOOK}") from error


def _check_shared(base_path: UPath, run_tags: Any) -> None:
    expected = run_tags.get(STORAGE_TAG)
    if expected is None:
        return
    marker = base_path / MARKER
    found = marker.read_text(encoding="utf-8") if marker.exists() else None
    if found != expected:
        told = f"{base_path} on host {socket.gethostname()} is not the storage that this run goes by. {LOOK}"
        raise dg.Failure(told, allow_retries=False)


@dg.io_manager(
    config_schema={
        "base_path": dg.Field(
            dg.Noneable(str),
            default_value=None,
            description="Folder or fsspec url of the references; default: storage in Dagster's own folder.",
        )
    },
    description="What steps tell each other, ids and counts, as JSON files.",
)
def reference_io_manager(context: dg.InitResourceContext) -> ReferenceIOManager:
    """The IO manager of references between steps."""
    base = context.resource_config["base_path"]
    if base is None:
        assert context.instance is not None
        base = context.instance.storage_directory()
    return ReferenceIOManager(UPath(base))
