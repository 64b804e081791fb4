"""The fake API server in a thread, on the loopback, for commands that run an event loop of their own."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import yaml
from tests.fakes.apiserver import ApiError, FakeApiServer, Manifest, Request


@dataclass
class LiveApi:
    """What is served, and how a command finds it."""

    server: FakeApiServer
    kubeconfig: Path
    url: str
    routers: dict[str, Any] = field(default_factory=dict)
    """Path of a Pod's proxy -> what is answered there."""
    proxy_error: ApiError | None = None
    asked: list[str] = field(default_factory=list)
    """Paths, with the query, in order."""


@contextmanager
def live_api(server: FakeApiServer, folder: Path, *, namespace: str | None = None) -> Iterator[LiveApi]:
    """Serves `server`; the kubeconfig names `here`, and `there`, where nobody listens."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            api.asked.append(self.path)
            status, body = 200, {}
            try:
                body = _answer(api, self.path)
            except ApiError as error:
                status, body = error.status, {"kind": "Status", "message": error.message}
            text = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class' name
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    url = f"http://127.0.0.1:{http.server_port}"
    api = LiveApi(server, _kubeconfig(folder, url, namespace), url)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield api
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


def _answer(api: LiveApi, path: str) -> Manifest:
    parts = urlsplit(path)
    if "/proxy/" in parts.path:
        if api.proxy_error is not None:
            raise api.proxy_error
        if parts.path not in api.routers:
            raise ApiError(503, "error trying to reach service: dial tcp: i/o timeout")
        answer: Manifest = api.routers[parts.path]
        return answer
    return api.server.handle(Request("GET", parts.path, dict(parse_qsl(parts.query))))


def _kubeconfig(folder: Path, url: str, namespace: str | None) -> Path:
    file = folder / "kubeconfig"
    here = {"cluster": "here", "user": "u", **({"namespace": namespace} if namespace else {})}
    # Port 9 (discard) of the loopback: nobody listens there, and the refusal comes at once.
    servers = {"here": url, "there": "http://127.0.0.1:9"}
    file.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "here",
                "contexts": [
                    {"name": "here", "context": here},
                    {"name": "there", "context": {"cluster": "there", "user": "u"}},
                ],
                "clusters": [
                    {"name": name, "cluster": {"server": server}} for name, server in servers.items()
                ],
                "users": [{"name": "u", "user": {"token": "secret"}}],
            }
        )
    )
    return file
