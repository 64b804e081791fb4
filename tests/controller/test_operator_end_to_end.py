"""The operator as a whole against the fake API server: what users and the API server see of it."""

from __future__ import annotations

import asyncio

import pytest
from tests.fakes.apiserver import ApiError, Call, Manifest
from tests.fakes.virtualtime import run_virtual
from tests.fakes.world import NAME, World, cluster, node, operating

from inferencecluster.api.names import FINALIZER

SETTLED = {"demo-engine-0": "prefill", "demo-engine-1": "decode"}


def world_with(manifest: Manifest | None = None) -> World:
    world = World()
    world.server.put(node())
    world.server.put(manifest or cluster())
    world.add_router()
    return world


def test_a_new_cluster_gets_its_minimum_its_router_and_a_status() -> None:
    async def scenario() -> None:
        world = world_with()
        async with operating(world):
            await asyncio.sleep(40)
        assert world.fleet() == SETTLED
        assert set(world.server.of_kind("deployments")) == {f"{NAME}-router"}
        assert set(world.server.of_kind("services")) == {NAME}
        assert set(world.server.of_kind("enginepools")) == {"demo-decode", "demo-mixed", "demo-prefill"}
        assert world.status()["summary"] == {
            "prefill": "1/1",
            "decode": "1/1",
            "mixed": "0/0",
            "gpus": "4/16",
        }
        assert world.condition("Ready")["status"] == "True"
        assert world.status()["observedGeneration"] == 1

    run_virtual(scenario())


def test_with_nothing_changing_the_operator_writes_nothing() -> None:
    async def scenario() -> None:
        world = world_with()
        async with operating(world):
            await asyncio.sleep(120)
            before = len(world.server.writes)
            await asyncio.sleep(3600)
            assert world.server.writes[before:] == []

    run_virtual(scenario())


def test_a_restart_writes_nothing() -> None:
    async def scenario() -> None:
        world = world_with()
        async with operating(world):
            await asyncio.sleep(120)
        before = len(world.server.writes)
        async with operating(world):
            await asyncio.sleep(120)
        assert world.server.writes[before:] == []

    run_virtual(scenario())


def test_demand_grows_the_pools_and_its_end_shrinks_them_without_passing_the_budget() -> None:
    async def scenario() -> None:
        world = world_with(cluster(behavior={"scaleDown": {"stabilizationWindowSeconds": 30}}))
        most = 0
        async with operating(world):
            await asyncio.sleep(60)
            world.routers.arrive(60)
            for _ in range(180):
                await asyncio.sleep(1)
                most = max(most, world.gpus())
                assert world.gpus() <= 16
            grown = world.fleet()
            world.routers.arrive(0.0)
            await asyncio.sleep(1800)
        assert most > 4
        assert len(grown) > 2
        assert sorted(world.fleet().values()) == ["decode", "prefill"]

    run_virtual(scenario())


def test_a_cluster_that_is_deleted_is_held_until_its_requests_have_ended() -> None:
    async def scenario() -> None:
        world = world_with()
        async with operating(world):
            await asyncio.sleep(60)
            world.routers.in_flight = {"demo-engine-1": 3}
            _delete(world)
            await asyncio.sleep(120)
            # The idle one is gone; the busy one, its object and its router wait.
            assert world.fleet() == {"demo-engine-1": "decode!"}
            assert world.server.of_kind("inferenceclusters")[NAME]["metadata"]["finalizers"] == [FINALIZER]
            assert f"{NAME}-router" in world.server.of_kind("deployments")
            assert "3 requests" in world.status()["draining"][0]["waitingFor"]
            world.routers.in_flight = {}
            await asyncio.sleep(30)
        assert world.fleet() == {}
        assert world.server.of_kind("inferenceclusters") == {}
        assert world.server.of_kind("deployments") == {}

    run_virtual(scenario())


def test_a_restart_in_the_middle_of_a_deletion_goes_on_draining() -> None:
    async def scenario() -> None:
        world = world_with()
        async with operating(world):
            await asyncio.sleep(60)
            world.routers.in_flight = {"demo-engine-1": 3}
            _delete(world)
            await asyncio.sleep(10)
        async with operating(world):
            await asyncio.sleep(60)
            assert world.fleet() == {"demo-engine-1": "decode!"}
            world.routers.in_flight = {}
            await asyncio.sleep(30)
        assert world.server.of_kind("inferenceclusters") == {}

    run_virtual(scenario())


def test_a_cluster_with_a_spec_that_nobody_can_read_drains_all_the_same_when_it_is_deleted() -> None:
    async def scenario() -> None:
        world = world_with()
        async with operating(world):
            await asyncio.sleep(60)
        world.server.change("inferenceclusters", "default", NAME, _break_spec)
        world.routers.in_flight = {"demo-engine-0": 1}
        _delete(world)
        async with operating(world):
            await asyncio.sleep(60)
            assert world.fleet() == {"demo-engine-0": "prefill!"}
            world.routers.in_flight = {}
            await asyncio.sleep(30)
        assert world.server.of_kind("inferenceclusters") == {}

    run_virtual(scenario())


def test_a_wrong_spec_stalls_and_the_last_good_fleet_keeps_serving_and_is_repaired() -> None:
    async def scenario() -> None:
        world = world_with()
        async with operating(world):
            await asyncio.sleep(60)
            world.server.change("inferenceclusters", "default", NAME, _break_spec)
            await asyncio.sleep(5)
            stalled = world.condition("Stalled")
            assert (stalled["status"], stalled["reason"]) == ("True", "InvalidSpec")
            assert "spec.engine.env[0].name" in stalled["message"]
            assert world.status()["observedGeneration"] == 2
            world.server.remove("pods", "default", "demo-engine-1")
            await asyncio.sleep(30)
            assert world.fleet() == SETTLED

    run_virtual(scenario())


def test_a_restart_with_a_wrong_spec_leaves_the_fleet_alone() -> None:
    async def scenario() -> None:
        world = world_with()
        async with operating(world):
            await asyncio.sleep(60)
        world.server.change("inferenceclusters", "default", NAME, _break_spec)
        async with operating(world):
            await asyncio.sleep(600)
        assert world.fleet() == SETTLED
        assert world.condition("Stalled")["status"] == "True"
        assert world.status()["summary"]["prefill"] == "1/1"

    run_virtual(scenario())


@pytest.mark.parametrize("lost", ["prometheus", "routers", "both"])
def test_without_a_signal_no_pool_shrinks(lost: str) -> None:
    async def scenario() -> None:
        world = world_with(cluster(behavior={"scaleDown": {"stabilizationWindowSeconds": 30}}))
        async with operating(world):
            await asyncio.sleep(60)
            world.routers.arrive(60)
            await asyncio.sleep(180)
            grown = world.fleet()
            world.metrics.down = lost in ("prometheus", "both")
            world.routers.silent = lost in ("routers", "both")
            world.routers.arrive(0.0)
            await asyncio.sleep(900)
            assert world.fleet().keys() >= grown.keys()
            world.metrics.down = world.routers.silent = False
            await asyncio.sleep(1800)
        assert sorted(world.fleet().values()) == ["decode", "prefill"]

    run_virtual(scenario())


def test_a_drain_waits_while_a_router_does_not_answer_and_goes_on_when_it_does() -> None:
    async def scenario() -> None:
        world = world_with()
        async with operating(world):
            await asyncio.sleep(60)
            world.routers.silent = True
            _delete(world)
            await asyncio.sleep(300)
            assert sorted(world.fleet().values()) == ["decode!", "prefill!"]
            world.routers.silent = False
            await asyncio.sleep(30)
        assert world.server.of_kind("inferenceclusters") == {}

    run_virtual(scenario())


@pytest.mark.parametrize(
    ("plural", "name"),
    [("services", NAME), ("deployments", f"{NAME}-router"), ("enginepools", f"{NAME}-decode")],
)
def test_a_child_that_somebody_deletes_comes_back(plural: str, name: str) -> None:
    async def scenario() -> None:
        world = world_with()
        async with operating(world):
            await asyncio.sleep(60)
            world.server.remove(plural, "default", name)
            await asyncio.sleep(5)
            assert name in world.server.of_kind(plural)

    run_virtual(scenario())


def test_an_evicted_replica_that_had_served_is_replaced_at_once() -> None:
    def evict(pod: Manifest) -> None:
        """As the kubelet leaves it: no Ready condition tells any more that the Pod ever served."""
        pod["status"] = {"phase": "Failed", "reason": "Evicted", "message": "the node was low on memory"}

    async def scenario() -> None:
        world = world_with()
        async with operating(world):
            await asyncio.sleep(60)
            world.kubelet_runs = False
            world.server.change("pods", "default", "demo-engine-0", evict)
            await asyncio.sleep(2)
            world.kubelet_runs = True
            await asyncio.sleep(8)
            assert world.fleet() == {"demo-engine-1": "decode", "demo-engine-2": "prefill"}

    run_virtual(scenario())


def test_a_child_that_somebody_changes_is_put_right() -> None:
    async def scenario() -> None:
        world = world_with()

        def scale(manifest: Manifest) -> None:
            manifest["spec"]["replicas"] = 7

        async with operating(world):
            await asyncio.sleep(60)
            world.server.change("deployments", "default", f"{NAME}-router", scale)
            await asyncio.sleep(5)
            assert world.server.of_kind("deployments")[f"{NAME}-router"]["spec"]["replicas"] == 1

    run_virtual(scenario())


def test_a_role_binding_to_another_role_is_made_anew_because_roles_cannot_be_changed() -> None:
    async def scenario() -> None:
        world = world_with()

        def rebind(manifest: Manifest) -> None:
            manifest["roleRef"]["name"] = "cluster-admin"

        async with operating(world):
            await asyncio.sleep(60)
            before = world.server.of_kind("rolebindings")[f"{NAME}-router"]["metadata"]["uid"]
            world.server.change("rolebindings", "default", f"{NAME}-router", rebind)
            await asyncio.sleep(5)
            binding = world.server.of_kind("rolebindings")[f"{NAME}-router"]
            assert binding["roleRef"]["name"] == "inferencecluster-router"
            assert binding["metadata"]["uid"] != before

    run_virtual(scenario())


def test_what_a_new_revision_and_a_single_router_do_not_need_any_more_goes() -> None:
    async def scenario() -> None:
        manifest = cluster()
        manifest["spec"]["router"] = {"replicas": 2}
        world = world_with(manifest)

        def change(manifest: Manifest) -> None:
            manifest["spec"]["router"]["replicas"] = 1
            manifest["spec"]["engine"]["image"] = "emulated:2"

        async with operating(world):
            await asyncio.sleep(60)
            old = set(world.server.of_kind("configmaps"))
            assert set(world.server.of_kind("poddisruptionbudgets")) == {f"{NAME}-router"}
            world.server.change("inferenceclusters", "default", NAME, change)
            replicas_of_old = set(world.fleet())
            while replicas_of_old & world.fleet().keys():
                await asyncio.sleep(1)
                mounted = {
                    pod["spec"]["volumes"][0]["configMap"]["name"]
                    for pod in world.server.of_kind("pods").values()
                    if pod["metadata"]["name"] in world.fleet()
                }
                assert mounted <= set(world.server.of_kind("configmaps")), "a replica may restart at any time"
            await asyncio.sleep(3)
            assert world.server.of_kind("poddisruptionbudgets") == {}
            assert len(world.server.of_kind("configmaps")) == 3
            assert not old & set(world.server.of_kind("configmaps"))

    run_virtual(scenario())


def _select_nodes(manifest: Manifest) -> None:
    manifest["spec"]["pools"]["decode"]["nodeSelector"] = {"zone": "a"}


def test_another_placement_replaces_the_replicas_of_its_pool_and_no_others() -> None:
    async def scenario() -> None:
        world = world_with()
        async with operating(world):
            await asyncio.sleep(60)
            before = world.server.of_kind("pods")
            world.server.change("inferenceclusters", "default", NAME, _select_nodes)
            await asyncio.sleep(120)
        pods = world.server.of_kind("pods")
        assert sorted(world.fleet().values()) == ["decode", "prefill"]
        assert pods["demo-engine-0"]["metadata"]["uid"] == before["demo-engine-0"]["metadata"]["uid"]
        (decode,) = [pods[name] for name, home in world.fleet().items() if home == "decode"]
        assert decode["spec"]["nodeSelector"] == {"zone": "a"}
        assert len({pods[name]["metadata"]["labels"]["gpupools.dev/revision"] for name in world.fleet()}) == 1
        assert world.condition("Reconciling")["status"] == "False"

    run_virtual(scenario())


def test_an_upgrade_takes_over_replicas_without_a_template_and_replaces_them_at_the_next_change() -> None:
    def forget(pod: Manifest) -> None:
        del pod["metadata"]["annotations"]["gpupools.dev/template"]

    async def scenario() -> None:
        world = world_with()
        async with operating(world):
            await asyncio.sleep(60)
        for name in SETTLED:
            world.server.change("pods", "default", name, forget)
        uids = {name: pod["metadata"]["uid"] for name, pod in world.server.of_kind("pods").items()}
        async with operating(world):
            await asyncio.sleep(120)
            assert {
                name: pod["metadata"]["uid"] for name, pod in world.server.of_kind("pods").items()
            } == uids
            world.server.change("inferenceclusters", "default", NAME, _select_nodes)
            await asyncio.sleep(120)
        assert "demo-engine-0" in world.fleet()
        assert "demo-engine-1" not in world.fleet() or (
            world.server.of_kind("pods")["demo-engine-1"]["metadata"]["uid"] != uids["demo-engine-1"]
        )

    run_virtual(scenario())


def test_an_operator_that_died_before_it_could_delete_what_is_not_needed_does_so_when_it_is_back() -> None:
    async def scenario() -> None:
        world = world_with()
        async with operating(world):
            await asyncio.sleep(60)
        (config,) = [
            manifest for name, manifest in world.server.of_kind("configmaps").items() if "-prefill-" in name
        ]
        left = {**config, "metadata": {**config["metadata"], "name": f"{NAME}-prefill-0000000000"}}
        world.server.put(left)
        async with operating(world):
            await asyncio.sleep(60)
        assert left["metadata"]["name"] not in world.server.of_kind("configmaps")
        assert config["metadata"]["name"] in world.server.of_kind("configmaps")

    run_virtual(scenario())


REFUSALS = {
    "NamespaceTerminating": ApiError(403, "it is being terminated", cause="NamespaceTerminating"),
    "QuotaExceeded": ApiError(403, "exceeded quota: gpus", cause="QuotaExceeded"),
    "Forbidden": ApiError(403, 'cannot create resource "pods"'),
    "InvalidPod": ApiError(422, "spec.containers: Invalid value"),
}


@pytest.mark.parametrize("reason", REFUSALS)
def test_a_create_that_is_refused_is_tried_again_ever_more_rarely_and_told_once(reason: str) -> None:
    async def scenario() -> None:
        world = world_with()

        def refuse(call: Call) -> ApiError | None:
            is_create = call.plural == "pods" and call.verb == "create"
            return REFUSALS[reason] if is_create else None

        world.server.fault = refuse
        async with operating(world):
            await asyncio.sleep(85)
            tries = sum(call.plural == "pods" and call.verb == "create" for call in world.server.calls)
            assert tries <= 2 * 8, "two pools, each after 1, 2, 4, 8, 16 and 32 seconds"
            stalled = world.condition("Stalled")
            assert (stalled["status"], stalled["reason"]) == ("True", reason)
            assert REFUSALS[reason].message in stalled["message"]
            assert [pool["desired"] for pool in world.status()["pools"]] == [1, 1, 0]
            told = [
                event["message"]
                for event in world.server.of_kind("events").values()
                if event["reason"] == reason and event["message"].startswith("Stalled")
            ]
            assert len(told) == 1
            world.server.fault = lambda _: None
            await asyncio.sleep(90)
            assert world.fleet() == SETTLED
            assert world.condition("Stalled")["status"] == "False"
            assert world.condition("ScalingLimited")["status"] == "False"

    run_virtual(scenario())


def test_children_that_may_not_be_created_are_tried_again_ever_more_rarely() -> None:
    """A namespace that is being deleted: children go one by one, and none can be made anew."""

    async def scenario() -> None:
        world = world_with()

        def refuse(call: Call) -> ApiError | None:
            is_gone = (call.plural, call.namespace, call.name) not in world.server.objects
            is_child = call.is_write and call.plural not in ("events", "inferenceclusters")
            return REFUSALS["NamespaceTerminating"] if is_gone and is_child else None

        async with operating(world):
            await asyncio.sleep(60)
            world.server.fault = refuse
            for plural in ("services", "deployments", "enginepools", "serviceaccounts", "pods"):
                for name in list(world.server.of_kind(plural)):
                    if "router-1" not in name:
                        world.server.remove(plural, "default", name)
            before = len(world.server.writes)
            await asyncio.sleep(85)
            children = [write for write in world.server.writes[before:] if "inferenceclusters" not in write]
            assert len(children) <= 8 * 8, children

    run_virtual(scenario())


def test_a_child_that_may_not_be_written_holds_up_nothing_else_and_is_shown() -> None:
    async def scenario() -> None:
        world = world_with()

        def refuse(call: Call) -> ApiError | None:
            is_service = call.plural == "services" and call.is_write
            return ApiError(403, "no Services here") if is_service else None

        world.server.fault = refuse
        async with operating(world):
            await asyncio.sleep(60)
            assert world.fleet() == SETTLED
            assert f"{NAME}-router" in world.server.of_kind("deployments")
            events = world.server.of_kind("events").values()
            assert any("no Services here" in event["message"] for event in events)
            world.server.fault = lambda _: None
            await asyncio.sleep(30)
            assert NAME in world.server.of_kind("services")

    run_virtual(scenario())


def test_a_foreign_object_is_left_alone_and_named_in_a_warning() -> None:
    async def scenario() -> None:
        world = world_with()
        foreign = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": NAME, "namespace": "default"},
            "spec": {"ports": [{"port": 5432}]},
        }
        world.server.put(foreign)
        async with operating(world):
            await asyncio.sleep(60)
        assert world.server.of_kind("services")[NAME]["spec"] == {"ports": [{"port": 5432}]}
        warnings = [
            event["message"]
            for event in world.server.of_kind("events").values()
            if event["reason"] == "ForeignObject"
        ]
        assert len(warnings) == 1
        assert warnings[0].startswith(f"Service {NAME} exists and belongs to somebody else")
        assert world.fleet() == SETTLED

    run_virtual(scenario())


def test_replicas_of_another_owner_are_neither_counted_nor_deleted() -> None:
    async def scenario() -> None:
        world = world_with()
        stranger = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": "stranger",
                "namespace": "default",
                "labels": {
                    "gpupools.dev/cluster": NAME,
                    "gpupools.dev/component": "engine",
                    "gpupools.dev/pool": "prefill",
                },
            },
            "spec": {"containers": [{"resources": {"limits": {"nvidia.com/gpu": "2"}}}]},
        }
        world.server.put(stranger)
        async with operating(world):
            await asyncio.sleep(60)
        assert world.fleet() == {**SETTLED, "stranger": "prefill"}
        assert world.status()["summary"]["gpus"] == "4/16"

    run_virtual(scenario())


def test_in_external_mode_the_pools_follow_their_scale_and_the_operator_never_writes_it_back() -> None:
    async def scenario() -> None:
        world = world_with()

        def go_external(manifest: Manifest) -> None:
            manifest["spec"]["scaling"]["mode"] = "External"

        def wish(manifest: Manifest) -> None:
            manifest["spec"]["replicas"] = 3

        async with operating(world):
            await asyncio.sleep(60)
            world.server.change("inferenceclusters", "default", NAME, go_external)
            await asyncio.sleep(30)
            assert world.fleet() == SETTLED
            world.server.change("enginepools", "default", "demo-decode", wish)
            await asyncio.sleep(60)
            assert sorted(world.fleet().values()) == ["decode", "decode", "decode", "prefill"]
            pool = world.server.of_kind("enginepools")["demo-decode"]
            assert pool["spec"]["replicas"] == 3
            assert pool["status"]["readyReplicas"] == 3

    run_virtual(scenario())


def test_in_recommend_mode_nothing_is_created_or_removed() -> None:
    async def scenario() -> None:
        world = world_with(cluster(mode="Recommend"))
        async with operating(world):
            await asyncio.sleep(60)
            present = world.fleet()
            world.routers.arrive(60)
            await asyncio.sleep(300)
            assert world.fleet() == present
            recommended = {entry["name"]: entry["recommended"] for entry in world.status()["pools"]}
            assert recommended["prefill"] > 1

    run_virtual(scenario())


def test_a_new_cluster_of_the_same_name_starts_anew() -> None:
    async def scenario() -> None:
        world = world_with()
        async with operating(world):
            await asyncio.sleep(60)
            _delete(world)
            await asyncio.sleep(60)
            assert world.server.of_kind("inferenceclusters") == {}
            world.server.put(cluster())
            await asyncio.sleep(60)
            assert world.fleet() == SETTLED
            uid = world.server.of_kind("inferenceclusters")[NAME]["metadata"]["uid"]
            owners = {
                pod["metadata"]["ownerReferences"][0]["uid"]
                for name, pod in world.server.of_kind("pods").items()
                if name in SETTLED
            }
            assert owners == {uid}

    run_virtual(scenario())


def _delete(world: World) -> None:
    def mark(manifest: Manifest) -> None:
        manifest["metadata"]["deletionTimestamp"] = "2026-11-21T08:00:00Z"

    world.server.change("inferenceclusters", "default", NAME, mark)


def _break_spec(manifest: Manifest) -> None:
    """Passes the CRD, but the engine could not start with it."""
    manifest["spec"]["engine"]["env"] = [{"name": "POD_IP", "value": "1.2.3.4"}]


def test_the_operators_own_writes_do_not_bring_a_sizing_tick_forward() -> None:
    async def scenario() -> None:
        world = world_with()
        async with operating(world):
            await asyncio.sleep(60)
            world.routers.arrive(60)
            await asyncio.sleep(300)
        assert len(world.fleet()) > 2
        assert len(world.metrics.queries) <= 360 / 15 + 1

    run_virtual(scenario())
