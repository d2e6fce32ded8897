"""Where the rows of an assessment come from, as it is declared."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from elspeth_dagster.core.spec_model import SpecModel

ColumnType = Literal["str", "int", "float", "bool", "date", "datetime"]
SourceFormat = Literal["csv", "jsonl", "json", "parquet"]
OnMissing = Literal["fail", "skip"]


class SourceSpec(SpecModel):
    """Where the rows come from: a file per partition, an upstream asset, or the files that arrive in a folder."""

    path: str | None = Field(
        default=None,
        description="A file, or an fsspec url; `{partition}` stands for the partition key, `{date}` for the value of a "
        "dimension `date`. A relative path starts at the project's root.",
        examples=["data/case_studies/{partition}.csv"],
    )
    asset: str | None = Field(
        default=None,
        description="Instead of `path`: the key of an upstream asset that is a pandas DataFrame "
        "(parts of the key joined by `/`).",
        examples=["applications/cleaned"],
    )
    inbox: str | None = Field(
        default=None,
        description="Instead of `path`: a pattern of files that arrive, with `*` in the last part of a path or fsspec "
        "url. The sensor makes a partition of those that have come; each file is in one partition.",
        examples=["data/inbox/*.jsonl"],
    )
    missing: OnMissing = Field(
        default="fail",
        description="What becomes of a partition whose file is not there. fail: the run fails and names the file. "
        "skip: the run succeeds, asks nothing, and materializes nothing.",
    )
    format: SourceFormat | None = Field(
        default=None, description="csv, jsonl, json (a list of objects) or parquet; default: by the path's ending."
    )
    key: Annotated[
        list[str],
        Field(
            min_length=1,
            description="The columns that identify a row across runs; a repeated key is rejected.",
            examples=[["submission_id"]],
        ),
    ]
    columns: Annotated[
        dict[str, ColumnType],
        Field(
            min_length=1,
            description="Every column of the source with its type: str, int, float, bool, date or datetime. "
            "A value that does not coerce rejects its record; a column that is not declared refuses the source.",
            examples=[{"submission_id": "str", "cohort": "int", "handed_in": "date"}],
        ),
    ]

    @field_validator("columns")
    @classmethod
    def _columns_have_names(cls, value: dict[str, ColumnType]) -> dict[str, ColumnType]:
        if any(not name.strip() for name in value):
            raise ValueError("a column needs a name")
        return value

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if sum(place is not None for place in (self.path, self.asset, self.inbox)) != 1:
            raise ValueError("give either `path`, `asset` or `inbox`")
        if self.asset is None and self.effective_format is None:
            raise ValueError(f"the format of {self.path or self.inbox!r} is not clear from its ending; give `format`")
        if self.asset is not None and self.format is not None:
            raise ValueError("`format` belongs to `path`, an asset is a DataFrame already")
        if self.asset is not None and self.missing != "fail":
            raise ValueError("`missing` belongs to `path` and `inbox`, an asset has no file")
        if missing := [name for name in self.key if name not in self.columns]:
            raise ValueError(f"key column {missing[0]!r} is not declared in `columns`")
        if len(set(self.key)) != len(self.key):
            raise ValueError("a key column is named twice")
        return self

    @property
    def effective_format(self) -> SourceFormat | None:
        """The format given, or the one the path's ending tells."""
        place = self.path or self.inbox
        if self.format is not None or place is None:
            return self.format
        endings: dict[str, SourceFormat] = {
            ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".parquet": "parquet",
        }  # fmt: skip
        return next((found for ending, found in endings.items() if place.lower().endswith(ending)), None)
