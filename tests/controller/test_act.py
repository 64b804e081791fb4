"""Each action is guarded: what changed since the decision is left alone, and a repeat changes nothing."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from tests.fakes.apiserver import ApiError, FakeApiServer, Manifest
from tests.fakes.client import FakeClient
from tests.fakes.world import cluster

from inferencecluster.adapters.informer import Informer
from inferencecluster.adapters.kube import Selection
from inferencecluster.adapters.kube_resources import PODS
from inferencecluster.adapters.pod_cache import PodCache
from inferencecluster.adapters.pods import EnginePod, PodIndex, project_pod
from inferencecluster.api.inferencecluster import parse_cluster
from inferencecluster.controller.accepted import AcceptedSpec, accept
from inferencecluster.controller.act import Acted, Actor, Fleet, Note, Refused, missing_notes
from inferencecluster.core.actions import Action, Convert, Create, Delete, Fence, Unfence
from inferencecluster.core.errors import ApiUnavailable, Conflict, Forbidden
from inferencecluster.core.fleet import PoolName, Replica
from inferencecluster.core.observation import Refusal
from inferencecluster.render.context import Platform
from inferencecluster.render.replica import render_replica

NOW = 1_800_000_000.0


def cache_of(client: FakeClient) -> PodCache:
    """One that no watch feeds."""
    return PodCache(client, PodIndex(), {None: Informer(client, Selection(PODS), project_pod)})


class Stage:
    """A cluster without a loop: actions are carried out as they are given."""

    def __init__(self, **scaling: Any) -> None:
        self.server = FakeApiServer()
        manifest = self.server.put(cluster(**scaling))
        self.uid = manifest["metadata"]["uid"]
        self.accepted: AcceptedSpec = accept(parse_cluster(manifest), Platform("router:1", "router"))
        self.observed: tuple[Replica, ...] = ()
        self.versions: dict[str, str] = {}

    def look(self) -> None:
        """Observe every replica, as the operator's cache would."""
        found = (project_pod(pod) for pod in self.server.of_kind("pods").values())
        self.observed = tuple(pod.replica for pod in found if isinstance(pod, EnginePod))
        self.versions = {
            name: pod["metadata"]["resourceVersion"] for name, pod in self.server.of_kind("pods").items()
        }

    def act(self, *actions: Action, client: FakeClient | None = None) -> Acted:
        return asyncio.run(self._carry_out(actions, client or FakeClient(self.server)))

    def fleet(self) -> Fleet:
        """As the last `look` observed it."""
        pods = self.server.of_kind("pods")
        versions = {
            replica.uid: self.versions[replica.name] for replica in self.observed if replica.name in pods
        }
        return Fleet("default", "demo", self.uid, self.observed, NOW, versions)

    def note(self) -> tuple[Refused, ...]:
        """Write down what is missing."""
        fleet = self.fleet()
        notes = missing_notes(fleet, self.accepted.spec, frozenset())
        return asyncio.run(self._note(notes, fleet))

    async def _note(self, notes: tuple[Note, ...], fleet: Fleet) -> tuple[Refused, ...]:
        client = FakeClient(self.server)
        return await Actor(client, cache_of(client)).note(notes, fleet)

    async def _carry_out(self, actions: tuple[Action, ...], client: FakeClient) -> Acted:
        return await Actor(client, cache_of(client)).carry_out(actions, self.fleet(), self.accepted)

    def create(self, ordinal: int = 0) -> Replica:
        self.act(Create(ordinal, PoolName.PREFILL, 2, "BelowTarget"))
        self.look()
        return self.observed[ordinal]

    def annotations(self) -> dict[str, str]:
        found: dict[str, str] = self.pod()["metadata"]["annotations"]
        return found

    def pod(self) -> Manifest:
        return self.server.of_kind("pods")["demo-engine-0"]


def reasons(acted: Acted) -> list[str]:
    return [event.reason for event in acted.events]


def test_a_replica_is_created_once_however_often_it_is_asked_for() -> None:
    stage = Stage()
    create = Create(0, PoolName.PREFILL, 2, "BelowTarget")
    assert stage.act(create).done == (create,)
    uid = stage.pod()["metadata"]["uid"]
    again = stage.act(create)
    assert (again.done, again.events, again.refused) == ((), (), ())
    assert stage.pod()["metadata"]["uid"] == uid


def test_a_pod_of_somebody_else_under_the_name_is_left_alone_and_named() -> None:
    stage = Stage()
    stranger = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "demo-engine-0", "namespace": "default"},
    }
    stage.server.put(stranger)
    acted = stage.act(
        Create(0, PoolName.PREFILL, 2, "BelowTarget"), Create(1, PoolName.DECODE, 2, "BelowTarget")
    )
    assert reasons(acted) == ["ForeignObject", "ReplicaCreated", "ReplicaCreated"]
    assert "ownerReferences" not in stage.pod()["metadata"]
    # It does not stand in the way of the fleet: the next free name is taken, and not one that the decision gave away.
    assert [(action.ordinal, action.pool) for action in acted.done if isinstance(action, Create)] == [
        (2, PoolName.PREFILL),
        (1, PoolName.DECODE),
    ]


def test_a_replica_that_lost_its_labels_is_named_and_not_doubled() -> None:
    stage = Stage()
    stage.create()

    def take_labels(pod: Manifest) -> None:
        pod["metadata"]["labels"] = {}

    stage.server.change("pods", "default", "demo-engine-0", take_labels)
    stage.observed = ()
    acted = stage.act(Create(0, PoolName.PREFILL, 2, "BelowTarget"))
    assert (reasons(acted), acted.done) == (["ReplicaNotLabelled"], ())
    assert list(stage.server.of_kind("pods")) == ["demo-engine-0"]


def test_a_fence_and_its_end_are_annotations_of_this_very_pod() -> None:
    stage = Stage()
    replica = stage.create()
    stage.act(Fence(replica.name, replica.uid, "ScaleDown"))
    assert stage.annotations()["gpupools.dev/fenced-at"] == f"{NOW:.3f}"
    assert stage.annotations()["gpupools.dev/fence-reason"] == "ScaleDown"
    stage.look()
    stage.act(Unfence(replica.name, replica.uid, "WantedAgain"))
    assert "gpupools.dev/fenced-at" not in stage.annotations()


@pytest.mark.parametrize("kind", [Fence, Unfence])
def test_a_pod_that_changed_since_it_was_observed_is_neither_fenced_nor_unfenced(kind: Any) -> None:
    stage = Stage()
    replica = stage.create()
    stage.server.change("pods", "default", replica.name, _make_ready)
    before = stage.pod()
    acted = stage.act(kind(replica.name, replica.uid, "ScaleDown"))
    assert [type(item.error) for item in acted.refused] == [Conflict]
    assert stage.pod() == before


@pytest.mark.parametrize("kind", [Fence, Unfence])
def test_a_pod_that_was_made_anew_is_not_fenced_for_the_old_one(kind: Any) -> None:
    stage = Stage()
    stage.create()
    acted = stage.act(kind("demo-engine-0", "another uid", "ScaleDown"))
    assert [type(item.error) for item in acted.refused] == [Conflict]
    assert "gpupools.dev/fenced-at" not in stage.annotations()


def test_a_drained_replica_is_deleted() -> None:
    stage = Stage()
    replica = stage.create()
    acted = stage.act(Delete(replica.name, replica.uid, "ScaleDown"))
    assert reasons(acted) == ["ReplicaDeleted"]
    assert stage.server.of_kind("pods") == {}


def test_a_replica_that_is_gone_already_needs_no_delete() -> None:
    stage = Stage()
    replica = stage.create()
    stage.server.remove("pods", "default", replica.name)
    acted = stage.act(Delete(replica.name, replica.uid, "ScaleDown"))
    assert (acted.done, acted.refused) == ((), ())


def test_an_overridden_drain_is_a_warning() -> None:
    stage = Stage()
    replica = stage.create()
    acted = stage.act(Delete(replica.name, replica.uid, "DrainDeadline", forced=True))
    assert reasons(acted) == ["DrainOverridden"]
    assert acted.events[0].message == (
        "demo-engine-0 is deleted, because its drain deadline has passed, with work in flight or unknown"
    )


def _unfence(pod: Manifest) -> None:
    pod["metadata"]["annotations"].pop("gpupools.dev/fenced-at")


def _make_ready(pod: Manifest) -> None:
    pod["spec"]["nodeName"] = "node-0"
    pod["status"] = {
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-21T08:00:00Z"}]
    }


def _disown(pod: Manifest) -> None:
    pod["metadata"]["ownerReferences"] = []


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(_unfence, id="its fence was taken back"),
        pytest.param(_make_ready, id="it became ready"),
        pytest.param(_disown, id="it is not ours any more"),
    ],
)
def test_a_victim_that_changed_since_the_decision_is_spared(change: Any) -> None:
    stage = Stage()
    replica = stage.create()
    stage.act(Fence(replica.name, replica.uid, "ScaleDown"))
    stage.look()
    stage.server.change("pods", "default", replica.name, change)
    acted = stage.act(Delete(replica.name, replica.uid, "ScaleDown"))
    assert [type(item.error) for item in acted.refused] == [Conflict]
    assert "demo-engine-0" in stage.server.of_kind("pods")


def test_a_victim_that_changes_between_the_last_look_and_the_delete_is_spared() -> None:
    stage = Stage()
    replica = stage.create()

    class Racing(FakeClient):
        async def get(self, *arguments: Any, **keywords: Any) -> Manifest | None:
            found = await super().get(*arguments, **keywords)
            stage.server.change("pods", "default", replica.name, _make_ready)
            return found

    acted = stage.act(Delete(replica.name, replica.uid, "ScaleDown"), client=Racing(stage.server))
    assert [type(item.error) for item in acted.refused] == [Conflict]
    assert "demo-engine-0" in stage.server.of_kind("pods")


def test_a_refused_action_does_not_hold_up_the_next() -> None:
    stage = Stage()
    replica = stage.create()
    stage.server.fault = lambda call: ApiError(403, "exceeded quota") if call.verb == "create" else None
    fence = Fence(replica.name, replica.uid, "ScaleDown")
    acted = stage.act(Create(1, PoolName.DECODE, 2, "BelowTarget"), fence)
    assert [type(item.error) for item in acted.uncreated] == [Forbidden]
    assert acted.done == (fence,)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        pytest.param(
            ApiError(403, "it is being terminated", cause="NamespaceTerminating"),
            "NamespaceTerminating",
            id="namespace goes",
        ),
        pytest.param(ApiError(403, "no", cause="QuotaExceeded"), "QuotaExceeded", id="quota"),
        pytest.param(ApiError(403, "no"), "Forbidden", id="rights or a policy"),
        pytest.param(ApiError(422, "no"), "InvalidPod", id="content"),
    ],
)
def test_a_create_that_is_refused_is_tried_once_for_its_pool_and_told_with_its_reason(
    answer: ApiError, reason: str
) -> None:
    stage = Stage()
    stage.server.fault = lambda call: answer if call.verb == "create" else None
    creates = [Create(number, PoolName.DECODE, 2, "BelowTarget") for number in range(3)]
    acted = stage.act(*creates, Create(3, PoolName.PREFILL, 2, "BelowTarget"))
    assert [item.refusal for item in acted.uncreated] == [
        Refusal(PoolName.DECODE, reason, answer.message),
        Refusal(PoolName.PREFILL, reason, answer.message),
    ]
    assert len([call for call in stage.server.calls if call.verb == "create"]) == 2
    assert acted.refused == ()


def test_events_about_replicas_are_sentences() -> None:
    stage = Stage()
    created = stage.act(Create(0, PoolName.PREFILL, 2, "BelowTarget"))
    stage.look()
    [replica] = stage.observed
    acted = stage.act(
        Fence(replica.name, replica.uid, "ScaleDown"), Unfence(replica.name, replica.uid, "WantedAgain")
    )
    deleted = stage.act(Delete(replica.name, replica.uid, "EngineCrashed"))
    assert [event.message for event in (*created.events, *acted.events, *deleted.events)] == [
        "demo-engine-0 joins prefill, because its pool has fewer replicas than desired",
        "demo-engine-0 gets no new requests, because its pool has more replicas than desired",
        "demo-engine-0 serves again, because its pool needs it again",
        "demo-engine-0 is deleted, because its engine crashes again and again",
    ]


def test_an_outage_ends_the_round() -> None:
    stage = Stage()
    stage.server.fault = lambda _: ApiError(503, "away")
    with pytest.raises(ApiUnavailable):
        stage.act(Create(0, PoolName.PREFILL, 2, "BelowTarget"))


def test_nothing_is_created_in_a_pool_that_the_spec_does_not_have() -> None:
    stage = Stage()
    stage.accepted = replace(stage.accepted, contexts={})
    assert stage.act(Create(0, PoolName.PREFILL, 2, "BelowTarget")).done == ()
    assert stage.server.of_kind("pods") == {}


def test_a_conversion_is_one_patch_that_makes_the_pod_what_the_other_pool_would_have_created() -> None:
    stage = Stage(conversion="Enabled")
    replica = stage.create()
    stage.act(Fence(replica.name, replica.uid, "ScaleDown"))
    stage.look()
    writes = len(stage.server.writes)
    action = Convert(replica.name, replica.uid, PoolName.DECODE, "WantedElsewhere")
    acted = stage.act(action)
    assert (acted.done, reasons(acted)) == ((action,), ["ReplicaConverted"])
    assert [event.message for event in acted.events] == [
        "demo-engine-0 moves to decode, because that pool lacks one and its own has one too many"
    ]
    assert len(stage.server.writes) == writes + 1
    born = render_replica(stage.accepted.contexts[PoolName.DECODE], ordinal=0)
    pod = stage.pod()
    assert pod["metadata"]["labels"] == born["metadata"]["labels"]
    assert pod["metadata"]["annotations"] == born["metadata"]["annotations"], "the fence is gone, too"
    assert pod["spec"] == born["spec"]
    stage.look()
    assert [(replica.home, replica.fenced_at) for replica in stage.observed] == [(PoolName.DECODE, None)]


def test_a_pod_that_changed_since_it_was_observed_is_not_converted() -> None:
    stage = Stage(conversion="Enabled")
    replica = stage.create()
    stage.server.change("pods", "default", replica.name, _make_ready)
    before = stage.pod()
    acted = stage.act(Convert(replica.name, replica.uid, PoolName.DECODE, "WantedElsewhere"))
    assert [type(item.error) for item in acted.refused] == [Conflict]
    assert stage.pod() == before


def test_nothing_is_converted_to_a_pool_that_the_spec_does_not_have() -> None:
    stage = Stage(conversion="Enabled")
    replica = stage.create()
    before = stage.pod()
    stage.accepted = replace(stage.accepted, contexts={})
    acted = stage.act(Convert(replica.name, replica.uid, PoolName.DECODE, "WantedElsewhere"))
    assert (acted.done, acted.events, acted.refused) == ((), (), ())
    assert stage.pod() == before


def test_a_silent_replica_of_an_interchangeable_pool_is_given_no_template() -> None:
    """It would promise an engine that takes every phase, and nobody knows that."""
    stage = Stage(conversion="Enabled")
    stage.create()
    stage.server.change("pods", "default", "demo-engine-0", _forget_template)
    stage.look()
    assert stage.note() == ()
    assert "gpupools.dev/template" not in stage.annotations()


def _forget_template(pod: Manifest) -> None:
    del pod["metadata"]["annotations"]["gpupools.dev/template"]


def test_a_replica_that_tells_no_template_is_given_the_present_one_and_keeps_serving() -> None:
    stage = Stage()
    stage.create()
    template = stage.annotations()["gpupools.dev/template"]
    stage.server.change("pods", "default", "demo-engine-0", _forget_template)
    stage.look()
    assert stage.note() == ()
    assert stage.annotations()["gpupools.dev/template"] == template
    stage.look()
    writes = len(stage.server.writes)
    assert stage.note() == ()
    assert len(stage.server.writes) == writes, "it is written once"


def test_a_replica_that_was_made_anew_meanwhile_is_not_given_a_template() -> None:
    stage = Stage()
    stage.create()
    stage.server.change("pods", "default", "demo-engine-0", _forget_template)
    stage.look()
    stage.observed = tuple(replace(replica, uid="another uid") for replica in stage.observed)
    refused = stage.note()
    assert [type(item.error) for item in refused] == [Conflict]
    assert "gpupools.dev/template" not in stage.annotations()
