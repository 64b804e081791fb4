"""Bodies of requests, read within bounds of size, time and memory: whoever reaches the router may send anything."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from aiohttp import StreamReader, web

from inferencecluster.router.errors import CapacityError, RequestError

READING_RETRY_SECONDS: Final = 5
"""Retry-After while too many bodies arrive at once: a few seconds later most of them have."""


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """Bounds of what is read."""

    most_bytes: int
    """Of one body."""
    reading_bytes: int
    """Of all bodies that are arriving: what the router holds for requests that may never be complete."""
    seconds: float
    """From the head of a request to the end of its body."""


class BodyReader:
    """Reads the bodies of one router."""

    def __init__(self, limits: BodyLimits) -> None:
        self._limits = limits
        self._reading = 0

    async def read(self, http: web.Request) -> bytes:
        """The whole body. Raises `RequestError`: too large, too slow, or too much at once."""
        limits, content = self._limits, http.content
        if (http.content_length or 0) > limits.most_bytes:
            raise self._too_large()
        if content.is_eof():
            # Most bodies come together with their heads.
            body = content.read_nowait()
            if len(body) > limits.most_bytes:
                raise self._too_large()
            return body
        try:
            async with asyncio.timeout(limits.seconds):
                return await self._collect(content)
        except TimeoutError as error:
            raise RequestError(
                f"the body was not complete within {limits.seconds:g} s: send it faster",
                status=HTTPStatus.REQUEST_TIMEOUT,
                code="body_timeout",
            ) from error
        except web.RequestPayloadError as error:
            raise RequestError(
                "the body cannot be decoded as its Content-Encoding says: send it as it is",
                code="invalid_body",
            ) from error

    async def _collect(self, content: StreamReader) -> bytes:
        pieces, size = [], 0
        try:
            while piece := await content.readany():
                size += len(piece)
                self._reading += len(piece)
                if size > self._limits.most_bytes:
                    raise self._too_large()
                if self._reading > self._limits.reading_bytes:
                    raise CapacityError(
                        "this router is receiving too many large requests: try again later",
                        status=HTTPStatus.SERVICE_UNAVAILABLE,
                        code="router_busy",
                        retry_after_seconds=READING_RETRY_SECONDS,
                    )
                pieces.append(piece)
        finally:
            self._reading -= size
        return b"".join(pieces)

    def _too_large(self) -> RequestError:
        return RequestError(
            f"the body is larger than {self._limits.most_bytes} bytes (spec.router.maxBodyMegabytes): shorten it",
            status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            code="request_entity_too_large",
        )
