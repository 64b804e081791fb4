"""What the API server's answers mean: HTTP statuses and watch errors as this product's errors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import aiohttp

from inferencecluster.core.errors import ApiUnavailable, ApplyError, Conflict, Forbidden, Invalid

_DETAIL_CHARACTERS: Final = 500
"""A status message is a sentence; error pages of proxies are not."""

_TOLD_CAUSES: Final = frozenset({"NamespaceTerminating"})
"""Entries of `details.causes` that say why a whole request was refused (core/v1 `NamespaceTerminatingCause`)."""
QUOTA_EXCEEDED: Final = "QuotaExceeded"
_QUOTA_WORDS: Final = "exceeded quota: "
"""All that tells a full ResourceQuota from any other 403 (kubernetes, plugin/pkg/admission/resourcequota). It names
the refusal for people; what is done about it does not depend on it."""


class Throttled(ApiUnavailable):
    """429 or 503 with a Retry-After: come back in `retry_after_seconds`."""

    def __init__(self, *, source: str, detail: str, retry_after_seconds: float) -> None:
        self.retry_after_seconds = retry_after_seconds
        super().__init__(source=source, detail=detail)


class VersionExpired(ApiUnavailable):
    """410: the resource version or the continue token is too old; list again."""


class UnknownKind(ApiUnavailable):
    """404 for a whole collection: its CRD is not installed."""


def raise_for_event(status: Mapping[str, Any]) -> None:
    """The server ended a watch in the middle, with a Status instead of an object."""
    detail = str(status.get("message", "no message"))[:_DETAIL_CHARACTERS]
    kind = VersionExpired if status.get("code") == HTTPStatus.GONE else ApiUnavailable
    raise kind(source="the watch", detail=detail)


async def raise_for_status(response: aiohttp.ClientResponse, *, verb: str, target: str) -> None:
    """Map what is not a success to this product's errors; whether to retry is decided by their type."""
    status = response.status
    if status < HTTPStatus.BAD_REQUEST:
        return
    body = await response.read()
    parsed = _parsed(body)
    detail = f"{_message(parsed, body)} ({status})"
    refusals: dict[int, type[ApplyError]] = {
        HTTPStatus.CONFLICT: Conflict,
        HTTPStatus.FORBIDDEN: Forbidden,
        HTTPStatus.BAD_REQUEST: Invalid,
        HTTPStatus.METHOD_NOT_ALLOWED: Invalid,
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE: Invalid,
        HTTPStatus.UNPROCESSABLE_ENTITY: Invalid,
    }
    if status in refusals:
        cause = _cause(parsed, detail) if status == HTTPStatus.FORBIDDEN else ""
        raise refusals[status](verb=verb, target=target, detail=detail, cause=cause)
    if status == HTTPStatus.GONE:
        raise VersionExpired(source=question(verb, target), detail=detail)
    retry_after = response.headers.get("Retry-After", "")
    if retry_after.isdecimal():
        raise Throttled(source=question(verb, target), detail=detail, retry_after_seconds=float(retry_after))
    raise ApiUnavailable(source=question(verb, target), detail=detail)


def _parsed(body: bytes) -> dict[str, Any]:
    """The Status that the body holds; empty for anything else."""
    try:
        parsed = json.loads(body)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _message(parsed: Mapping[str, Any], body: bytes) -> str:
    """The `message` of a Status, else the start of whatever a proxy said."""
    return str(parsed.get("message") or body.decode(errors="replace"))[:_DETAIL_CHARACTERS]


def _cause(parsed: Mapping[str, Any], detail: str) -> str:
    """Why exactly a 403 was given; empty for missing rights and admission policies."""
    details = parsed.get("details")
    causes = details.get("causes") if isinstance(details, dict) else None
    for cause in causes if isinstance(causes, list) else ():
        told = cause.get("reason") if isinstance(cause, dict) else None
        if told in _TOLD_CAUSES:
            return str(told)
    return QUOTA_EXCEEDED if _QUOTA_WORDS in detail else ""


def question(verb: str, target: str) -> str:
    """What was asked of the API server, as the `source` of an `ObservationError`."""
    return f"the API server, asked to {verb} {target},"


def words_of(error: BaseException) -> str:
    """Timeouts have no text of their own."""
    return str(error) or type(error).__name__
