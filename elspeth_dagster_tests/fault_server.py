"""A chat completions server that misbehaves on request: a real process, real sockets, nothing but the standard library.

    python -m elspeth_dagster_tests.fault_server --port 8080 --behaviour '{"latency_ms": 50}'

    with FaultServer(latency_ms=[10, 50]) as server:        # on a free port of 127.0.0.1
        server.configure(first_tries={"status": 429, "times": 2, "retry_after": "0"})
        ...                                                 # ask server.base_url
        assert server.stats()["paid"] == 10

What it does with a request follows from the request's body, from how often it has come, and from the seed: two runs
misbehave alike. The body's hash is `sha256:<hex>`. An *act* is what the server does:

    ok               a valid completion: content that fits `response_format`'s schema, else `content`
    200 … 599        an error body with this status
    reset            the connection is reset
    cut              whole headers, half a body, the connection is closed
    stall            whole headers, half a body, silence
    hang             silence
    garbage          bytes that are not HTTP
    and an answer 200 with a body that is off: null_content, empty_choices, no_choices, html, truncated, wrong_types,
    list, nan, duplicate_keys, fenced, refusal, content_filter, not_json, empty_body, tool_calls, huge, no_usage,
    echo_key

The act is the first that applies of: a wrong key (when `expected_key` is set) is 401; too many at once or a second
(when `max_in_flight` or `requests_per_second` is set) is 429, at once; the first of `first_tries` and
`rules` that fits; a marker `[[ACT]]` in the prompt, in any case; `shares`, by lot of the try; `body_shares`, by lot of
the body; ok.

Behaviour (`POST /config`; what is left out is as it was at the start):
    latency_ms       a number, or [least, most] by lot
    first_tries      a rule with `times`, or a list
    rules            a list of {act or status; times: the first n tries of a body, default all;
                     contains: text the body must have; retry_after, message: as below}
    shares           {act: share of requests, 0 to 1}
    body_shares      {act: share of bodies}: such a body gets that act every time it comes to it
    max_in_flight    more than so many requests at a time are refused
    requests_per_second   more than so many in any second are refused
    retry_after      the Retry-After of every 429, any text, or null; default "0"
    message          what an error says
    headers          {name: value} of every reply
    content          the content of an answer without schema: an object or text
    reports          {field: value} of every completion: another model, another system_fingerprint
    text_length      how long the texts of an answer are at least, each its own; default 0
    content_by       try (default): each try of a body gets another content; body: they all get the same
    expected_key     the key that gets in; echo_key: whether a 401 repeats the key it got
    huge_bytes       the length of the content of `huge`
    seed             another seed, other lots
    record           whether `/stats` lists every request

`POST /reset` forgets counts, tries and recorded requests, and keeps the behaviour.
`GET /stats` tells: received, paid (answered 200), paid_extra (200 for a body that had one), usage {prompt_tokens,
completion_tokens} of the completions that were made, in_flight, in_flight_max, outcomes {act: count},
tries {body hash: count}, requests [{sha256, idempotency_key, status, act, path, headers, at, tokens}]: at by a
monotonic clock in seconds, tokens those of prompt and completion.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import http.client
import json
import random
import re
import socket
import struct
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

DEFAULTS: dict[str, Any] = {
    "latency_ms": 0,
    "first_tries": [],
    "rules": [],
    "shares": {},
    "body_shares": {},
    "max_in_flight": None,
    "requests_per_second": None,
    "retry_after": "0",
    "message": None,
    "headers": {},
    "content": None,
    "reports": {},
    "content_by": "try",
    "text_length": 0,
    "expected_key": None,
    "echo_key": False,
    "huge_bytes": 17 * 1024 * 1024,
    "seed": 0,
    "record": False,
}
MARKER = re.compile(rb"\[\[([A-Za-z0-9_]+)\]\]")
JSON_TYPE = "application/json"


# What is asked ----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Request:
    """One HTTP request, and what is known of its body."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    sha256: str = ""
    attempt: int = 0
    lot: bytes = b""
    body_lot: bytes = b""
    at: float = 0.0
    tokens: int = 0
    is_refused: bool = False

    @property
    def key(self) -> str:
        """The API key it was sent with."""
        return self.headers.get("api-key") or self.headers.get("authorization", "").removeprefix("Bearer ")

    def draw(self, name: str) -> float:
        """A number in [0, 1) that follows from body, try, seed and name."""
        return draw(self.lot, name)


def draw(lot: bytes, name: str) -> float:
    """A number in [0, 1) that follows from a lot and a name."""
    digest = hashlib.blake2b(name.encode(), key=lot, digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def take_request(buffer: bytearray) -> Request | None:
    """The first whole request in the buffer, taken out of it; None as long as it is not whole."""
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return None
    first, *lines = buffer[:end].decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    length = end + 4 + int(headers.get("content-length") or 0)
    if len(buffer) < length:
        return None
    body = bytes(buffer[end + 4 : length])
    del buffer[:length]
    method, path, _ = first.split(" ", 2)
    return Request(method, path, headers, body)


# What is answered -------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Reply:
    """What goes out: status, body, headers."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = JSON_TYPE

    def bytes(self) -> bytes:
        """As it goes over the wire."""
        lines = [
            f"HTTP/1.1 {self.status} {http.client.responses.get(self.status, '')}",
            f"content-type: {self.content_type}",
            f"content-length: {len(self.body)}",
            *(f"{name}: {value}" for name, value in self.headers.items()),
        ]
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + self.body


def fitting(schema: dict[str, Any], draw: random.Random) -> Any:
    """A value that fits a JSON schema, of the keywords that structured outputs know."""
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return draw.choice(schema["enum"])
    if "anyOf" in schema:
        return fitting(schema["anyOf"][0], draw)
    kind = schema.get("type", "object")
    return FITTING[kind[0] if isinstance(kind, list) else kind](schema, draw)


VOCABULARY = """
a case argues as clear evidence figures fair few from funding good grows here holds how in is it least less
local made method more most never not of on only own part plan plain results risk says she shows so some than
that the their then they this time to two under until users useful very was weak what when which who why with
without year
"""
WORDS = tuple(VOCABULARY.split())


def _text(schema: dict[str, Any], draw: random.Random) -> str:
    text = f"Because of what the text says, number {draw.getrandbits(32):08x}."
    while len(text) < schema.get("minLength", 0):
        text += f" {draw.choice(WORDS)}"
    return text[: schema.get("maxLength", len(text))]


def _object(schema: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    return {name: fitting(part, draw) for name, part in schema.get("properties", {}).items()}


def _array(schema: dict[str, Any], draw: random.Random) -> list[Any]:
    return [fitting(schema.get("items", {}), draw) for _ in range(schema.get("minItems", 1))]


def _integer(schema: dict[str, Any], draw: random.Random) -> int:
    least = schema.get("minimum", min(0, schema.get("maximum", 0)))
    most = schema.get("maximum", max(100, least))
    return draw.randint(-int(-least // 1), int(most // 1))


def _number(schema: dict[str, Any], draw: random.Random) -> float:
    least = schema.get("minimum", min(0, schema.get("maximum", 0)))
    most = schema.get("maximum", max(100, least))
    return float(min(max(round(draw.uniform(least, most), 3), least), most))


FITTING: dict[str, Callable[[dict[str, Any], random.Random], Any]] = {
    "object": _object,
    "array": _array,
    "string": _text,
    "integer": _integer,
    "number": _number,
    "boolean": lambda schema, draw: draw.random() < 0.5,
    "null": lambda schema, draw: None,
}
UNASKED = {
    "type": "object",
    "properties": {
        "score": {"type": "integer", "minimum": 0, "maximum": 100},
        "rationale": {"type": "string"},
    },
}


def content_for(request: Request, asked: dict[str, Any], behaviour: dict[str, Any]) -> str:
    """The text of a valid answer."""
    schema = ((asked.get("response_format") or {}).get("json_schema") or {}).get("schema")
    if schema is None and behaviour["content"] is not None:
        given = behaviour["content"]
        return given if isinstance(given, str) else json.dumps(given)
    lot = request.body_lot if behaviour["content_by"] == "body" else request.lot
    return json.dumps(fitting(_lengthened(schema or UNASKED, behaviour["text_length"]), random.Random(lot)))


def _lengthened(schema: dict[str, Any], length: int) -> dict[str, Any]:
    """The schema of an object whose texts have at least this length."""
    parts = schema.get("properties", {})
    longer = {name: {"minLength": length, **part} for name, part in parts.items() if part.get("type") == "string"}
    return {**schema, "properties": {**parts, **longer}} if length else schema


def completion(request: Request, asked: dict[str, Any], content: str) -> dict[str, Any]:
    """A chat completion (https://platform.openai.com/docs/api-reference/chat/object) with this content."""
    prompt_tokens, completion_tokens = len(request.body) // 4 + 1, len(content) // 4 + 1
    return {
        "id": f"chatcmpl-{request.lot.hex()[:24]}",
        "object": "chat.completion",
        "created": 1_767_225_600,
        "model": asked.get("model", "unnamed"),
        "system_fingerprint": "fp_fault_server",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": content, "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
    }


Body = dict[str, Any]


def _with_content(edit: Callable[[str], str | None]) -> Callable[[Body], None]:
    """The same completion, with an edited content."""

    def apply(body: Body) -> None:
        message = body["choices"][0]["message"]
        message["content"] = edit(message["content"])

    return apply


def _finished(reason: str, content: Callable[[str], str | None], **message: Any) -> Callable[[Body], None]:
    """The same completion, finished for another reason."""

    def apply(body: Body) -> None:
        choice = body["choices"][0]
        choice["finish_reason"] = reason
        choice["message"] |= {"content": content(choice["message"]["content"]), **message}

    return apply


def _wrong_types(content: str) -> str:
    value = json.loads(content)
    return json.dumps({name: [part] if isinstance(part, str) else str(part) for name, part in value.items()})


def _duplicate_keys(content: str) -> str:
    return content.rstrip()[:-1] + ", " + content.lstrip()[1:]


def _nan(content: str) -> str:
    value = json.loads(content)
    return json.dumps({name: part if isinstance(part, str) else float("nan") for name, part in value.items()})


TOOL_CALL = {"id": "call_1", "type": "function", "function": {"name": "answer", "arguments": "{}"}}
OFF: dict[str, Callable[[Body], Any]] = {
    "null_content": _with_content(lambda content: None),
    "truncated": _finished("length", lambda content: content[: len(content) // 2]),
    "wrong_types": _with_content(_wrong_types),
    "list": _with_content(lambda content: f"[{content}]"),
    "nan": _with_content(_nan),
    "duplicate_keys": _with_content(_duplicate_keys),
    "fenced": _with_content(lambda content: f"```json\n{content}\n```"),
    "refusal": _finished("stop", lambda content: None, refusal="I can't help with that."),
    "content_filter": _finished("content_filter", lambda content: ""),
    "not_json": _with_content(lambda content: "The applicant did well, I'd say 80 of 100."),
    "tool_calls": _finished("tool_calls", lambda content: None, tool_calls=[TOOL_CALL]),
    "empty_choices": lambda body: body.update(choices=[]),
    "no_choices": lambda body: body.pop("choices"),
    "no_usage": lambda body: body.pop("usage"),
}
VERBATIM = {
    "html": Reply(200, b"<html><body><h1>Sign in to the network</h1></body></html>", content_type="text/html"),
    "empty_body": Reply(200, b""),
}
BREAKING = frozenset({"reset", "cut", "stall", "hang", "garbage"})
ACTS = frozenset({"ok", "huge", "echo_key", *OFF, *VERBATIM, *BREAKING})


def is_act(name: str) -> bool:
    """Whether the server knows how to do it."""
    return name in ACTS or (name.isdecimal() and 200 <= int(name) <= 599)


def error_reply(status: int, message: str | None, retry_after: str | None) -> Reply:
    """An error as OpenAI words it."""
    said = message or f"The server says {status}."
    body = json.dumps({"error": {"message": said, "type": "fault", "param": None, "code": str(status)}})
    headers = {"retry-after": retry_after} if status == 429 and retry_after is not None else {}
    if 300 <= status < 400:
        headers["location"] = "/v1/elsewhere/chat/completions"
    return Reply(status, b"" if status in (204, 304) else body.encode(), headers)


# Which of it ------------------------------------------------------------------------------------------------


def checked_behaviour(given: dict[str, Any], start: dict[str, Any]) -> dict[str, Any]:
    """The whole behaviour; ValueError for a key or an act that does not exist."""
    if unknown := given.keys() - DEFAULTS.keys():
        raise ValueError(f"no such behaviour: {', '.join(sorted(unknown))}")
    behaviour = start | given
    first_tries = behaviour["first_tries"]
    behaviour["first_tries"] = [first_tries] if isinstance(first_tries, dict) else list(first_tries)
    named = [rule_act(rule) for rule in [*behaviour["first_tries"], *behaviour["rules"]]]
    if wrong := [name for name in [*named, *behaviour["shares"], *behaviour["body_shares"]] if not is_act(str(name))]:
        raise ValueError(f"no such act: {wrong[0]!r}")
    if behaviour["content_by"] not in ("try", "body"):
        raise ValueError(f"no such content_by: {behaviour['content_by']!r}")
    return behaviour


def rule_act(rule: dict[str, Any]) -> str:
    """What a rule tells to do."""
    return str(rule.get("act", rule.get("status", "")))


class Provider:
    """What the server is told to do, and what it has seen."""

    def __init__(self, start: dict[str, Any]) -> None:
        self.start = checked_behaviour(start, DEFAULTS)
        self.behaviour = self.start
        self.reset()

    def reset(self) -> None:
        """Forgets what it has seen."""
        self.received = self.in_flight = self.in_flight_max = 0
        self.outcomes: Counter[str] = Counter()
        self.tries: Counter[str] = Counter()
        self.paid: Counter[str] = Counter()
        self.usage = Counter(prompt_tokens=0, completion_tokens=0)
        self.requests: list[dict[str, Any]] = []
        self.let_in: deque[float] = deque()

    def stats(self) -> dict[str, Any]:
        """What it has seen, for `/stats`."""
        return {
            "received": self.received,
            "paid": self.paid.total(),
            "paid_extra": self.paid.total() - len(self.paid),
            "usage": self.usage,
            "in_flight": self.in_flight,
            "in_flight_max": self.in_flight_max,
            "outcomes": self.outcomes,
            "tries": self.tries,
            "requests": self.requests,
        }

    def received_question(self, request: Request) -> None:
        """Counts a question; its lot follows from its body, its try and the seed, its body's from body and seed."""
        request.at = time.monotonic()
        request.sha256 = "sha256:" + hashlib.sha256(request.body).hexdigest()
        self.received += 1
        self.tries[request.sha256] += 1
        request.attempt = self.tries[request.sha256]
        drawn_from = f"{self.behaviour['seed']} {request.sha256} {request.attempt}"
        request.lot = hashlib.sha256(drawn_from.encode()).digest()
        request.body_lot = hashlib.sha256(f"{self.behaviour['seed']} {request.sha256}".encode()).digest()

    def decide(self, request: Request) -> tuple[str, dict[str, Any]]:
        """The act for a question, and the rule that tells it, if one does."""
        expected = self.behaviour["expected_key"]
        if expected is not None and request.key != expected:
            said = f"Incorrect API key provided: {request.key}" if self.behaviour["echo_key"] else "Incorrect API key"
            return "401", {"message": said}
        if self._is_too_much(request.at):
            request.is_refused = True
            return "429", {}
        for rule in [*self.behaviour["first_tries"], *self.behaviour["rules"]]:
            if (
                request.attempt <= rule.get("times", request.attempt)
                and rule.get("contains", "").encode() in request.body
            ):
                return rule_act(rule), rule
        return self._marked(request) or self._by_lot(request) or "ok", {}

    def _is_too_much(self, moment: float) -> bool:
        at_once, a_second = self.behaviour["max_in_flight"], self.behaviour["requests_per_second"]
        while self.let_in and self.let_in[0] <= moment - 1:
            self.let_in.popleft()
        if (at_once is not None and self.in_flight > at_once) or (
            a_second is not None and len(self.let_in) >= a_second
        ):
            return True
        self.let_in.append(moment)
        return False

    def _marked(self, request: Request) -> str | None:
        if b"[[" not in request.body:
            return None
        names = (name.decode().lower() for name in MARKER.findall(request.body))
        return next((name for name in names if is_act(name)), None)

    def _by_lot(self, request: Request) -> str | None:
        by_try = _drawn(self.behaviour["shares"], request.lot)
        return by_try or _drawn(self.behaviour["body_shares"], request.body_lot)

    def reply(self, request: Request, act: str, rule: dict[str, Any]) -> Reply:
        """What goes out for an act; for one that breaks off, what it breaks off from."""
        if act.isdecimal() and int(act) != 200:
            told = {**self.behaviour, **rule}
            reply = error_reply(int(act), told["message"], told["retry_after"])
        elif act in VERBATIM:
            reply = Reply(200, VERBATIM[act].body, content_type=VERBATIM[act].content_type)
        else:
            reply = self._answer(request, act)
        reply.headers = {
            "x-request-id": f"req_{request.lot.hex()[:16]}",
            **reply.headers,
            **self.behaviour["headers"],
        }
        return reply

    def _answer(self, request: Request, act: str) -> Reply:
        try:
            asked = json.loads(request.body)
            content = content_for(request, asked, self.behaviour)
        except (ValueError, AttributeError, KeyError) as error:
            return error_reply(400, f"The body is no chat completion request: {error!r}", None)
        if act == "huge":
            content = "x" * self.behaviour["huge_bytes"]
        if act == "echo_key":
            content = f"You came with {request.key}."
        body = completion(request, asked, content) | self.behaviour["reports"]
        request.tokens = body["usage"]["total_tokens"] if "usage" in body else 0
        self.usage.update({name: body["usage"][name] for name in self.usage})
        if act in OFF:
            OFF[act](body)
        return Reply(200, json.dumps(body).encode())

    def latency_seconds(self, request: Request) -> float:
        """How long the answer takes."""
        latency = self.behaviour["latency_ms"]
        if isinstance(latency, list):
            latency = latency[0] + (latency[1] - latency[0]) * request.draw("latency")
        return float(latency) / 1000

    def answered(self, request: Request, act: str, status: int | None) -> None:
        """Counts what was done with a question."""
        self.outcomes[act] += 1
        if status == 200:
            self.paid[request.sha256] += 1
        if self.behaviour["record"]:
            self.requests.append(
                {
                    "sha256": request.sha256,
                    "idempotency_key": request.headers.get("idempotency-key"),
                    "status": status,
                    "act": act,
                    "path": request.path,
                    "headers": request.headers,
                    "at": request.at,
                    "tokens": request.tokens,
                }
            )

    def control(self, request: Request) -> Reply:
        """The answer to anything that is not a question."""
        path = request.path.partition("?")[0]
        if path.endswith("/models"):
            models = [{"id": "fault-model", "object": "model", "created": 1_767_225_600, "owned_by": "tests"}]
            return Reply(200, json.dumps({"object": "list", "data": models}).encode())
        if path == "/stats":
            return Reply(200, json.dumps(self.stats()).encode())
        if (request.method, path) == ("POST", "/reset"):
            self.reset()
            return Reply(200, b"{}")
        if (request.method, path) == ("POST", "/config"):
            return self._configure(request.body)
        return error_reply(404, f"Nothing at {path}.", None)

    def _configure(self, body: bytes) -> Reply:
        try:
            self.behaviour = checked_behaviour(json.loads(body), self.start)
        except (ValueError, TypeError, AttributeError) as error:
            return error_reply(400, str(error), None)
        return Reply(200, json.dumps(self.behaviour).encode())


def _drawn(shares: dict[str, float], lot: bytes) -> str | None:
    left = draw(lot, "act")
    for act, share in shares.items():
        left -= share
        if left < 0:
            return str(act)
    return None


# The process ------------------------------------------------------------------------------------------------


class Connection(asyncio.Protocol):
    """One client connection, kept alive; one request at a time."""

    transport: asyncio.Transport

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        self.buffer = bytearray()
        self.busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the transport."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """A question in flight is gone with its connection."""
        if self.busy:
            self.done()

    def data_received(self, data: bytes) -> None:
        """Reads on; answers what is whole."""
        self.buffer += data
        if self.buffer[:1].isalpha():
            self.next()
        else:
            self.transport.write(error_reply(400, "That is no HTTP.", None).bytes())
            self.transport.close()

    def next(self) -> None:
        """Answers the requests that have come, one after the other."""
        while not self.busy and (request := take_request(self.buffer)) is not None:
            if request.method == "POST" and request.path.partition("?")[0].endswith("/chat/completions"):
                self.answer(request)
            else:
                self.transport.write(self.provider.control(request).bytes())

    def answer(self, request: Request) -> None:
        """Answers a question, now or after its latency."""
        self.busy = True
        self.provider.in_flight += 1
        self.provider.in_flight_max = max(self.provider.in_flight_max, self.provider.in_flight)
        self.provider.received_question(request)
        act, rule = self.provider.decide(request)
        seconds = 0.0 if request.is_refused else self.provider.latency_seconds(request)
        if seconds:
            asyncio.get_running_loop().call_later(seconds, self.finish, request, act, rule)
        else:
            self.perform(request, act, rule)

    def finish(self, request: Request, act: str, rule: dict[str, Any]) -> None:
        """Answers after the latency, if the client is still there."""
        if self.busy:
            self.perform(request, act, rule)
            self.next()

    def perform(self, request: Request, act: str, rule: dict[str, Any]) -> None:
        """Does it."""
        reply = self.provider.reply(request, act, rule)
        self.provider.answered(request, act, None if act in BREAKING else reply.status)
        if act in BREAKING:
            self.break_off(act, reply)
        else:
            self.done()
            self.transport.write(reply.bytes())

    def break_off(self, act: str, reply: Reply) -> None:
        """Leaves the client without a whole answer; it stays in flight until the connection is gone."""
        if act in ("cut", "stall"):
            self.transport.write(reply.bytes()[: -len(reply.body) // 2])
        if act == "garbage":
            self.transport.write(b"\x16\x03\x01 what is this?\r\n\r\n")
        if act in ("cut", "garbage"):
            self.transport.close()
        if act == "reset":
            # A linger time of zero makes closing send RST instead of FIN.
            linger = struct.pack("ii", 1, 0)
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.transport.abort()

    def done(self) -> None:
        """The question is no longer in flight."""
        self.busy = False
        self.provider.in_flight = max(0, self.provider.in_flight - 1)


async def serve(host: str, port: int, behaviour: dict[str, Any], while_stdin: bool = False) -> None:
    """Listens, and says at which port on the first line of stdout."""
    provider = Provider(behaviour)
    server = await asyncio.get_running_loop().create_server(lambda: Connection(provider), host, port, backlog=1024)
    if while_stdin:
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), sys.exit)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    assert __doc__
    description, *_ = __doc__.split("\n\n")
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at")
    parser.add_argument("--port", type=int, default=0, help="port to listen at; 0: a free one, printed on stdout")
    parser.add_argument("--behaviour", type=json.loads, default={}, help="JSON, see the module's docstring")
    parser.add_argument("--while-stdin", action="store_true", help="end when stdin is closed")
    options = parser.parse_args(argv)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(options.host, options.port, options.behaviour, options.while_stdin))


class FaultServer:
    """The server in a process of its own, for the time of a `with`."""

    def __init__(self, **behaviour: Any) -> None:
        self._behaviour = checked_behaviour(behaviour, DEFAULTS)
        self.port = 0

    def __enter__(self) -> Self:
        # With its stdin it ends when this process dies, however it dies.
        command = [sys.executable, __file__, "--while-stdin", "--behaviour", json.dumps(self._behaviour)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=60)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def base_url(self) -> str:
        """What an OpenAI client takes for its base URL."""
        return f"{self.url}/v1"

    def configure(self, **behaviour: Any) -> None:
        """The behaviour from now on; what is not named is as it was at the start. ValueError for what it can't do."""
        self._ask("POST", "/config", behaviour)

    def stats(self) -> dict[str, Any]:
        """What it has seen since the last reset."""
        return self._ask("GET", "/stats")

    def reset(self) -> None:
        """Forgets what it has seen."""
        self._ask("POST", "/reset")

    def _ask(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, json.dumps(body))
            answer = connection.getresponse()
            said: dict[str, Any] = json.load(answer)
        if answer.status != 200:
            raise ValueError(said["error"]["message"])
        return said


if __name__ == "__main__":
    main()
