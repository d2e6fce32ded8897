"""Hostile text made visible: what can't be seen, or reorders what can, is shown as its code, like ⟨U+202E⟩.

Row texts, prompts, replies and error messages come from anybody. Control characters, bidirectional overrides,
zero-width and tag characters could hide a text from its reader or show another one. Spaces, tabs and line ends stay
as they are.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from itertools import groupby

from markupsafe import Markup, escape

NOT_SEEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
LOOK_LIKE_NOTHING = "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"
KEPT = "\t\n"
ORDINARY = re.compile(r"[ -~\t\n\u00a1-\u00ac\u00ae-\u02ff]*")
VARIATIONS = range(0xE0100, 0xE01F0)


def is_hidden(char: str) -> bool:
    """Whether a reader would not see the character, or something else than it."""
    if char in KEPT:
        return False
    return unicodedata.category(char) in NOT_SEEN or char in LOOK_LIKE_NOTHING or ord(char) in VARIATIONS


def code(char: str) -> str:
    """A character by its code."""
    return f"⟨U+{ord(char):04X}⟩"


def plain(text: str) -> str:
    """The text with what is hidden written as codes; for attributes and titles."""
    if ORDINARY.fullmatch(text):
        return text
    return "".join(code(char) if is_hidden(char) else char for char in text)


def visible(text: str) -> Markup:
    """The same as HTML, escaped, with the codes marked, so that they can't be taken for text that spells them."""
    if ORDINARY.fullmatch(text):
        return escape(text)
    return Markup("").join(
        Markup("").join(map(_marked, part)) if hidden else escape("".join(part))
        for hidden, part in groupby(text, is_hidden)
    )


@lru_cache(maxsize=1024)
def _marked(char: str) -> Markup:
    name = unicodedata.name(char, "a character without a name")
    return Markup('<span class="hidden-character" title="{}">{}</span>').format(name.lower(), code(char))
