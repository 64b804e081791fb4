"""Routers, pools and configurations of a cluster: put right, tidied up, and never those of others."""

from __future__ import annotations

import asyncio

import pytest
from tests.controller.operator_world import REFUSALS, SETTLED, world_with
from tests.fakes.apiserver import ApiError, Call, Manifest
from tests.fakes.virtualtime import run_virtual
from tests.fakes.world import NAME, cluster, operating


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


@pytest.mark.parametrize("is_away", [False, True], ids=["operator there", "operator away meanwhile"])
def test_what_the_user_takes_out_of_the_spec_goes_from_the_children(*, is_away: bool) -> None:
    async def scenario() -> None:
        manifest = cluster()
        manifest["spec"]["router"] = {
            "nodeSelector": {"pool": "cpu", "zone": "a"},
            "tolerations": [{"key": "serving", "operator": "Exists"}],
            "imagePullSecrets": [{"name": "registry"}],
            "priorityClassName": "serving",
            "service": {"annotations": {"lb": "internal"}},
        }
        world = world_with(manifest)

        def take_out(manifest: Manifest) -> None:
            manifest["spec"]["router"] = {"nodeSelector": {"pool": "cpu"}}

        async with operating(world):
            await asyncio.sleep(60)
            if not is_away:
                world.server.change("inferenceclusters", "default", NAME, take_out)
                await asyncio.sleep(5)
        if is_away:
            world.server.change("inferenceclusters", "default", NAME, take_out)
            async with operating(world):
                await asyncio.sleep(5)
        deployment = world.server.of_kind("deployments")[f"{NAME}-router"]
        pod = deployment["spec"]["template"]["spec"]
        assert pod["nodeSelector"] == {"pool": "cpu"}
        assert pod.keys().isdisjoint({"tolerations", "imagePullSecrets", "priorityClassName"})
        assert "lb" not in world.server.of_kind("services")[NAME]["metadata"].get("annotations", {})

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
            assert 5 <= len(children) <= 8 * 8, children

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
