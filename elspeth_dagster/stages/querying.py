"""Which questions an assessment asks of every row: case studies × criteria, and named queries.

A question's key (`cs1_diagnosis`) begins the names of its result columns. The order of the questions is the spec's:
case study by case study, criterion by criterion, then the named queries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

from elspeth_dagster.core.assessment import Assessment
from elspeth_dagster.core.canonical import PREFIX, Json, ordered_json, sha256, texts_json
from elspeth_dagster.core.spec import AnswerField, AssessmentSpec, LLMSpec

Message = dict[str, str]


@dataclass(frozen=True)
class Question:
    """One question as it is asked of any row."""

    key: str
    ordinal: int
    inputs: Mapping[str, str]
    template: str
    system: str | None
    context: Mapping[str, Json]
    fields: Mapping[str, AnswerField]

    def column(self, field: str) -> str:
        """The result column of one of its answer's fields."""
        return f"{self.key}_{field}"

    def missing_inputs(self, values: Mapping[str, Json]) -> list[str]:
        """The source columns that it is asked about and that are null or blank in this row."""
        return [name for name in self.inputs.values() if is_blank(values[name])]


def is_blank(value: Json) -> bool:
    """Whether a row's value says nothing that a question could be asked about."""
    return value is None or not str(value).strip()


def questions(assessment: Assessment) -> tuple[Question, ...]:
    """All questions of an assessment, in order."""
    found = (*_product(assessment), *_named(assessment))
    return tuple(
        Question(**{**part, "ordinal": ordinal})  # type: ignore[arg-type]
        for ordinal, part in enumerate(found)
    )


def _product(assessment: Assessment) -> Iterator[dict[str, object]]:
    spec, prompt = assessment.spec, assessment.spec.prompt
    for case_study, criterion in product(spec.case_studies, spec.criteria):
        yield {
            "key": f"{case_study.name}_{criterion.name}",
            "inputs": case_study.inputs,
            "template": assessment.templates[prompt.template or ""],
            "system": None if prompt.system is None else assessment.templates[prompt.system],
            "context": {
                "case_study": case_study.model_dump(include={"name", "description"}),
                "criterion": criterion.model_dump(),
            },
            "fields": spec.answer,
        }


def _named(assessment: Assessment) -> Iterator[dict[str, object]]:
    spec = assessment.spec
    for query in spec.queries:
        system = query.system or spec.prompt.system
        yield {
            "key": query.name,
            "inputs": query.inputs,
            "template": assessment.templates[query.template],
            "system": None if system is None else assessment.templates[system],
            "context": {},
            "fields": query.answer or spec.answer,
        }


def result_fields(asked: tuple[Question, ...]) -> dict[str, AnswerField]:
    """Every result column with the answer field that fills it, in order."""
    return {question.column(name): field for question in asked for name, field in question.fields.items()}


class Request(NamedTuple):
    """What is sent: the bytes and their name, the name of the question, and the most completion tokens that can come.

    `question_hash` leaves out the types and bounds that the answer is held to here: whoever changes those asks the same
    question, and can take the reply to it from the record.
    """

    body: bytes
    ref: str
    question_hash: str
    max_tokens: int | None
    question: bytes = b""

    def is_named(self, ref: str) -> bool:
        """Whether its body has this name, which is a plain hash where it was recorded before there were scopes."""
        return ref == self.ref or (ref.startswith(PREFIX) and ref == sha256(self.body))

    @property
    def question_hashes(self) -> tuple[str, str]:
        """The names that its question may have on record."""
        return self.question_hash, sha256(self.question)


class Form:
    """How the requests of a question are written: what is the same in all of them is encoded once.

    The same question about the same text has the same bytes in any run: nothing in them names a run or a row
    (https://platform.openai.com/docs/api-reference/chat/create).
    """

    def __init__(self, spec: AssessmentSpec, question: Question, *, bounded_schema: bool) -> None:
        asked: dict[str, Json] = {"model": spec.llm.model_name, "messages": None, **_sampling(spec.llm)}
        form: Json = None
        put = dict(asked)
        if spec.structured_output == "json_object":
            form = asked["response_format"] = {"type": "json_object"}
        elif spec.structured_output == "json_schema":
            asked["response_format"] = _json_schema_format(question, bounded=bounded_schema)
            form = {name: field.description for name, field in question.fields.items()}
        self._before, self._after = _around_messages(asked)
        _, self._put_after = _around_messages({**put, "response_format": form})
        self._max_tokens = most_tokens_of(asked)

    def request(self, messages: list[Message], name: Callable[[bytes], str] = sha256) -> Request:
        """What is sent for the question put in these messages; `name` gives bytes about this row their name."""
        begun = self._before + texts_json(messages)
        body, put = begun + self._after, begun + self._put_after
        return Request(body, name(body), name(put), self._max_tokens, put)


def _around_messages(body: Mapping[str, Json]) -> tuple[bytes, bytes]:
    """A request's bytes before its messages, and after them. `messages` is the second of its members."""
    members = [ordered_json(name) + b":" + ordered_json(value) for name, value in body.items()]
    after = b"".join(b"," + member for member in members[2:])
    return b"{" + members[0] + b',"messages":', after + b"}"


def request(
    spec: AssessmentSpec,
    question: Question,
    messages: list[Message],
    name: Callable[[bytes], str] = sha256,
    *,
    bounded_schema: bool,
) -> Request:
    """What is sent for a question, written once."""
    return Form(spec, question, bounded_schema=bounded_schema).request(messages, name)


def most_tokens(spec: AssessmentSpec) -> int | None:
    """The most completion tokens that a reply can have; None where nothing limits it."""
    return most_tokens_of(_sampling(spec.llm))


def most_tokens_of(body: Mapping[str, Json]) -> int | None:
    """The same of a request's body."""
    limits = [body.get("max_tokens"), body.get("max_completion_tokens")]
    return min((limit for limit in limits if isinstance(limit, int)), default=None)


def _sampling(llm: LLMSpec) -> dict[str, Json]:
    given = llm.model_dump(include={"temperature", "max_tokens", "seed"}, exclude_none=True)
    return {**{name: exactly(value) for name, value in given.items()}, **llm.options}


def _json_schema_format(question: Question, *, bounded: bool) -> dict[str, Json]:
    return {
        "type": "json_schema",
        "json_schema": {"name": "answer", "strict": True, "schema": answer_schema(question.fields, bounded=bounded)},
    }


def answer_schema(fields: Mapping[str, AnswerField], *, bounded: bool) -> dict[str, Json]:
    """The JSON schema of an answer.

    Strict structured outputs of OpenAI and Azure refuse some bounds as keywords (`maxLength` among them), so without
    `bounded` they stand in the descriptions only. Either way every reply is held to them here.
    """
    return {
        "type": "object",
        "properties": {name: _field_schema(field, bounded=bounded) for name, field in fields.items()},
        "required": list(fields),
        "additionalProperties": False,
    }


def _field_schema(field: AnswerField, *, bounded: bool) -> dict[str, Json]:
    schema: dict[str, Json] = {"type": "string" if field.type == "enum" else field.type}
    if field.values is not None:
        schema["enum"] = field.values
    if description := " ".join(part for part in (field.description, bounds_in_words(field)) if part):
        schema["description"] = description
    if bounded:
        keywords = {"minimum": field.minimum, "maximum": field.maximum, "maxLength": field.max_length}
        schema.update({name: exactly(value) for name, value in keywords.items() if value is not None})
    return schema


def bounds_in_words(field: AnswerField) -> str:
    """What an answer field may hold beyond its type, as a sentence for the model; empty when anything."""
    words = []
    if field.minimum is not None:
        words.append(f"At least {exactly(field.minimum)}.")
    if field.maximum is not None:
        words.append(f"At most {exactly(field.maximum)}.")
    if field.max_length is not None:
        words.append(f"At most {field.max_length} characters.")
    return " ".join(words)


def exactly(value: float) -> float | int:
    """A number as it is written without a needless `.0`."""
    return int(value) if float(value).is_integer() else value
