"""What every request works with, and what is known of one while it is on its way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from aiohttp import web

from inferencecluster.router.completion_request import CompletionRequest
from inferencecluster.router.dispatcher import Dispatcher
from inferencecluster.router.engine_client import EngineClient
from inferencecluster.router.estimates import Estimates
from inferencecluster.router.ledger import Ledger
from inferencecluster.router.sources import RouterSettings
from inferencecluster.router.traffic import Journey, Outcome, Traffic
from inferencecluster.router.watchdog import Watchdog


@dataclass(frozen=True, slots=True)
class Patience:
    """How long engines may take, in seconds, and how often a request is tried."""

    connect_seconds: float = 2.0
    """Inside of one network a connection takes a millisecond; lost packets are sent again after one second."""
    prefill_seconds: float = 120.0
    """A 70B model on two H200s prefills 300,000 tokens in that time; longer prompts need `spec.router.prefillTimeoutSeconds`."""
    first_token_seconds: float = 120.0
    """Of a token phase or a whole request: the usual bound of a KV transfer (60 s), and a full batch in front."""
    silence_seconds: float = 60.0
    """Between two events; a long prompt in the same batch stops the others for some seconds."""
    answer_seconds: float = 1800.0
    """Of a request without `stream`: 100,000 tokens at 60 tokens per second."""
    attempts: int = 3
    """Two failures in a row on different engines are an accident; more are the request, or an outage."""

    @property
    def whole_seconds(self) -> float:
        """To the first event of a whole request, which waits for its prompt, too."""
        return max(self.prefill_seconds, self.first_token_seconds)


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of one router. All times are the stopwatch's."""

    ledger: Ledger
    dispatcher: Dispatcher
    engines: EngineClient
    estimates: Estimates
    traffic: Traffic
    watchdog: Watchdog
    patience: Patience
    request_id: Callable[[], int]
    """Next `disagg_request_id`."""
    clock: Callable[[], float]


@dataclass(slots=True)
class OwnTime:
    """Adds up the router's own time until the first byte: without engines and queue."""

    clock: Callable[[], float]
    since: float
    """When the router began, or went on, to work."""
    seconds: float = 0.0

    def pause(self) -> None:
        """Somebody else works now."""
        self.seconds += self.clock() - self.since

    def resume(self) -> None:
        """The router works again."""
        self.since = self.clock()


@dataclass(slots=True)
class Visit:
    """One request of one client, and how it ended."""

    services: Services
    settings: RouterSettings
    """As they were when the request came."""
    http: web.Request
    request: CompletionRequest
    journey: Journey
    own: OwnTime
    outcome: Outcome = Outcome.FAILED
    path: str = "none"
    """Of the last attempt; `none` before any replica was given."""
    output_tokens: int = 0
    prompt_tokens: tuple[int, ...] = field(default=())
    """Of each prompt, as far as known."""

    def learn_prompt(self, tokens: int) -> None:
        """An engine counted the prompt's tokens."""
        size = self.request.prompts[0]
        if len(self.request.prompts) == 1 and size.characters and tokens > size.tokens:
            self.services.estimates.learn_text(characters=size.characters, tokens=tokens - size.tokens)

    def prefilled(self, prompt_tokens: int, *, cached_tokens: int) -> None:
        """An engine has done the prompt; where it did not count the tokens, what is known of them counts."""
        tokens = prompt_tokens or sum(self.prompt_tokens)
        self.services.traffic.prefilled(tokens, cached_tokens=min(cached_tokens, tokens))

    def first_token(self) -> None:
        """The request has its first token: it does not wait any more."""
        self.services.traffic.journeys.pop(self.journey, None)
