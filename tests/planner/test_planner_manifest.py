from __future__ import annotations

from typing import Any

import pytest
from tests.planner.planner_builders import question

from inferencecluster.api.inferencecluster import parse_cluster
from inferencecluster.api.translate import to_core
from inferencecluster.core.fleet import PoolName
from inferencecluster.core.profiles import PROFILES
from inferencecluster.planner.answer import Objective, Question, plan
from inferencecluster.planner.capacity import Target
from inferencecluster.planner.catalogue import PricedGpu, find_model, gpus_for
from inferencecluster.planner.designs import Disaggregated, Mixed
from inferencecluster.planner.manifest import manifest
from inferencecluster.render.context import Platform, pool_context
from inferencecluster.render.replica import render_engine_config

UID = "00000000-0000-0000-0000-000000000000"
LOOSE = Target(0.95, 2.0, 0.06)


def best_manifest(asked: Question) -> dict[str, Any]:
    return manifest(asked, plan(asked).best, engine_version="1.2.1")


def created(found: dict[str, Any]) -> dict[str, Any]:
    return {**found, "metadata": {**found["metadata"], "namespace": "default", "uid": UID}}


@pytest.mark.parametrize("model", dict.fromkeys(profile.model.name for profile in PROFILES.values()))
@pytest.mark.parametrize("objective", [Objective.COST, Objective.POWER])
def test_every_option_of_every_model_is_a_cluster_that_the_operator_takes(
    model: str, objective: Objective
) -> None:
    asked = question(
        rate=5.0, target=LOOSE, gpus=gpus_for(find_model(model).model), model=model, objective=objective
    )
    for option in plan(asked).options:
        cluster = parse_cluster(created(manifest(asked, option, engine_version="1.2.1")))
        spec = to_core(cluster, revision="r")
        assert spec.slo.percentile == 95
        for (name, shape), least, peak in zip(
            option.design.pools, option.fitted.quietest, option.fitted.peak, strict=True
        ):
            pool = spec.pool(name)
            assert (pool.min_replicas, pool.gpus_per_replica) == (least, shape.gpus)
            assert pool.max_replicas >= peak
            assert pool.performance == shape.performance
            context = pool_context(cluster, name, Platform(router_image="i", router_cluster_role="r"))
            assert render_engine_config(context)["data"]
        assert spec.budget_gpus >= option.fitted.peak_gpus


def test_base_pools_get_a_mixed_one_inside_the_same_budget() -> None:
    asked = question()
    found = plan(asked)
    assert isinstance(found.best.design, Disaggregated)
    spec = to_core(parse_cluster(created(manifest(asked, found.best, engine_version="1.2.1"))), revision="r")
    base = sum(
        spec.pool(name).max_replicas * spec.pool(name).gpus_per_replica
        for name in (PoolName.PREFILL, PoolName.DECODE)
    )
    assert spec.budget_gpus == base
    assert spec.pool(PoolName.MIXED).min_replicas == 0
    assert spec.pool(PoolName.MIXED).max_replicas >= 1


def test_mixed_only_has_no_base_pools() -> None:
    asked = question(rate=2.0, target=LOOSE)
    assert isinstance(plan(asked).best.design, Mixed)
    assert list(best_manifest(asked)["spec"]["pools"]) == ["mixed"]


def test_the_users_limit_is_the_budget() -> None:
    assert best_manifest(question(max_gpus=40))["spec"]["budget"] == {"gpus": 40}


def test_a_patient_slo_raises_the_routers_patience() -> None:
    spec = best_manifest(question(rate=1.0, target=Target(0.9, 45.5, 0.1)))["spec"]
    assert spec["router"] == {"maxQueueSeconds": 46}
    assert "router" not in best_manifest(question())["spec"]


def test_a_checkpoint_that_hides_its_cache_precision_gets_it_set() -> None:
    asked = question(rate=5.0, target=LOOSE, gpus=(PricedGpu("h200", 4.0),), model="qwen3-32b-fp8")
    assert best_manifest(asked)["spec"]["engine"]["config"] == {"kv_cache_config": {"dtype": "fp8"}}
