"""A few minutes of the whole operator, recorded by itself. `make golden-recording` writes tests/controller/golden/looks.jsonl anew.

Demand comes, changes its mix and goes; the routers fall silent, Prometheus is away, a drain waits for requests, and the
operator is restarted in between. Time is virtual: the same code records the same lines.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tests.fakes.virtualtime import run_virtual
from tests.fakes.world import World, cluster, node, operating


def record(file: Path) -> None:
    """Write the recording; whatever stands in the file goes."""
    file.unlink(missing_ok=True)
    # Few looks at drains: each is four kilobytes, and says what the one before it said.
    run_virtual(_run({"IC_RECORD_FILE": str(file), "IC_FOLLOW_UP_SECONDS": "7"}))


async def _run(environment: dict[str, str]) -> None:
    world = World()
    world.server.put(node())
    world.server.put(cluster(behavior={"scaleDown": {"stabilizationWindowSeconds": 30}}))
    world.add_router()
    async with operating(world, environment=environment):
        await asyncio.sleep(20)
        world.routers.arrive(30)
        await asyncio.sleep(35)
        world.routers.prompt_tokens = 900
        world.routers.silent = True
        await asyncio.sleep(15)
        world.routers.silent = False
        await asyncio.sleep(15)
    async with operating(world, environment=environment):
        await asyncio.sleep(30)
        world.metrics.down = True
        world.routers.arrive(0.0)
        await asyncio.sleep(30)
        world.metrics.down = False
        # Nothing shrinks before the new operator has judged some plans of its own. Whoever is fenced then waits for a request,
        # until the demand is back and somebody is needed again.
        world.routers.in_flight = {f"demo-engine-{ordinal}": 1 for ordinal in range(5)}
        await asyncio.sleep(130)
        world.routers.arrive(30)
        await asyncio.sleep(20)
        world.routers.in_flight = {}
        world.routers.arrive(0.0)
        await asyncio.sleep(60)


if __name__ == "__main__":
    record(Path(sys.argv[1]))
