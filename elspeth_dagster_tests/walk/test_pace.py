"""Steps go at a pace that the provider bears, within limits that all of them share, and tell how it went."""

import json
from collections.abc import Mapping
from multiprocessing import get_context
from typing import Any

from elspeth_dagster_tests.fault_server import FaultServer
from elspeth_dagster_tests.project import Project, rows_of_texts
from elspeth_dagster_tests.test_pacing import assert_paced, moments

ENDS = """
SELECT e.detail FROM node_state_ends e JOIN node_states s USING (state_id)
WHERE s.node_id = 'trial.ask_batches' ORDER BY e.ended_at
"""
PARTITIONS = ("one", "two", "three")
PARTITIONED = {"source": {"path": "data/{partition}.csv", "key": ["id"],
                      "columns": {"id": "str", "cs1_text": "str", "cs2_text": "str"}},
           "partitions": {"static": list(PARTITIONS)}}  # fmt: skip


def metadata_of_asking(result: Any) -> list[dict[str, Any]]:
    """The metadata of each step that asked."""
    outputs = [event.event_specific_data for event in result.all_events if event.event_type_value == "STEP_OUTPUT"
               and event.node_name == "ask_batches"]  # fmt: skip
    return [{name: value.value for name, value in output.metadata.items()} for output in outputs]


def paces(project: Project) -> list[Mapping[str, Any]]:
    return [json.loads(end["detail"])["pace"] for end in project.facts(ENDS)]


def test_a_step_tells_at_what_level_it_settled(sqlite_project: Project, server: FaultServer) -> None:
    sqlite_project.env["ELSPETH_MAX_CONCURRENCY"] = "64"
    server.configure(max_in_flight=6, latency_ms=40)
    sqlite_project.declare(aggregate={"rows": 30})
    sqlite_project.write_rows(rows_of_texts(60))
    result = sqlite_project.run()
    assert result.success and len(sqlite_project.table("results")) == 60
    [told] = metadata_of_asking(result)
    assert told["throttled"] > 0 and told["concurrency_final"] <= 12
    assert told["concurrency_max"] >= 20 and told["retries"] == server.stats()["outcomes"]["429"]
    made = [event.step_materialization_data.materialization for event in result.get_asset_materialization_events()]
    [results] = [one.metadata for one in made if one.asset_key.path[-1] == "results"]
    assert (results["throttled"].value, results["waited_seconds"].value) == (told["throttled"], told["waited_seconds"])
    history = told["concurrency_history"]
    assert history[0] == {"seconds": 0, "level": 20, "why": "start"} and history[-1]["why"].startswith("429")
    first, last = paces(sqlite_project)
    assert (last["final"], last["max"], last["throttled"]) == (
        told["concurrency_final"],
        told["concurrency_max"],
        told["throttled"],
    )
    assert first["throttled"] <= last["throttled"]


def test_the_bounds_are_those_that_were_set(sqlite_project: Project, server: FaultServer) -> None:
    sqlite_project.env.update(ELSPETH_MIN_CONCURRENCY="3", ELSPETH_MAX_CONCURRENCY="5")
    server.configure(latency_ms=30, shares={"429": 0.3})
    sqlite_project.declare()
    sqlite_project.write_rows(rows_of_texts(8))
    result = sqlite_project.run()
    assert result.success
    [told] = metadata_of_asking(result)
    levels = [point["level"] for point in told["concurrency_history"]]
    assert (levels[0], min(levels), max(levels)) == (5, 3, 5)
    assert 3 <= server.stats()["in_flight_max"] <= 5


def test_a_replay_has_no_pace(sqlite_project: Project, server: FaultServer) -> None:
    sqlite_project.declare()
    sqlite_project.write_rows(rows_of_texts(2))
    assert sqlite_project.run().success
    result = sqlite_project.run(mode="replay")
    assert result.success and "throttled" not in metadata_of_asking(result)[0]


def test_a_provider_that_can_not_be_used_keeps_nobody_waiting_for_a_limit(
    sqlite_project: Project, server: FaultServer
) -> None:
    sqlite_project.env["ELSPETH_REQUESTS_PER_MINUTE"] = "2"
    server.configure(expected_key="another")
    sqlite_project.declare()
    sqlite_project.write_rows(rows_of_texts(5))
    result = sqlite_project.run()
    assert not result.success
    assert server.stats()["received"] == 1


def test_waiting_for_a_limit_is_not_counted_against_a_questions_retries(
    sqlite_project: Project, server: FaultServer
) -> None:
    sqlite_project.env["ELSPETH_REQUESTS_PER_MINUTE"] = "124"
    server.configure(first_tries={"status": 500, "times": 1}, record=True)
    sqlite_project.declare(errors={"retry_seconds": 2})
    sqlite_project.write_rows(rows_of_texts(2))
    assert sqlite_project.run().success
    assert len(sqlite_project.table("results")) == 2
    assert server.stats()["received"] == 16
    assert_paced(moments(server), 124)


def test_shards_in_processes_share_one_limit(sqlite_project: Project, server: FaultServer) -> None:
    """Ten a second, which a busy machine can send too: it takes 5.6 s; with a limit for each of the two, 2.3 s."""
    sqlite_project.env.update(ELSPETH_REQUESTS_PER_MINUTE="600", ELSPETH_TOKENS_PER_MINUTE="10000000")
    sqlite_project.declare(aggregate={"rows": 8}, rows_per_step=8)
    sqlite_project.write_rows(rows_of_texts(16))
    result = sqlite_project.run_in_processes()
    assert result.success and len(sqlite_project.table("results")) == 16
    sent = moments(server)
    assert len(sent) == 64
    assert_paced(sent, 600, late=2)
    assert max(told["waited_seconds"] for told in metadata_of_asking(result)) > 0.5


def test_partitions_at_once_stay_within_one_limit(sqlite_project: Project, server: FaultServer) -> None:
    sqlite_project.env["ELSPETH_REQUESTS_PER_MINUTE"] = "900"
    sqlite_project.declare(**PARTITIONED)
    for partition in PARTITIONS:
        sqlite_project.write_rows(rows_of_texts(6), f"data/{partition}.csv")
    run_partition(sqlite_project, PARTITIONS[0])  # which also makes Dagster's own databases
    server.reset()
    runs = [get_context("spawn").Process(target=run_partition, args=(sqlite_project, name)) for name in PARTITIONS[1:]]
    for run in runs:
        run.start()
    for run in runs:
        run.join(timeout=100)
    assert [run.exitcode for run in runs] == [0, 0]
    sent = moments(server)
    assert len(sent) == 48
    assert_paced(sent, 900)


def run_partition(project: Project, partition: str) -> None:
    """What one of several processes does."""
    assert project.run(partition=partition).success
