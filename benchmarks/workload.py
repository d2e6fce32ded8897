"""What all benchmarks ask: rows of text that reads and compresses much like what people write, ten questions each.

The same on every machine: a text follows from its number.
"""

import random
from typing import Any

VOCABULARY = """
the of and to in a is that for it was with as his on be at by this had not are but from or have an
they which one you were all her she there would their we him been has when who will no more if out
so up said what its about than into them can only other time new some could these two may first then
do any like my now over such our man me even most made after also did many off before must well back
through years much where your way down should because long each just state those people too mr how
little good world make very year still see own work men day get here old life both between being
under three never know same last another while us might great go come since against right came take
used himself few house use place during without again home around small however found applicant
evidence criterion describes figures attached committee funding clinical proposal budget method
results partner schedule risk outcome patient report assessment therapy diagnosis background
community training measured improve provider services review policy local national university
research quality programme development impact
"""
WORDS = tuple(VOCABULARY.split())


def prose(number: int, characters: int) -> str:
    """So many characters of sentences."""
    draw = random.Random(number)
    text = ""
    while len(text) < characters:
        words = draw.choices(WORDS, k=draw.randint(6, 18))
        text += " ".join([words[0].capitalize(), *words[1:]]) + ". "
    return text[:characters].rstrip()


TEXT_LENGTH = 200  # characters of why, in every reply


SPEC: dict[str, Any] = {
    "name": "bench",
    "source": {"path": "rows.csv", "key": ["id"], "columns": {"id": "str", "one": "str", "two": "str"}},
    "aggregate": {"rows": 50},
    "llm": {"model_name": "gpt-4o-mini", "temperature": 0, "max_tokens": 300},
    "prompt": {"template": "ask"},
    "case_studies": [{"name": "cs1", "inputs": {"text": "one"}}, {"name": "cs2", "inputs": {"text": "two"}}],
    "criteria": [{"name": f"c{n}", "description": "How well does it say what it has to?"} for n in range(5)],
    "answer": {"score": {"type": "integer", "minimum": 0, "maximum": 100}, "rationale": {"type": "string"}},
    "errors": {"retry_seconds": 30},
}
TEMPLATES = {"ask": "Judge {{ criterion.name }} ({{ criterion.description }}) of this text:\n{{ row.text }}"}
QUESTIONS = 10


def values(row: int) -> dict[str, str]:
    """A row's columns: its key and two texts of a kilobyte."""
    return {"id": f"R{row}", "one": prose(2 * row, 1000), "two": prose(2 * row + 1, 1000)}
