"""Who is compared: the product, its variants, and every baseline, some of them with several settings of their knob."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from benches.policy.variants import VARIANTS, Variant
from inferencecluster.core.errors import SpecError
from inferencecluster.simulator.policies.context import PolicyContext
from inferencecluster.simulator.policies.registry import POLICIES, build_policy
from inferencecluster.simulator.signals import SizingPolicy

PRODUCT: Final = "product"
HINDSIGHT: Final = "hindsight"
TUNED: Final = "hpa-busy"
"""Its knob is tuned on each workload with hindsight: the strongest HPA there can be."""
TUNED_TARGETS: Final = (0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True, slots=True)
class Contender:
    """One row."""

    name: str
    policy: str | None = None
    """Of the registry; None: the product."""
    target: float | None = None
    variant: Variant | None = None

    @property
    def is_product(self) -> bool:
        """Complete or without something."""
        return self.policy is None

    @property
    def is_baseline(self) -> bool:
        """Knows no future (but for the choice of a knob)."""
        return self.policy not in (None, HINDSIGHT)

    def build(self, context: PolicyContext) -> SizingPolicy | None:
        """None: the product's own sizing."""
        return None if self.policy is None else build_policy(self.policy, context)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The product as this contender wants it."""
        if self.variant is None:
            yield
            return
        with self.variant.applied():
            yield


def contender(name: str) -> Contender:
    """By name: `product` or a policy, `POLICY@TARGET`, and each of them followed by `-VARIANT`. Raises `SpecError`."""
    suffix = next((f"-{variant}" for variant in VARIANTS if name.endswith(f"-{variant}")), "")
    variant = VARIANTS[suffix[1:]] if suffix else None
    policy, _, target = name.removesuffix(suffix).partition("@")
    if policy == PRODUCT and not target:
        return Contender(name, variant=variant)
    if policy not in POLICIES:
        known = (PRODUCT, *POLICIES)
        raise SpecError(
            field="--policies",
            value=repr(name),
            rule=f"the policies are {', '.join(known)}, each also followed by -{', -'.join(VARIANTS)}",
            advice="name some of them, separated by commas; POLICY@0.7 sets the knob of a policy",
        )
    try:
        return Contender(name, policy, float(target) if target else None, variant)
    except ValueError:
        raise SpecError(
            field="--policies",
            value=repr(name),
            rule="a target is a number",
            advice="write for example hpa-busy@0.7",
        ) from None


def everyone() -> tuple[str, ...]:
    """The product, every baseline, and the tuned one with each of its settings."""
    names = [PRODUCT]
    for policy in POLICIES:
        names += [f"{policy}@{target:g}" for target in TUNED_TARGETS] if policy == TUNED else [policy]
    return tuple(names)


def ablations() -> tuple[str, ...]:
    """The product without one mechanism each."""
    return tuple(f"{PRODUCT}-{variant}" for variant in VARIANTS)
