"""The network between replicas: KV caches leave on one link, arrive on another, and wait for both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Network:
    """How KV caches travel."""

    layer_wise: bool = False
    """Each layer is sent while the next one is computed, and the decode engine sets room aside as soon as it is asked. False:
    the decode engine fetches the cache after the prompt is done, once an iteration begins with room for it (TensorRT-LLM's
    context-first protocol without overlap)."""
    dedicated: bool = False
    """Nobody shares a link: each cache has its whole speed, and is asked for when its prompt is done (splitwise-sim)."""
    constant_seconds: float = 0.0
    """Added to every transfer: what layer-wise sending leaves after the last layer is computed, 5 ms on H100 with 400 Gbit/s and
    8 ms on A100 with 200, at any prompt length (Splitwise, ISCA'24, section IV-C)."""

    @property
    def fetches_at_boundary(self) -> bool:
        """Decode engines set room aside only where an iteration begins."""
        return not (self.layer_wise or self.dedicated)


CONTEXT_FIRST: Final = Network()
"""As the engines do it that the operator configures (TensorRT-LLM, and the emulated ones): the answer of the prompt phase goes
to the router, and the decode engine fetches the cache when an iteration begins that has room for it."""


class Link:
    """One direction of a replica's network. It carries one cache after the other, in the order of booking."""

    __slots__ = ("_bytes_per_second", "busy_seconds", "free_at")

    def __init__(self, bytes_per_second: float) -> None:
        self._bytes_per_second = bytes_per_second
        self.free_at = 0.0
        """When everything that was booked is through."""
        self.busy_seconds = 0.0

    def seconds(self, size: float) -> float:
        """What `size` bytes take when nothing else is on the link."""
        return size / self._bytes_per_second

    def book(self, size: float, ready: float) -> float:
        """Carry `size` bytes that can leave from `ready` on; the time at which the last has passed."""
        seconds = self.seconds(size)
        self.busy_seconds += seconds
        self.free_at = max(ready, self.free_at) + seconds
        return self.free_at


def transfer_ends_at(egress: Link, ingress: Link, size: float, *, ready: float, last_layer: float) -> float:
    """Book `size` bytes on both links; when the last byte is there, without the constant part.

    `ready`: when the first layer can be sent; `last_layer`: when the last one is computed, `ready` or later. Each link works
    off its own queue and the later one decides: a cache that waits for a busy receiver does not keep its sender's link
    from carrying others, as flows that share a network do not.
    """
    return max(last_layer, egress.book(size, ready), ingress.book(size, ready))
