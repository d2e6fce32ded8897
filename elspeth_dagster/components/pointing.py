"""Where in its file a mistake stands: all problems of an assessment in one error, each with file, line and key."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
from dagster_shared.yaml_utils.source_position import SourcePositionTree

from elspeth_dagster.core.errors import SpecError
from elspeth_dagster.core.spec import KeyPath, Problem

ROOT = "attributes"


@dataclass(frozen=True)
class Place:
    """Where an assessment is declared: its file, and the lines of its keys if it is a YAML file."""

    file: Path
    project_root: Path
    lines: SourcePositionTree | None = None

    @classmethod
    def of_document(cls, lines: SourcePositionTree, project_root: Path) -> "Place":
        """The place of a document in a defs.yaml."""
        return cls(Path(lines.position.filename), project_root, lines)

    @classmethod
    def of_component(cls, context: dg.ComponentLoadContext) -> "Place":
        """The place of a component that is being built, declared in YAML or in Python."""
        source = getattr(context.component_decl, "source_tree", None)
        if source is None:
            return cls(context.path, context.project_root)
        return cls.of_document(source.source_position_tree, context.project_root)

    def line(self, key_path: KeyPath) -> int:
        """The line of a key, or of the nearest key around it that is there; 0 if the file isn't YAML."""
        if self.lines is None:
            return 0
        position, _ = self.lines.lookup_closest_and_path((ROOT, *key_path), None)
        return position.start.line

    def refusal(self, problems: Iterable[Problem]) -> SpecError:
        """The error that names every problem, in the file's order."""
        found = sorted(dict.fromkeys(problems), key=lambda problem: self.line(problem.key_path))
        count = "1 mistake" if len(found) == 1 else f"{len(found)} mistakes"
        return SpecError("\n".join([f"{count} in this assessment:", *map(self._pointed_at, found)]))

    def _pointed_at(self, problem: Problem) -> str:
        line = self.line(problem.key_path)
        return f"{self._name()}{f':{line}' if line else ''} {written(problem.key_path)}: {problem.message}"

    def _name(self) -> str:
        inside = self.file.is_relative_to(self.project_root)
        return str(self.file.relative_to(self.project_root) if inside else self.file)


def written(key_path: KeyPath) -> str:
    """A key with all keys around it: `attributes.case_studies[0].inputs.plan`."""
    return ROOT + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in key_path)
