"""An explanation as text for a person, and as a document for a program."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Final

from inferencecluster.adapters.timestamps import timestamp
from inferencecluster.cli.cluster_reading import ConditionReading, DecisionReading, PoolReading, told
from inferencecluster.cli.explanation import Explanation, PoolExplanation
from inferencecluster.cli.moments import age

_HANGING: Final = "    "
"""In front of what a line could not hold."""


def document(explanation: Explanation) -> dict[str, Any]:
    """As JSON. Moments are Unix seconds; null is what nobody tells."""
    return asdict(explanation)


def render(explanation: Explanation, *, now: float, width: int | None) -> str:
    """At most `width` columns; None leaves lines whole, for a file or a pipe. `now` is Unix seconds."""
    lines = _lines(explanation, now)
    if width is None:
        return "\n".join(lines) + "\n"
    return "\n".join(part for line in lines for part in _wrapped(line, width)) + "\n"


def _wrapped(line: str, width: int) -> list[str]:
    indent = line[: len(line) - len(line.lstrip())]
    wrapped = textwrap.wrap(
        line.strip(),
        width,
        initial_indent=indent,
        subsequent_indent=indent + _HANGING,
        break_on_hyphens=False,
    )
    return wrapped or [""]


def _lines(explanation: Explanation, now: float) -> Iterator[str]:
    cluster = explanation.cluster
    yield f"InferenceCluster {cluster.namespace}/{cluster.name}"
    for line in explanation.summary:
        yield f"  {line}"
    if cluster.conditions:
        yield ""
        yield from _conditions(explanation.not_normal, now)
    for pool in explanation.pools:
        yield ""
        yield from _pool(pool, now)
    if explanation.draining:
        yield ""
        yield "Draining, longest first"
        for drain in explanation.draining:
            limit = (
                f"; deleted at {timestamp(drain.deadline)} in any case" if drain.deadline is not None else ""
            )
            yield (
                f"  {drain.replica} of {drain.pool}, for {age(drain.since, now=now)}, waits for "
                f"{drain.waiting_for or 'something that is not told'}{limit}"
            )
    if explanation.events:
        yield ""
        yield "Events, newest first"
        for event in explanation.events:
            often = f" ({event.count} times)" if event.count > 1 else ""
            yield f"  {age(event.time, now=now):>4} {event.type} {event.reason}{often}: {event.message}"
    if explanation.notes:
        yield ""
        for note in explanation.notes:
            yield f"note: {note}"


def _conditions(not_normal: tuple[ConditionReading, ...], now: float) -> Iterator[str]:
    if not not_normal:
        yield "All conditions are normal"
        return
    yield "Not normal"
    for condition in not_normal:
        yield f"  {condition_line(condition, now=now)}"


def condition_line(condition: ConditionReading, *, now: float) -> str:
    """What is the matter, since when, and why."""
    since = (
        ""
        if condition.since is None
        else f" since {timestamp(condition.since)} ({age(condition.since, now=now)})"
    )
    return f"{condition.type} is {condition.status}{since}, {condition.reason}: {condition.message}"


def _pool(pool: PoolExplanation, now: float) -> Iterator[str]:
    sizes = pool.sizes
    yield f"Pool {sizes.name}: {told(sizes.ready)} of {told(sizes.desired)} replicas serve"
    yield f"  size: {_sizes(sizes)}"
    yield f"  why: {pool.why}"
    if pool.decision is not None:
        yield f"  decided: {_decision(pool.decision, now)}"
        if pool.decision.inputs:
            yield f"  inputs: {_inputs(pool.decision)}"
    if pool.recommendation is not None:
        yield f"  recommended: {_decision(pool.recommendation, now)}: {pool.recommendation.message}"
        if pool.recommendation.inputs:
            yield f"  inputs of it: {_inputs(pool.recommendation)}"
    for line in pool.holds:
        yield f"  holds: {line}"
    for line in pool.changes:
        yield f"  changes: {line}"
    for replica in pool.replicas:
        where = f" on {replica.node}" if replica.node else ""
        detail = f": {replica.detail}" if replica.detail else ""
        yield f"  replica {replica.name}: {replica.state}, created {age(replica.since, now=now)} ago{where}{detail}"
    if pool.more_replicas:
        yield f"  and {pool.more_replicas} more replicas that do not serve or drain"


def _sizes(sizes: PoolReading) -> str:
    counts = ("desired", "ready", "starting", "draining", "borrowed")
    parts = [f"{count} {told(getattr(sizes, count))}" for count in counts]
    if sizes.recommended != sizes.desired:
        parts.append(f"recommended {told(sizes.recommended)}")
    parts.append(f"bounds {told(sizes.minimum)} to {told(sizes.maximum)}")
    parts.append(f"GPUs {told(sizes.gpus)} ({told(sizes.gpus_per_replica)} each)")
    if sizes.nodes is not None:
        parts.append(f"nodes {told(sizes.nodes)} with {told(sizes.free_gpus)} GPUs free")
    return ", ".join(parts)


def _decision(decision: DecisionReading, now: float) -> str:
    moment = "" if decision.time is None else f"{timestamp(decision.time)} "
    limit = f", limited by {decision.limited_by}" if decision.limited_by else ""
    return f"{moment}({age(decision.time, now=now)} ago) {decision.change}, {decision.reason}{limit}"


def _inputs(decision: DecisionReading) -> str:
    return ", ".join(f"{name} {value}" for name, value in decision.inputs)
