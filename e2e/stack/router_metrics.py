"""What a router's /metrics says about the paths its requests took."""

from __future__ import annotations

import urllib.request
from collections import Counter

from prometheus_client.parser import text_string_to_metric_families

TIMEOUT_SECONDS = 10.0


def requests_by_path(url: str) -> dict[str, int]:
    """Finished requests by the kind of path (disaggregated, mixed, borrowed), whatever their outcome; paths that none took are absent.

    `url` is that of the router's admin port. Raises `OSError` when the router does not answer.
    """
    with urllib.request.urlopen(f"{url}/metrics", timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310  (http to our own router)
        text = answer.read().decode()
    counts: Counter[str] = Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "inferencecluster_router_requests_total" and sample.value:
                counts[sample.labels["path"]] += int(sample.value)
    return dict(sorted(counts.items()))
