"""What the engine is doing, seen from outside without disturbing anybody.

Two witnesses, because none is enough alone:

* **completed requests**, from the counter `request_success_total` of `/prometheus/metrics` (with or without
  TensorRT-LLM's prefix, so every release has it). Reading it takes nothing away from other readers; the JSON of
  `/metrics` would: there a row goes to whoever asks first. Gauges of running requests are no witness: from 1.3 on
  they are as old as the last completion, and before they do not exist;
* **open connections** to its port, from /proc/net/tcp. No connection means no request in flight, always and at
  once. The opposite does not hold: probes, scrapers and idle keep-alive (5 s in trtllm-serve) hold connections too.
"""

from __future__ import annotations

import http.client
from collections.abc import Iterable
from pathlib import Path
from typing import Final

ESTABLISHED: Final = "01"
SOCKET_TABLES: Final = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
COUNTERS: Final = ("trtllm_request_success_total", "request_success_total")
SCRAPE_TIMEOUT_SECONDS: Final = 1.0


def open_connections(port: int, tables: Iterable[Path] = SOCKET_TABLES) -> int:
    """Established connections to `port` of this machine (in a Pod: of all its containers)."""
    return sum(_count(table.read_text(encoding="ascii"), port) for table in tables if table.exists())


def _count(table: str, port: int) -> int:
    """Lines are: slot, local address:port in hexadecimal, remote address:port, state, ..."""
    rows = (line.split(maxsplit=4) for line in table.splitlines()[1:])
    return sum(1 for row in rows if row[3] == ESTABLISHED and int(row[1].rpartition(":")[2], 16) == port)


def completed_requests(host: str, port: int) -> float | None:
    """Requests that the engine has completed; None where it does not (yet, or at all) tell."""
    connection = http.client.HTTPConnection(host, port, timeout=SCRAPE_TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/prometheus/metrics", headers={"Connection": "close"})
        response = connection.getresponse()
        body = response.read().decode()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return count_completions(body) if response.status == http.HTTPStatus.OK else None


def count_completions(exposition: str) -> float:
    """Sum of the completion counter over all its labels; 0 before the first request."""
    total = 0.0
    for line in exposition.splitlines():
        if line.startswith(COUNTERS) and line.partition("{")[0] in COUNTERS:
            total += float(line.rpartition("}")[2].split()[0])
    return total
