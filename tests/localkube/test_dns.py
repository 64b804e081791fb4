"""The DNS server: wire format and which names exist."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

import pytest
from e2e.localkube import dns
from e2e.localkube.api import ApiError


@dataclass
class FixedResolver:
    known: dict[str, tuple[IPv4Address, ...]]

    def addresses(self, name: str) -> tuple[IPv4Address, ...]:
        return self.known.get(name, ())


class BrokenResolver:
    def addresses(self, name: str) -> tuple[IPv4Address, ...]:
        raise ApiError("GET", name, 0, "refused")


@dataclass
class FakeClient:
    """Answers by path, like the API server; unknown paths are 404."""

    objects: dict[str, Any]
    requests: int = 0

    def request(self, method: str, path: str) -> Any:
        self.requests += 1
        if path not in self.objects:
            raise ApiError(method, path, 404, "not found")
        return self.objects[path]


def query(name: str, record_type: int = dns.TYPE_A) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return (
        b"\x12\x34\x01\x00"
        + struct.pack("!HHHH", 1, 0, 0, 0)
        + labels
        + b"\0"
        + struct.pack("!HH", record_type, 1)
    )


RESOLVER = FixedResolver({"web.default.svc.cluster.local": (IPv4Address("10.96.0.7"),)})


def code_and_records(response: bytes) -> tuple[int, int]:
    flags, _, records = struct.unpack_from("!HHH", response, 2)
    return flags & 0xF, records


def test_a_known_name_answers_with_its_address_and_the_id_of_the_query() -> None:
    response = dns.answer(query("WEB.default.svc.cluster.local"), RESOLVER)
    assert response[:2] == b"\x12\x34"
    assert code_and_records(response) == (dns.NO_ERROR, 1)
    assert response.endswith(IPv4Address("10.96.0.7").packed)


def test_an_unknown_name_does_not_exist() -> None:
    assert code_and_records(dns.answer(query("example.com"), RESOLVER)) == (dns.NO_SUCH_NAME, 0)


def test_a_known_name_without_the_type_asked_for_is_an_empty_success() -> None:
    response = dns.answer(query("web.default.svc.cluster.local", record_type=28), RESOLVER)
    assert code_and_records(response) == (dns.NO_ERROR, 0)


def test_an_api_server_that_is_away_is_a_temporary_failure_and_not_a_missing_name() -> None:
    assert code_and_records(dns.answer(query("web.default.svc.cluster.local"), BrokenResolver())) == (
        dns.SERVER_FAILURE,
        0,
    )


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(query("web")[:14], id="cut in the name"),
        pytest.param(query("web")[:-1], id="cut in the type"),
        pytest.param(b"\0" * 12, id="no question"),
        pytest.param(query("web")[:12] + b"\xc0\x0c\0\1\0\1", id="compressed question"),
    ],
)
def test_malformed_queries_are_refused(packet: bytes) -> None:
    assert code_and_records(dns.answer(packet, RESOLVER)) == (dns.FORMAT_ERROR, 0)


SERVICES = "/api/v1/namespaces/default/services"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?labelSelector=kubernetes.io/service-name%3Dheadless"


def resolver() -> tuple[dns.ServiceResolver, FakeClient]:
    client = FakeClient(
        {
            f"{SERVICES}/web": {"spec": {"clusterIP": "10.96.0.7"}},
            f"{SERVICES}/headless": {"spec": {"clusterIP": "None"}},
            SLICES: {
                "items": [
                    {
                        "endpoints": [
                            {"addresses": ["10.244.0.9"], "conditions": {"ready": True}},
                            {"addresses": ["10.244.0.8"], "conditions": {"ready": False}},
                            {"addresses": ["10.244.0.3"], "conditions": {}},
                        ]
                    },
                    {"endpoints": None},
                ]
            },
        }
    )
    return dns.ServiceResolver(client), client  # type: ignore[arg-type]


def test_a_service_has_its_cluster_address_and_is_asked_for_once() -> None:
    services, client = resolver()
    for _ in range(3):
        assert services.addresses("web.default.svc.cluster.local") == (IPv4Address("10.96.0.7"),)
    assert client.requests == 1


def test_a_headless_service_has_its_ready_addresses() -> None:
    services, _ = resolver()
    found = services.addresses("headless.default.svc.cluster.local")
    assert found == (IPv4Address("10.244.0.3"), IPv4Address("10.244.0.9"))


@pytest.mark.parametrize(
    "name", ["none.default.svc.cluster.local", "web.default", "a.b.default.svc.cluster.local", "example.com"]
)
def test_other_names_do_not_exist(name: str) -> None:
    services, _ = resolver()
    assert services.addresses(name) == ()
