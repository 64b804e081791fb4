"""The comparison as Markdown: what was compared, the figures, the pools over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benches.agreement.comparison import AIM, Figure, PoolDifference, all_pools
from benches.agreement.recorded import Demo
from benches.agreement.simulated import Setting
from benches.scenarios.markdown import table


@dataclass(frozen=True, slots=True)
class Outcome:
    """Everything that a comparison found."""

    setting: Setting
    figures: tuple[Figure, ...]
    """The operator sizes the simulated pools, too."""
    with_recorded_sizes: tuple[Figure, ...]
    """The simulated pools follow the demo's sizes."""
    pools: tuple[PoolDifference, ...]
    pools_with_recorded_sizes: tuple[PoolDifference, ...]
    decisions: int
    different: int
    """Of the recorded decisions, those that today's code decides otherwise."""

    @property
    def sizes(self) -> tuple[PoolDifference, ...]:
        """Each pool, and all together."""
        return (*self.pools, all_pools(self.pools))

    @property
    def holds(self) -> bool:
        """Every figure with an aim and every pool meets it, and the decisions are those of this code."""
        within = all(figure.holds for figure in self.figures) and all(item.holds for item in self.sizes)
        return within and not self.different


def markdown(demo: Demo, outcome: Outcome) -> str:
    """The block between the marks of docs/agreement.md."""
    return "\n\n".join(
        (
            _what(demo, outcome),
            _figures(outcome),
            _pools(outcome),
            _verdict(outcome),
        )
    )


def _what(demo: Demo, outcome: Outcome) -> str:
    facts, setting = demo.facts, outcome.setting
    boots = (
        f"the median of {setting.boots} of the demo"
        if setting.boots
        else "as declared: no replica was created"
    )
    return (
        f"{facts.name}: {len(demo.answers):,} requests in {demo.seconds / 60:.1f} minutes ({facts.compression:.1f}x faster than "
        f"recorded, {facts.share:.0%} of the requests). Boot {setting.boot_seconds:.1f} s ({boots}), deletion to end of a Pod "
        f"{setting.termination_seconds:.1f} s. {outcome.decisions:,} recorded decisions replayed, {outcome.different} differ."
    )


def figure_table(figures: Sequence[Figure]) -> str:
    """Figures of one measured and one simulated run."""
    rows = [
        [figure.name, _value(figure, figure.demo), _value(figure, figure.middle), _error(figure)]
        for figure in figures
    ]
    return table(("", "measured", "simulator", "error"), rows)


def _figures(outcome: Outcome) -> str:
    rows = [
        [
            own.name,
            _value(own, own.demo),
            f"{_value(own, own.middle)} ({_value(own, min(own.simulated))} to {_value(own, max(own.simulated))})",
            _error(own),
            _value(led, led.middle),
            _error(led),
        ]
        for own, led in zip(outcome.figures, outcome.with_recorded_sizes, strict=True)
    ]
    header = ("", "demo", "simulator (least to most)", "error", "with the demo's sizes", "error")
    return table(header, rows)


def _value(figure: Figure, value: float) -> str:
    if figure.is_share:
        return f"{value:.1%}"
    digits = 2 if value < 20 else 1 if value < 100 else 0
    return f"{value:,.{digits}f}"


def _error(figure: Figure) -> str:
    if figure.is_share:
        return f"{figure.error * 100:+.1f} points"
    return f"{figure.error:+.1%}"


def _pools(outcome: Outcome) -> str:
    led_sizes = (*outcome.pools_with_recorded_sizes, all_pools(outcome.pools_with_recorded_sizes))
    rows = [_pool(own, led) for own, led in zip(outcome.sizes, led_sizes, strict=True)]
    header = (
        "ready replicas",
        "demo, replica-minutes",
        "simulator",
        "mean difference over time, replicas",
        "in replica-minutes",
        "with the demo's sizes",
    )
    return table(header, rows)


def _pool(own: PoolDifference, led: PoolDifference) -> list[str]:
    return [
        own.name,
        f"{own.demo_minutes:.1f}",
        f"{own.simulated_minutes:.1f}",
        f"{own.mean_difference:.2f}",
        _minutes_apart(own),
        _minutes_apart(led),
    ]


def _minutes_apart(item: PoolDifference) -> str:
    share = f" ({item.error:.0%})" if item.demo_minutes else ""
    return f"{item.difference_minutes:.1f}{share}"


def _verdict(outcome: Outcome) -> str:
    """What misses the aim, with its error, or that nothing does."""
    aimed_at = "TTFT and ITL p50 and p90, GPU-hours, ready replicas over time of each pool and of all"
    beyond = [f"{figure.name} ({_error(figure)})" for figure in outcome.figures if not figure.holds]
    beyond += [_pool_beyond(item) for item in outcome.sizes if not item.holds]
    if beyond:
        return f"Beyond the aim of {AIM:.0%} (which is for {aimed_at}): {'; '.join(beyond)}."
    return f"Every figure with an aim ({aimed_at}) is within {AIM:.0%}."


def _pool_beyond(item: PoolDifference) -> str:
    return (
        f"ready replicas over time, {item.name}, {_minutes_apart(item)} replica-minutes apart "
        f"({item.simulated_minutes:.1f} in the simulator, {item.demo_minutes:.1f} in the demo)"
    )
