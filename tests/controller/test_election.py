"""The Lease: one leader at a time, a new one when the old one is gone, and an end before anybody else can begin."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from tests.fakes.apiserver import ApiError, Call, FakeApiServer, Manifest
from tests.fakes.client import FakeClient
from tests.fakes.virtualtime import VirtualClock, run_virtual

from inferencecluster.controller.election import (
    LEASE_SECONDS,
    RENEW_DEADLINE_SECONDS,
    RETRY_SECONDS,
    Candidate,
    Elector,
    LeadershipLost,
)


def elector(server: FakeApiServer, name: str, client: FakeClient | None = None) -> Elector:
    return Elector(client or FakeClient(server), Candidate(name, "system", "operator"), VirtualClock())


def holder(server: FakeApiServer) -> str:
    found: str = server.of_kind("leases", "system")["operator"]["spec"]["holderIdentity"]
    return found


def now() -> float:
    return asyncio.get_running_loop().time()


def test_the_first_candidate_leads_at_once() -> None:
    async def scenario() -> None:
        server = FakeApiServer()
        await elector(server, "one").acquire()
        assert (holder(server), now()) == ("one", 0)

    run_virtual(scenario())


def test_a_second_candidate_waits_while_the_first_renews() -> None:
    async def scenario() -> None:
        server = FakeApiServer()
        first, second = elector(server, "one"), elector(server, "two")
        await first.acquire()
        keeping = asyncio.create_task(first.keep())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3600):
                await second.acquire()
        assert holder(server) == "one"
        keeping.cancel()

    run_virtual(scenario())


def test_a_second_candidate_leads_after_the_lease_of_a_silent_first_has_run_out() -> None:
    async def scenario() -> None:
        server = FakeApiServer()
        await elector(server, "one").acquire()
        await elector(server, "two").acquire()
        assert holder(server) == "two"
        # Counted by its own clock from when it first saw the record: no two machines' clocks are compared.
        assert LEASE_SECONDS <= now() <= LEASE_SECONDS + RETRY_SECONDS
        assert server.of_kind("leases", "system")["operator"]["spec"]["leaseTransitions"] == 1

    run_virtual(scenario())


def test_a_lease_that_is_given_back_is_taken_at_the_next_look() -> None:
    async def scenario() -> None:
        server = FakeApiServer()
        first, second = elector(server, "one"), elector(server, "two")
        await first.acquire()
        waiting = asyncio.create_task(second.acquire())
        await asyncio.sleep(1)
        await first.release()
        await waiting
        assert holder(server) == "two"
        assert now() <= 1 + RETRY_SECONDS

    run_virtual(scenario())


def test_nobody_gives_back_the_lease_of_another() -> None:
    async def scenario() -> None:
        server = FakeApiServer()
        await elector(server, "one").acquire()
        await elector(server, "two").release()
        assert holder(server) == "one"

    run_virtual(scenario())


def test_of_two_that_come_together_one_leads() -> None:
    async def scenario() -> None:
        server = FakeApiServer()
        tasks = [asyncio.create_task(elector(server, name).acquire()) for name in ("one", "two")]
        done, _ = await asyncio.wait(tasks, timeout=5)
        assert len(done) == 1
        for task in tasks:
            task.cancel()

    run_virtual(scenario())


@pytest.mark.parametrize("status", [500, 429, 403], ids=["down", "throttled", "forbidden"])
def test_a_leader_that_cannot_renew_stops_before_the_lease_runs_out(status: int) -> None:
    async def scenario() -> None:
        server = FakeApiServer()
        first = elector(server, "one")
        await first.acquire()
        server.fault = lambda _: ApiError(status, "no")
        with pytest.raises(LeadershipLost):
            await first.keep()
        assert now() < LEASE_SECONDS
        assert now() >= RENEW_DEADLINE_SECONDS

    run_virtual(scenario())


def test_a_renewal_that_hangs_ends_the_leadership_in_time() -> None:
    class Hanging(FakeClient):
        hangs = False

        async def replace(self, manifest: Manifest) -> Manifest:
            if self.hangs:
                await asyncio.sleep(3600)
            return await super().replace(manifest)

    async def scenario() -> None:
        server = FakeApiServer()
        client = Hanging(server)
        first = elector(server, "one", client)
        await first.acquire()
        client.hangs = True
        with pytest.raises(LeadershipLost):
            await first.keep()
        assert now() < LEASE_SECONDS

    run_virtual(scenario())


def test_a_short_outage_costs_nothing() -> None:
    async def scenario() -> None:
        server = FakeApiServer()
        first = elector(server, "one")
        await first.acquire()
        keeping = asyncio.create_task(first.keep())
        await asyncio.sleep(60)
        server.fault = lambda _: ApiError(503, "restarting")
        await asyncio.sleep(RENEW_DEADLINE_SECONDS - 2 * RETRY_SECONDS - 1)
        server.fault = lambda _: None
        await asyncio.sleep(600)
        assert not keeping.done()
        keeping.cancel()

    run_virtual(scenario())


def test_a_leader_whose_lease_was_taken_stops_at_its_next_look() -> None:
    async def scenario() -> None:
        server = FakeApiServer()
        first = elector(server, "one")
        await first.acquire()

        def steal(lease: Manifest) -> None:
            lease["spec"]["holderIdentity"] = "two"

        server.change("leases", "system", "operator", steal)
        with pytest.raises(LeadershipLost, match="two holds the lease"):
            await first.keep()
        assert now() <= RETRY_SECONDS

    run_virtual(scenario())


def test_never_two_believe_that_they_lead_whatever_fails_when() -> None:
    """Random outages of each candidate's connection; leadership as each believes it never overlaps."""

    async def scenario(seed: int) -> None:
        import random

        random_outage = random.Random(seed)
        server = FakeApiServer()
        leading: set[str] = set()

        class Flaky(FakeClient):
            async def replace(self, manifest: Manifest) -> Manifest:
                if random_outage.random() < 0.3:
                    await asyncio.sleep(random_outage.uniform(0, 20))
                answer = await super().replace(manifest)
                if random_outage.random() < 0.3:
                    # Written, but the answer takes its time: others count from the write.
                    await asyncio.sleep(random_outage.uniform(0, 20))
                return answer

        async def stand(name: str) -> None:
            while True:
                one = elector(server, name, Flaky(server))
                await one.acquire()
                assert not leading
                leading.add(name)
                with suppress(LeadershipLost):
                    await one.keep()
                leading.discard(name)

        tasks = [asyncio.create_task(stand(name)) for name in ("one", "two", "three")]
        done, _ = await asyncio.wait(tasks, timeout=2000)
        for task in tasks:
            task.cancel()
        assert not done, [task.exception() for task in done]

    for seed in range(20):
        run_virtual(scenario(seed))


def test_an_api_server_that_is_away_at_the_start_only_delays() -> None:
    async def scenario() -> None:
        server = FakeApiServer()

        def down(_: Call) -> ApiError | None:
            return ApiError(503, "down") if now() < 30 else None

        server.fault = down
        await elector(server, "one").acquire()
        assert 30 <= now() <= 30 + RETRY_SECONDS

    run_virtual(scenario())
