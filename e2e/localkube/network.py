"""The only link between the host and the private network namespace, and the routes around it.

Nothing can leave the machine by construction: the namespace has no default route, so an address
outside answers "network unreachable" at once. On the host two `unreachable` routes with a bad metric
stand before the real ones come up and after they went, so that a Service or pod address is never sent
to the host's own default route. They are therefore made first and removed last.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from ipaddress import IPv4Network
from typing import TypedDict

from e2e.localkube.errors import CommandError
from e2e.localkube.plan import (
    HOST_IP,
    HOST_LINK,
    LINK_CIDR,
    NODE_IP,
    NODE_LINK,
    POD_CIDR,
    SAFETY_METRIC,
    SERVICE_CIDR,
)
from e2e.localkube.shell import run

ROUTED = (SERVICE_CIDR, POD_CIDR)


class Route(TypedDict, total=False):
    """The fields of `ip -json route` that matter here."""

    type: str
    dst: str
    dev: str
    metric: int


def safety_commands() -> list[list[str]]:
    """Host: refuse our ranges while no link carries them. Run before anything else exists."""
    return [f"ip route replace unreachable {cidr} metric {SAFETY_METRIC}".split() for cidr in ROUTED]


def link_commands(init_pid: int) -> list[list[str]]:
    """Host: the veth pair into the network namespace of process `init_pid`, and the routes over it."""
    return [
        command.split()
        for command in (
            f"ip link add {HOST_LINK} type veth peer name {NODE_LINK} netns {init_pid}",
            f"ip addr add {HOST_IP}/{LINK_CIDR.prefixlen} dev {HOST_LINK}",
            f"ip link set {HOST_LINK} up",
            *(f"ip route replace {cidr} via {NODE_IP} dev {HOST_LINK}" for cidr in ROUTED),
        )
    ]


def node_commands() -> list[list[str]]:
    """Inside the namespace, once `NODE_LINK` has arrived.

    The `local` route lets processes of the node dial Service addresses, and turns an unknown one into an
    immediate "connection refused"; the unreachable route does the same for pods that do not exist.
    """
    return [
        command.split()
        for command in (
            f"ip addr add {NODE_IP}/{LINK_CIDR.prefixlen} dev {NODE_LINK}",
            f"ip link set {NODE_LINK} up",
            f"ip route add local {SERVICE_CIDR} dev lo src {NODE_IP}",
            f"ip route add unreachable {POD_CIDR} metric {SAFETY_METRIC}",
        )
    ]


def removal_commands() -> list[list[str]]:
    """Host: undo `link_commands`, then `safety_commands`; each may find its object gone already."""
    return [
        ["ip", "link", "del", HOST_LINK],
        *(f"ip route del unreachable {cidr} metric {SAFETY_METRIC}".split() for cidr in ROUTED),
    ]


def host_routes() -> list[Route]:
    """Every IPv4 route of the host, of all tables."""
    listed: list[Route] = json.loads(run(["ip", "-json", "-4", "route", "show", "table", "all"]) or "[]")
    return listed


def host_links() -> list[str]:
    """Names of the host's network links."""
    return [link["ifname"] for link in json.loads(run(["ip", "-json", "link", "show"]) or "[]")]


def is_ours(route: Route) -> bool:
    """Whether we made this route (ours go over `HOST_LINK` or are the unreachable ones)."""
    return route.get("dev") == HOST_LINK or (
        route.get("type") == "unreachable" and route.get("metric") == SAFETY_METRIC and _overlaps_plan(route)
    )


def conflicts(routes: Sequence[Route]) -> list[str]:
    """Routes of somebody else inside our ranges (a container network, a VPN): we would break them."""
    return [
        f"{route['dst']} dev {route.get('dev', route.get('type', '?'))}"
        for route in routes
        if not is_ours(route) and _overlaps_plan(route)
    ]


def _overlaps_plan(route: Route) -> bool:
    destination = route.get("dst", "default")
    if destination == "default":
        return False
    network = IPv4Network(destination, strict=False)
    if network.prefixlen < 8:
        return False  # split default routes (0.0.0.0/1) are defaults, not networks
    return any(network.overlaps(ours) for ours in (*ROUTED, LINK_CIDR))


def remove() -> None:
    """Delete link and routes of ours; those that are gone already are no error."""
    for command in removal_commands():
        run(command, check=False)


def connect(init_pid: int) -> None:
    """Join the network namespace of `init_pid` to the host. Raises `CommandError`."""
    for command in link_commands(init_pid):
        run(command)


def leftovers() -> list[str]:
    """Links and routes of ours that exist on the host now; iptables chains of Kubernetes too."""
    found = [f"link {name}" for name in host_links() if name == HOST_LINK]
    found += [f"route {route.get('dst')}" for route in host_routes() if is_ours(route)]
    for tool in ("iptables-save", "ip6tables-save"):
        try:
            rules = run([tool])
        except CommandError:
            continue  # not installed or not usable here: then nothing of ours used it either
        chains = [line.split()[0] for line in rules.splitlines() if line.startswith((":KUBE-", ":CNI-"))]
        found += [f"{tool.removesuffix('-save')} chain {chain.lstrip(':')}" for chain in chains]
    return found
