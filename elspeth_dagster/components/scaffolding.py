"""`dg scaffold defs elspeth_dagster.components.MultiQueryAssessment my_assessment`: a starter that works at once.

The files of the starter are in the folder `starter`; there its name is `my_assessment`.
"""

import re
from pathlib import Path

import click
import dagster as dg

from elspeth_dagster.core.spec_model import NAME

STARTER = Path(__file__).parent / "starter"
STARTER_NAME = "my_assessment"
SAMPLE = """\
id,region,cs1_text,cs2_text
A-1,north,"A heat pump moves heat: it cools the garden a little to warm the house a lot.",It saved us money.
A-2,south,Solar panels are good.,"Our two panels gave 640 kWh last year, a fifth of what we used."
"""
NEEDS = """\
The assessment needs resources: merge `dg.Definitions(resources=resources_from_env())` from elspeth_dagster into your
definitions.py, if it isn't there yet. Then: dg check defs"""


class StarterScaffolder(dg.Scaffolder):
    """Writes the starter and a source of two rows; a file that is there already stays as it is."""

    def scaffold(self, request: dg.ScaffoldRequest) -> None:
        """Write a commented defs.yaml, its templates and lookup beside it, and its source into `data/`."""
        if request.scaffold_format == "python":
            dg.scaffold_component(request, {})
            return
        name = assessment_name(request.target_path)
        for file in (path for path in sorted(STARTER.rglob("*")) if path.is_file()):
            text = file.read_text("utf-8").replace(STARTER_NAME, name)
            _write(request.target_path / file.relative_to(STARTER), text)
        _write((request.project_root or Path.cwd()) / "data" / f"{name}.csv", SAMPLE)
        click.echo(NEEDS)


def assessment_name(folder: Path) -> str:
    """The name of an assessment after its folder's: `2026 tenders` becomes `a_2026_tenders`."""
    name = re.sub(r"[^A-Za-z0-9]+", "_", folder.name).strip("_") or "assessment"
    return name if NAME.fullmatch(name) else f"a_{name}"


def _write(path: Path, text: str) -> None:
    if path.exists():
        click.echo(f"{path} is there already; it stays as it is.")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")
