"""The process as it is started: settings, credentials, lease, kopf, informers, server, and a quiet end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import aiohttp
import yaml
from tests.fakes.apiserver import FakeApiServer
from tests.fakes.http import serving
from tests.fakes.world import NAME, cluster, node


def environment(folder: Path, url: str, port: int) -> dict[str, str]:
    config = folder / "kubeconfig"
    config.write_text(
        yaml.safe_dump(
            {
                "current-context": "here",
                "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
                "clusters": [{"name": "c", "cluster": {"server": url}}],
                "users": [{"name": "u", "user": {"token": "good"}}],
            }
        )
    )
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("IC_")}
    return inherited | {
        "KUBECONFIG": str(config),
        "IC_HTTP_PORT": str(port),
        "IC_LEASE_NAME": "operator",
        "IC_POD_NAMESPACE": "system",
        "IC_POD_NAME": "operator-1",
    }


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(40):
        while not condition():  # noqa: ASYNC110 - another process brings it about
            await asyncio.sleep(0.05)


async def test_the_process_builds_a_fleet_serves_its_probes_and_gives_its_lease_back(tmp_path: Path) -> None:
    server = FakeApiServer()
    server.put(node())
    server.put(cluster())
    port = free_port()
    async with serving(server) as url:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "inferencecluster",
            env=environment(tmp_path, url, port),
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            await until(lambda: len(server.of_kind("pods")) == 2)
            assert f"{NAME}-router" in server.of_kind("deployments")
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{port}/readyz") as answer:
                    assert answer.status == 200
                async with session.get(f"http://127.0.0.1:{port}/metrics") as answer:
                    text = await answer.text()
            assert "inferencecluster_operator_leader 1.0" in text
            assert "_created" not in text
            assert _holder(server) == "operator-1"
            process.send_signal(signal.SIGTERM)
            _, errors = await asyncio.wait_for(process.communicate(), 40)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert process.returncode == 0, errors.decode()
    assert "Traceback" not in errors.decode()
    assert _holder(server) == ""
    assert len(server.of_kind("pods")) == 2


async def test_a_process_that_waits_for_the_lease_ends_when_it_is_told(tmp_path: Path) -> None:
    server = FakeApiServer()
    server.put(
        {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": "operator", "namespace": "system"},
            "spec": {"holderIdentity": "operator-2", "leaseDurationSeconds": 3600},
        }
    )
    server.put(cluster())
    async with serving(server) as url:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "inferencecluster",
            env=environment(tmp_path, url, free_port()),
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            await until(lambda: any(call.plural == "leases" for call in server.calls))
            process.send_signal(signal.SIGTERM)
            _, errors = await asyncio.wait_for(process.communicate(), 40)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert process.returncode == 0, errors.decode()
    assert server.writes == []


async def test_a_wrong_setting_ends_the_process_with_its_name() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "inferencecluster",
        env={**os.environ, "IC_WORKERS": "many"},
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await process.communicate()
    assert (process.returncode, "IC_WORKERS is many" in errors.decode()) == (2, True)


def _holder(server: FakeApiServer) -> str:
    found: str = server.of_kind("leases", "system")["operator"]["spec"]["holderIdentity"]
    return found
