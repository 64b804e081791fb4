"""Routes and links: the order that keeps our addresses off the host's default route."""

from __future__ import annotations

import pytest
from e2e.localkube import network, plan


def test_node_service_and_link_ranges_do_not_overlap() -> None:
    ranges = (plan.SERVICE_CIDR, plan.POD_CIDR, plan.LINK_CIDR)
    for number, one in enumerate(ranges):
        assert not any(one.overlaps(other) for other in ranges[number + 1 :])


def test_fake_nodes_have_addresses_of_their_own_inside_the_refused_range() -> None:
    assert plan.FAKE_POD_CIDR.subnet_of(plan.POD_CIDR)
    assert plan.NODE_POD_CIDR.subnet_of(plan.POD_CIDR)
    assert not plan.FAKE_POD_CIDR.overlaps(plan.NODE_POD_CIDR)


def test_every_routed_range_is_refused_before_the_link_exists_and_after_it_went() -> None:
    refused = {command[4] for command in network.safety_commands()}
    routed = {command[3] for command in network.link_commands(1) if command[1] == "route"}
    assert refused == routed == {str(plan.SERVICE_CIDR), str(plan.POD_CIDR)}
    removal = network.removal_commands()
    assert removal[0] == ["ip", "link", "del", plan.HOST_LINK]
    assert {command[4] for command in removal[1:]} == refused


def test_the_node_gets_no_default_route() -> None:
    assert not any("default" in command for command in network.node_commands())


@pytest.mark.parametrize(
    ("route", "conflicting"),
    [
        pytest.param({"dst": "default", "dev": "eth0"}, False, id="default route"),
        pytest.param({"dst": "0.0.0.0/1", "dev": "tun0"}, False, id="split default route of a VPN"),
        pytest.param({"dst": "192.0.2.0/24", "dev": "eth0"}, False, id="another network"),
        pytest.param({"dst": "10.244.0.0/16", "dev": "lk0"}, False, id="our own link"),
        pytest.param(
            {"type": "unreachable", "dst": "10.96.0.0/16", "metric": 4000}, False, id="our safety route"
        ),
        pytest.param({"dst": "10.244.1.0/24", "dev": "flannel.1"}, True, id="another pod network"),
        pytest.param({"dst": "10.0.0.0/8", "dev": "tun0"}, True, id="a VPN around us"),
        pytest.param({"dst": "10.245.0.1", "dev": "eth0"}, True, id="one address of the link"),
    ],
)
def test_networks_of_others_inside_our_ranges_are_named(route: network.Route, *, conflicting: bool) -> None:
    assert bool(network.conflicts([route])) is conflicting
