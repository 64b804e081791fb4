"""What can go wrong, as a tree.

EmulatedEngineError
  ConfigurationError   the configuration file or a flag is wrong: the process does not start
  RequestError         the request cannot be served as sent: answered with `status`
  KvTransferError      the KV cache could not be fetched from the context engine: answered with 500
"""

from __future__ import annotations


class EmulatedEngineError(Exception):
    """Base of all errors of this distribution."""


class ConfigurationError(EmulatedEngineError):
    """A setting breaks a rule; the message names field, value, rule and what to do."""

    def __init__(self, field: str, value: object, rule: str) -> None:
        super().__init__(f"{field} is {value!r}: {rule}")
        self.field = field


class RequestError(EmulatedEngineError):
    """A request that is answered with an error instead of tokens."""

    def __init__(self, message: str, *, status: int = 400, kind: str = "BadRequestError") -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind


class KvTransferError(RequestError):
    """The KV cache of a `generation_only` request did not arrive."""

    def __init__(self, message: str) -> None:
        super().__init__(message, status=500, kind="InternalServerError")
