"""The few requests that localkube itself sends to the API server, over the standard library."""

from __future__ import annotations

import http.client
import json
import ssl
from dataclasses import dataclass
from typing import Any

from e2e.localkube.errors import LocalKubeError
from e2e.localkube.paths import State
from e2e.localkube.pki import AUTHORITY
from e2e.localkube.plan import API_PORT, NODE_IP

TIMEOUT_SECONDS = 5.0


class ApiError(LocalKubeError):
    """The API server could not be reached, or answered `status` >= 400 (0: it was not reached)."""

    def __init__(self, method: str, path: str, status: int, detail: str) -> None:
        self.status = status
        super().__init__(f"{method} {path}: {status or 'no answer'}: {detail}")


@dataclass(frozen=True, slots=True)
class ApiClient:
    """A client with one identity; every request opens its own connection."""

    context: ssl.SSLContext

    @classmethod
    def from_state(cls, state: State, identity: str = "admin") -> ApiClient:
        """Client with the certificate of `identity`. Raises `OSError` when the state has none."""
        context = ssl.create_default_context(cafile=str(state.certificate(AUTHORITY)))
        context.load_cert_chain(state.certificate(identity), state.key(identity))
        return cls(context)

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content_type: str = "application/json",
    ) -> Any:
        """Decoded JSON answer (text, where the answer is not JSON). Raises `ApiError`."""
        connection = http.client.HTTPSConnection(
            str(NODE_IP), API_PORT, context=self.context, timeout=TIMEOUT_SECONDS
        )
        try:
            payload = None if body is None else json.dumps(body)
            connection.request(method, path, payload, {"Content-Type": content_type})
            response = connection.getresponse()
            text = response.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            raise ApiError(method, path, 0, str(error)) from error
        finally:
            connection.close()
        if response.status >= 400:
            raise ApiError(method, path, response.status, text[:500])
        return json.loads(text) if response.headers.get_content_type() == "application/json" else text

    def is_ready(self) -> bool:
        """Whether the API server calls itself ready."""
        try:
            self.request("GET", "/readyz")
        except ApiError:
            return False
        return True
