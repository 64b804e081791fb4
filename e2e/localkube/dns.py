"""A DNS server for Service names, on the node's address.

It answers `<service>.<namespace>.svc.cluster.local` (A records: the ClusterIP, or every ready address of
a headless Service) by asking the API server, and nothing else: a name outside does not exist, at once.
CoreDNS would do more; it takes three minutes to build and 57 MB to run, and tests need only this.
"""

from __future__ import annotations

import socket
import struct
import sys
import time
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import Protocol

from e2e.localkube.api import ApiClient, ApiError
from e2e.localkube.paths import State
from e2e.localkube.plan import CLUSTER_DOMAIN, NODE_IP

PORT = 53
TYPE_A = 1
CLASS_IN = 1
ANY_TYPE = 255
NO_ERROR = 0
FORMAT_ERROR = 1
SERVER_FAILURE = 2
NO_SUCH_NAME = 3
TIME_TO_LIVE_SECONDS = 2
"""Also how long an answer of the API server is used again: short, as tests delete and recreate Services."""


@dataclass(frozen=True, slots=True)
class Question:
    """The single question of a query; `wire` is its encoding, which the answer repeats."""

    name: str
    record_type: int
    wire: bytes


class Resolver(Protocol):
    """Finds the addresses of a name: none when it does not exist. May raise `ApiError`."""

    def addresses(self, name: str) -> tuple[IPv4Address, ...]:
        """Addresses of the lower-case `name`, without its final dot."""
        ...


def parse_question(packet: bytes) -> Question:
    """The question of a query. Raises `ValueError` for anything but one plain question."""
    if len(packet) < 12 or struct.unpack_from("!H", packet, 4)[0] != 1:
        raise ValueError("not a query with one question")
    labels: list[str] = []
    position = 12
    while True:
        length = packet[position] if position < len(packet) else 64
        if length > 63:  # compression is never used in a question
            raise ValueError("malformed name")
        position += 1
        if length == 0:
            break
        labels.append(packet[position : position + length].decode("ascii", errors="replace").lower())
        position += length
    if len(packet) < position + 4:
        raise ValueError("truncated question")
    (record_type,) = struct.unpack_from("!H", packet, position)
    return Question(".".join(labels), record_type, packet[12 : position + 4])


def answer(packet: bytes, resolver: Resolver) -> bytes:
    """The response to the query `packet` (at least its 12 bytes of header)."""
    try:
        question = parse_question(packet)
    except ValueError:
        return _response(packet, FORMAT_ERROR, b"", ())
    try:
        found = resolver.addresses(question.name)
    except ApiError:
        return _response(packet, SERVER_FAILURE, question.wire, ())
    if not found:
        return _response(packet, NO_SUCH_NAME, question.wire, ())
    # A name that exists but has no record of the type asked for (AAAA) is an empty success, not an error:
    # otherwise resolvers that ask for both families give up.
    records = found if question.record_type in {TYPE_A, ANY_TYPE} else ()
    return _response(packet, NO_ERROR, question.wire, records)


def _response(packet: bytes, code: int, question: bytes, records: tuple[IPv4Address, ...]) -> bytes:
    recursion_desired = packet[2] & 0x01
    flags = 0x8480 | recursion_desired << 8 | code  # response, authoritative, recursion available
    header = packet[:2] + struct.pack("!HHHHH", flags, 1 if question else 0, len(records), 0, 0)
    body = b"".join(
        # 0xC00C: the name of the question, at offset 12
        struct.pack("!HHHIH", 0xC00C, TYPE_A, CLASS_IN, TIME_TO_LIVE_SECONDS, 4) + record.packed
        for record in records
    )
    return header + question + body


@dataclass(slots=True)
class ServiceResolver:
    """Looks Services up in the API server, and remembers each answer for `TIME_TO_LIVE_SECONDS`."""

    client: ApiClient
    known: dict[str, tuple[float, tuple[IPv4Address, ...]]] = field(default_factory=dict)

    def addresses(self, name: str) -> tuple[IPv4Address, ...]:
        """See `Resolver`."""
        suffix = f".svc.{CLUSTER_DOMAIN}"
        parts = name.removesuffix(suffix).split(".")
        if not name.endswith(suffix) or len(parts) != 2:
            return ()
        now = time.monotonic()
        expires, found = self.known.get(name, (0.0, ()))
        if expires <= now:
            found = self._look_up(service=parts[0], namespace=parts[1])
            self.known[name] = (now + TIME_TO_LIVE_SECONDS, found)
        return found

    def _look_up(self, *, service: str, namespace: str) -> tuple[IPv4Address, ...]:
        try:
            found = self.client.request("GET", f"/api/v1/namespaces/{namespace}/services/{service}")
        except ApiError as error:
            if error.status in {400, 404}:
                return ()
            raise
        cluster_ip = found["spec"].get("clusterIP", "None")
        if cluster_ip != "None":
            return (IPv4Address(cluster_ip),)
        slices = self.client.request(
            "GET",
            f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
            f"?labelSelector=kubernetes.io/service-name%3D{service}",
        )
        ready = {
            address
            for item in slices["items"]
            for endpoint in item.get("endpoints") or ()
            if endpoint.get("conditions", {}).get("ready", True)
            for address in endpoint["addresses"]
        }
        return tuple(sorted(IPv4Address(address) for address in ready))


def serve(resolver: Resolver) -> None:
    """Answer queries over UDP, one after the other, until the process is killed."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((str(NODE_IP), PORT))
        while True:
            packet, client = server.recvfrom(4096)
            if len(packet) >= 12:
                server.sendto(answer(packet, resolver), client)


if __name__ == "__main__":
    serve(ServiceResolver(ApiClient.from_state(State(Path(sys.argv[1])), "dns")))
