"""The router's small parts, each alone: estimates, counters, watchdog, configuration, logs."""

from __future__ import annotations

import json
import logging

import pytest

from inferencecluster.core.errors import SpecError
from inferencecluster.router.configuration import read_configuration
from inferencecluster.router.estimates import DrainRate, Estimates, FadingMean
from inferencecluster.router.logs import JsonFormatter
from inferencecluster.router.traffic import Histogram, Journey, Outcome, Traffic
from inferencecluster.router.watchdog import Watchdog


class TestEstimates:
    def test_text_is_four_characters_a_token_until_answers_tell_better(self) -> None:
        estimates = Estimates()
        assert estimates.text_tokens(400) == 100
        assert estimates.text_tokens(1) == 1

        for _ in range(200):
            estimates.learn_text(characters=2000, tokens=1000)

        assert 180 <= estimates.text_tokens(400) <= 200

    def test_an_answer_is_expected_to_be_as_long_as_others_but_not_longer_than_allowed(self) -> None:
        estimates = Estimates()
        assert estimates.output_tokens(None) == 211
        assert estimates.output_tokens(16) == 16

        for _ in range(2000):
            estimates.learn_output(tokens=50, events=10)

        assert estimates.output_tokens(None) in (50, 51)
        assert estimates.tokens_per_event == pytest.approx(5, rel=0.05)

    def test_the_speed_of_prompts_is_believed_until_it_was_measured(self) -> None:
        estimates = Estimates()
        assert estimates.prefill_seconds(1000) == pytest.approx(0.1)

        for _ in range(100):
            estimates.learn_prefill(seconds=0.5, pending_tokens=1000)

        assert estimates.prefill_seconds(4000) == pytest.approx(2.0, rel=0.02)

    def test_another_belief_replaces_what_was_learned_and_the_same_one_does_not(self) -> None:
        estimates = Estimates()
        estimates.believe_prefill(1e-3)
        assert estimates.prefill_seconds(1000) == pytest.approx(1.0)

        estimates.learn_prefill(seconds=3.0, pending_tokens=1000)
        estimates.believe_prefill(1e-3)
        assert estimates.prefill_seconds(1000) == pytest.approx(2.0)

        estimates.believe_prefill(None)
        assert estimates.prefill_seconds(1000) == pytest.approx(0.1)

    def test_old_answers_fade(self) -> None:
        mean = FadingMean(100.0)
        for value in (0.0, 50.0):
            for _ in range(5000):
                mean.learn(value)

        assert mean.value == pytest.approx(50.0, rel=0.02)

    def test_nothing_is_learned_from_nothing(self) -> None:
        estimates = Estimates()
        for _ in range(100):
            estimates.learn_text(characters=0, tokens=5)
            estimates.learn_text(characters=5, tokens=0)
        assert estimates.text_tokens(400) == 100


class TestDrainRate:
    def test_retry_after_is_the_time_to_work_off_who_waits(self) -> None:
        drain = DrainRate()
        for number in range(100):
            drain.record(number / 10)

        assert drain.retry_after_seconds(50, 10.0) == 5

    def test_old_departures_do_not_count(self) -> None:
        drain = DrainRate()
        drain.record(0.0)
        assert drain.retry_after_seconds(1, 100.0) == 60

    @pytest.mark.parametrize(("waiting", "seconds"), [(0, 1), (1, 10), (1000, 60)])
    def test_it_stays_between_a_second_and_a_minute(self, waiting: int, seconds: int) -> None:
        drain = DrainRate()
        drain.record(1.0)
        assert drain.retry_after_seconds(waiting, 1.0) == seconds


class TestTraffic:
    def test_a_histogram_counts_upper_bounds_in(self) -> None:
        histogram = Histogram((1.0, 2.0))
        for value in (0.5, 1.0, 1.5, 3.0):
            histogram.observe(value)
        histogram.observe(2.0, times=3)

        assert histogram.buckets() == [("1.0", 2.0), ("2.0", 6.0), ("+Inf", 7.0)]
        assert histogram.total == pytest.approx(12.0)

    def test_the_oldest_journey_is_the_head(self) -> None:
        traffic = Traffic()
        assert traffic.head_age_seconds(10.0) == 0.0
        first, second = Journey(1.0), Journey(2.0)
        traffic.journeys[first] = traffic.journeys[second] = None
        assert traffic.head_age_seconds(10.0) == 9.0
        del traffic.journeys[first]
        assert traffic.head_age_seconds(10.0) == 8.0

    def test_output_of_failed_requests_counts_apart(self) -> None:
        traffic = Traffic()
        traffic.ended(Outcome.COMPLETED, "mixed", output_tokens=5)
        traffic.ended(Outcome.FAILED, "mixed", output_tokens=3)
        assert (traffic.output_tokens, traffic.completed_output_tokens, traffic.completed) == (8, 5, 1)
        assert traffic.count(Outcome.FAILED) == 1


class Silent:
    def __init__(self) -> None:
        self.last_at = 0.0
        self.expired = 0

    def expire(self) -> None:
        self.expired += 1


def test_the_watchdog_expires_what_is_silent_and_asks_again_after_as_long() -> None:
    now = 0.0
    watchdog = Watchdog(lambda: now, silence_seconds=10.0)
    silent, busy = Silent(), Silent()
    watchdog.watch(silent)
    watchdog.watch(busy)
    for now in (5.0, 10.0, 11.0, 15.0, 21.5):
        busy.last_at = now
        watchdog.look()
    assert (silent.expired, busy.expired) == (2, 0)

    watchdog.forget(silent)
    now = 100.0
    busy.last_at = now
    watchdog.look()
    assert silent.expired == 2


class TestConfiguration:
    def test_defaults(self) -> None:
        found = read_configuration({"IC_CLUSTER": "c", "IC_NAMESPACE": "n"})
        assert (found.cluster, found.namespace, found.port, found.log_level) == ("c", "n", 8080, logging.INFO)
        assert found.admin_port == 8082
        assert read_configuration({"IC_ROUTER_PORT": "80"}).admin_port == 0

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("IC_ROUTER_PORT", "x"),
            ("IC_ROUTER_PORT", "70000"),
            ("IC_ROUTER_PORT", "1.5"),
            ("IC_PREFILL_SECONDS", "0"),
            ("IC_PREFILL_SECONDS", "nan"),
            ("IC_ATTEMPTS", "0"),
            ("IC_LOG_LEVEL", "loud"),
        ],
    )
    def test_a_wrong_value_is_named(self, name: str, value: str) -> None:
        with pytest.raises(SpecError, match=name):
            read_configuration({name: value})

    def test_every_knob_is_read(self) -> None:
        found = read_configuration(
            {
                "IC_CONNECT_SECONDS": "1",
                "IC_PREFILL_SECONDS": "2",
                "IC_FIRST_TOKEN_SECONDS": "3",
                "IC_SILENCE_SECONDS": "4",
                "IC_ANSWER_SECONDS": "5",
                "IC_ATTEMPTS": "6",
                "IC_MAX_QUEUE_REQUESTS": "7",
                "IC_MAX_QUEUE_BYTES": "8",
                "IC_MAX_BODY_BYTES": "9000",
                "IC_MAX_READING_BYTES": "9001",
                "IC_BODY_SECONDS": "11",
                "IC_ROUTER_ADMIN_PORT": "12",
                "IC_NOTICE_SECONDS": "10",
            }
        )
        patience = found.patience
        assert (patience.connect_seconds, patience.prefill_seconds, patience.first_token_seconds) == (1, 2, 3)
        assert (patience.silence_seconds, patience.answer_seconds, patience.attempts) == (4, 5, 6)
        assert (found.queue.requests, found.queue.body_bytes) == (7, 8)
        assert (found.bodies.most_bytes, found.bodies.reading_bytes, found.bodies.seconds) == (9000, 9001, 11)
        assert (found.notice_seconds, found.admin_port) == (10, 12)


def test_a_log_line_is_one_json_object_with_what_the_call_added() -> None:
    record = logging.makeLogRecord(
        {
            "name": "n",
            "levelname": "INFO",
            "msg": "replica %s",
            "args": ("gone",),
            "replica": "p0",
            "created": 0,
        }
    )
    assert json.loads(JsonFormatter().format(record)) == {
        "time": "1970-01-01T00:00:00.000+00:00",
        "level": "info",
        "logger": "n",
        "message": "replica gone",
        "replica": "p0",
    }
