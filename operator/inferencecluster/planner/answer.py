"""The plan: every design fitted and charged, in the order of the objective, with what speaks against the others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from inferencecluster.core.errors import SpecError
from inferencecluster.core.missing import Missing
from inferencecluster.planner.capacity import Target
from inferencecluster.planner.catalogue import ModelChoice, PricedGpu, profiles_of
from inferencecluster.planner.cost import Cost, charge
from inferencecluster.planner.designs import Design, Disaggregated, Mixed
from inferencecluster.planner.search import Fitted, candidates, fit, largest_scale
from inferencecluster.planner.traffic import Traffic, Window


class Objective(StrEnum):
    """What makes one design better than another (Splitwise, section V, designs clusters for the same three)."""

    COST = "cost"
    """Fewest dollars for this traffic."""
    POWER = "power"
    """Fewest provisioned watts for this traffic."""
    THROUGHPUT = "throughput"
    """Most traffic of this kind on a number of GPUs; of equal ones, the cheaper."""


@dataclass(frozen=True, slots=True)
class Question:
    """What the user asks."""

    model: ModelChoice
    gpus: tuple[PricedGpu, ...]
    target: Target
    traffic: Traffic
    boot_seconds: float
    objective: Objective = Objective.COST
    max_gpus: int | None = None


@dataclass(frozen=True, slots=True)
class Option:
    """A design that holds the SLO."""

    fitted: Fitted
    cost: Cost
    traffic: Traffic
    """What it was fitted to."""
    scale: float
    """That, as a multiple of the traffic asked for: 1 unless throughput is the objective."""

    @property
    def design(self) -> Design:
        """Of which shapes it consists."""
        return self.fitted.design

    @property
    def busiest(self) -> Window:
        """The window with the most requests."""
        return max(self.traffic.windows, key=lambda window: window.requests)

    @property
    def dollars_per_thousand(self) -> float:
        """Autoscaled dollars per 1,000 requests."""
        return 1000 * self.cost.autoscaled.dollars / self.traffic.requests


@dataclass(frozen=True, slots=True)
class Rejected:
    """A design that is out, and why."""

    design: Design
    reason: str


class NothingHoldsError(SpecError):
    """No design of the model as it was fitted holds the SLO."""

    def __init__(self, question: Question, rejected: tuple[Rejected, ...]) -> None:
        target = question.target
        reasons = "; ".join(f"{item.design.name}: {item.reason}" for item in rejected[:_SHOWN_REASONS])
        self.question = question
        super().__init__(
            field="--ttft-ms, --itl-ms, --max-gpus",
            value=f"{target.ttft_seconds * 1000:.0f}, {target.itl_seconds * 1000:.0f}, {question.max_gpus or 'unlimited'}",
            rule=f"no design holds them for {target.share:.0%} of the requests ({reasons})",
            advice="allow more latency or GPUs, or another GPU",
        )


_SHOWN_REASONS: Final = 4
"""Enough to see the pattern on a terminal."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The answer."""

    question: Question
    options: tuple[Option, ...]
    """Best first, never empty."""
    rejected: tuple[Rejected, ...]

    @property
    def best(self) -> Option:
        """The one to take."""
        return self.options[0]

    def best_of(self, kind: type[Mixed | Disaggregated]) -> Option | None:
        """The best option of one kind, if any holds the SLO."""
        return next((option for option in self.options if isinstance(option.design, kind)), None)

    def without_best(self, reason: str) -> Plan:
        """The plan after the best option has been refuted. Raises `NothingHoldsError` when none is left."""
        rejected = (*self.rejected, Rejected(self.best.design, reason))
        if len(self.options) == 1:
            raise NothingHoldsError(self.question, rejected)
        return replace(self, options=self.options[1:], rejected=rejected)


def plan(question: Question) -> Plan:
    """All designs, fitted and in order. Raises `NothingHoldsError` when none holds the SLO."""
    if question.objective is Objective.THROUGHPUT and question.max_gpus is None:
        raise SpecError(
            field="--max-gpus",
            value="absent",
            rule="the objective throughput asks for the most traffic on a number of GPUs",
            advice="give that number",
        )
    options: list[Option] = []
    rejected: list[Rejected] = []
    for design in candidates(profiles_of(question.model.model, question.gpus), question.gpus):
        found = evaluate(design, question)
        if isinstance(found, Missing):
            rejected.append(Rejected(design, found.message))
        else:
            options.append(found)
    if not options:
        raise NothingHoldsError(question, tuple(rejected))
    options.sort(key=lambda option: score(question.objective, option))
    return Plan(question, tuple(options), tuple(rejected))


def score(objective: Objective, option: Option) -> tuple[float, float]:
    """The objective, then what decides between equals; smaller is better.

    Ties in both keep the order of `candidates`, which has the simpler mixed designs first. Both are rounded, so that the last
    digit of a sum decides nothing.
    """
    bill = option.cost.autoscaled
    match objective:
        case Objective.COST:
            return (round(bill.dollars, 6), round(bill.gpu_hours, 6))
        case Objective.POWER:
            return (round(bill.kilowatt_hours, 6), round(bill.dollars, 6))
        case Objective.THROUGHPUT:
            return (-round(option.scale, 6), round(option.cost.static.dollars, 6))


def verdict(found: Plan) -> str:
    """Whether disaggregation pays here, and how much."""
    mixed, split = found.best_of(Mixed), found.best_of(Disaggregated)
    if split is None:
        return "mixed only: no disaggregated design holds the SLO"
    if mixed is None:
        return "disaggregated only: no mixed design holds the SLO"
    objective = found.question.objective
    if score(objective, split)[0] == score(objective, mixed)[0]:
        return _tie(objective, mixed, split)
    difference = disadvantage(objective, worse=split, better=mixed)
    if difference > 0:
        return (
            f"mixed only: the best disaggregated design, {split.design.name}, {_lags(objective, difference)}"
        )
    difference = disadvantage(objective, worse=mixed, better=split)
    return f"disaggregate: the best mixed design, {mixed.design.name}, {_lags(objective, difference)}"


def _tie(objective: Objective, mixed: Option, split: Option) -> str:
    """The objective does not tell the best of each kind apart: what does."""
    taken = min(mixed, split, key=lambda option: score(objective, option))
    by_second = score(objective, mixed)[1] != score(objective, split)[1]
    reason = _SECOND_REASON[objective] if by_second else "one pool is simpler to run than two"
    return (
        f"a tie: the best mixed design, {mixed.design.name}, and the best disaggregated one, {split.design.name}, "
        f"{_VERB[objective]} the same; {taken.design.name} is taken, because {reason}"
    )


def disadvantage(objective: Objective, *, worse: Option, better: Option) -> float:
    """By what share `worse` costs or draws more, or serves less; 0 where the order of the options calls them equal."""
    if score(objective, worse)[0] == score(objective, better)[0]:
        return 0.0
    if objective is Objective.THROUGHPUT:
        return 1.0 - worse.scale / better.scale
    behind, ahead = score(objective, worse)[0], score(objective, better)[0]
    return behind / ahead - 1.0


def why_it_loses(found: Plan, option: Option) -> str:
    """Beside the best option."""
    objective = found.question.objective
    lag = _lags(objective, disadvantage(objective, worse=option, better=found.best))
    window = option.busiest
    index = option.traffic.windows.index(window)
    pressure = option.design.pressure(window, found.question.target, option.fitted.sizes[index])
    return f"{lag}: {pressure}"


def _lags(objective: Objective, difference: float) -> str:
    verb = f"{_VERB[objective]}s"
    if difference == 0:
        return f"{verb} the same"
    # A little is not nothing.
    share = f"{difference:.0%}" if difference >= _VISIBLE_SHARE else "less than 1%"
    return f"{verb} {share} {'less' if objective is Objective.THROUGHPUT else 'more'}"


def evaluate(design: Design, question: Question) -> Option | Missing:
    """One design at the sizes that hold the SLO; Missing says why there are none."""
    traffic, scale = question.traffic, 1.0
    if question.objective is Objective.THROUGHPUT and question.max_gpus is not None:
        fitted = fit(design, traffic, question.target)
        if isinstance(fitted, Missing) and fitted.reason != "TooMuchLoad":
            return fitted
        scale = largest_scale(design, traffic, question.target, gpus=question.max_gpus)
        traffic = traffic.scaled(scale)
    fitted = fit(design, traffic, question.target) if scale > 0 else Missing("TooFewGpus")
    if isinstance(fitted, Missing):
        message = fitted.message or f"no load of this kind fits into {question.max_gpus} GPUs"
        return Missing(fitted.reason, message)
    if question.max_gpus is not None and fitted.peak_gpus > question.max_gpus:
        return Missing(
            "TooFewGpus", f"needs {fitted.peak_gpus} GPUs at its peak of {question.max_gpus} allowed"
        )
    return Option(fitted, charge(fitted, traffic, boot_seconds=question.boot_seconds), traffic, scale)


_VISIBLE_SHARE: Final = 0.01
_VERB: Final = {Objective.COST: "cost", Objective.POWER: "draw", Objective.THROUGHPUT: "serve"}
_SECOND_REASON: Final = {
    Objective.COST: "it takes fewer GPU-hours",
    Objective.POWER: "it costs less",
    Objective.THROUGHPUT: "its static peak costs less",
}
"""What the second part of `score` says."""
