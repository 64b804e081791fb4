"""What the routers of a cluster say: `GET /state` of each, put together to queue, flow and work per replica."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, Self

import aiohttp
from pydantic import ValidationError

from inferencecluster.adapters.pods import RouterPod
from inferencecluster.api.names import ROUTER_ADMIN_PORT
from inferencecluster.api.router_state import HOLDING_PARAMETER, ReplicaState, RouterState, Totals
from inferencecluster.core.errors import MetricsUnavailable
from inferencecluster.core.fleet import Replica, ReplicaLoad
from inferencecluster.core.missing import Missing
from inferencecluster.core.observation import Flow, QueueState, RouterSample

POLL_SECONDS: Final = 2.0
"""A router answers from memory in a millisecond; beyond two seconds its numbers would be old."""

HOLDING_SECONDS: Final = 30
"""How long one question for a held request stays open: the routers of a thousand clusters that sleep cost thirty answers
a second."""

SETTLE_SECONDS: Final = 5.0
"""Without any router nobody holds work, but one that is starting may have read the Pods just before a fence:
only a fence of this age is confirmed by nobody being there."""

LOST_SECONDS: Final = 60.0
"""After the end of its grace period a router that does not answer is gone: a minute for the kubelet to kill it, and for clocks
that differ. The Pod of a lost node says "running" until its Node object goes, and would hold up every drain until then."""


class RouterClient(Protocol):
    """Asks one router."""

    async def state(self, address: str) -> RouterState:
        """Its `/state`. Raises `MetricsUnavailable`."""

    async def state_when_holding(self, address: str) -> RouterState:
        """Its `/state` as soon as it holds a request, or after a while. Raises `MetricsUnavailable`."""


class HttpRouterClient:
    """`RouterClient` over HTTP. Use it as an async context manager."""

    def __init__(self, *, port: int = ROUTER_ADMIN_PORT) -> None:
        self._port = port
        self._session: aiohttp.ClientSession | None = None
        self._waiting: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=POLL_SECONDS))
        # One connection for each router of each cluster that sleeps: no limit, and none taken from the polls.
        self._waiting = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=HOLDING_SECONDS + POLL_SECONDS),
            connector=aiohttp.TCPConnector(limit=0),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        for session in (self._session, self._waiting):
            if session is not None:
                await session.close()
        self._session = self._waiting = None

    async def state(self, address: str) -> RouterState:
        """Its `/state`. Raises `MetricsUnavailable`."""
        return await self._get(self._session, address, {})

    async def state_when_holding(self, address: str) -> RouterState:
        """Its `/state` as soon as it holds a request, or after `HOLDING_SECONDS`. Raises `MetricsUnavailable`."""
        return await self._get(self._waiting, address, {HOLDING_PARAMETER: str(HOLDING_SECONDS)})

    async def _get(
        self, session: aiohttp.ClientSession | None, address: str, query: Mapping[str, str]
    ) -> RouterState:
        if session is None:
            raise RuntimeError("the router client is used outside of its context")
        host = f"[{address}]" if ":" in address else address
        url = f"http://{host}:{self._port}/state"
        try:
            async with session.get(url, params=query) as response:
                response.raise_for_status()
                return RouterState.model_validate_json(await response.read())
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise MetricsUnavailable(source=url, detail=str(error) or type(error).__name__) from error
        except ValidationError as error:
            detail = f"{error.error_count()} fields are not as this version knows them"
            raise MetricsUnavailable(source=url, detail=detail) from error


@dataclass(frozen=True, slots=True)
class Look:
    """One complete look at all routers of a cluster: what the next look's flow is counted from."""

    at: float
    """Monotonic seconds."""
    totals: Mapping[str, Totals]
    """By router instance."""


@dataclass(frozen=True, slots=True)
class RouterView:
    """What all routers together say."""

    sample: RouterSample | Missing
    states: tuple[RouterState, ...] | Missing
    """One per running router; Missing when one of them did not answer that may still be there."""
    look: Look | None
    """For the next call; None where this look was incomplete."""

    def load(self, replica: Replica, *, now: float, fence: str = "") -> ReplicaLoad | Missing:
        """Work on one replica. Its fence is confirmed only when every running router says so.

        `fence` is the text of the fence's annotation: a router that tells which fence it acts on confirms no other.
        """
        if isinstance(self.states, Missing):
            return self.states
        if not self.states:
            fenced_for = now - replica.fenced_at if replica.fenced_at is not None else 0.0
            return ReplicaLoad(in_flight=0, kv_transfers=0, fence_confirmed=fenced_for >= SETTLE_SECONDS)
        known = [_of_replica(state, replica) for state in self.states]
        return ReplicaLoad(
            in_flight=sum(entry.in_flight for entry in known if entry),
            kv_transfers=sum(entry.kv_transfers for entry in known if entry),
            fence_confirmed=all(
                state.synced and entry is not None and entry.fenced and entry.fenced_at in (None, fence)
                for state, entry in zip(self.states, known, strict=True)
            ),
        )


async def look_at_routers(
    client: RouterClient, pods: Collection[RouterPod], previous: Look | None, *, at: float, now: float
) -> RouterView:
    """Ask every running router at once, unready and terminating ones too. `at` is monotonic seconds, `now` Unix seconds."""
    running = [pod for pod in pods if pod.running and pod.address]
    asked = await asyncio.gather(*(_ask(client, pod) for pod in running))
    # One that answers is there, however long it should have been gone.
    answers = [
        answer
        for pod, answer in zip(running, asked, strict=True)
        if isinstance(answer, RouterState) or not _is_lost(pod, now)
    ]
    if not answers:
        missing = Missing("NoRouter", "no router of the cluster is running")
        return RouterView(missing, (), None)
    states = [answer for answer in answers if isinstance(answer, RouterState)]
    silent = [answer for answer in answers if isinstance(answer, Missing)]
    if silent:
        message = f"{len(silent)} of {len(answers)} routers do not answer: {silent[0].message}"
        missing = Missing("RouterUnreachable", message)
        return RouterView(missing, missing, None)
    look = Look(at, {state.instance: state.totals for state in states})
    return RouterView(RouterSample(_queue(states), _flow(previous, look)), tuple(states), look)


def _is_lost(pod: RouterPod, now: float) -> bool:
    return pod.killed_at is not None and now >= pod.killed_at + LOST_SECONDS


async def _ask(client: RouterClient, pod: RouterPod) -> RouterState | Missing:
    try:
        return await client.state(pod.address or "")
    except MetricsUnavailable as error:
        return Missing("RouterUnreachable", f"{pod.name}: {error.detail}")


def _of_replica(state: RouterState, replica: Replica) -> ReplicaState | None:
    for entry in state.replicas:
        if entry.uid == replica.uid:
            return entry
    return None


def _queue(states: Sequence[RouterState]) -> QueueState:
    entries = [entry for state in states for entry in state.replicas]
    return QueueState(
        held_requests=sum(state.held_requests for state in states),
        held_tokens=sum(state.held_tokens for state in states),
        head_age_seconds=max(state.head_age_seconds for state in states),
        pending_prefill_tokens=sum(entry.pending_prefill_tokens for entry in entries),
        decoding_sequences=sum(entry.decoding_sequences for entry in entries),
        resident_kv_tokens=sum(entry.resident_kv_tokens for entry in entries),
        mixed_requests=sum(state.mixed_requests for state in states),
        borrowed_replicas=tuple(sorted({entry.name for entry in entries if entry.borrowed})),
    )


def _flow(previous: Look | None, look: Look) -> Flow | Missing:
    """Work since the previous look; Missing when the routers are not the same processes."""
    if previous is None:
        return Missing("FirstLook", "a flow needs two looks at the routers")
    if previous.totals.keys() != look.totals.keys():
        return Missing("RoutersChanged", "a router was started or ended since the previous look")
    return Flow(
        seconds=look.at - previous.at,
        requests=_grown(previous, look, "requests"),
        prompt_tokens=_grown(previous, look, "prompt_tokens"),
        prompt_tokens_squared=_grown(previous, look, "prompt_tokens_squared"),
        completed=_grown(previous, look, "completed"),
        completed_output_tokens=_grown(previous, look, "completed_output_tokens"),
        prefilled_prompt_tokens=_grown(previous, look, "prefilled_prompt_tokens"),
        cached_prompt_tokens=_grown(previous, look, "cached_prompt_tokens"),
    )


def _grown(previous: Look, look: Look, counter: str) -> float:
    return float(
        sum(
            getattr(now, counter) - getattr(previous.totals[instance], counter)
            for instance, now in look.totals.items()
        )
    )
