"""Every error that this product raises on purpose.

    OperatorError
    ├── SpecError                 the user must change the resource: never retried, becomes Stalled
    ├── ObservationError          the world could not be seen: hold, retry
    │   ├── MetricsUnavailable      Prometheus or a router
    │   └── ApiUnavailable          the Kubernetes API server
    └── ApplyError                a write was refused
        ├── Conflict                the object changed since it was read, or exists already: read again, decide again
        ├── Forbidden               RBAC, quota or an admission policy: somebody must allow it
        └── Invalid                 the API server rejects the object's content: a defect, or CRDs of another release

Errors carry data and build their message from it; whether to retry is decided by type, never by text.
"""

from __future__ import annotations


class OperatorError(Exception):
    """Root of the tree."""


class SpecError(OperatorError):
    """A field of a resource breaks a rule. Final until the user changes it."""

    def __init__(self, *, field: str, value: object, rule: str, advice: str) -> None:
        """`field` as the user writes it (`spec.budget.gpus`), `rule` as a clause, `advice` as an order."""
        self.field = field
        self.value = value
        self.rule = rule
        self.advice = advice
        super().__init__(f"{field} is {value}, but {rule}: {advice}")


class ObservationError(OperatorError):
    """Something could not be seen. The sizes hold and the next tick looks again."""

    def __init__(self, *, source: str, detail: str) -> None:
        """`source` names what was asked (`Prometheus http://...`), `detail` what went wrong."""
        self.source = source
        self.detail = detail
        super().__init__(f"{source} could not be read: {detail}")


class MetricsUnavailable(ObservationError):  # noqa: N818 - the contract's name; says what is the matter
    """Prometheus or a router gave no usable answer."""


class ApiUnavailable(ObservationError):  # noqa: N818 - the contract's name; says what is the matter
    """The Kubernetes API server gave no usable answer."""


class ApplyError(OperatorError):
    """A write was refused."""

    def __init__(self, *, verb: str, target: str, detail: str, cause: str = "") -> None:
        """`verb` as in RBAC (`create`), `target` as `Kind namespace/name`, `detail` the server's own words.

        `cause` is one CamelCase word for why, where the server tells more than the status; else empty.
        """
        self.verb = verb
        self.target = target
        self.detail = detail
        self.cause = cause
        super().__init__(f"{verb} {target} was refused: {detail}")


class Conflict(ApplyError):  # noqa: N818 - the contract's name; Kubernetes' own word for status 409
    """A precondition failed or the name is taken (409): observe and decide again."""


class Forbidden(ApplyError):  # noqa: N818 - the contract's name; Kubernetes' own word for status 403
    """Not allowed (403): RBAC, ResourceQuota or an admission policy. Retried slowly, and shown."""


class Invalid(ApplyError):  # noqa: N818 - the contract's name; Kubernetes' own word for status 422
    """The content was rejected (400, 422). Repeating the same write cannot succeed."""
