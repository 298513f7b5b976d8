"""What the world can do wrong, as one tree of exceptions.

    ServingError
    ├── InvalidRequest       the request breaks a rule of the protocol or of the model's signature
    ├── UnknownModel         no such model or version in the model repository
    ├── UnknownService       no such service, for a health check
    ├── NotOffered           a part of the protocol that this server does not have
    ├── Forbidden            the peer may not do this
    ├── Overloaded           a bound is reached; trying again later can help
    ├── NotReady             the model is known and not serving
    ├── Draining             the server is about to stop
    ├── DeadlineExceeded     nobody waits for the answer any more
    ├── Cancelled            the client went away
    ├── ModelFailed          the model could not compute an answer
    ├── LoadFailed           a model that a client asked to load does not load
    ├── BrokenCall           a call that does not keep to gRPC's framing
    └── InternalError        a mistake of our own
    LoadError                a model version could not be loaded
    PackageError             a package cannot be written, or is not what its digests say
    ConfigError              a file, variable or flag says something that cannot be used
    RemoteError              a server that a command asked gave an error, or no server answered

A `ServingError` is an answer to a client, so its message is written for one: what came, what was expected, what to do.
This module knows the protocol's status codes by name only; `transport.status` turns them into gRPC's.
"""

import enum
from typing import ClassVar


class Code(enum.StrEnum):
    """The status codes that answers use."""

    OK = "OK"
    CANCELLED = "CANCELLED"
    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    NOT_FOUND = "NOT_FOUND"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    UNIMPLEMENTED = "UNIMPLEMENTED"
    INTERNAL = "INTERNAL"
    UNAVAILABLE = "UNAVAILABLE"


MESSAGE_MAX = 1_000
"""Characters of an error message; what clients send is quoted in it, and may be long."""


class ServingError(Exception):
    """An answer other than the asked-for one.

    `code` is its status, `reason` a short, fixed word for counters. `retryable` says that the same request may succeed
    elsewhere or later.
    """

    code: ClassVar[Code]
    reason: ClassVar[str]
    retryable: ClassVar[bool] = False

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message if len(message) <= MESSAGE_MAX else message[:MESSAGE_MAX] + "..."


class InvalidRequest(ServingError):
    """The request breaks a rule of the protocol or of the model's signature."""

    code = Code.INVALID_ARGUMENT
    reason = "invalid"


class UnknownModel(ServingError):
    """No such model or version in the model repository."""

    code = Code.NOT_FOUND
    reason = "unknown_model"


class UnknownService(ServingError):
    """No such service, for a health check."""

    code = Code.NOT_FOUND
    reason = "unknown_service"


class NotOffered(ServingError):
    """A part of the protocol that this server does not have."""

    code = Code.UNIMPLEMENTED
    reason = "not_offered"


class Forbidden(ServingError):
    """The peer may not do this."""

    code = Code.PERMISSION_DENIED
    reason = "forbidden"


class Overloaded(ServingError):
    """A bound is reached. `retry_after_ms` is the server's own estimate of when trying again makes sense."""

    code = Code.RESOURCE_EXHAUSTED
    reason = "overloaded"
    retryable = True

    def __init__(self, message: str, *, retry_after_ms: int) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms


class NotReady(ServingError):
    """The model is known and not serving."""

    code = Code.UNAVAILABLE
    reason = "not_ready"
    retryable = True


class Draining(ServingError):
    """The server is about to stop and takes no new work."""

    code = Code.UNAVAILABLE
    reason = "draining"
    retryable = True


class DeadlineExceeded(ServingError):
    """Nobody waits for the answer any more."""

    code = Code.DEADLINE_EXCEEDED
    reason = "deadline"


class Cancelled(ServingError):
    """The client went away."""

    code = Code.CANCELLED
    reason = "cancelled"


class ModelFailed(ServingError):
    """The model could not compute an answer. The cause is in the log, never in the message."""

    code = Code.INTERNAL
    reason = "model_failed"


class LoadFailed(ServingError):
    """A model that a client asked to load does not load."""

    code = Code.INTERNAL
    reason = "load_failed"


class BrokenCall(ServingError):
    """A call that does not keep to gRPC's framing."""

    code = Code.INTERNAL
    reason = "broken_call"


class InternalError(ServingError):
    """A mistake of our own. It is in the log, with its traceback, and never in the message."""

    code = Code.INTERNAL
    reason = "internal"

    def __init__(self) -> None:
        super().__init__("the server made a mistake; its log says which")


class LoadError(Exception):
    """A model version could not be loaded. The message is one line for an operator."""


class PackageError(Exception):
    """A package cannot be written, or is not what its digests say. The message is one line for an operator.

    What a package says of itself is quoted in it, so whatever would not print is escaped.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message[:MESSAGE_MAX]))


def printable(text: str) -> str:
    """Return text in which line ends, control characters and the like are escaped as in a Python string."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class ConfigError(Exception):
    """A file, variable or flag says something that cannot be used. The message is one line for an operator."""


class RemoteError(Exception):
    """A server that a command asked gave an error, or no server answered. `code` is the gRPC status code's name."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
