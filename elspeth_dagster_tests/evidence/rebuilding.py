"""Every answer of an export, told from its files alone: with the standard library, and nothing of ours."""

import base64
import json
import sys
from pathlib import Path
from typing import Any

Record = dict[str, Any]


def lines(folder: Path, name: str) -> list[Any]:
    return [json.loads(line) for line in (folder / name).read_bytes().split(b"\n")[:-1]]


def records(folder: Path, table: str) -> list[Record]:
    return [record for _, record in lines(folder, f"records/{table}.jsonl")]


def earlier(folder: Path, table: str) -> list[Record]:
    return [line["record"] for line in lines(folder, "earlier.jsonl") if line.get("table") == table]


def main(folder: Path) -> None:
    kept = [line for line in lines(folder, "payloads.jsonl") if is_json(line)]
    body = {line["ref"]: json.loads(base64.b64decode(line["base64"])) for line in kept}
    nodes = {(one["run_id"], one["node_id"]): one for one in records(folder, "nodes") + earlier(folder, "nodes")}
    states = {one["state_id"]: one for one in records(folder, "node_states") + earlier(folder, "node_states")}
    calls = {one["call_id"]: one for one in records(folder, "calls") + earlier(folder, "calls")}
    replies = {one["call_id"]: one for one in records(folder, "replies") + earlier(folder, "replies")}
    tokens = {one["token_id"]: one for one in records(folder, "tokens")}
    rows = {one["row_id"]: one for one in records(folder, "rows")}
    outcomes = {one["token_id"]: one["outcome"] for one in records(folder, "token_outcomes")}
    for answer in records(folder, "answers"):
        call = calls[answer["call_id"]]
        state = states[call["state_id"]]
        print(
            json.dumps(
                {
                    "row": rows[tokens[answer["token_id"]]["row_id"]]["row_key"],
                    "question": answer["query_key"],
                    "run": call["run_id"],
                    "config": body[nodes[state["run_id"], state["node_id"]]["config_ref"]]["spec"]["name"],
                    "prompt": body[call["request_ref"]]["messages"][1]["content"],
                    "reply": body.get(replies[call["call_id"]]["body_ref"]),
                    "values": body.get(answer["values_ref"]),
                    "outcome": outcomes[answer["token_id"]],
                }
            )
        )


def is_json(line: Record) -> bool:
    try:
        json.loads(base64.b64decode(line["base64"]))
    except ValueError:
        return False
    return True


if __name__ == "__main__":
    main(Path(sys.argv[1]))
