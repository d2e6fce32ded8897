"""Templates against the questions that are asked by them: what a template takes that a question doesn't give.

A template is walked once for each question, with what is known of that question in hand: the names of its inputs, its
case study, its criterion, the lookup data. So `lookup[criterion.code].marks` is found to be missing for the one
criterion without an entry. What only a row can tell is left to the row.

A use inside an `if`, or guarded by `is defined` or `default`, may be meant for some of the questions; it is a mistake
only if no question gives it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateSyntaxError, Undefined, meta, nodes

from elspeth_dagster.core.canonical import Json
from elspeth_dagster.core.spec import AssessmentSpec, KeyPath, Problem
from elspeth_dagster.stages.checking_columns import did_you_mean
from elspeth_dagster.stages.checking_questions import Asked
from elspeth_dagster.stages.prompting import ENVIRONMENT, condition

UNKNOWN = object()
"""Stands for a value that only a row can tell, or that the template makes itself."""
NO_INPUT = "is not an input of"
GUARDS = frozenset({"default", "d", "defined", "undefined"})
Scope = dict[str, Any]


@dataclass(frozen=True)
class Use:
    """Something that a template takes, such as `row.plan`; `lack` says that a question doesn't give it."""

    name: str
    line: int
    certain: bool
    lack: str | None = None
    advice: str = ""


class _Lacking(Exception):  # noqa: N818 (a finding, not an error)
    """A part of something known is not there."""

    def __init__(self, name: str, lack: str, advice: str) -> None:
        super().__init__(name, lack, advice)
        self.name = name
        self.lack = lack
        self.advice = advice


@dataclass(frozen=True)
class Template:
    """A template file as one key names it, and the questions that are asked by it."""

    key_path: KeyPath
    file: str
    tree: nodes.Template
    asked: tuple[Asked, ...]


def template_problems(
    spec: AssessmentSpec, asked: Sequence[Asked], texts: Mapping[str, str], lookup: Json
) -> Iterator[Problem]:
    """Every problem with the templates that could be read. `lookup` is UNKNOWN if it was named but can't be used."""
    parsed: list[Template] = []
    for key_path, file in named_templates(spec):
        by_it = tuple(one for one in asked if key_path in (one.template_at, one.system_at))
        try:
            if by_it and file in texts:
                parsed.append(Template(key_path, file, _parsed(texts[file]), by_it))
        except TemplateSyntaxError as error:
            yield Problem(key_path, f"{file}:{error.lineno} is not Jinja2: {_sentence(error)}")
    for template in parsed:
        yield from _uses_problems(template, spec, lookup)
    yield from _unused(spec, asked, parsed)
    yield from _json_unsaid(spec, asked, parsed)


def named_templates(spec: AssessmentSpec) -> list[tuple[KeyPath, str]]:
    """Each key of a spec that names a template file, with the file."""
    named: list[tuple[KeyPath, str | None]] = [
        (("prompt", "system"), spec.prompt.system),
        (("prompt", "template"), spec.prompt.template),
    ]
    for i, query in enumerate(spec.queries):
        named += [(("queries", i, "system"), query.system), (("queries", i, "template"), query.template)]
    return [(key_path, file) for key_path, file in named if file]


def _parsed(text: str) -> nodes.Template:
    tree = ENVIRONMENT.parse(text)
    ENVIRONMENT.from_string(text)  # finds filters and tests that don't exist
    other = next(tree.find_all((nodes.Include, nodes.Extends, nodes.Import, nodes.FromImport)), None)
    if other is not None:
        raise TemplateSyntaxError("A template can't take in another file. Write its text here.", other.lineno)
    return tree


def _sentence(error: TemplateSyntaxError) -> str:
    return f"{str(error.message).rstrip('.')}."


def _uses_problems(template: Template, spec: AssessmentSpec, lookup: Json) -> Iterator[Problem]:
    by_question = _uses_for(template.tree, (_given(one, spec, lookup) for one in template.asked))
    uses = [(one, use) for one, its_uses in zip(template.asked, by_question, strict=True) for use in its_uses]
    given_to_some = {use.name for _, use in uses if use.lack is None}
    first: dict[str, Use] = {}
    labels: dict[str, list[str]] = {}
    for one, use in uses:
        if use.lack and (use.certain or use.name not in given_to_some):
            first.setdefault(use.name, use)
            labels.setdefault(use.name, []).append(_label(one, use))
    for name, use in first.items():
        lack = f"`{name}` {use.lack} {_listed(labels[name])}. {use.advice}"
        yield Problem(template.key_path, f"{template.file}:{use.line}: {lack}".rstrip())


def _label(one: Asked, use: Use) -> str:
    return one.label if use.lack == NO_INPUT else f"question {one.question.key}"


def _listed(labels: list[str]) -> str:
    labels = list(dict.fromkeys(labels))
    more = f" and {len(labels) - 3} more" if len(labels) > 3 else ""
    return ", ".join(labels[:3]) + more


def _given(one: Asked, spec: AssessmentSpec, lookup: Json) -> Scope:
    """All that the question gives its templates."""
    row = dict.fromkeys(one.question.inputs, UNKNOWN)
    return {"row": row, **one.question.context, **({"lookup": lookup} if spec.prompt.lookup else {})}


def _uses_for(tree: nodes.Template, givens: Iterable[Scope]) -> Iterator[list[Use]]:
    """What a template takes, once for each question with all that it is given."""
    foreign = meta.find_undeclared_variables(tree)
    own = {name.name for name in tree.find_all(nodes.Name) if name.ctx != "load"}
    for given in givens:
        scope = {name: value for name, value in given.items() if name not in own}
        yield list(_Walk(foreign, given).uses(tree, scope, certain=True))


class _Walk:
    """A walk through one template with what one question gives."""

    def __init__(self, foreign: Collection[str], given: Scope) -> None:
        self._foreign = foreign
        self._given = given

    def uses(self, node: nodes.Node, scope: Scope, *, certain: bool) -> Iterator[Use]:
        """Every use, in the template's order. `scope` is changed by `{% set %}`."""
        match node:
            case nodes.Name(ctx="load"):
                yield from self._name(node, certain)
            case nodes.Getattr() | nodes.Getitem():
                yield from self._children(node, scope, certain)
                yield _use(node, scope, certain)
            case nodes.Call(node=nodes.Getattr() as method):
                yield from self.uses(method.node, scope, certain=certain)
                yield from self._children(node, scope, certain, skip=method)
            case nodes.For():
                yield from self._loop(node, scope, certain)
            case nodes.If() | nodes.CondExpr():
                yield from self.uses(node.test, scope, certain=certain)
                yield from self._children(node, scope, False, skip=node.test)
            case nodes.And() | nodes.Or():
                yield from self.uses(node.left, scope, certain=certain)
                yield from self.uses(node.right, scope, certain=False)
            case nodes.Assign(target=nodes.Name() as target):
                yield from self.uses(node.node, scope, certain=certain)
                scope[target.name] = _known(node.node, scope) if certain else UNKNOWN
            case nodes.Macro():
                yield from self._children(node, dict(scope), False)
            case nodes.Filter() | nodes.Test():
                yield from self._children(node, scope, certain and node.name not in GUARDS)
            case _:
                yield from self._children(node, scope, certain)

    def _children(self, node: nodes.Node, scope: Scope, certain: bool, skip: nodes.Node | None = None) -> Iterator[Use]:
        for child in node.iter_child_nodes():
            if child is not skip:
                yield from self.uses(child, scope, certain=certain)

    def _name(self, node: nodes.Name, certain: bool) -> Iterator[Use]:
        if node.name in self._foreign:
            lack = None if node.name in self._given else "is not given to"
            yield Use(node.name, node.lineno, certain, lack, f"It is given {', '.join(self._given)}.")

    def _loop(self, node: nodes.For, scope: Scope, certain: bool) -> Iterator[Use]:
        yield from self.uses(node.iter, scope, certain=certain)
        items = _known(node.iter, scope)
        for item in items if isinstance(items, list) else [UNKNOWN]:
            inside = {**scope, **({node.target.name: item} if isinstance(node.target, nodes.Name) else {})}
            if node.test is not None:
                yield from self.uses(node.test, inside, certain=certain)
            for child in node.body:
                yield from self.uses(child, inside, certain=certain and node.test is None)
        for child in node.else_:
            yield from self.uses(child, scope, certain=False)


def _use(node: nodes.Getattr | nodes.Getitem, scope: Scope, certain: bool) -> Use:
    try:
        _value(node, scope)
    except _Lacking as lacking:
        return Use(lacking.name, node.lineno, certain, lacking.lack, lacking.advice)
    return Use(_written(node), node.lineno, certain)


def _known(node: nodes.Node, scope: Scope) -> Any:
    try:
        return _value(node, scope)
    except _Lacking:
        return UNKNOWN


def _value(node: nodes.Node, scope: Scope) -> Any:
    """What an expression comes to, as far as it is known before a row is. Raises _Lacking."""
    match node:
        case nodes.Const():
            return node.value
        case nodes.Name():
            return scope.get(node.name, UNKNOWN)
        case nodes.Getattr() | nodes.Getitem():
            whole = _value(node.node, scope)
            part = node.attr if isinstance(node, nodes.Getattr) else _value(node.arg, scope)
            return UNKNOWN if whole is UNKNOWN or part is UNKNOWN else _part(node, whole, part)
    return UNKNOWN


def _part(node: nodes.Getattr | nodes.Getitem, whole: Any, part: Any) -> Any:
    find = ENVIRONMENT.getattr if isinstance(node, nodes.Getattr) else ENVIRONMENT.getitem
    found = find(whole, part)
    written = _written(node)
    if isinstance(found, Undefined):
        raise _not_there(written, _written(node.node), whole, part)
    if callable(found):
        raise _Lacking(written, "is a method of Python for", f"Write `{_written(node.node)}[{part!r}]`.")
    return found


def _not_there(written: str, where: str, whole: Any, part: Any) -> _Lacking:
    keys = [key for key in whole if isinstance(key, str)] if isinstance(whole, Mapping) else []
    hint = did_you_mean(part, keys) if isinstance(part, str) else ""
    if where == "row":
        return _Lacking(written, NO_INPUT, hint or "Declare it in `inputs`, or take it out here.")
    return _Lacking(written, "is not there for", f"`{where}` has no {part!r}. {hint}".rstrip())


def _written(node: nodes.Node) -> str:
    """An expression as its author wrote it, about."""
    match node:
        case nodes.Name():
            return node.name
        case nodes.Const():
            return repr(node.value)
        case nodes.Getattr():
            return f"{_written(node.node)}.{node.attr}"
        case nodes.Getitem():
            return f"{_written(node.node)}[{_written(node.arg)}]"
    return "…"


def _unused(spec: AssessmentSpec, asked: Sequence[Asked], parsed: Sequence[Template]) -> Iterator[Problem]:
    """Inputs and reference data that no template takes; nothing is said of questions whose templates don't parse."""
    trees = {template.key_path: template.tree for template in parsed}
    readable = {one.key_path: one for one in asked if set(_templates_of(one)) <= set(trees)}
    for one in readable.values():
        taken = [_inputs_taken(trees[key_path]) for key_path in _templates_of(one)]
        for name in one.question.inputs:
            if not any(names is None or name in names for names in taken):
                yield Problem(
                    (*one.key_path, "inputs", name),
                    f"None of its templates takes `row.{name}`. Use it there, or take it out here.",
                )
    takes_lookup = any(_loads(tree, "lookup") for tree in trees.values())
    if spec.prompt.lookup and readable and len(readable) == len({one.key_path for one in asked}) and not takes_lookup:
        yield Problem(("prompt", "lookup"), "No template uses `lookup`. Use it there, or take it out here.")


def _templates_of(one: Asked) -> list[KeyPath]:
    return [one.template_at] if one.question.system is None else [one.template_at, one.system_at]


def _inputs_taken(tree: nodes.Template) -> set[str] | None:
    """The inputs that a template takes by name; None if it takes the row as a whole (`row.items()`, `row | tojson`)."""
    taken = [_part_of_row(node) for node in tree.find_all((nodes.Getattr, nodes.Getitem))]
    names = {name for name in taken if name is not None and not hasattr(dict, name)}
    by_name = sum(name in names for name in taken)
    return names if len(_loads(tree, "row")) == by_name else None


def _part_of_row(node: nodes.Node) -> str | None:
    match node:
        case (
            nodes.Getattr(node=nodes.Name(name="row"), attr=name)
            | nodes.Getitem(node=nodes.Name(name="row"), arg=nodes.Const(value=str() as name))
        ):
            return name
    return None


def _loads(tree: nodes.Template, name: str) -> list[nodes.Name]:
    return [node for node in tree.find_all(nodes.Name) if node.name == name and node.ctx == "load"]


def _json_unsaid(spec: AssessmentSpec, asked: Sequence[Asked], parsed: Sequence[Template]) -> Iterator[Problem]:
    """OpenAI's rule for json_object: https://platform.openai.com/docs/guides/structured-outputs#json-mode."""
    if spec.structured_output != "json_object":
        return
    said = {template.key_path for template in parsed if _says_json(template.tree)}
    read = {template.key_path: template.file for template in parsed}
    silent = [one for one in asked if not said & set(_templates_of(one)) and set(_templates_of(one)) <= set(read)]
    files = sorted({read[one.template_at] for one in silent})
    if files:
        yield Problem(
            ("structured_output",),
            f"Providers refuse json_object unless a message says the word JSON. Say it in {' and '.join(files)}.",
        )


def _says_json(tree: nodes.Template) -> bool:
    texts = [node.data for node in tree.find_all(nodes.TemplateData)]
    texts += [str(node.value) for node in tree.find_all(nodes.Const)]
    return any("json" in text.lower() for text in texts)


def when_problems(spec: AssessmentSpec) -> Iterator[Problem]:
    """Every problem with `aggregate.when`, an expression over a row's columns."""
    if spec.aggregate.when is None:
        return
    here = ("aggregate", "when")
    try:
        condition(spec.aggregate.when)
        tree = _parsed("{{ " + spec.aggregate.when + " }}")
    except TemplateSyntaxError as error:
        yield Problem(here, f"`{spec.aggregate.when}` is not a Jinja2 expression: {_sentence(error)}")
        return
    [uses] = _uses_for(tree, [{"row": dict.fromkeys(spec.source.columns, UNKNOWN)}])
    for use in {use.name: use for use in uses if use.lack}.values():
        if use.lack == NO_INPUT:
            hint = did_you_mean(use.name.removeprefix("row."), spec.source.columns) or "Declare it there."
            yield Problem(here, f"`{use.name}` is not among `source.columns`. {hint}")
        else:
            yield Problem(here, f"`{use.name}` {use.lack} `when`. {use.advice}")
    if not _loads(tree, "row"):
        yield Problem(
            here, "It doesn't look at `row`, so it is the same for all rows. Compare a column, or take it out."
        )
