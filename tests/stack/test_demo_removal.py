"""The demo leaves nothing on a Kubernetes of the user, and touches nothing there that it did not make."""

from __future__ import annotations

from typing import Any

import pytest
from e2e import localkube
from e2e.demo import __main__ as demo
from e2e.stack.install import OWNER, OWNER_LABEL, RELEASE, SYSTEM_NAMESPACE
from e2e.stack.preflight import CRDS
from e2e.stack.removal import RemovalError, remove_everything
from e2e.stack.target import StackError
from tests.stack.scripted_target import NAMESPACE, OURS, named, scripted


class TestRemoval:
    def remove(self, answers: dict[str, Any]) -> list[str]:
        """The changing commands, in order. Raises `RemovalError`."""
        there: dict[str, Any] = {
            f"kubectl get crd {CRDS[0]}": named(CRDS[0]),
            f"kubectl get namespace {NAMESPACE}": named(NAMESPACE, labels=OURS),
            f"kubectl get {CRDS[0]}": {"items": []},
        }
        self.target = scripted({**answers, **there})
        remove_everything(self.target, namespace=NAMESPACE, made_namespaces=(NAMESPACE, SYSTEM_NAMESPACE))
        return self.changes

    @property
    def changes(self) -> list[str]:
        return [call for call in self.target.calls if call.split()[1] != "get"]

    def test_clusters_go_before_the_operator_that_drains_them(self) -> None:
        starts = [" ".join(call.split()[:3]) for call in self.remove({})]
        assert starts == [
            f"kubectl delete {CRDS[0]}",
            f"helm uninstall {RELEASE}",
            "kubectl delete namespace",
            "kubectl delete namespace",
        ]

    def test_a_namespace_goes_only_with_our_label(self) -> None:
        removals = [call for call in self.remove({}) if "delete namespace" in call]
        assert all(f"--selector {OWNER_LABEL}={OWNER}" in call for call in removals)
        assert [call.partition("metadata.name=")[2].split()[0] for call in removals] == [
            NAMESPACE,
            SYSTEM_NAMESPACE,
        ]

    def test_where_nothing_was_made_nothing_has_to_be_there(self) -> None:
        self.target = scripted({})
        remove_everything(self.target, namespace=NAMESPACE, made_namespaces=(NAMESPACE,))
        assert [call.split()[:2] for call in self.changes] == [["helm", "uninstall"], ["kubectl", "delete"]]
        assert all("--ignore-not-found" in call for call in self.changes)

    def test_a_cluster_that_nobody_drains_is_let_go(self) -> None:
        stuck = {"items": [{"metadata": {"name": "llama", "namespace": NAMESPACE}}]}
        changes = self.remove(
            {
                f"kubectl delete {CRDS[0]}": StackError("timed out"),
                f"kubectl get {CRDS[0]} --namespace": stuck,
            }
        )
        assert any(f"patch {CRDS[0]} llama" in call and '"finalizers":null' in call for call in changes)

    def test_each_step_is_tried_and_every_fault_is_told(self) -> None:
        with pytest.raises(RemovalError) as raised:
            self.remove(
                {
                    "helm uninstall": StackError("helm is stuck"),
                    "kubectl delete namespace": StackError("namespace is stuck"),
                }
            )
        assert raised.value.faults == ("helm is stuck", "namespace is stuck")

    def test_an_operator_that_others_use_stays_with_its_namespace(self) -> None:
        foreign = {"items": [{"metadata": {"name": "theirs", "namespace": "team"}}]}
        with pytest.raises(RemovalError, match="team/theirs"):
            self.remove({f"kubectl get {CRDS[0]} --all-namespaces": foreign})
        assert not any(SYSTEM_NAMESPACE in call for call in self.changes)


class TestDemo:
    def use(self, monkeypatch: pytest.MonkeyPatch, *faults: str) -> list[str]:
        """Steps that a failing replay takes; `faults` are those of the removal."""
        done: list[str] = []

        def removal(*_: object, **__: object) -> None:
            done.append("removed")
            if faults:
                raise RemovalError(faults)

        monkeypatch.setattr(demo, "check", lambda *_, **__: done.append("checked"))
        monkeypatch.setattr(localkube, "push_images", lambda _: done.append("pushed"))
        monkeypatch.setattr(demo, "remove_everything", removal)
        return done

    def test_a_users_kubernetes_is_checked_before_images_are_built(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        done = self.use(monkeypatch)
        with demo.prepared(scripted({}), gpu_resource="x/y", keep=False):
            done.append("replayed")
        assert done == ["checked", "pushed", "replayed", "removed"]

    def test_nothing_stays_when_the_replay_fails(self, monkeypatch: pytest.MonkeyPatch) -> None:
        done = self.use(monkeypatch)
        with (
            pytest.raises(KeyboardInterrupt),
            demo.prepared(scripted({}), gpu_resource="x/y", keep=False),
        ):
            raise KeyboardInterrupt
        assert done[-1] == "removed"

    def test_the_first_fault_is_not_hidden_by_that_of_the_removal(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.use(monkeypatch, "a namespace stays")
        with (
            pytest.raises(StackError, match="the replay broke"),
            demo.prepared(scripted({}), gpu_resource="x/y", keep=False),
        ):
            raise StackError("the replay broke")
        assert "a namespace stays" in capsys.readouterr().err

    def test_a_removal_that_fails_alone_is_the_demos_fault(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.use(monkeypatch, "a namespace stays")
        with (
            pytest.raises(RemovalError, match="a namespace stays"),
            demo.prepared(scripted({}), gpu_resource="x/y", keep=False),
        ):
            pass

    def test_what_is_to_be_looked_at_is_kept(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        done = self.use(monkeypatch)
        with demo.prepared(scripted({}), gpu_resource="x/y", keep=True):
            pass
        assert "removed" not in done
        assert NAMESPACE in capsys.readouterr().out
