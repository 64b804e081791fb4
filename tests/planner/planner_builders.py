"""Questions and shapes that several tests start from."""

from __future__ import annotations

from inferencecluster.core.missing import Missing
from inferencecluster.core.profiles import PROFILES
from inferencecluster.planner.answer import Objective, Question
from inferencecluster.planner.capacity import Target
from inferencecluster.planner.catalogue import PricedGpu, find_model
from inferencecluster.planner.designs import Design, PoolShape
from inferencecluster.planner.search import Fitted, fit
from inferencecluster.planner.traffic import Traffic, steady

TARGET = Target(0.9, 0.4, 0.03)
H200 = PricedGpu("h200", 4.0)


def shape(name: str, dollars: float = 1.0) -> PoolShape:
    profile = PROFILES[name]
    return PoolShape(profile, PricedGpu(profile.gpu.name, dollars))


def traffic(rate: float = 100.0) -> Traffic:
    return steady(rate=rate, prompt_tokens=1155, output_tokens=211)


def question(
    *,
    rate: float = 100.0,
    target: Target = TARGET,
    gpus: tuple[PricedGpu, ...] = (H200,),
    objective: Objective = Objective.COST,
    max_gpus: int | None = None,
    load: Traffic | None = None,
    model: str = "llama-3.1-70b-fp8",
) -> Question:
    return Question(
        model=find_model(model),
        gpus=gpus,
        target=target,
        traffic=load or traffic(rate),
        boot_seconds=120.0,
        objective=objective,
        max_gpus=max_gpus,
    )


def fitted(design: Design, load: Traffic, target: Target = TARGET) -> Fitted:
    found = fit(design, load, target)
    assert not isinstance(found, Missing), found
    return found
