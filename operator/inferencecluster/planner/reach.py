"""What would bring an SLO into reach that no design of the fitted model holds: levers, and what each way costs.

Every combination of the levers that model, GPU and engine release know is tried on every GPU of the question, in one mixed pool
and in two pools of equal shape. Step times are estimates (`roofline.recast`, `levers.Speculation`): good to tell
ways apart, too coarse to size pools by, so that no manifest comes of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from inferencecluster.core.missing import Missing
from inferencecluster.core.profiles import Model, Profile
from inferencecluster.planner.answer import Option, Question, evaluate, score
from inferencecluster.planner.catalogue import profiles_of
from inferencecluster.planner.designs import Disaggregated, Mixed, PoolShape
from inferencecluster.planner.levers import Lever, Speculation, narrowed, obstacle
from inferencecluster.planner.roofline import Machine, Precision, kv_bytes, recast
from inferencecluster.render.trtllm.versions import EngineVersion


@dataclass(frozen=True, slots=True)
class Way:
    """Levers that hold the SLO together, at their cheapest."""

    levers: tuple[Lever, ...]
    option: Option
    token_milliseconds: float
    """Of a request alone on a replica of the last pool."""


@dataclass(frozen=True, slots=True)
class Reach:
    """The answer to a refusal."""

    ways: tuple[Way, ...]
    """Best first. A way whose levers include those of a way that is as good is left out."""
    unknown: tuple[tuple[Lever, str], ...]
    """Levers that no GPU of the question knows with this engine release, and why."""


def reach(question: Question, *, version: EngineVersion, speculation: Speculation) -> Reach:
    """The ways from the fitted model to the SLO of `question`, in the order of its objective."""
    profiles = profiles_of(question.model.model, question.gpus)
    levers = _levers_of(question.model.model)
    obstacles = [
        {lever: obstacle(lever, Machine.of(profile).sheet, version) for lever in levers}
        for profile in profiles
    ]
    found: dict[tuple[Lever, ...], Way] = {}
    for profile, reasons in zip(profiles, obstacles, strict=True):
        for chosen in _choices([lever for lever in levers if reasons[lever] is None]):
            way = _way(question, pull(profile, chosen, speculation), chosen)
            best = found.get(chosen)
            if way is not None and (best is None or _score(question, way) < _score(question, best)):
                found[chosen] = way
    ways = [way for way in found.values() if not _is_dominated(question, way, found)]
    return Reach(
        tuple(sorted(ways, key=lambda way: _score(question, way))),
        tuple(_refused(obstacles)),
    )


def pull(profile: Profile, levers: tuple[Lever, ...], speculation: Speculation) -> Profile:
    """The profile with these levers pulled: an estimate."""
    model = profile.model
    precision = Precision(model.bytes_per_weight, model.bytes_per_kv_element)
    for lever in levers:
        precision = narrowed(precision, lever)
    performance = recast(profile, precision)
    if Lever.SPECULATION in levers:
        performance = speculation.speed_up(performance)
    return replace(
        profile,
        performance=performance,
        weight_bytes=model.shape.weight_bytes(precision.bytes_per_weight),
        kv_bytes_per_token=round(kv_bytes(model.shape, precision.bytes_per_kv_element)),
    )


def _levers_of(model: Model) -> tuple[Lever, ...]:
    """Levers that a model does not have already."""
    pulled = {
        Lever.FP8_WEIGHTS: model.bytes_per_weight == 1,
        Lever.FP8_CACHE: model.bytes_per_kv_element == 1,
    }
    return tuple(lever for lever in Lever if not pulled.get(lever, False))


def _refused(obstacles: Sequence[Mapping[Lever, str | None]]) -> Iterator[tuple[Lever, str]]:
    """Levers with an obstacle on every GPU."""
    for lever in obstacles[0]:
        reasons = [one[lever] for one in obstacles]
        told = [reason for reason in reasons if reason is not None]
        if len(told) == len(reasons):
            yield lever, "; ".join(dict.fromkeys(told))


def _choices(levers: list[Lever]) -> Iterator[tuple[Lever, ...]]:
    """Every combination but none at all; a cache has one precision."""
    for count in range(1, len(levers) + 1):
        for chosen in combinations(levers, count):
            if not {Lever.FP8_CACHE, Lever.FP4_CACHE} <= set(chosen):
                yield chosen


def _way(question: Question, profile: Profile, levers: tuple[Lever, ...]) -> Way | None:
    priced = {gpu.name: gpu for gpu in question.gpus}
    shape = PoolShape(profile, priced[profile.gpu.name])
    tried = [evaluate(design, question) for design in (Mixed(shape), Disaggregated(shape, shape))]
    options = [option for option in tried if not isinstance(option, Missing)]
    if not options:
        return None
    option = min(options, key=lambda one: score(question.objective, one))
    alone = profile.performance.decode.step_seconds(1.0, option.busiest.context)
    return Way(levers, option, alone * 1000)


def _score(question: Question, way: Way) -> tuple[float, float]:
    return score(question.objective, way.option)


def _is_dominated(question: Question, way: Way, found: dict[tuple[Lever, ...], Way]) -> bool:
    return any(
        set(other.levers) < set(way.levers) and _score(question, other)[0] <= _score(question, way)[0]
        for other in found.values()
    )
