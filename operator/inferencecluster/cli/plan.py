"""`kubectl-ic plan`: the InferenceCluster that holds an SLO at the least cost, and why the others do not."""

from __future__ import annotations

import json
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from inferencecluster.cli.numbers import LONGEST_BOOT_SECONDS, finite
from inferencecluster.cli.paper import answer_console
from inferencecluster.cli.plan_report import Answer, document, print_tables, summary, ways
from inferencecluster.cli.render import EXIT_BAD_INPUT, to_yaml
from inferencecluster.cli.trace_file import JITTER_SECONDS, MAX_COPIES, read_requests
from inferencecluster.core.errors import SpecError
from inferencecluster.planner.answer import NothingHoldsError, Objective, Option, Plan, Question, plan
from inferencecluster.planner.capacity import Target
from inferencecluster.planner.catalogue import find_model, gpus_for, parse_gpu
from inferencecluster.planner.levers import Speculation, Surroundings, staircase
from inferencecluster.planner.manifest import manifest
from inferencecluster.planner.reach import reach
from inferencecluster.planner.traffic import Traffic, from_requests, steady
from inferencecluster.planner.verify import Confirmed, SimulatorVerifier, confirm
from inferencecluster.render.trtllm.versions import EngineVersion, parse_version, require_supported
from inferencecluster.simulator.synthetic import Phase, Shape, alternating
from inferencecluster.simulator.workload import Request, copied

SIMULATED_REQUESTS: Final = 30_000
"""Of a steady rate: enough for a percentile to the tenth of a per cent, in seconds."""
SHORTEST_SECONDS: Final = 120.0
LONGEST_SECONDS: Final = 3600.0
"""Bounds of a steady simulation: some lives of a request, and not for ever at one request a minute."""
MAX_RATE: Final = 100_000.0
"""Requests per second: beyond any service, and so a slip; the search would not end."""
MOST_SIMULATED_REQUESTS: Final = 360_000
"""Within the shortest simulation: some two minutes for every design that is tried."""
SEED: Final = 0
"""Equal questions get equal answers."""
_PERCENT: Final = 100
_MILLI: Final = 1e-3


class PlanFormat(StrEnum):
    """How the plan is printed."""

    TABLE = "table"
    YAML = "yaml"
    JSON = "json"


def plan_command(
    *,
    model: Annotated[
        str, typer.Option(help="Repository or directory of the model, or the name of a profile's.")
    ],
    trace: Annotated[
        Path | None,
        typer.Option(help="CSV with TIMESTAMP, ContextTokens, GeneratedTokens.", dir_okay=False),
    ] = None,
    copies: Annotated[
        float,
        typer.Option(
            help="How often each request of the trace comes, moved by up to 15 s.",
            min=0.001,
            max=MAX_COPIES,
            callback=finite,
        ),
    ] = 1.0,
    rate: Annotated[float | None, typer.Option(help="Requests per second, instead of a trace.")] = None,
    prompt_tokens: Annotated[int | None, typer.Option(help="Of each request, with --rate.")] = None,
    output_tokens: Annotated[int | None, typer.Option(help="Of each request, with --rate.")] = None,
    ttft_ms: Annotated[int, typer.Option(help="Time to first token.", min=10, max=600_000)] = 1000,
    itl_ms: Annotated[int, typer.Option(help="Time between tokens.", min=1, max=10_000)] = 40,
    percentile: Annotated[
        int, typer.Option(help="Share of requests, in per cent, that meet both.", min=50, max=99)
    ] = 90,
    gpu: Annotated[
        list[str] | None,
        typer.Option(
            help="Plan for this GPU and no other; h100=3.0 sets its price per GPU-hour. May be repeated."
        ),
    ] = None,
    max_gpus: Annotated[int | None, typer.Option(help="No design may need more.", min=1)] = None,
    objective: Annotated[Objective, typer.Option(help="What the best design is best at.")] = Objective.COST,
    boot_seconds: Annotated[
        float,
        typer.Option(
            help="From a replica's creation to readiness.", min=1, max=LONGEST_BOOT_SECONDS, callback=finite
        ),
    ] = 120.0,
    engine_version: Annotated[str, typer.Option(help="TensorRT-LLM release.")] = "1.2.1",
    acceptance: Annotated[
        float,
        typer.Option(
            help="Share of draft tokens accepted, for the staircase and the ways out of a refusal.",
            min=0.0,
            max=1.0,
            callback=finite,
        ),
    ] = 0.7,
    draft_tokens: Annotated[int, typer.Option(help="Draft tokens per step.", min=1, max=16)] = 3,
    verify: Annotated[bool, typer.Option(help="Run the best design through the simulator.")] = True,
    output: Annotated[
        PlanFormat, typer.Option("--format", help="table, the object in yaml, or all in json.")
    ] = PlanFormat.TABLE,
) -> None:
    """Find the cheapest InferenceCluster that holds an SLO; needs no cluster and changes nothing.

    Prices are defaults of May 2026 unless you give yours. Nothing but standard output is written.
    """
    try:
        version = _version(engine_version)
        requests = read_requests(trace, copies=copies, seed=SEED) if trace is not None else []
        traffic = _traffic(requests, trace, rate, (prompt_tokens, output_tokens))
        _refuse_what_belongs_to_the_other_load(trace, copies, prompt_tokens, output_tokens)
        chosen = find_model(model)
        question = Question(
            model=chosen,
            gpus=tuple(parse_gpu(text) for text in gpu) if gpu else gpus_for(chosen.model),
            target=_target(percentile, ttft_ms, itl_ms),
            traffic=traffic,
            boot_seconds=boot_seconds,
            objective=objective,
            max_gpus=max_gpus,
        )
        speculation = Speculation(draft_tokens, acceptance)
        answer = _answer(question, requests, version=version, speculation=speculation, verify=verify)
    except NothingHoldsError as error:
        typer.echo(f"error: {error}", err=True)
        for line in ways(reach(error.question, version=version, speculation=speculation), speculation):
            typer.echo(line, err=True)
        raise typer.Exit(EXIT_BAD_INPUT) from None
    except SpecError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(EXIT_BAD_INPUT) from None
    _print(answer, output)


def _version(text: str) -> EngineVersion:
    """Raises `SpecError` that names the option, not the field of an object that does not exist yet."""
    try:
        version = parse_version(text)
        require_supported(version)
    except SpecError as error:
        raise SpecError(
            field="--engine-version", value=text, rule=error.rule, advice="name another one, such as 1.2.1"
        ) from error
    return version


def _refuse_what_belongs_to_the_other_load(
    trace: Path | None, copies: float, prompt_tokens: int | None, output_tokens: int | None
) -> None:
    """Raises `SpecError` for an option that would be ignored, and the plan made for another load than was meant."""
    if trace is None and copies != 1.0:
        raise SpecError(
            field="--copies",
            value=f"{copies:g}",
            rule="it multiplies the requests of a trace, and --trace is absent",
            advice="give --trace, or multiply --rate",
        )
    for field, value in (("--prompt-tokens", prompt_tokens), ("--output-tokens", output_tokens)):
        if trace is not None and value is not None:
            raise SpecError(
                field=field,
                value=value,
                rule=f"each request of the trace {trace.name} has its own length",
                advice="leave out the lengths or --trace",
            )


def _traffic(
    requests: list[Request],
    trace: Path | None,
    rate: float | None,
    lengths: tuple[int | None, int | None],
) -> Traffic:
    if trace is not None:
        if rate is None:
            return from_requests(requests, name=trace.name)
        raise SpecError(
            field="--rate",
            value=f"{rate:g}",
            rule=f"the load already is the trace {trace.name}",
            advice="leave out --rate or --trace; --copies multiplies a trace",
        )
    if rate is None:
        raise SpecError(
            field="--trace",
            value="absent",
            rule="a plan needs a load",
            advice="give --trace FILE, or --rate with --prompt-tokens and --output-tokens",
        )
    if rate > MAX_RATE:
        raise SpecError(
            field="--rate",
            value=f"{rate:g}",
            rule=f"it must be at most {MAX_RATE:,.0f} requests per second",
            advice="give a smaller rate, or plan a part of the load",
        )
    prompt_tokens, output_tokens = lengths
    if prompt_tokens is None or output_tokens is None:
        raise SpecError(
            field="--prompt-tokens" if prompt_tokens is None else "--output-tokens",
            value="absent",
            rule="--rate needs the lengths of its requests",
            advice="give --prompt-tokens and --output-tokens",
        )
    return steady(rate=rate, prompt_tokens=prompt_tokens, output_tokens=output_tokens)


def _target(percentile: int, ttft_ms: int, itl_ms: int) -> Target:
    if itl_ms > ttft_ms:
        raise SpecError(
            field="--itl-ms",
            value=itl_ms,
            rule=f"the first token takes at least one step, and --ttft-ms is {ttft_ms}",
            advice="swap them if they are mixed up, or raise --ttft-ms",
        )
    return Target(percentile / _PERCENT, ttft_ms * _MILLI, itl_ms * _MILLI)


def _answer(
    question: Question,
    requests: list[Request],
    *,
    version: EngineVersion,
    speculation: Speculation,
    verify: bool,
) -> Answer:
    found = plan(question)
    confirmed: Confirmed | None = None
    if verify:
        confirmed = _confirmed(found, requests, version)
        found = confirmed.plan
    best = found.best
    _, shape = best.design.pools[-1]
    window = best.busiest
    around = Surroundings(shape.profile, window, question.target.itl_seconds, version, speculation)
    return Answer(
        plan=found,
        confirmed=confirmed,
        manifest=manifest(question, best, engine_version=str(version)),
        staircase=staircase(around),
        surroundings=around,
    )


def _confirmed(found: Plan, requests: list[Request], version: EngineVersion) -> Confirmed:
    def workload(option: Option) -> Iterable[Request]:
        if not requests:
            return _steady_requests(option)
        if option.scale == 1.0:
            return requests
        return copied(requests, copies=option.scale, jitter_seconds=JITTER_SECONDS, seed=SEED)

    console = Console(stderr=True)
    with console.status("the simulator serves the plan ..."):
        return confirm(
            found,
            SimulatorVerifier(workload),
            lambda option: manifest(found.question, option, engine_version=str(version)),
        )


def _steady_requests(option: Option) -> Iterable[Request]:
    """A Poisson process of the option's rate."""
    window = option.busiest
    if window.rate * SHORTEST_SECONDS > MOST_SIMULATED_REQUESTS:
        raise SpecError(
            field="--rate",
            value=f"{window.rate:g}",
            rule=f"the simulator serves at most {MOST_SIMULATED_REQUESTS / SHORTEST_SECONDS:,.0f} requests per second",
            advice="add --no-verify, or plan a part of the load",
        )
    seconds = min(LONGEST_SECONDS, max(SHORTEST_SECONDS, SIMULATED_REQUESTS / window.rate))
    shape = Shape(window.prompts[0][0], window.outputs[0][0], 0.0, 0.0, longest=round(window.prompts[0][0]))
    return alternating(
        [Phase(shape, window.rate)], phase_seconds=seconds, duration_seconds=seconds, seed=SEED
    )


def _print(answer: Answer, output: PlanFormat) -> None:
    match output:
        case PlanFormat.JSON:
            typer.echo(json.dumps(document(answer), indent=2, allow_nan=False))
        case PlanFormat.YAML:
            comments = "".join(f"# {line}\n" for line in summary(answer))
            typer.echo(comments + to_yaml([answer.manifest]), nl=False)
        case PlanFormat.TABLE:
            print_tables(answer, answer_console())
