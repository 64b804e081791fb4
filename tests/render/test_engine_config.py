from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from inferencecluster.core.errors import SpecError
from inferencecluster.core.fleet import PoolName
from inferencecluster.render.trtllm.config import check_overrides, engine_config
from inferencecluster.render.trtllm.keys import (
    NEVER_NULL,
    OWNED,
    SECTIONS,
    SERVE_OPTIONS,
    TOP_LEVEL,
    known,
)
from inferencecluster.render.trtllm.profiles import CONTEXT_ONLY_POOLS, EngineShape, profile
from inferencecluster.render.trtllm.versions import parse_version

VERSIONS = ("1.2.1", "1.3.0rc5", "1.3.0rc29")

versions = st.sampled_from(VERSIONS).map(parse_version)
pools = st.sampled_from(PoolName)


def shape(version: str = "1.2.1", pool: PoolName = PoolName.DECODE, **changes: Any) -> EngineShape:
    values: dict[str, Any] = {
        "version": parse_version(version),
        "pool": pool,
        "tensor": 2,
        "pipeline": 1,
        "max_batch_size": 192,
        "max_num_tokens": 8192,
        "transfer_backend": "NIXL",
        "transfer_timeout_seconds": 60,
    }
    return EngineShape(**{**values, **changes})


@pytest.mark.parametrize(
    ("version", "config", "field", "message"),
    [
        pytest.param(
            "1.2.1", {"max_num_token": 1}, "max_num_token", "did you mean max_num_tokens", id="misspelled"
        ),
        pytest.param("1.2.1", {"xyzzy": 1}, "xyzzy", "remove the key", id="like nothing"),
        pytest.param(
            "1.2.1",
            {"hf_revision": "a"},
            "hf_revision",
            r"1\.2\.1 does not know the key, which exists from 1\.3\.0rc0 on",
            id="newer",
        ),
        pytest.param("1.3.0rc29", {"sampler_type": "auto"}, "sampler_type", r"before 1\.3\.0rc0", id="older"),
        pytest.param(
            "1.3.0rc29",
            {"perf_metrics_output_dir": "/tmp"},
            "perf_metrics_output_dir",
            r"from 1\.4\.0rc0 on",
            id="not yet",
        ),
        pytest.param(
            "1.3.0rc19",
            {"allow_request_chat_template": True},
            "allow_request_chat_template",
            r"from 1\.3\.0rc20 on",
            id="a later candidate",
        ),
        pytest.param(
            "1.2.1",
            {"free_gpu_memory_fraction": 0.5},
            "free_gpu_memory_fraction",
            r"did you mean kv_cache_config\.free_gpu_memory_fraction",
            id="belongs into a section",
        ),
        pytest.param(
            "1.2.1",
            {"kv_transfer_timeout_ms": 5},
            "kv_transfer_timeout_ms",
            r"set spec\.engine\.kvTransfer\.timeoutSeconds",
            id="belongs to the operator",
        ),
        pytest.param(
            "1.2.1",
            {"kv_cache_config": {"max_seq_len": 5}},
            "kv_cache_config.max_seq_len",
            "did you mean max_seq_len",
            id="belongs outside",
        ),
        pytest.param(
            "1.2.1",
            {"kv_cache_config": {"enable_blok_reuse": True}},
            "kv_cache_config.enable_blok_reuse",
            r"did you mean kv_cache_config\.enable_block_reuse",
            id="nested and misspelled",
        ),
        pytest.param(
            "1.2.1",
            {"kv_cache_config": {1: 2}},
            "kv_cache_config.1",
            "remove the key",
            id="a key that is no text",
        ),
        pytest.param(
            "1.2.1",
            {"cache_transceiver_config": {"transceiver_runtime": "CPP"}},
            "cache_transceiver_config.transceiver_runtime",
            r"from 1\.3\.0rc0 on",
            id="nested and newer",
        ),
        pytest.param(
            "1.2.1", {"kv_cache_config": 5}, "kv_cache_config", "section of further keys", id="no section"
        ),
        pytest.param(
            "1.2.1", {"kv_cache_config": None}, "kv_cache_config", "always has this section", id="null"
        ),
        pytest.param(
            "1.2.1",
            {"cache_transceiver_config": None},
            "cache_transceiver_config",
            "refuses every request that is split",
            id="no transceiver",
        ),
        pytest.param(
            "1.2.1",
            {"max_num_tokens": 100},
            "max_num_tokens",
            "set an integer of at least 192",
            id="fewer tokens than sequences",
        ),
        pytest.param(
            "1.2.1", {"max_num_tokens": None}, "max_num_tokens", "is null, but", id="no token limit"
        ),
        pytest.param("1.2.1", {"max_num_tokens": True}, "max_num_tokens", "at least 192", id="no number"),
        pytest.param(
            "1.2.1", {"xyzzy": "v" * 200}, "xyzzy", r"is v{80}\.\.\., but", id="a long value is cut"
        ),
    ],
)
def test_a_key_that_the_engine_would_refuse_is_refused(
    version: str, config: dict[str, Any], field: str, message: str
) -> None:
    with pytest.raises(SpecError, match=message) as refused:
        engine_config(shape(version), config)
    assert refused.value.field == f"spec.engine.config.{field}"


@pytest.mark.parametrize("path", sorted(OWNED))
def test_a_key_that_the_operator_owns_is_refused_with_its_reason(path: str) -> None:
    section, _, key = path.rpartition(".")
    version = parse_version("1.2.1" if path == "build_config" else "1.3.0rc29")
    with pytest.raises(SpecError, match="the operator sets this key") as refused:
        check_overrides({section: {key: 1}} if section else {key: 1}, version)
    assert refused.value.field == f"spec.engine.config.{path}"
    assert refused.value.advice == OWNED[path].advice


@given(key=st.text(min_size=1, max_size=30), version=versions)
def test_no_unknown_key_passes(key: str, version: Any) -> None:
    assume(key not in known(TOP_LEVEL, version))
    with pytest.raises(SpecError) as refused:
        check_overrides({key: 1}, version)
    assert refused.value.field == f"spec.engine.config.{key}"
    assert str(version) in str(refused.value)


@given(section=st.sampled_from(sorted(SECTIONS)), key=st.text(min_size=1, max_size=30), version=versions)
def test_no_unknown_nested_key_passes(section: str, key: str, version: Any) -> None:
    assume(section in known(TOP_LEVEL, version) and key not in known(SECTIONS[section], version))
    with pytest.raises(SpecError) as refused:
        check_overrides({section: {key: 1}}, version)
    assert refused.value.field == f"spec.engine.config.{section}.{key}"


scalars = st.none() | st.booleans() | st.integers() | st.text(max_size=5)


@st.composite
def legal_configs(draw: st.DrawFn, version: str) -> dict[str, Any]:
    """Keys that the release knows and users may set, with any values."""
    parsed = parse_version(version)
    free = [key for key in known(TOP_LEVEL, parsed) if key not in OWNED and key != "max_num_tokens"]
    config: dict[str, Any] = {}
    for key in draw(st.lists(st.sampled_from(free), unique=True, max_size=6)):
        if key not in SECTIONS:
            config[key] = draw(scalars)
            continue
        inner = [name for name in known(SECTIONS[key], parsed) if f"{key}.{name}" not in OWNED]
        sections = st.dictionaries(st.sampled_from(inner), scalars, max_size=4)
        config[key] = draw(sections if key in NEVER_NULL else st.none() | sections)
    return config


@given(data=st.data(), version=st.sampled_from(VERSIONS), pool=pools)
def test_merging_drops_no_key_of_the_user_and_no_section_default_beside_it(
    data: st.DataObject, version: str, pool: PoolName
) -> None:
    config = data.draw(legal_configs(version))
    given_shape = shape(version, pool)
    merged = engine_config(given_shape, config)
    for key, value in config.items():
        if isinstance(value, dict):
            assert merged[key].items() >= value.items()
        else:
            assert merged[key] == value
    assert merged.keys() == profile(given_shape).keys() | config.keys()
    assert merged["cache_transceiver_config"]["backend"] == "NIXL"
    assert merged["cache_transceiver_config"]["kv_transfer_timeout_ms"] == 60_000


def test_keys_beside_the_users_in_a_section_keep_their_defaults() -> None:
    merged = engine_config(shape(), {"kv_cache_config": {"dtype": "fp8"}})
    assert merged["kv_cache_config"] == {
        "dtype": "fp8",
        "enable_block_reuse": True,
        "free_gpu_memory_fraction": 0.85,
    }


def test_own_graph_sizes_replace_the_largest_batch_that_contradicts_them() -> None:
    merged = engine_config(shape(), {"cuda_graph_config": {"batch_sizes": [1, 8]}})
    assert merged["cuda_graph_config"] == {"enable_padding": True, "batch_sizes": [1, 8]}


def test_graphs_can_be_switched_off_and_on() -> None:
    assert engine_config(shape(), {"cuda_graph_config": None})["cuda_graph_config"] is None
    prefill = engine_config(shape(pool=PoolName.PREFILL), {"cuda_graph_config": {"enable_padding": True}})
    assert prefill["cuda_graph_config"] == {"enable_padding": True}


def test_the_users_keys_are_not_changed_by_merging() -> None:
    config = {"kv_cache_config": {"dtype": "fp8"}, "max_seq_len": 8192}
    engine_config(shape(), config)
    assert config == {"kv_cache_config": {"dtype": "fp8"}, "max_seq_len": 8192}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("pool", PoolName)
def test_every_key_of_a_profile_is_known_to_the_release(version: str, pool: PoolName) -> None:
    parsed = parse_version(version)
    settings = profile(shape(version, pool))
    assert settings.keys() <= set(known(TOP_LEVEL, parsed))
    for section in settings.keys() & SECTIONS.keys():
        assert (settings[section] or {}).keys() <= set(known(SECTIONS[section], parsed))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("pool", PoolName)
def test_only_engines_without_the_overlap_scheduler_are_offered_prefill_work(
    version: str, pool: PoolName
) -> None:
    assert profile(shape(version, pool))["disable_overlap_scheduler"] is (pool in CONTEXT_ONLY_POOLS)


@pytest.mark.parametrize(
    ("version", "pool", "reuse"),
    [
        ("1.2.1", PoolName.PREFILL, False),
        ("1.2.1", PoolName.MIXED, False),
        ("1.2.1", PoolName.DECODE, True),
        ("1.3.0rc29", PoolName.PREFILL, True),
    ],
)
def test_blocks_are_reused_only_where_sending_them_is_safe(version: str, pool: PoolName, reuse: bool) -> None:
    assert profile(shape(version, pool))["kv_cache_config"]["enable_block_reuse"] is reuse


def test_every_owned_and_nested_key_stands_in_the_table() -> None:
    for path in OWNED:
        section, _, key = path.rpartition(".")
        assert key in (SECTIONS[section] if section else TOP_LEVEL)
    assert SECTIONS.keys() <= TOP_LEVEL.keys()
    assert NEVER_NULL.keys() <= SECTIONS.keys()
    assert all(option.startswith("--") for option in SERVE_OPTIONS)
