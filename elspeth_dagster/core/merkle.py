"""Merkle trees (RFC 6962, section 2.1): one hash over many records, and short proofs about it.

A leaf is hashed with a 0x00 before it and a node with a 0x01, so that neither can pass for the other. An inclusion
proof shows that a leaf is in a tree, a consistency proof that a tree is the beginning of a larger one. Both hold for
the tree's size as well, so the size must come from what was signed, never from whoever hands over the proof.

    leaf_hash      of a record's bytes
    Frontier       the root of leaves that stream by: O(log n) memory
    Tree           the same with all hashes kept, 64 bytes a leaf: makes proofs in O(log n)
    is_included    whether a proof shows that a leaf is there
    is_consistent  whether a proof shows that a tree begins a larger one
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256().digest()


def leaf_hash(data: bytes) -> bytes:
    """The hash of a leaf, 32 bytes."""
    return hashlib.sha256(b"\0" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of a node over two others, 32 bytes."""
    return hashlib.sha256(b"\1" + left + right).digest()


def root_of(leaves: Iterable[bytes]) -> bytes:
    """The root over leaf hashes."""
    frontier = Frontier()
    frontier.extend(leaves)
    return frontier.root()


class Frontier:
    """The root of a growing tree, by the roots of its whole subtrees alone: at most 64 hashes."""

    def __init__(self) -> None:
        self.size = 0
        self._whole: list[bytes] = []

    def add(self, leaf: bytes) -> None:
        """Add a leaf's hash at the end. Raises ValueError unless it has 32 bytes."""
        self.extend([leaf])

    def extend(self, leaves: Iterable[bytes]) -> None:
        """Add the hashes of many leaves. Raises ValueError unless each has 32 bytes."""
        whole, size, sha256 = self._whole, self.size, hashlib.sha256
        for leaf in leaves:
            if len(leaf) != HASH_BYTES:
                raise ValueError(f"a hash has {HASH_BYTES} bytes, not {len(leaf)}")
            subtree, height = leaf, size
            while height & 1:
                subtree = sha256(b"\1" + whole.pop() + subtree).digest()
                height >>= 1
            whole.append(subtree)
            size += 1
            self.size = size

    def root(self) -> bytes:
        """The root over all that was added."""
        return _joined(self._whole) if self._whole else EMPTY_ROOT


def _joined(hashes: Sequence[bytes]) -> bytes:
    """Subtrees from the largest to the smallest, as one."""
    root = hashes[-1]
    for left in reversed(hashes[:-1]):
        root = node_hash(left, root)
    return root


class Tree:
    """A tree with all its hashes, which makes proofs."""

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        self._levels = [bytearray()]
        for leaf in leaves:
            self.add(leaf)

    @property
    def size(self) -> int:
        """How many leaves there are."""
        return len(self._levels[0]) // HASH_BYTES

    def add(self, leaf: bytes) -> None:
        """Add a leaf's hash at the end. Raises ValueError unless it has 32 bytes."""
        if len(leaf) != HASH_BYTES:
            raise ValueError(f"a hash has {HASH_BYTES} bytes, not {len(leaf)}")
        for level in self._levels:
            level.extend(leaf)
            if len(level) // HASH_BYTES % 2:
                return
            leaf = node_hash(bytes(level[-2 * HASH_BYTES : -HASH_BYTES]), leaf)
        self._levels.append(bytearray(leaf))

    def root(self, size: int | None = None) -> bytes:
        """The root over the first `size` leaves; not said: over all."""
        size = self._checked(self.size if size is None else size)
        return self._over(0, size) if size else EMPTY_ROOT

    def inclusion(self, index: int, size: int | None = None) -> list[bytes]:
        """The proof that leaf `index` is in the tree of the first `size` leaves (RFC 6962, section 2.1.1).

        Raises ValueError where there is no such leaf.
        """
        size = self._checked(self.size if size is None else size)
        if not 0 <= index < size:
            raise ValueError(f"there is no leaf {index} in a tree of {size}")
        proof: list[bytes] = []
        start, end = 0, size
        while end - start > 1:
            middle = start + _left_part(end - start)
            if index < middle:
                proof.append(self._over(middle, end))
                end = middle
            else:
                proof.append(self._over(start, middle))
                start = middle
        return proof[::-1]

    def consistency(self, first: int, second: int | None = None) -> list[bytes]:
        """The proof that the tree of `first` leaves begins that of `second` (RFC 6962, section 2.1.2).

        Raises ValueError where it doesn't, since it is larger.
        """
        second = self._checked(self.size if second is None else second)
        if not 0 <= first <= second:
            raise ValueError(f"a tree of {first} leaves can't begin one of {second}")
        proof: list[bytes] = []
        start, end = 0, second
        while first not in (start, end):
            middle = start + _left_part(end - start)
            if first <= middle:
                proof.append(self._over(middle, end))
                end = middle
            else:
                proof.append(self._over(start, middle))
                start = middle
        if first > 0 and start > 0:
            proof.append(self._over(start, end))
        return proof[::-1]

    def _over(self, start: int, end: int) -> bytes:
        """The root over leaves `start` to `end`, as such a part occurs in the tree."""
        count = end - start
        height = count.bit_length() - 1
        if count == 1 << height:
            at = (start >> height) * HASH_BYTES
            return bytes(self._levels[height][at : at + HASH_BYTES])
        middle = start + _left_part(count)
        return node_hash(self._over(start, middle), self._over(middle, end))

    def _checked(self, size: int) -> int:
        if not 0 <= size <= self.size:
            raise ValueError(f"the tree has {self.size} leaves, not {size}")
        return size


def _left_part(count: int) -> int:
    """How many of `count` leaves are in the left subtree: the largest power of two below it."""
    return 1 << ((count - 1).bit_length() - 1)


def is_included(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether the proof shows that a leaf's hash is at `index` in the tree of this size and root (RFC 9162, 2.1.3.2).

    A malformed proof shows nothing.
    """
    if not (0 <= index < size and _are_hashes(leaf, root, *proof)):
        return False
    at, last, found = index, size - 1, leaf
    for step in proof:
        if last == 0:
            return False
        if at & 1 or at == last:
            found = node_hash(step, found)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            found = node_hash(found, step)
        at, last = at >> 1, last >> 1
    return last == 0 and found == root


def is_consistent(first: int, second: int, proof: Sequence[bytes], first_root: bytes, second_root: bytes) -> bool:
    """Whether the proof shows that a tree is the beginning of another, by sizes and roots (RFC 9162, section 2.1.4.2).

    A malformed proof shows nothing. The empty tree begins every tree.
    """
    if not (0 <= first <= second and _are_hashes(first_root, second_root, *proof)):
        return False
    if first == second:
        return not proof and first_root == second_root and (first > 0 or first_root == EMPTY_ROOT)
    if first == 0:
        return not proof and first_root == EMPTY_ROOT
    return bool(proof) and _grows(first, second, list(proof), first_root, second_root)


def _grows(first: int, second: int, proof: list[bytes], first_root: bytes, second_root: bytes) -> bool:
    if first & (first - 1) == 0:
        proof = [first_root, *proof]
    at, last = first - 1, second - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    before = after = proof[0]
    for step in proof[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            before, after = node_hash(step, before), node_hash(step, after)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            after = node_hash(after, step)
        at, last = at >> 1, last >> 1
    return last == 0 and before == first_root and after == second_root


def _are_hashes(*hashes: bytes) -> bool:
    return all(len(each) == HASH_BYTES for each in hashes)
