"""CPU, memory and devices of a container."""

from __future__ import annotations

from collections.abc import Mapping

from inferencecluster.api.placement import ContainerResources, ResourceQuantities
from inferencecluster.render.manifest import Manifest


def container_resources(
    chosen: ContainerResources | None, *, defaults: Mapping[str, str], devices: Mapping[str, int]
) -> Manifest:
    """`resources` of a container: the user's quantities, `defaults` as requests for what is left open, `devices`.

    A default request is dropped where the user set a limit, because it could exceed it; Kubernetes then requests the limit.
    Devices, counted whole, go into limits only: their requests are equal. Quantities are strings, as the API server
    returns them.
    """
    limits = _quantities(chosen.limits if chosen else None)
    requests = _quantities(chosen.requests if chosen else None)
    open_defaults = {name: value for name, value in defaults.items() if name not in limits}
    resources: Manifest = {"requests": {**open_defaults, **requests}}
    if limits or devices:
        resources["limits"] = {**limits, **{name: str(count) for name, count in devices.items()}}
    return resources


def _quantities(quantities: ResourceQuantities | None) -> dict[str, str]:
    return quantities.model_dump(by_alias=True, exclude_none=True) if quantities else {}
