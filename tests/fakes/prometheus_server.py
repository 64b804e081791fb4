"""Prometheus' `/api/v1/query_range` over HTTP on loopback, for sums that `build_range_query` asks for."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from urllib.parse import parse_qs, urlsplit

MOST_POINTS = 11_000
SIGNALS = re.compile(r'sum\(increase\((\w+)\{([^}]*)\}\[(\d+)s\]\)\), "signal", "(\w+)", "", ""\)')


@dataclass
class FakePrometheus:
    """`growth` of a counter (its whole name) in the step that ends at a time; None where there is no point."""

    growth: Callable[[str, int], float | str | None]
    selector: str = 'namespace="default",cluster="tiny"'
    status: int = 200
    body: str | None = None
    """In place of the answer."""
    queries: list[dict[str, str]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def answer(self, query: dict[str, str]) -> tuple[int, str]:
        if self.body is not None:
            return self.status, self.body
        start, end, step = (int(query[name]) for name in ("start", "end", "step"))
        if (end - start) / step > MOST_POINTS:
            error = "exceeded maximum resolution of 11,000 points per timeseries"
            return 400, json.dumps({"status": "error", "errorType": "bad_data", "error": error})
        result = []
        for counter, selector, window, signal in SIGNALS.findall(query["query"]):
            assert int(window) == step
            points = [(time, self.growth(counter, time)) for time in range(start, end + 1, step)]
            values = [[time, str(value)] for time, value in points if value is not None]
            if values and selector == self.selector:
                result.append({"metric": {"signal": signal}, "values": values})
        data = {"resultType": "matrix", "result": result}
        return self.status, json.dumps({"status": "success", "data": data})


@contextmanager
def serving(fake: FakePrometheus) -> Iterator[str]:
    """The base URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            fake.queries.append(query)
            fake.headers.append(dict(self.headers))
            status, body = fake.answer(query) if parts.path == "/api/v1/query_range" else (404, "not found")
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
