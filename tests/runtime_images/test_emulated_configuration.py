"""The configuration file: what is wrong is said before the engine starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from emulated_engine.configuration import Configuration, load_configuration, parse_configuration
from emulated_engine.errors import ConfigurationError

VALID: dict[str, Any] = {
    "prefill": {"base_seconds": 0.01, "per_token_seconds": 1e-5, "per_token_squared_seconds": 0},
    "decode": {"base_seconds": 0.01, "per_sequence_seconds": 1e-5, "per_context_token_seconds": 0},
    "kv_capacity_tokens": 1000,
}


def test_three_settings_are_enough() -> None:
    configuration = parse_configuration(VALID)
    assert configuration.kv_capacity_tokens == 1000
    assert configuration.prefill.per_token_seconds == 1e-5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param(
            {"kv_capacity_token": 5}, r"kv_capacity_token is 5: is unknown; known: .*", id="unknown key"
        ),
        pytest.param({"kv_capacity_tokens": 0}, "must be at least 1", id="no cache"),
        pytest.param({"kv_capacity_tokens": "many"}, "must be of type int", id="wrong type"),
        pytest.param({"kv_capacity_tokens": True}, "must be of type int", id="a boolean is no number"),
        pytest.param({"boot_seconds": -1}, "boot_seconds is -1: must not be negative", id="negative boot"),
        pytest.param({"boot_jitter": 1.5}, "must be between 0 and 1", id="jitter above 1"),
        pytest.param({"role": "router"}, "must be one of prefill, decode, mixed", id="unknown role"),
        pytest.param({"version": "latest"}, "must start with X.Y.Z", id="no version"),
        pytest.param({"kv_bandwidth_bytes_per_second": 0}, "must be positive", id="no bandwidth"),
        pytest.param({"prefill": None}, "prefill is None: must be an object", id="no coefficients"),
        pytest.param({"prefill": {}}, "prefill.base_seconds is None: is required", id="missing coefficient"),
        pytest.param(
            {"decode": {**VALID["decode"], "base_seconds": -1}},
            "decode.base_seconds is -1: must not be negative",
            id="negative coefficient",
        ),
        pytest.param(
            {"decode": {"base_seconds": 0, "per_sequence_seconds": 0, "per_context_token_seconds": 0}},
            "a step must take time",
            id="timeless decode",
        ),
    ],
)
def test_an_error_names_field_value_and_rule(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        parse_configuration({**VALID, **changes})


@pytest.mark.parametrize("document", [pytest.param([], id="list"), pytest.param(None, id="nothing")])
def test_a_document_must_be_an_object(document: object) -> None:
    with pytest.raises(ConfigurationError, match="must be an object of settings"):
        parse_configuration(document)


def test_a_required_setting_is_missed() -> None:
    with pytest.raises(ConfigurationError, match="kv_capacity_tokens is None: is required"):
        parse_configuration({name: VALID[name] for name in ("prefill", "decode")})


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**VALID, "boot_seconds": 60, "seed": 4}))
    configuration = load_configuration(file, boot_seconds=1.5, seed=None)
    assert (configuration.boot_seconds, configuration.seed) == (1.5, 4)


@pytest.mark.parametrize("content", [pytest.param(None, id="no file"), pytest.param("{", id="no JSON")])
def test_an_unreadable_file_is_a_configuration_error(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "config.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigurationError, match="--config"):
        load_configuration(file)


@pytest.mark.parametrize(
    ("changes", "splits"),
    [
        pytest.param({"role": "prefill"}, False, id="prefill runs prompts whole"),
        pytest.param({"role": "mixed"}, True, id="mixed splits"),
        pytest.param({"role": "prefill", "enable_chunked_prefill": True}, True, id="the setting decides"),
    ],
)
def test_the_role_sets_whether_prompts_are_split(changes: dict[str, Any], *, splits: bool) -> None:
    assert parse_configuration({**VALID, **changes}).splits_prompts is splits


@pytest.mark.parametrize(
    ("version", "is_1_3"),
    [("1.2.1", False), ("1.3.0rc29", True), ("1.4.0rc1", True), ("1.10.0", True), ("2.0.0", True)],
)
def test_releases_are_compared_as_numbers(version: str, *, is_1_3: bool) -> None:
    configuration: Configuration = parse_configuration({**VALID, "version": version})
    assert configuration.is_1_3_or_newer is is_1_3
