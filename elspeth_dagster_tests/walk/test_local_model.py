"""The whole walk, asked of a real model on this machine."""

from pathlib import Path

import pytest

from elspeth_dagster_tests.llm_local.sample import WEIGHTS_CACHE
from elspeth_dagster_tests.project import Project, rows_of_texts

pytest.importorskip("xllamacpp", reason="the local model's server is an extra: pip install elspeth-dagster[local]")

SHORT = {
    "score": {"type": "integer", "minimum": 0, "maximum": 10},
    "rationale": {"type": "string", "max_length": 40},
}


def test_a_real_model_answers_and_says_the_same_when_asked_again(tmp_path: Path) -> None:
    from elspeth_dagster.llm.local import LocalModel

    folder = tmp_path / "project"
    with LocalModel(tmp_path / "model.log", cache=WEIGHTS_CACHE) as model:
        project = Project(folder, f"sqlite:///{folder}/landscape.sqlite", model.base_url)
        project.env.update(ELSPETH_LLM="local", ELSPETH_MAX_CONCURRENCY="1")
        project.declare(
            llm={"model_name": "SmolLM2-135M-Instruct", "temperature": 0, "seed": 1, "max_tokens": 80}, answer=SHORT
        )
        project.write_rows(rows_of_texts(1))
        assert project.run().success
        first = project.table("answers")
        assert project.run().success
        again = project.table("answers")
    assert list(first["status"]) == ["accepted"] * 4
    assert first[["score", "rationale"]].equals(again[["score", "rationale"]])
    assert (first["prompt_tokens"] > 0).all() and (first["cost_usd"] == 0).all()
