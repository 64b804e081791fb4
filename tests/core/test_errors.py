import pytest

from inferencecluster.core.errors import (
    ApiUnavailable,
    ApplyError,
    Conflict,
    Forbidden,
    Invalid,
    MetricsUnavailable,
    ObservationError,
    OperatorError,
    SpecError,
)


def test_a_spec_error_names_field_value_rule_and_advice() -> None:
    error = SpecError(
        field="spec.budget.gpus",
        value=8,
        rule="the minimums need 12 (prefill 2x2, decode 4x2)",
        advice="raise the budget or lower minReplicas",
    )
    assert str(error) == (
        "spec.budget.gpus is 8, but the minimums need 12 (prefill 2x2, decode 4x2): "
        "raise the budget or lower minReplicas"
    )
    assert (error.field, error.value) == ("spec.budget.gpus", 8)


@pytest.mark.parametrize("kind", [MetricsUnavailable, ApiUnavailable])
def test_an_observation_error_names_what_was_asked(kind: type[ObservationError]) -> None:
    error = kind(source="Prometheus http://prometheus:9090", detail="timed out after 5 s")
    assert str(error) == "Prometheus http://prometheus:9090 could not be read: timed out after 5 s"
    assert isinstance(error, ObservationError)
    assert isinstance(error, OperatorError)


@pytest.mark.parametrize("kind", [Conflict, Forbidden, Invalid])
def test_an_apply_error_names_the_write_and_the_servers_words(kind: type[ApplyError]) -> None:
    error = kind(verb="create", target="Pod default/llama-engine-3", detail="exceeded quota: gpus")
    assert str(error) == "create Pod default/llama-engine-3 was refused: exceeded quota: gpus"
    assert isinstance(error, ApplyError)
    assert isinstance(error, OperatorError)
