"""Template and lookup files as they come: text or why not, and reference data that JSON can hold.

YAML reads more than is written: `2026-01-01` as a date, `no` as false, `010` as 8, `12:30` as 750. Where a lookup
would not come out as its author wrote it, it is refused with the line.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import yaml

from elspeth_dagster.core.canonical import Json
from elspeth_dagster.core.spec import KeyPath

FileContent = bytes | OSError
TAG = "tag:yaml.org,2002:"


class Unusable(Exception):  # noqa: N818 (a verdict on a file, collected with the others)
    """A file can't be used; one sentence per mistake, each with file and line."""

    def __init__(self, *messages: str) -> None:
        super().__init__(*messages)
        self.messages = messages


def text_of(name: str, content: FileContent) -> str:
    """The text of a file, lines ended by \\n, without a byte order mark. Raises Unusable."""
    if isinstance(content, IsADirectoryError):
        raise Unusable(f"{name} is a folder. Name a file in it.")
    if isinstance(content, FileNotFoundError):
        raise Unusable(f"There is no file {name}. Paths start beside the defs.yaml.")
    if isinstance(content, OSError):
        raise Unusable(f"{name} can't be read ({content.strerror}).")
    text = _decoded(name, content)
    if not text.strip():
        raise Unusable(f"{name} is empty. Write something into it.")
    return text.replace("\r\n", "\n")


def _decoded(name: str, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise Unusable(f"{name}:{line} is not UTF-8. Save the file in that encoding.") from None


def lookup_data(name: str, text: str) -> Json:
    """The reference data of a YAML file. Raises Unusable."""
    root = _composed(name, text)
    repeated = [(line, f"The key `{path[-1]}` is there twice. Take one out.") for path, line in repeated_keys(root)]
    found = dict.fromkeys(sorted([*repeated, *_misread(root)]))
    if found:
        raise Unusable(*(f"{name}:{line}: {message}" for line, message in found))
    return yaml.safe_load(text)


def _composed(name: str, text: str) -> yaml.Node:
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise Unusable(f"{name}:{line} is not one YAML document: {error.problem}.") from None
    except yaml.YAMLError as error:
        raise Unusable(f"{name} is not YAML: {error}.") from None
    if root is None:
        raise Unusable(f"{name} holds no data. Write something into it.")
    return root


def repeated_keys(
    node: yaml.Node, path: KeyPath = (), inside: tuple[yaml.Node, ...] = ()
) -> Iterator[tuple[KeyPath, int]]:
    """Each key that a YAML mapping has twice, with the line of the second; YAML would drop the first silently."""
    seen = set()
    for key, value in _children(node) if node not in inside else []:
        name = key.value if isinstance(key, yaml.Node) else key
        if isinstance(key, yaml.ScalarNode):
            if name in seen:
                yield (*path, name), key.start_mark.line + 1
            seen.add(name)
        yield from repeated_keys(value, (*path, name), (*inside, node))


def _children(node: yaml.Node) -> list[tuple[yaml.Node | int, yaml.Node]]:
    """Keys (indexes in a sequence) and values."""
    if isinstance(node, yaml.MappingNode):
        return list(node.value)
    return list(enumerate(node.value)) if isinstance(node, yaml.SequenceNode) else []


def _misread(node: yaml.Node, inside: tuple[yaml.Node, ...] = ()) -> Iterator[tuple[int, str]]:
    """Line and sentence for all that JSON can't hold, or that YAML reads as something else than is written."""
    if node in inside:
        yield node.start_mark.line + 1, "It holds itself. Take the alias out."
        return
    problem = _of_scalar(node) if isinstance(node, yaml.ScalarNode) else _of_collection(node)
    if problem:
        yield node.start_mark.line + 1, problem
    for key, value in _children(node):
        if isinstance(key, yaml.Node) and key.tag not in (f"{TAG}str", f"{TAG}merge"):
            yield key.start_mark.line + 1, f"The key `{_written(key)}` is not text. Put it in quotes."
        yield from _misread(value, (*inside, node))


def _of_collection(node: yaml.Node) -> str | None:
    if node.tag in (f"{TAG}map", f"{TAG}seq"):
        return None
    return f"`{node.tag.removeprefix(TAG)}` is nothing that JSON can hold. Write a list or a mapping."


def _of_scalar(node: yaml.ScalarNode) -> str | None:
    written, kind = node.value, node.tag.removeprefix(TAG)
    if kind in ("str", "null"):
        return None
    if kind == "timestamp":
        return f"`{written}` is a date to YAML, which JSON can't hold. Put it in quotes."
    if kind not in ("int", "float", "bool"):
        return f"`{kind}` is nothing that JSON can hold. Put the value in quotes."
    read = yaml.safe_load(written)
    if isinstance(read, float) and not math.isfinite(read):
        return f"`{written}` is no number in JSON. Put it in quotes."
    if not isinstance(read, float) and str(read).lower() != written.lower().lstrip("+"):
        return f"YAML reads `{written}` as {str(read).lower()}. Write that, or put it in quotes."
    return None


def _written(node: yaml.Node) -> str:
    return str(node.value) if isinstance(node, yaml.ScalarNode) else node.tag.removeprefix(TAG)
