"""Files are taken into partitions, each into one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from elspeth_dagster.landscape import inboxes
from elspeth_dagster.landscape.ledger import Landscape


def test_a_file_is_taken_once_by_whoever_comes_first(landscape: Landscape) -> None:
    assert inboxes.take(landscape, "trial", "1", ["b", "a"]) == ["b", "a"]
    assert inboxes.take(landscape, "trial", "1", ["b", "c"]) == ["b", "a"]
    assert inboxes.take(landscape, "trial", "2", ["b", "c"]) == ["c"]
    assert inboxes.take(landscape, "trial", "3", ["a", "c"]) == []
    assert inboxes.take(landscape, "other", "1", ["a"]) == ["a"]
    with landscape.read() as connection:
        assert inboxes.files_of(connection, "trial", "1") == ["b", "a"]
        assert inboxes.partitions_after(connection, "trial", "") == ["1", "2"]
        assert inboxes.partitions_after(connection, "trial", "1") == ["2"]
        assert inboxes.last_partition(connection, "trial") == "2"


def test_many_who_take_the_same_files_at_once_take_each_once(landscape: Landscape) -> None:
    files = [f"{number}.csv" for number in range(700)]
    with ThreadPoolExecutor(4) as threads:
        taken = threads.map(lambda key: inboxes.take(landscape, "trial", key, files), "abcd")
    assert sorted(map(len, taken)) == [0, 0, 0, 700]
