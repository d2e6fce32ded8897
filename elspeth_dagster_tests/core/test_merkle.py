"""Merkle trees: the vectors that certificate transparency publishes, and what no proof may show."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elspeth_dagster.core.merkle import (
    EMPTY_ROOT,
    Frontier,
    Tree,
    is_consistent,
    is_included,
    leaf_hash,
    node_hash,
    root_of,
)

# https://github.com/transparency-dev/merkle/blob/main/testonly/constants.go, from the reference of RFC 6962.
LEAVES = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
NODE_1 = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"
NODES_2_3 = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"
NODES_4_7 = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"
NODE_4 = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"
NODES_6_7 = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"
NODES_4_5 = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"
INCLUSION = [
    (0, 1, []),
    (0, 8, [NODE_1, NODES_2_3, NODES_4_7]),
    (5, 8, [NODE_4, NODES_6_7, ROOTS[4]]),
    (2, 3, [ROOTS[2]]),
    (1, 5, [ROOTS[1], NODES_2_3, NODE_4]),
]
CONSISTENCY = [
    (1, 1, []),
    (1, 8, [NODE_1, NODES_2_3, NODES_4_7]),
    (6, 8, [NODES_4_5, NODES_6_7, ROOTS[4]]),
    (2, 5, [NODES_2_3, NODE_4]),
]
SIZES = st.integers(1, 70)


def a_tree(size: int) -> Tree:
    return Tree(leaf_hash(str(number).encode()) for number in range(size))


def of_hex(proof: list[str]) -> list[bytes]:
    return [bytes.fromhex(step) for step in proof]


def test_the_empty_tree_has_the_hash_of_nothing() -> None:
    assert bytes.fromhex(ROOTS[0]) == EMPTY_ROOT == Tree().root() == Frontier().root()


@pytest.mark.parametrize("size", range(9))
def test_roots_are_those_of_the_reference(size: int) -> None:
    hashes = [leaf_hash(leaf) for leaf in LEAVES[:size]]
    assert root_of(hashes).hex() == Tree(hashes).root().hex() == ROOTS[size]


@pytest.mark.parametrize(("index", "size", "proof"), INCLUSION)
def test_inclusion_proofs_are_those_of_the_reference(index: int, size: int, proof: list[str]) -> None:
    tree = Tree(map(leaf_hash, LEAVES))
    assert [step.hex() for step in tree.inclusion(index, size)] == proof
    assert is_included(leaf_hash(LEAVES[index]), index, size, of_hex(proof), bytes.fromhex(ROOTS[size]))


@pytest.mark.parametrize(("first", "second", "proof"), CONSISTENCY)
def test_consistency_proofs_are_those_of_the_reference(first: int, second: int, proof: list[str]) -> None:
    tree = Tree(map(leaf_hash, LEAVES))
    assert [step.hex() for step in tree.consistency(first, second)] == proof
    assert is_consistent(first, second, of_hex(proof), *(bytes.fromhex(ROOTS[size]) for size in (first, second)))


def test_leaves_and_nodes_can_not_pass_for_each_other() -> None:
    left, right = leaf_hash(b"left"), leaf_hash(b"right")
    assert leaf_hash(left + right) != node_hash(left, right)
    assert leaf_hash(b"x") != hashlib.sha256(b"x").digest()


@given(SIZES)
def test_a_stream_has_the_same_root_as_a_tree(size: int) -> None:
    tree, frontier = a_tree(size), Frontier()
    for number in range(size):
        frontier.add(leaf_hash(str(number).encode()))
        assert frontier.root() == tree.root(number + 1) == a_tree(number + 1).root()
    assert frontier.size == size


@given(SIZES, st.data())
def test_a_leaf_is_where_it_is_and_nowhere_else(size: int, data: st.DataObject) -> None:
    tree, index = a_tree(size), data.draw(st.integers(0, size - 1))
    leaf, proof, root = leaf_hash(str(index).encode()), tree.inclusion(index), tree.root()
    assert is_included(leaf, index, size, proof, root)
    assert not any(is_included(leaf, other, size, proof, root) for other in range(-1, size + 2) if other != index)
    assert not is_included(leaf_hash(b"another"), index, size, proof, root)


@given(SIZES, st.data())
def test_a_tree_begins_those_that_it_grew_into(size: int, data: st.DataObject) -> None:
    tree, first = a_tree(size), data.draw(st.integers(0, size))
    proof = tree.consistency(first)
    assert is_consistent(first, size, proof, tree.root(first), tree.root())
    if 0 < first < size:
        other = Tree([leaf_hash(b"forged"), *(leaf_hash(str(number).encode()) for number in range(1, size))])
        assert not is_consistent(first, size, proof, tree.root(first), other.root())
        assert not is_consistent(first, size, other.consistency(first), tree.root(first), other.root())
        assert not is_consistent(first - 1, size, proof, tree.root(first), tree.root())


@given(st.integers(2, 70), st.data())
def test_a_damaged_proof_shows_nothing(size: int, data: st.DataObject) -> None:
    tree = a_tree(size)
    index, first = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size - 1))
    leaf, root = leaf_hash(str(index).encode()), tree.root()
    for damaged in damages(tree.inclusion(index), data):
        assert not is_included(leaf, index, size, damaged, root)
    for damaged in damages(tree.consistency(first), data):
        assert not is_consistent(first, size, damaged, tree.root(first), root)


def damages(proof: list[bytes], data: st.DataObject) -> list[list[bytes]]:
    """The proof with a bit flipped, a hash too few, too many, too short, too long, or two swapped."""
    at, bit = data.draw(st.integers(0, len(proof) - 1)), 1 << data.draw(st.integers(0, 255))
    flipped = (int.from_bytes(proof[at]) ^ bit).to_bytes(32)
    damaged = [
        [*proof[:at], flipped, *proof[at + 1 :]],
        [*proof[:at], *proof[at + 1 :]],
        [*proof, proof[at]],
        [proof[at], *proof],
        [*proof[:at], proof[at][:-1], *proof[at + 1 :]],
        [*proof[:at], proof[at] + b"\0", *proof[at + 1 :]],
    ]
    return damaged + ([proof[::-1]] if len(proof) > 1 else [])


@pytest.mark.parametrize("length", [0, 31, 33])
def test_only_whole_hashes_are_taken(length: int) -> None:
    short = bytes(length)
    for growing in (Tree(), Frontier()):
        with pytest.raises(ValueError, match="32 bytes"):
            growing.add(short)
    assert not is_included(short, 0, 1, [], short)
    assert not is_consistent(1, 1, [], short, short)


def test_sizes_that_can_not_be_are_refused() -> None:
    tree = a_tree(3)
    for index, size in ((3, 3), (-1, 3), (0, 4)):
        with pytest.raises(ValueError, match=r"lea[fv]"):
            tree.inclusion(index, size)
    for first, second in ((4, 4), (3, 2), (-1, 2)):
        with pytest.raises(ValueError, match="leaves"):
            tree.consistency(first, second)
    assert not is_consistent(3, 2, [], tree.root(), tree.root())
    assert not is_consistent(0, 3, [], tree.root(), tree.root())
    assert not is_included(tree.root(1), 0, 0, [], tree.root(1))
