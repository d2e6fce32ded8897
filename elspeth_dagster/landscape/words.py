"""The closed vocabularies of the record. A word that is not here is refused by the database."""

from __future__ import annotations

from enum import StrEnum


class RunStatus(StrEnum):
    """How a run ended: every assessment collected; a step failed; or it died or was stopped."""

    COMPLETED = "completed"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


class Mode(StrEnum):
    """What a run does about its questions: asks them; takes the replies from the record; or asks some once more to
    compare."""

    ASK = "ask"
    REPLAY = "replay"
    VERIFY = "verify"


class StateStatus(StrEnum):
    """How one attempt at a node ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


class Determinism(StrEnum):
    """Whether a node's output follows from its input: always, or only as far as an outside service repeats itself."""

    DETERMINISTIC = "deterministic"
    EXTERNAL_READ = "external_read"
    EXTERNAL_CALL = "external_call"


class ScopeKind(StrEnum):
    """What a scope or a legal hold is about: a row, of any run; or a run (a scope: its records that became no row)."""

    ROW = "row"
    RUN = "run"


class TokenKind(StrEnum):
    """What travels: a slice (all that one run reads), a row of it, a batch of its rows."""

    SLICE = "slice"
    ROW = "row"
    BATCH = "batch"


class Trigger(StrEnum):
    """Why a batch was flushed."""

    ROWS = "rows"
    GROUP_BY = "group_by"
    WHEN = "when"
    END_OF_SLICE = "end_of_slice"


class Cause(StrEnum):
    """Why a call was made: a question's first try, another after a transient error, or after a refused answer."""

    FIRST = "first"
    RETRY = "retry"
    REPAIR = "repair"


class ReplyOutcome(StrEnum):
    """What became of a call: a whole 2xx reply, an error, or nothing that we know of."""

    SUCCESS = "success"
    ERROR = "error"
    UNKNOWN = "unknown"


class AnswerStatus(StrEnum):
    """Whether a question has an answer."""

    ACCEPTED = "accepted"
    REFUSED = "refused"


class Outcome(StrEnum):
    """The terminal fate of a token.

    assessed: a row with all its answers. partial: a row that keeps those it has. failed: a row without a result.
    completed: a batch or slice that went its way, or a row whose answers were
    only verified. interrupted: whatever an ended run left without a fate.
    """

    ASSESSED = "assessed"
    PARTIAL = "partial"
    FAILED = "failed"
    COMPLETED = "completed"
    INTERRUPTED = "interrupted"


class Verdict(StrEnum):
    """What a person says of an answer: it stands; it is corrected; it is no good, and nothing stands in its place."""

    AGREE = "agree"
    CORRECT = "correct"
    REJECT = "reject"


class Encoding(StrEnum):
    """How a payload's bytes are kept."""

    IDENTITY = "identity"
    ZLIB = "zlib"
