"""What can go wrong, drawn once.

    ElspethError
    ├── SpecError              the assessment as declared can't work; refused before a run
    ├── SourceError            a source as a whole can't be read; the run stops before money is spent
    │   └── SourceMissingError     its file is not there, and the folder that it would be in is
    ├── ReviewError            a review sheet can't be taken; nothing of it is recorded
    ├── SettingsError          the deployment's settings can't work
    ├── LandscapeError         the audit database can't be used as it is
    │   ├── SchemaVersionError     its schema is older or newer than this package
    │   ├── AuditError             a fact could not be recorded: the step stops, nothing is sent
    │   │   ├── StorageError           since its database is away, busy, full or not writable
    │   │   └── OvertakenError         since another attempt or run took over
    │   ├── ErasedError            the bytes that were asked for have been erased; their hash is still there
    │   ├── NotOnRecordError       asked for a run, row or call that the landscape doesn't hold
    │   └── NoteError              a signed note or a key is malformed, or its signature doesn't fit
    ├── ProviderError          the LLM provider can't be used at all (key, deployment, address)
    └── LimitError             the run went as far as it may; what is left can be asked by a later one
        ├── BudgetError            the next call could exceed the budget
        └── FailuresError          more rows failed than may

A question that gets no answer is not an error: it is a refused answer, a fact on record.
"""


class ElspethError(Exception):
    """Any error of this package that a user can do something about; the message says what."""


class SpecError(ElspethError):
    """The assessment as declared can't work. Names file and key of every mistake found."""


class SourceError(ElspethError):
    """A source as a whole can't be read. Names the file, and line and column where they are known."""


class SourceMissingError(SourceError):
    """The source's file is not there, and the folder that holds the files of all partitions is."""


class ReviewError(ElspethError):
    """A review sheet can't be taken. Names file, line and column of every mistake found."""


class SettingsError(ElspethError):
    """The deployment's settings can't work. Names the setting."""


class LandscapeError(ElspethError):
    """The audit database can't be used as it is."""


class SchemaVersionError(LandscapeError):
    """The database's schema is older or newer than this package."""


class AuditError(LandscapeError):
    """A fact could not be recorded. Never an LLM error, never retried as a call."""


class StorageError(AuditError):
    """The database stayed away or busy, or is full or not writable. Whether the last facts arrived is not known."""


class OvertakenError(AuditError):
    """Another attempt or run took over; this one can record nothing more, and must not try again."""


class ErasedError(LandscapeError):
    """The bytes that were asked for have been erased; their hash is still on record."""


class NotOnRecordError(LandscapeError):
    """The landscape doesn't hold what was asked for."""


class NoteError(LandscapeError):
    """A signed note or a key is not written as such, or a signature is not by the key that it names."""


class ProviderError(ElspethError):
    """The LLM provider can't be used at all: wrong key, unknown deployment, nothing listens."""


class LimitError(ElspethError):
    """The run went as far as it may. What is answered is on record, what is left can be asked by a later run."""


class BudgetError(LimitError):
    """The next call could exceed the budget. Names the key, what was spent, and what to do."""


class FailuresError(LimitError):
    """More rows failed than `errors.max_failures` allows. Names the reasons, with examples."""
