"""The launcher's decisions: settings, witnesses of work, and when listening may end."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtllm_launcher.activity import completed_requests, count_completions, open_connections
from trtllm_launcher.drain import DrainRule, Sighting, WorkHistory
from trtllm_launcher.processes import exit_code
from trtllm_launcher.settings import Settings, SettingsError, read_settings

TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 0100007F:1F40 0100007F:D431 01 00000000:00000000 00:00000000 00000000     0        0 2 1 0 20 4 30 10 -1
   2: 0100007F:D431 0100007F:1F40 01 00000000:00000000 00:00000000 00000000     0        0 3 1 0 20 4 30 10 -1
   3: 0100007F:1F40 0100007F:D432 06 00000000:00000000 03:00001770 00000000     0        0 0 3 0
"""
EXPOSITION = """\
# HELP trtllm_request_success_total finished requests
# TYPE trtllm_request_success_total counter
trtllm_request_success_total{engine_type="pytorch",finished_reason="length",model_name="a b}"} 12.0
trtllm_request_success_total{engine_type="pytorch",finished_reason="stop",model_name="a"} 3.0 1700000000
trtllm_request_success_created{engine_type="pytorch"} 1.7e+09
trtllm_num_requests_running{engine_type="pytorch",pid="1"} 7.0
"""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param(["trtllm-serve", "m"], ("127.0.0.1", 8000), id="defaults"),
        pytest.param(["--", "trtllm-serve", "m", "--port", "9000"], ("127.0.0.1", 9000), id="separated"),
        pytest.param(
            ["trtllm-serve", "--port=9001", "--host=10.0.0.5"], ("10.0.0.5", 9001), id="equals sign"
        ),
        pytest.param(["trtllm-serve", "--host", "0.0.0.0"], ("127.0.0.1", 8000), id="every address"),
    ],
)
def test_host_and_port_are_read_from_the_engines_command(words: list[str], expected: tuple[str, int]) -> None:
    settings = read_settings(words, {})
    assert (settings.host, settings.port) == expected
    assert settings.command[0] == "trtllm-serve"


@pytest.mark.parametrize(
    ("words", "environment", "message"),
    [
        pytest.param([], {}, "no command given", id="no command"),
        pytest.param(["--"], {}, "no command given", id="nothing after the dashes"),
        pytest.param(["x", "--port", "many"], {}, "--port is 'many'", id="no port"),
        pytest.param(["x", "--port", "65536"], {}, "--port is '65536'", id="port too large"),
        pytest.param(["x"], {"TRTLLM_LAUNCHER_QUIET_SECONDS": "-1"}, "QUIET_SECONDS is '-1'", id="negative"),
        pytest.param(
            ["x"], {"TRTLLM_LAUNCHER_QUIET_SECONDS": "nan"}, "QUIET_SECONDS is 'nan'", id="no number"
        ),
        pytest.param(["x"], {"TRTLLM_LAUNCHER_QUIET_SECONDS": "soon"}, "must be a number", id="a word"),
        pytest.param(
            ["x"], {"TRTLLM_LAUNCHER_DEADLINE_SECONDS": "30"}, "must be below", id="no time to drain"
        ),
    ],
)
def test_wrong_settings_are_named(words: list[str], environment: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        read_settings(words, environment)


def test_settings_come_from_the_environment() -> None:
    variables = {"DEADLINE": "100", "STOP": "10", "QUIET": "1.5", "KV_TRANSFER": "0"}
    environment = {f"TRTLLM_LAUNCHER_{name}_SECONDS": value for name, value in variables.items()}
    assert read_settings(["x"], environment) == Settings(("x",), "127.0.0.1", 8000, 100.0, 10.0, 1.5, 0.0)


def test_only_established_connections_to_the_port_count(tmp_path: Path) -> None:
    table = tmp_path / "tcp"
    table.write_text(TABLE)
    assert open_connections(8000, [table, tmp_path / "absent"]) == 1
    assert open_connections(54321, [table]) == 1
    assert open_connections(1, [table]) == 0


def test_a_real_connection_is_seen_while_it_lasts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert open_connections(port) == 0
        with socket.create_connection(("127.0.0.1", port)), server.accept()[0]:
            assert open_connections(port) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(EXPOSITION, 15.0, id="1.3, two labels"),
        pytest.param('request_success_total{finished_reason="length"} 4.0\n', 4.0, id="1.2, no prefix"),
        pytest.param("# nothing yet\n", 0.0, id="before the first request"),
    ],
)
def test_completions_are_summed(text: str, expected: float) -> None:
    assert count_completions(text) == expected


def test_an_engine_that_cannot_be_asked_has_no_count() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert completed_requests("127.0.0.1", port) is None


@pytest.mark.parametrize(
    ("sightings", "expected"),
    [
        pytest.param([(1, 0, None), (2, 0, 0.0), (3, 2, 0.0)], None, id="connections alone are no work"),
        pytest.param([(1, 1, 5.0), (2, 1, 5.0), (3, 1, 6.0), (4, 1, 6.0)], 3.0, id="completions are"),
        pytest.param([(1, 1, 5.0), (2, 0, 5.0)], 1.0, id="those before the first look, too"),
        pytest.param(
            [(1, 3, None), (2, 3, None), (3, 0, None)], 2.0, id="connections, of an engine that is silent"
        ),
    ],
)
def test_the_time_of_the_last_work(
    sightings: list[tuple[float, int, float | None]], expected: float | None
) -> None:
    history = WorkHistory()
    for at, connections, completed in sightings:
        history.see(Sighting(at, connections, completed))
    assert history.last_work_at == expected


@pytest.mark.parametrize(
    ("waited", "connections", "last_work", "expected"),
    [
        pytest.param(4.0, 0, None, "routers to fence this engine", id="routers may not know yet"),
        pytest.param(5.0, 0, None, "", id="never worked"),
        pytest.param(5.0, 0, 39.0, "", id="idle for long when it was told to stop"),
        pytest.param(5.0, 0, 60.0, "KV caches to be fetched", id="worked a while ago"),
        pytest.param(30.0, 2, None, "open connections", id="a prompt may be in work"),
        pytest.param(60.0, 2, 39.0, "", id="streams finish after the port is closed"),
        pytest.param(60.0, 0, 100.0, "KV caches to be fetched", id="its last prompt was just done"),
    ],
)
def test_when_the_engine_may_stop_listening(
    waited: float, connections: int, last_work: float | None, expected: str
) -> None:
    rule = DrainRule(quiet_seconds=5.0, kv_transfer_seconds=60.0)
    now = 100.0
    waits_for = rule.waits_for(
        now=now, stopping_since=now - waited, connections=connections, last_work_at=last_work
    )
    assert waits_for == expected


@given(
    quiet=st.floats(0, 100),
    transfer=st.floats(0, 100),
    waited=st.floats(0, 500),
    connections=st.integers(0, 3),
    rest=st.none() | st.floats(0, 500),
)
def test_a_cache_made_within_the_transfer_timeout_always_keeps_the_engine(
    quiet: float, transfer: float, waited: float, connections: int, rest: float | None
) -> None:
    waits_for = DrainRule(quiet, transfer).waits_for(
        now=1000.0,
        stopping_since=1000.0 - waited,
        connections=connections,
        last_work_at=None if rest is None else 1000.0 - rest,
    )
    if rest is not None and rest < transfer - 1e-6:
        assert waits_for
    if waited > max(quiet, transfer) + 1e-6 and (rest is None or rest > max(quiet, transfer) + 1e-6):
        assert not waits_for


@pytest.mark.parametrize(
    ("status", "code"),
    [
        pytest.param(0, 0, id="success"),
        pytest.param(3 << 8, 3, id="its own code"),
        pytest.param(int(signal.SIGKILL), 137, id="killed"),
    ],
)
def test_exit_codes_are_those_of_a_shell(status: int, code: int) -> None:
    assert exit_code(status) == code
