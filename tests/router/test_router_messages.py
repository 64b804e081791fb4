"""Requests, answers and events, as bytes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferencecluster.render.trtllm.versions import parse_version
from inferencecluster.router.answers import compact_json
from inferencecluster.router.completion_request import Endpoint, parse_request
from inferencecluster.router.disaggregation import (
    RequestIds,
    context_request,
    generation_request,
    read_context_answer,
)
from inferencecluster.router.event_stream import (
    LARGEST_EVENT_BYTES,
    EventReader,
    Usage,
    is_error,
    may_end,
    read_ending,
    usage_of,
)

EVENTS = [b'data: {"a":1}\n\n', b'data: {"text":"b [DONE] \\n\\n"}\n\n', b"data: [DONE]\n\n"]


class TestEvents:
    @given(st.data())
    async def test_events_come_whole_however_the_body_was_cut(self, data: st.DataObject) -> None:
        body = b"".join(data.draw(st.lists(st.sampled_from(EVENTS), max_size=6)))
        cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(body))))))
        pieces = [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
        queue = [piece for piece in pieces if piece]

        async def read() -> bytes:
            return queue.pop(0) if queue else b""

        reader, found = EventReader(read), []
        while received := await reader.next():
            assert received.endswith(b"\n\n")
            found.append(received)

        assert b"".join(found) == body

    @given(st.data())
    async def test_events_with_crlf_come_with_lf(self, data: st.DataObject) -> None:
        events = data.draw(st.lists(st.sampled_from(EVENTS), max_size=6))
        body = b"".join(events).replace(b"\n", b"\r\n")
        cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(body))))))
        pieces = [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
        queue = [piece for piece in pieces if piece]

        async def read() -> bytes:
            return queue.pop(0) if queue else b""

        reader, found = EventReader(read), []
        while received := await reader.next():
            found.append(received)

        assert b"".join(found) == b"".join(events)

    async def test_an_event_that_does_not_end_is_refused(self) -> None:
        async def read() -> bytes:
            return b"x" * (LARGEST_EVENT_BYTES // 4)

        with pytest.raises(ConnectionError, match=str(LARGEST_EVENT_BYTES)):
            await EventReader(read).next()

    async def test_half_an_event_at_the_end_is_dropped(self) -> None:
        queue = [EVENTS[0] + b"data: {", b'"x"', b""]

        async def read() -> bytes:
            return queue.pop(0)

        reader = EventReader(read)
        assert [await reader.next(), await reader.next()] == [EVENTS[0], b""]

    @pytest.mark.parametrize("blank", [b"", b" "])
    @pytest.mark.parametrize("keep", [False, True])
    def test_the_end_of_a_stream_is_taken_apart(self, blank: bytes, keep: bool) -> None:
        usage = b'data: {"choices":' + blank + b'[],"usage":{"prompt_tokens":5,"completion_tokens":2}}\n\n'
        data = EVENTS[0] + usage + EVENTS[2]
        assert may_end(data)
        assert may_end(usage)

        ending = read_ending(data, keep_usage=keep)

        assert ending.data == (data if keep else EVENTS[0] + EVENTS[2])
        assert (ending.tokens, ending.usage, ending.done) == (1, Usage(5, 2), True)

    @pytest.mark.parametrize(
        "usage", [b"null", b"{}", b'{"prompt_tokens":"5","completion_tokens":2}', b"{"], ids=str
    )
    def test_an_event_without_choices_that_is_no_usage_is_passed_on(self, usage: bytes) -> None:
        data = b'data: {"choices":[],"usage":' + usage + b"}\n\n"
        ending = read_ending(data, keep_usage=False)
        assert (ending.data, ending.usage, ending.done) == (data, None, False)

    def test_text_cannot_end_a_stream(self) -> None:
        ending = read_ending(EVENTS[1], keep_usage=False)
        assert (ending.data, ending.tokens, ending.done) == (EVENTS[1], 1, False)
        assert not may_end(EVENTS[1])

    @pytest.mark.parametrize(
        ("data", "error"),
        [
            (b'data: {"error":{}}\n\n', True),
            (EVENTS[0] + b'data: {"object":"error"}\n\n', True),
            (b'data: {"error":{}}\n\n' + EVENTS[0], False),
            (EVENTS[1], False),
        ],
    )
    def test_an_engines_error_is_the_last_event(self, data: bytes, error: bool) -> None:
        assert is_error(data) is error


class TestTokenIds:
    """The prompt's ids travel from one body into the next without being parsed."""

    REQUEST = parse_request(
        compact_json({"model": "m", "prompt": "hi", "max_tokens": 3}), Endpoint.COMPLETIONS, models=["m"]
    )

    @given(st.lists(st.integers(0, 200_000), max_size=20), st.text(), st.sampled_from([None, 1]))
    def test_whatever_the_text_says(self, identifiers: list[int], text: str, indent: int | None) -> None:
        text += '"prompt_token_ids":[1,2],'
        answer = {
            "choices": [
                {
                    "text": text,
                    "finish_reason": "length",
                    "disaggregated_params": {"request_type": "context_only", "ctx_request_id": 1},
                }
            ],
            "prompt_token_ids": identifiers,
        }
        found = read_context_answer(json.dumps(answer, indent=indent).encode(), parse_version("1.2.1"))
        sent = json.loads(generation_request(self.REQUEST, found))

        assert found.prompt_tokens == len(identifiers)
        assert found.document["choices"][0]["text"] == text
        assert sent["prompt"] == identifiers
        assert sent["max_tokens"] == 3
        assert sent["disaggregated_params"] == {"request_type": "generation_only", "ctx_request_id": 1}

    def test_an_engine_that_tells_none_gets_the_prompt_again(self) -> None:
        body = compact_json(
            {"choices": [{"finish_reason": "length", "disaggregated_params": {"ctx_request_id": 1}}]}
        )
        found = read_context_answer(body, parse_version("1.2.1"))
        assert found.prompt_tokens == 0
        assert json.loads(generation_request(self.REQUEST, found))["prompt"] == "hi"


def test_request_ids_are_unique_int64_above_the_local_ones() -> None:
    clock = iter(n / 500 for n in range(900_000_000_000, 900_000_010_000))
    identifiers = RequestIds(node=2**70 + 3, now=lambda: next(clock))
    found = {identifiers.next() for _ in range(5000)}

    assert len(found) == 5000
    assert all(2**40 <= identifier < 2**63 for identifier in found)
    others = RequestIds(node=4, now=lambda: 900_000_000_000 / 500)
    assert others.next() not in found


def test_the_context_request_leaves_max_tokens_alone() -> None:
    request = parse_request(
        compact_json({"model": "m", "prompt": [1], "max_tokens": 9, "stream": True, "stream_options": {}}),
        Endpoint.COMPLETIONS,
        models=["m"],
    )
    sent = json.loads(context_request(request, parse_version("1.2.1"), lambda: 1))
    assert (sent["max_tokens"], sent["stream"], sent["stream_options"]) == (9, False, None)


@pytest.mark.parametrize(
    ("content", "characters"),
    [
        pytest.param("hello", 5, id="text"),
        pytest.param([{"type": "text", "text": "hello"}, {"type": "image_url"}], 5, id="parts"),
        pytest.param(None, 0, id="none"),
        pytest.param(["x", {"text": 5}], 0, id="neither"),
    ],
)
def test_a_chat_is_as_long_as_its_messages(content: Any, characters: int) -> None:
    body = compact_json({"model": "m", "messages": [{"role": "user", "content": content}] * 2})
    (size,) = parse_request(body, Endpoint.CHAT, models=["m"]).prompts
    assert (size.tokens, size.characters) == (8, 2 * characters)


def test_a_chat_with_token_ids_has_an_exact_length() -> None:
    body = compact_json({"model": "m", "messages": [{"content": "x"}], "prompt_token_ids": [1, 2, 3]})
    (size,) = parse_request(body, Endpoint.CHAT, models=["m"]).prompts
    assert (size.tokens, size.characters) == (3, 0)


@pytest.mark.parametrize(
    ("fields", "longest"),
    [
        ({"max_tokens": 5}, 5),
        ({"max_tokens": 5, "max_completion_tokens": 7}, 7),
        ({}, None),
        ({"max_tokens": 0}, None),
    ],
)
def test_the_longest_output_is_what_the_client_allows(fields: dict[str, int], longest: int | None) -> None:
    body = compact_json({"model": "m", "prompt": "x", **fields})
    assert parse_request(body, Endpoint.COMPLETIONS, models=["m"]).longest_output == longest


@pytest.mark.parametrize(
    ("details", "cached"),
    [
        pytest.param({"cached_tokens": 3}, 3, id="told"),
        pytest.param({"cached_tokens": 9}, 5, id="more than the prompt has"),
        pytest.param({"cached_tokens": -1}, 0, id="negative"),
        pytest.param({"cached_tokens": "3"}, 0, id="no number"),
        pytest.param({"cached_tokens": True}, 0, id="a switch"),
        pytest.param({}, 0, id="not told"),
        pytest.param(None, 0, id="null"),
        pytest.param("3", 0, id="text"),
    ],
)
def test_cached_tokens_that_are_not_told_properly_are_no_hits(details: object, cached: int) -> None:
    usage = usage_of(
        {"usage": {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": details}}
    )
    assert usage == Usage(5, 2, cached)


@pytest.mark.parametrize("tokens", [-1, 2**31, 10**400])
@pytest.mark.parametrize("name", ["prompt_tokens", "completion_tokens"])
def test_counts_that_cannot_be_are_no_usage(name: str, tokens: int) -> None:
    assert usage_of({"usage": {"prompt_tokens": 5, "completion_tokens": 2, name: tokens}}) is None
