"""Bytes made smaller: zlib streams (RFC 1950) that know beforehand how chat completions look.

Requests and replies are short, and much of each is the same JSON around the text that matters. A preset dictionary
holds that JSON, so that it costs next to nothing; the stream names the dictionary by its Adler-32. Any zlib reads such
a stream, given the dictionary, which is a payload of every landscape; streams without one are read as well. What is in
the dictionary is for ever: a better one would stand beside it.

The requests about a row repeat much of it, each of them again. They lean on the row's own values as well, which come
before the common dictionary.
"""

from __future__ import annotations

import zlib

from isal import isal_zlib

LEVEL = 1
WINDOW = 1 << 15
COMMON = (
    b"the and of to in is that for with as are this not be by or it from was on which at have an "
    b'"top_p":1,"presence_penalty":0,"reasoning_effort":"low","seed":7,"max_completion_tokens":500'
    b'{"rationale":"","score":{"model":"gpt-4o-mini","messages":[{"role":"system","content":""},'
    b'{"role":"assistant","content":"{\\"score\\": \\"rationale\\": \\""},{"role":"user","content":""}],'
    b'"temperature":0,"max_tokens":500,"response_format":{"type":"json_schema","json_schema":{"name":"answer",'
    b'"strict":true,"schema":{"type":"object","properties":{"score":{"type":"integer","description":"At least 0. '
    b'At most 100."},"rationale":{"type":"string","description":"At most 2000 characters."}},'
    b'"required":["score","rationale"],"additionalProperties":false}}}}'
    b'{"id":"chatcmpl-","object":"chat.completion","created":17,"model":"gpt-4o-mini-2024-07-18","choices":[{'
    b'"index":0,"message":{"role":"assistant","content":"{\\"score\\": 0, \\"rationale\\": \\"\\"}","refusal":null,'
    b'"annotations":[]},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":,"completion_tokens":,'
    b'"total_tokens":,"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},"completion_tokens_details":{'
    b'"reasoning_tokens":0,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}},'
    b'"service_tier":"default","system_fingerprint":"fp_'
)


def compressed(data: bytes, dictionary: bytes = b"") -> bytes:
    """`data` as a zlib stream with the preset dictionary, and one of its own before it."""
    stream = isal_zlib.compressobj(LEVEL, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, 0, _preset(dictionary))
    return stream.compress(data) + stream.flush()


def _preset(dictionary: bytes) -> bytes:
    """A stream can lean on no more than its window (RFC 1951): of what is longer, the end counts."""
    return dictionary[len(COMMON) - WINDOW :] + COMMON if dictionary else COMMON


def decompressed(body: bytes, size: int, dictionary: bytes = b"") -> bytes:
    """The bytes of a stream that holds `size` of them. Raises ValueError where it holds anything else."""
    stream = zlib.decompressobj(zdict=_preset(dictionary))
    try:
        data = stream.decompress(body, size + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if not stream.eof or stream.unused_data:
        raise ValueError("the body is cut off, or holds more than its size says")
    return data
