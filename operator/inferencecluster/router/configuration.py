"""Settings of one router process, from its environment; what belongs to the cluster comes from its InferenceCluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from inferencecluster.adapters.environment import LogLevel, Number, Text, Variable, WholeNumber
from inferencecluster.api.names import ROUTER_ADMIN_PORT, ROUTER_PORT
from inferencecluster.router.bodies import BodyLimits
from inferencecluster.router.dispatcher import QueueLimits
from inferencecluster.router.services import Patience

_LARGEST_PORT: Final = 65_535
_PATIENCE: Final = Patience()

CLUSTER: Final = Text("IC_CLUSTER", "name of the InferenceCluster")
NAMESPACE: Final = Text("IC_NAMESPACE", "its namespace")
PORT: Final = WholeNumber(
    "IC_ROUTER_PORT",
    "port of the OpenAI API; 0 takes a free one, which the log names",
    default=ROUTER_PORT,
    least=0,
    most=_LARGEST_PORT,
)
ADMIN_PORT: Final = WholeNumber(
    "IC_ROUTER_ADMIN_PORT",
    "port of /state and /metrics; 0 takes a free one, as does a router that is given IC_ROUTER_PORT only",
    default=ROUTER_ADMIN_PORT,
    least=0,
    most=_LARGEST_PORT,
)
LOG_LEVEL: Final = LogLevel()
MAX_BODY: Final = WholeNumber(
    "IC_MAX_BODY_BYTES",
    "bytes of one request's body, above which it is refused with 413",
    # A prompt of a million token ids is 7 MB of JSON; images need more (`spec.router.maxBodyMegabytes`).
    default=8 << 20,
    least=1 << 10,
    most=1 << 30,
)
MAX_READING: Final = WholeNumber(
    "IC_MAX_READING_BYTES",
    "bytes of all bodies that are arriving at the same time",
    default=128 << 20,
    least=1 << 10,
    most=1 << 36,
)
BODY_SECONDS: Final = Number(
    "IC_BODY_SECONDS",
    "seconds from the head of a request to the end of its body",
    default=30.0,  # 8 MiB in half a minute is 280 kB/s.
)
MAX_QUEUE_REQUESTS: Final = WholeNumber(
    "IC_MAX_QUEUE_REQUESTS",
    "requests that wait for a replica, above which others are refused with 429",
    # At 1,000 requests/s ten seconds of arrivals; bodies of 25 kB on average then fill the other bound.
    default=10_000,
    least=0,
    most=1_000_000,
)
MAX_QUEUE_BYTES: Final = WholeNumber(
    "IC_MAX_QUEUE_BYTES", "bytes of the bodies of those", default=256 << 20, least=0, most=1 << 36
)
CONNECT: Final = Number(
    "IC_CONNECT_SECONDS", "seconds for a connection to an engine", default=_PATIENCE.connect_seconds
)
PREFILL: Final = Number(
    "IC_PREFILL_SECONDS", "seconds for a prefill, answered whole", default=_PATIENCE.prefill_seconds
)
FIRST_TOKEN: Final = Number(
    "IC_FIRST_TOKEN_SECONDS",
    "seconds to the first event of a stream, its KV transfer included; of a whole request no less than IC_PREFILL_SECONDS",
    default=_PATIENCE.first_token_seconds,
)
SILENCE: Final = Number(
    "IC_SILENCE_SECONDS", "seconds between two events of a stream", default=_PATIENCE.silence_seconds
)
ANSWER: Final = Number(
    "IC_ANSWER_SECONDS",
    "seconds for the answer to a request without stream",
    default=_PATIENCE.answer_seconds,
)
ATTEMPTS: Final = WholeNumber(
    "IC_ATTEMPTS",
    "engines that a request is tried on before its first token",
    default=_PATIENCE.attempts,
    least=1,
    most=10,
)
NOTICE: Final = Number(
    "IC_NOTICE_SECONDS",
    "seconds after SIGTERM for which requests are still accepted, until everybody knows",
    # The Pod's preStop has waited already; this covers clients and proxies with connections of their own.
    default=2.0,
    least=0.0,
)

VARIABLES: Final[tuple[Variable, ...]] = (
    *(CLUSTER, NAMESPACE, PORT, ADMIN_PORT, LOG_LEVEL),
    *(MAX_BODY, MAX_READING, BODY_SECONDS, MAX_QUEUE_REQUESTS, MAX_QUEUE_BYTES),
    *(CONNECT, PREFILL, FIRST_TOKEN, SILENCE, ANSWER, ATTEMPTS, NOTICE),
)
"""In the order in which a person looks for them."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """Every knob of the process, each explained by its variable."""

    cluster: str
    namespace: str
    port: int
    admin_port: int
    log_level: int
    bodies: BodyLimits
    queue: QueueLimits
    patience: Patience
    notice_seconds: float


def read_configuration(environment: Mapping[str, str]) -> Configuration:
    """Configuration with defaults for what is absent or empty. Raises `SpecError` that names the variable."""
    # Several routers on one machine: each has to be given one port only.
    admin_port = replace(ADMIN_PORT, default=0) if PORT.text(environment) else ADMIN_PORT
    return Configuration(
        cluster=CLUSTER.read(environment),
        namespace=NAMESPACE.read(environment),
        port=PORT.read(environment),
        admin_port=admin_port.read(environment),
        log_level=LOG_LEVEL.read(environment),
        bodies=BodyLimits(
            most_bytes=MAX_BODY.read(environment),
            reading_bytes=MAX_READING.read(environment),
            seconds=BODY_SECONDS.read(environment),
        ),
        queue=QueueLimits(
            requests=MAX_QUEUE_REQUESTS.read(environment), body_bytes=MAX_QUEUE_BYTES.read(environment)
        ),
        patience=Patience(
            connect_seconds=CONNECT.read(environment),
            prefill_seconds=PREFILL.read(environment),
            first_token_seconds=FIRST_TOKEN.read(environment),
            silence_seconds=SILENCE.read(environment),
            answer_seconds=ANSWER.read(environment),
            attempts=ATTEMPTS.read(environment),
        ),
        notice_seconds=NOTICE.read(environment),
    )
