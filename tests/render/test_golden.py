"""Everything that is rendered, written out: read the diff before you accept it (`pytest --update-golden`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from inferencecluster.api.inferencecluster import InferenceCluster
from inferencecluster.core.fleet import PoolName
from inferencecluster.render.context import Platform, PoolContext
from inferencecluster.render.enginepool import render_enginepool
from inferencecluster.render.replica import render_engine_config, render_replica
from inferencecluster.render.router import render_router

GOLDEN = Path(__file__).parent / "golden"

MatchesGolden = Callable[[str, Path], None]


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, _data: Any) -> bool:
        return True


def _text(*objects: dict[str, Any]) -> str:
    return yaml.dump_all(objects, Dumper=_Plain, sort_keys=False, explicit_start=True, width=10_000)


@pytest.mark.parametrize("pool", PoolName)
@pytest.mark.parametrize("version", ["1.2.1", "1.3.0rc29"])
def test_tensorrt_llm_replica(
    make_context: Callable[..., PoolContext], matches_golden: MatchesGolden, version: str, pool: PoolName
) -> None:
    context = make_context(
        pool,
        model={"tokenSecretRef": {"name": "hugging-face"}},
        engine={"image": f"nvcr.io/nvidia/tensorrt-llm/release:{version}"},
    )
    (config,) = render_engine_config(context)["data"].values()
    matches_golden(config, GOLDEN / f"trtllm-{version}-{pool}.engine.yaml")
    matches_golden(_text(render_replica(context, ordinal=0)), GOLDEN / f"trtllm-{version}-{pool}.pod.yaml")


def test_emulated_replica(make_context: Callable[..., PoolContext], matches_golden: MatchesGolden) -> None:
    context = make_context(
        PoolName.DECODE,
        engine={"backend": "Emulated", "image": "registry.example/emulated-engine:0.1.0"},
    )
    objects = (render_engine_config(context), render_replica(context, ordinal=0))
    matches_golden(_text(*objects), GOLDEN / "emulated-decode.yaml")


def test_tensorrt_llm_replica_of_interchangeable_pools(
    make_context: Callable[..., PoolContext], matches_golden: MatchesGolden
) -> None:
    context = make_context(PoolName.DECODE, scaling={"conversion": "Enabled"})
    objects = (render_engine_config(context), render_replica(context, ordinal=0))
    matches_golden(_text(*objects), GOLDEN / "trtllm-interchangeable-decode.yaml")


def test_router(
    make_cluster: Callable[..., InferenceCluster], platform: Platform, matches_golden: MatchesGolden
) -> None:
    cluster = make_cluster(router={"replicas": 2})
    matches_golden(_text(*render_router(cluster, platform)), GOLDEN / "router.yaml")


def test_engine_pool(make_cluster: Callable[..., InferenceCluster], matches_golden: MatchesGolden) -> None:
    child = render_enginepool(make_cluster(), PoolName.PREFILL, replicas=2)
    matches_golden(_text(child), GOLDEN / "enginepool.yaml")


def test_no_golden_file_is_left_over() -> None:
    expected = {
        "emulated-decode.yaml",
        "router.yaml",
        "enginepool.yaml",
        "trtllm-interchangeable-decode.yaml",
    }
    for version in ("1.2.1", "1.3.0rc29"):
        for pool in PoolName:
            expected |= {f"trtllm-{version}-{pool}.engine.yaml", f"trtllm-{version}-{pool}.pod.yaml"}
    assert {path.name for path in GOLDEN.iterdir()} == expected
