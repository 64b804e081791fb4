"""What `explain` and `top` read of a living Kubernetes, with one clear line where that cannot be done."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError

from inferencecluster.adapters.credentials import load_credentials
from inferencecluster.adapters.informer import ObjectKey
from inferencecluster.adapters.kube import ApiClient, Selection
from inferencecluster.adapters.kube_errors import UnknownKind
from inferencecluster.adapters.kube_resources import CLUSTERS, EVENTS, PODS, POOLS, Manifest, Resource
from inferencecluster.adapters.pods import POD_SELECTOR, RouterPod
from inferencecluster.api.names import CLUSTER_KIND, LABEL_CLUSTER, ROUTER_ADMIN_PORT
from inferencecluster.api.router_state import RouterState
from inferencecluster.cli.live_traffic import Traffic, traffic_of
from inferencecluster.cli.surroundings import ClusterPods, Surroundings, pods_by_cluster
from inferencecluster.core.errors import ApiUnavailable, Forbidden, OperatorError, SpecError
from inferencecluster.core.missing import Missing

ROUTER_SECONDS: Final = 5.0
"""A router answers from memory at once; a person at a terminal waits no longer for one that is gone."""
_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
"""Names of namespaces and of InferenceClusters."""
_NAMED_OTHERS: Final = 10
"""Names of other objects in an error: enough to see one's own slip."""


@dataclass(frozen=True, slots=True)
class Kubernetes:
    """One API server, and where to look in it."""

    client: ApiClient
    server: str
    namespace: str | None
    """None is all namespaces."""


@asynccontextmanager
async def connected(
    *, context: str | None, namespace: str | None, everywhere: bool = False
) -> AsyncIterator[Kubernetes]:
    """Raises `SpecError` when no kubeconfig can be used."""
    if namespace is not None:
        _refuse_odd_name("--namespace", namespace, "name one namespace, or leave it out for the context's")
    try:
        credentials = await load_credentials(context)
    except ApiUnavailable as error:
        field, value = (
            ("--context", context) if context else ("KUBECONFIG", os.environ.get("KUBECONFIG") or "absent")
        )
        raise SpecError(
            field=field,
            value=value,
            rule=f"it leads to no Kubernetes: {error.detail}",
            advice="name another one; `kubectl config get-contexts` lists what there is",
        ) from error
    async with ApiClient(credentials) as client:
        server = (await credentials.access()).server
        yield Kubernetes(client, server, None if everywhere else namespace or credentials.namespace)


async def find_cluster(kubernetes: Kubernetes, name: str) -> Manifest:
    """Raises `SpecError` with what stands in the way."""
    _refuse_odd_name("NAME", name, "write it without the namespace, which is --namespace")
    try:
        found = await kubernetes.client.get(CLUSTERS, name, namespace=kubernetes.namespace)
        there = "" if found else await _names(kubernetes)
    except OperatorError as error:
        raise unreadable(error, kubernetes, CLUSTERS) from error
    if found:
        return found
    raise SpecError(
        field="NAME",
        value=name,
        rule=f"namespace {kubernetes.namespace} of {kubernetes.server} has no {CLUSTER_KIND} of that name{there}",
        advice="correct the name, --namespace or --context",
    )


async def _names(kubernetes: Kubernetes) -> str:
    """What else there is, as a clause; empty for who may not see it. Raises `UnknownKind` and `ApiUnavailable`."""
    try:
        names = sorted(item["metadata"]["name"] for item in await _all(kubernetes, CLUSTERS))
    except Forbidden:
        return ""
    return f" (there are {', '.join(names[:_NAMED_OTHERS])})" if names else " (it holds none)"


def _refuse_odd_name(field: str, name: str, advice: str) -> None:
    """It becomes a part of a path: nothing else may be asked for with it."""
    if not _LABEL.fullmatch(name):
        raise SpecError(field=field, value=repr(name), rule="it must be a DNS label", advice=advice)


async def list_clusters(kubernetes: Kubernetes) -> list[Manifest]:
    """In the order of namespace and name. Raises `SpecError`."""
    try:
        return await _all(kubernetes, CLUSTERS)
    except OperatorError as error:
        raise unreadable(error, kubernetes, CLUSTERS) from error


def unreadable(error: OperatorError, kubernetes: Kubernetes, resource: Resource) -> SpecError:
    """What to do about a read that failed."""
    where = f"namespace {kubernetes.namespace}" if kubernetes.namespace else "all namespaces"
    match error:
        case UnknownKind():
            return SpecError(
                field="the API server",
                value=kubernetes.server,
                rule=f"it knows no {CLUSTER_KIND}: its CRDs are not installed",
                advice="name another --context, or install the operator's chart",
            )
        case Forbidden():
            return SpecError(
                field=f"the right to {error.verb} {resource.plural}.{resource.group}".rstrip("."),
                value=f"missing in {where}",
                rule=f"the API server says: {error.detail}",
                advice="let somebody bind you to the ClusterRole `view`, or name another --namespace or --context",
            )
        case ApiUnavailable():
            return SpecError(
                field="the API server",
                value=kubernetes.server,
                rule=f"it gave no usable answer: {error.detail}",
                advice="look whether `kubectl get ic` answers, and name another --context if it is the wrong one",
            )
    return SpecError(
        field="the API server",
        value=kubernetes.server,
        rule=f"it refused to be read: {error}",
        advice="look whether its CRDs are of this release",
    )


async def surroundings(kubernetes: Kubernetes, cluster: Manifest) -> Surroundings:
    """All at once: what is refused, or fails, is Missing with the server's words."""
    metadata = cluster["metadata"]
    key = ObjectKey(metadata["namespace"], metadata["name"])
    about = f"involvedObject.kind={CLUSTER_KIND},involvedObject.name={key.name},involvedObject.uid={metadata['uid']}"
    pods, pools, events = await asyncio.gather(
        cluster_pods(kubernetes, key.name),
        _readable(kubernetes, POOLS, label=f"{LABEL_CLUSTER}={key.name}"),
        _readable(kubernetes, EVENTS, field=about),
    )
    mine = pods if isinstance(pods, Missing) else pods.get(key, ClusterPods())
    return Surroundings(mine, pools, events)


async def cluster_pods(
    kubernetes: Kubernetes, name: str | None = None
) -> Mapping[ObjectKey, ClusterPods] | Missing:
    """Of the cluster of this name, or of all."""
    mine = f",{LABEL_CLUSTER}={name}" if name is not None else ""
    found = await _readable(kubernetes, PODS, label=f"{POD_SELECTOR}{mine}")
    return found if isinstance(found, Missing) else pods_by_cluster(found)


async def traffic(kubernetes: Kubernetes, pods: ClusterPods | Missing) -> Traffic | Missing:
    """What the routers hold, asked through the API server; Missing unless every one of them answers."""
    if isinstance(pods, Missing):
        return pods
    running = [pod for pod in pods.routers if pod.running]
    if not running:
        return Missing("NoRouter", "no router is running")
    states = await asyncio.gather(*(_state(kubernetes, pod) for pod in running))
    silent = [state for state in states if isinstance(state, Missing)]
    if silent:
        return silent[0]
    return traffic_of([state for state in states if isinstance(state, RouterState)], pods.homes)


async def _state(kubernetes: Kubernetes, pod: RouterPod) -> RouterState | Missing:
    try:
        async with asyncio.timeout(ROUTER_SECONDS):
            answer = await kubernetes.client.get_through_pod(
                pod.name, namespace=pod.cluster.namespace, port=ROUTER_ADMIN_PORT, path="state"
            )
        if answer is None:
            return Missing("RouterUnreachable", f"router {pod.name} has gone, or is of another release")
        return RouterState.model_validate(answer)
    except Forbidden as error:
        return Missing("Forbidden", f"the right to get pods/proxy is missing: {error.detail}")
    except TimeoutError:
        return Missing("RouterUnreachable", f"router {pod.name} gave no answer within {ROUTER_SECONDS:.0f} s")
    except ValidationError as error:
        odd = f"{error.error_count()} fields are not as this release knows them"
        return Missing("RouterUnreachable", f"router {pod.name}: {odd}")
    except OperatorError as error:
        return Missing("RouterUnreachable", f"router {pod.name}: {' '.join(str(error).split())}")


async def _readable(
    kubernetes: Kubernetes, resource: Resource, *, label: str = "", field: str = ""
) -> list[Manifest] | Missing:
    try:
        return await _all(kubernetes, resource, label=label, field=field)
    except OperatorError as error:
        return Missing(type(error).__name__, str(error))


async def _all(
    kubernetes: Kubernetes, resource: Resource, *, label: str = "", field: str = ""
) -> list[Manifest]:
    """Every page. Raises `Forbidden`, `Invalid` and `ApiUnavailable`."""
    selection = Selection(resource, kubernetes.namespace, label_selector=label, field_selector=field)
    page = await kubernetes.client.list_page(selection)
    items = list(page.items)
    while page.continue_token:
        page = await kubernetes.client.list_page(selection, continue_token=page.continue_token)
        items += page.items
    return items
