"""Where fleet and settings come from: a file, and the Kubernetes API."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from tests.router.harness import eventually

from inferencecluster.core.errors import SpecError
from inferencecluster.core.fleet import PoolName
from inferencecluster.core.routing import RoutingPolicy
from inferencecluster.router.kubernetes_sources import project_replica, project_settings
from inferencecluster.router.sources import ReplicaRecord
from inferencecluster.router.static_sources import StaticSource, read_fleet_file

FLEET_FILE: dict[str, Any] = {
    "model": "m",
    "overflowTokens": 7,
    "ttftMilliseconds": 250,
    "replicas": [{"name": "p0", "pool": "prefill", "url": "http://127.0.0.1:1", "kvCapacityTokens": 9}],
}


class TestStaticSource:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        found = tmp_path / "fleet.json"
        found.write_text(json.dumps(FLEET_FILE))
        return found

    def test_the_file_becomes_settings_and_records(self, path: Path) -> None:
        content = read_fleet_file(path)
        assert (content.settings().routing, content.settings().ttft_seconds) == (RoutingPolicy.alike(7), 0.25)
        (record,) = (replica.record() for replica in content.replicas)
        assert (record.name, record.home, record.kv_capacity_tokens, record.ready) == (
            "p0",
            PoolName.PREFILL,
            9,
            True,
        )

    def test_queues_may_differ_from_pool_to_pool(self, path: Path) -> None:
        tokens = {"prefill": 4000, "decode": 2000, "mixed": 1000}
        path.write_text(json.dumps({**FLEET_FILE, "overflowTokens": tokens}))
        assert read_fleet_file(path).settings().routing.queue_tokens == tokens

    @pytest.mark.parametrize("keeps", [True, False])
    def test_decode_replicas_with_streams_may_be_left_alone(self, path: Path, keeps: bool) -> None:
        path.write_text(json.dumps({**FLEET_FILE, "keepsStreams": keeps}))
        assert read_fleet_file(path).settings().routing.keeps_streams is keeps

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"replica": []}, "replica"),
            ({"overflowTokens": -1}, "overflowTokens"),
            ({"overflowTokens": None}, "overflowTokens.* is None, but Input should be a valid integer"),
            ({"overflowTokens": {"prefill": 1, "mixed": 1}}, "overflowTokens.decode is .*Field required"),
            ({"overflowTokens": {"prefill": 1, "decode": -2, "mixed": 1}}, "overflowTokens.decode is -2"),
            (
                {"overflowTokens": {"prefil": 1, "decode": 1, "prefill": 1, "mixed": 1}},
                "overflowTokens.prefil is 1",
            ),
            ({"engineVersion": "new"}, "spec.engine.version"),
            ({"replicas": [{"name": "p0", "pool": "other", "url": "http://h"}]}, "replicas.0.pool"),
        ],
    )
    def test_a_mistake_is_named(self, path: Path, change: dict[str, Any], words: str) -> None:
        path.write_text(json.dumps({**FLEET_FILE, **change}))
        with pytest.raises(SpecError, match=words):
            read_fleet_file(path)

    def test_a_missing_file_is_named(self, path: Path) -> None:
        with pytest.raises(SpecError, match=r"nothing\.json"):
            read_fleet_file(path.with_name("nothing.json"))

    async def test_changes_reach_both_listeners_and_mistakes_none(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("inferencecluster.router.static_sources._LOOK_SECONDS", 0.01)
        source = StaticSource(path)
        changes: list[tuple[Any, Any]] = []
        settings: list[Any] = []
        tasks = [
            asyncio.create_task(source.fleet.run(lambda before, after: changes.append((before, after)))),
            asyncio.create_task(source.settings.run(settings.append)),
        ]
        await eventually(lambda: changes and settings)
        _replace(path, "{")
        await asyncio.sleep(0.05)
        fenced = {**FLEET_FILE["replicas"][0], "fenced": True}
        _replace(path, json.dumps({**FLEET_FILE, "overflowTokens": 8, "replicas": [fenced]}))
        await eventually(lambda: len(changes) == len(settings) == 2)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

        assert [(bool(before), after.fenced) for before, after in changes] == [(False, False), (True, True)]
        assert [found.routing for found in settings] == [RoutingPolicy.alike(7), RoutingPolicy.alike(8)]


def _replace(path: Path, text: str) -> None:
    other = path.with_suffix(".new")
    other.write_text(text)
    other.replace(path)


def pod(**changes: Any) -> dict[str, Any]:
    """A ready engine Pod."""
    metadata = {
        "name": "c-engine-0",
        "namespace": "n",
        "uid": "u1",
        "creationTimestamp": "2026-11-21T08:00:00Z",
        "labels": {
            "gpupools.dev/cluster": "c",
            "gpupools.dev/component": "engine",
            "gpupools.dev/pool": "decode",
            "gpupools.dev/revision": "r1",
        },
        "annotations": {"gpupools.dev/kv-capacity-tokens": "500", "gpupools.dev/max-batch-size": "8"},
    }
    status = {
        "podIP": "10.0.0.7",
        "phase": "Running",
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-21T08:01:00Z"}],
        "containerStatuses": [],
    }
    for key, value in changes.items():
        target = status if key in status else metadata
        target[key] = value
    return {"metadata": metadata, "spec": {"nodeName": "node", "containers": []}, "status": status}


class TestProjection:
    def test_a_ready_pod(self) -> None:
        assert project_replica(pod()) == ReplicaRecord(
            name="c-engine-0",
            uid="u1",
            home=PoolName.DECODE,
            revision="r1",
            url="http://10.0.0.7:8000",
            ready=True,
            fenced=False,
            kv_capacity_tokens=500,
            max_batch_size=8,
        )

    def test_a_pod_says_what_it_serves_and_which_protocol_it_speaks(self) -> None:
        annotations = pod()["metadata"]["annotations"] | {
            "gpupools.dev/engine-version": "1.3.0rc29",
            "gpupools.dev/served-name": "org/model",
        }
        found = project_replica(pod(annotations=annotations))
        assert found is not None
        assert (str(found.engine_version), found.model) == ("1.3.0rc29", "org/model")

    def test_a_version_that_cannot_be_read_is_as_good_as_none(self) -> None:
        annotations = pod()["metadata"]["annotations"] | {"gpupools.dev/engine-version": "new"}
        found = project_replica(pod(annotations=annotations))
        assert found is not None
        assert found.engine_version is None

    def test_ipv6(self) -> None:
        found = project_replica(pod(podIP="fd00::7"))
        assert found is not None
        assert found.url == "http://[fd00::7]:8000"

    @pytest.mark.parametrize(
        ("change", "ready", "fenced"),
        [
            pytest.param({"conditions": []}, False, False, id="not ready"),
            pytest.param({"deletionTimestamp": "2026-11-21T09:00:00Z"}, False, True, id="terminating"),
            pytest.param({"podIP": ""}, True, False, id="without an address"),
        ],
    )
    def test_states(self, change: dict[str, Any], ready: bool, fenced: bool) -> None:
        found = project_replica(pod(**change))
        assert found is not None
        assert (found.ready, found.fenced) == (ready, fenced)

    @pytest.mark.parametrize("value", ["1795254899.9", "yes"])
    def test_any_value_of_the_annotation_is_a_fence(self, value: str) -> None:
        annotations = pod()["metadata"]["annotations"] | {"gpupools.dev/fenced-at": value}
        found = project_replica(pod(annotations=annotations))
        assert found is not None
        assert (found.fenced, found.fenced_at) == (True, value)

    @pytest.mark.parametrize("capacity", [None, "", "0", "-5", "1e6", "²", "9" * 5000])
    def test_a_replica_that_does_not_say_what_it_holds_is_left_out(self, capacity: str | None) -> None:
        annotations = {"gpupools.dev/max-batch-size": "8"}
        if capacity is not None:
            annotations["gpupools.dev/kv-capacity-tokens"] = capacity
        assert project_replica(pod(annotations=annotations)) is None

    def test_other_pods_are_left_out(self) -> None:
        labels = {"gpupools.dev/cluster": "c", "gpupools.dev/component": "router"}
        assert project_replica(pod(labels=labels)) is None

    def test_settings_follow_the_cluster(self) -> None:
        found = project_settings(CLUSTER)
        assert found is not None
        assert (found.model, str(found.engine_version)) == ("served", "1.3.0rc29")
        assert (found.routing, found.max_queue_seconds, found.ttft_seconds) == (
            RoutingPolicy.alike(4096),
            12.0,
            0.4,
        )
        assert found.kv_transfer_timeout_seconds == 60.0

    @pytest.mark.parametrize(
        ("pools", "scaling", "router", "hold"),
        [
            pytest.param({"minReplicas": 1}, {}, {}, None, id="a minimum: it never sleeps"),
            pytest.param({}, {"mode": "External"}, {}, None, id="nobody would wake it"),
            pytest.param({}, {"expectedBootSeconds": 100}, {}, 212.0, id="two boots and the usual queue"),
            pytest.param({}, {}, {"wakeQueueSeconds": 500}, 500.0, id="as the user says"),
        ],
    )
    def test_only_a_cluster_that_sleeps_holds_requests_for_a_boot(
        self, pools: dict[str, Any], scaling: dict[str, Any], router: dict[str, Any], hold: float | None
    ) -> None:
        mixed = {"minReplicas": 0, "maxReplicas": 1, "gpusPerReplica": 1, **pools}
        spec = CLUSTER["spec"]
        changed = {"pools": {"mixed": mixed}, "scaling": scaling, "router": {**spec["router"], **router}}
        found = project_settings({**CLUSTER, "spec": {**spec, **changed}})
        assert found is not None
        assert (found.wake.hold_seconds if found.wake else None) == hold

    def test_the_speed_of_prompts_is_that_of_the_slowest_pool_with_replicas(self) -> None:
        def pool(per_token: int, most: int) -> dict[str, Any]:
            coefficients = {
                "prefill": {
                    "baseNanoseconds": 0,
                    "perTokenPicoseconds": per_token * 1_000_000,
                    "perTokenSquaredPicoseconds": 0,
                },
                "decode": {
                    "baseNanoseconds": 1,
                    "perSequencePicoseconds": 1,
                    "perContextTokenPicoseconds": 1,
                },
                "kvCapacityTokens": 1000,
                "maxBatchSize": 8,
            }
            return {
                "minReplicas": 0,
                "maxReplicas": most,
                "gpusPerReplica": 1,
                "performance": {"coefficients": coefficients},
            }

        pools = {"prefill": pool(50, 1), "decode": pool(80, 1), "mixed": pool(500, 0)}
        found = project_settings({**CLUSTER, "spec": {**CLUSTER["spec"], "pools": pools}})
        assert found is not None
        assert found.prefill_seconds_per_token == pytest.approx(80e-6)

    def test_a_spec_that_does_not_tell_how_fast_prompts_are_is_served_all_the_same(self) -> None:
        found = project_settings(CLUSTER)
        assert found is not None
        assert found.prefill_seconds_per_token is None

    @pytest.mark.parametrize(
        ("router", "tokens"),
        [
            pytest.param({}, 8192, id="one iteration of prompts"),
            pytest.param({"overflowTokens": None}, 8192, id="null is absent"),
            pytest.param({"overflowTokens": 0}, 0, id="zero is a number, too"),
        ],
    )
    def test_queues_where_a_spec_does_not_tell_how_fast_prompts_are(
        self, router: dict[str, Any], tokens: int
    ) -> None:
        found = project_settings({**CLUSTER, "spec": {**CLUSTER["spec"], "router": router}})
        assert found is not None
        assert found.routing == RoutingPolicy.alike(tokens)

    def test_a_spec_that_cannot_be_read_changes_nothing(self) -> None:
        assert project_settings({**CLUSTER, "spec": {}}) is None


CLUSTER: dict[str, Any] = {
    "apiVersion": "gpupools.dev/v1alpha1",
    "kind": "InferenceCluster",
    "metadata": {"name": "c", "namespace": "n"},
    "spec": {
        "model": {"source": "org/model", "servedName": "served"},
        "engine": {"backend": "TensorRTLLM", "image": "registry/release:1.3.0rc29"},
        "slo": {"ttftMilliseconds": 400, "itlMilliseconds": 40},
        "budget": {"gpus": 4},
        "pools": {"mixed": {"minReplicas": 1, "maxReplicas": 1, "gpusPerReplica": 1}},
        "router": {"overflowTokens": 4096, "maxQueueSeconds": 12},
    },
}
