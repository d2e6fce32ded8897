"""An assessment with everything that it asks by: the spec, and the text of the files that it names.

This is what a run works by and puts on record: no step reads a template or lookup file again, so a file that is
edited while a run goes on changes the next run, never half of this one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from elspeth_dagster.core.canonical import Json, ordered_json, sha256
from elspeth_dagster.core.spec import AssessmentSpec


@dataclass(frozen=True)
class Assessment:
    """A spec, its template files' text by the path that names them, and its lookup data."""

    spec: AssessmentSpec
    templates: dict[str, str] = field(default_factory=dict)
    lookup: Json = None

    def document(self) -> dict[str, Json]:
        """The assessment as one JSON value, from which `load` makes it again."""
        return {"spec": self.spec.model_dump(mode="json"), "templates": self.templates, "lookup": self.lookup}

    @classmethod
    def load(cls, document: dict[str, Json]) -> Assessment:
        """The assessment that a document describes."""
        return cls(AssessmentSpec.model_validate(document["spec"]), document["templates"], document["lookup"])

    @property
    def version(self) -> str:
        """The hash of all that decides what is asked and how it is read."""
        return sha256(ordered_json(self.document()))
