"""Leader election by a Lease: 15 s lease, 10 s to renew it, a look every 2 s; whoever loses it ends the process.

client-go's algorithm (tools/leaderelection): the Lease's own times are never compared with our clock, only
whether the record has changed since we last looked. The write is guarded by the resource version.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Final

from inferencecluster.adapters.clock import Clock
from inferencecluster.adapters.kube import KubeClient
from inferencecluster.adapters.kube_resources import LEASES, Manifest
from inferencecluster.adapters.timestamps import micro_timestamp
from inferencecluster.core.errors import ApplyError, Conflict, ObservationError

LEASE_SECONDS: Final = 15.0
RENEW_DEADLINE_SECONDS: Final = 10.0
RETRY_SECONDS: Final = 2.0
"""client-go's defaults: a leader that cannot renew has stopped five seconds before anybody else starts."""

_logger = logging.getLogger(__name__)


class LeadershipLost(Exception):  # noqa: N818 - an event of the election, which ends the process
    """The Lease could not be renewed in time, or somebody else holds it."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """Who stands for which Lease."""

    identity: str
    """Unique to this process: the Pod's name."""
    namespace: str
    lease_name: str


class Elector:
    """Takes a Lease and keeps it."""

    def __init__(self, client: KubeClient, candidate: Candidate, clock: Clock) -> None:
        self._client = client
        self._candidate = candidate
        self._clock = clock
        self._seen: Manifest | None = None
        self._seen_at = 0.0
        self._renewed_at = 0.0

    async def acquire(self) -> None:
        """Return once this process leads."""
        while True:
            try:
                async with asyncio.timeout(RENEW_DEADLINE_SECONDS):
                    if await self._try():
                        _logger.info("leading", extra={"lease": self._candidate.lease_name})
                        return
            except (ObservationError, ApplyError, TimeoutError) as error:
                _logger.info("could not take the lease, retrying", extra={"error": str(error)})
            await self._clock.sleep(RETRY_SECONDS)

    async def keep(self) -> None:
        """Renew until cancelled. Raises `LeadershipLost` no later than `RENEW_DEADLINE_SECONDS` after the last renewal."""
        while True:
            await self._clock.sleep(RETRY_SECONDS)
            try:
                async with asyncio.timeout(max(0.0, self._seconds_left())):
                    if not await self._try():
                        raise LeadershipLost(f"{self._holder()} holds the lease now")
            except Conflict as error:
                # Somebody wrote between our read and our write; the next look tells who.
                _logger.info("the lease changed while it was renewed", extra={"error": str(error)})
            except (ObservationError, ApplyError, TimeoutError) as error:
                _logger.warning("the lease was not renewed", extra={"error": str(error)})
            if self._seconds_left() <= 0:
                raise LeadershipLost(f"no renewal in {RENEW_DEADLINE_SECONDS:.0f} s")

    def _seconds_left(self) -> float:
        return self._renewed_at + RENEW_DEADLINE_SECONDS - self._clock.monotonic()

    async def release(self) -> None:
        """Give the Lease back, so that another takes it at once instead of after `LEASE_SECONDS`."""
        lease = await self._read()
        if lease is not None and _spec(lease).get("holderIdentity") == self._candidate.identity:
            lease["spec"] = {**_spec(lease), "holderIdentity": "", "leaseDurationSeconds": 1}
            await self._client.replace(lease)

    async def _try(self) -> bool:
        """Take or renew the Lease; False while another holds it."""
        lease = await self._read()
        # Taken before the write: others count from when they see it, and the answer may be long on its way.
        now, written_at = self._clock.now(), self._clock.monotonic()
        if lease is None:
            self._see(await self._client.create(self._new_lease(now)))
            self._renewed_at = written_at
            return True
        if self._seen is None or _spec(self._seen) != _spec(lease):
            self._see(lease)
        spec = _spec(lease)
        holder = spec.get("holderIdentity", "")
        is_ours = holder == self._candidate.identity
        duration = float(spec.get("leaseDurationSeconds", LEASE_SECONDS))
        if holder and not is_ours and self._clock.monotonic() < self._seen_at + duration:
            return False
        renewed = {
            **spec,
            "holderIdentity": self._candidate.identity,
            "leaseDurationSeconds": int(LEASE_SECONDS),
            "renewTime": micro_timestamp(now),
        }
        if not is_ours:
            renewed["acquireTime"] = micro_timestamp(now)
            renewed["leaseTransitions"] = int(spec.get("leaseTransitions", 0)) + 1
        self._see(await self._client.replace({**lease, "spec": renewed}))
        self._renewed_at = written_at
        return True

    async def _read(self) -> Manifest | None:
        candidate = self._candidate
        lease = await self._client.get(LEASES, candidate.lease_name, namespace=candidate.namespace)
        # Objects of a list or a get may come without their type.
        return lease and {**lease, "apiVersion": LEASES.api_version, "kind": LEASES.kind}

    def _new_lease(self, now: float) -> Manifest:
        return {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.kind,
            "metadata": {"name": self._candidate.lease_name, "namespace": self._candidate.namespace},
            "spec": {
                "holderIdentity": self._candidate.identity,
                "leaseDurationSeconds": int(LEASE_SECONDS),
                "acquireTime": micro_timestamp(now),
                "renewTime": micro_timestamp(now),
                "leaseTransitions": 0,
            },
        }

    def _see(self, lease: Manifest) -> None:
        self._seen = lease
        self._seen_at = self._clock.monotonic()

    def _holder(self) -> str:
        return str(_spec(self._seen or {}).get("holderIdentity", "nobody"))


def _spec(lease: Manifest) -> Manifest:
    spec: Manifest = lease.get("spec") or {}
    return spec
