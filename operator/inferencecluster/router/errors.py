"""What goes wrong with a request.

OperatorError
└── RouterError
    ├── RequestError            the client is told, with an HTTP status and an OpenAI error body
    │   └── CapacityError         429 or 503 with Retry-After
    ├── EngineError             an engine failed the request: another one may do better
    │   └── EngineUnreachable     nobody is there: it is left out for a while
    └── ClientGone              the client closed its connection: nobody is left to be told
"""

from __future__ import annotations

from http import HTTPStatus

from inferencecluster.core.errors import OperatorError


class RouterError(OperatorError):
    """Root of the router's errors."""


class RequestError(RouterError):
    """The request ends with `status` and `message`; `param` names the field to blame."""

    def __init__(
        self,
        message: str,
        *,
        status: int = HTTPStatus.BAD_REQUEST,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        """`kind` and `code` are OpenAI's `type` and `code`."""
        self.message = message
        self.status = int(status)
        self.kind = kind
        self.param = param
        self.code = code
        super().__init__(message)


class CapacityError(RequestError):
    """No replica can take the request, and it cannot wait (any longer)."""

    def __init__(self, message: str, *, status: int, code: str, retry_after_seconds: int) -> None:
        self.retry_after_seconds = retry_after_seconds
        super().__init__(message, status=status, kind="overloaded_error", code=code)


class RejectedByEngine(RouterError):  # noqa: N818 - says what is the matter
    """Another engine would say the same. `body` is the engine's own answer, with its status and content type."""

    def __init__(self, body: bytes, *, status: int, content_type: str) -> None:
        self.body = body
        self.status = status
        self.content_type = content_type
        super().__init__(f"the engine answered {status}")


class EngineError(RouterError):
    """`replica` failed the request in `phase`. Nothing was sent to the client."""

    def __init__(self, reason: str, *, replica: str, phase: str, words: str = "") -> None:
        """`reason` is fit for logs; `words` are the engine's own, which may quote the prompt, for its client only."""
        self.reason = reason
        self.words = words
        self.replica = replica
        self.phase = phase
        super().__init__(f"{phase} on {replica} failed: {reason}")


class EngineUnreachable(EngineError):  # noqa: N818 - says what is the matter, like its siblings in core
    """Refused or broke off."""


class ClientGone(RouterError):  # noqa: N818 - says what is the matter
    """The client is not there any more."""
