"""What goes over the wire: OpenAI in, TensorRT-LLM's disaggregated protocol out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.router.harness import PAIR, SETTINGS, request_document, running_router
from tests.router.scripted_engine import CONTEXT, GENERATION, PROMPT_IDS, WHOLE, Behaviour

from inferencecluster.render.trtllm.versions import parse_version

BOTH_PATHS = pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])


@BOTH_PATHS
@pytest.mark.parametrize("stream", [False, True])
async def test_the_prefill_engine_gets_the_clients_request_unstreamed(path: str, stream: bool) -> None:
    async with running_router(PAIR) as router:
        sent = request_document(path, stream=stream, temperature=0.5)
        await router.complete(path, **sent)

        (seen,) = router.engines["p0"].seen

    assert seen.path == path
    assert seen.document == {
        **sent,
        "stream": False,
        "stream_options": None,
        "disaggregated_params": {"request_type": "context_only"},
    }


@BOTH_PATHS
async def test_the_decode_engine_gets_the_context_engines_parameters_and_token_ids(path: str) -> None:
    async with running_router(PAIR) as router:
        await router.complete(path)

        (seen,) = router.engines["d0"].seen

    assert seen.document["disaggregated_params"] == {
        "request_type": "generation_only",
        "first_gen_tokens": [7],
        "ctx_request_id": 42,
        "encoded_opaque_state": "b3BhcXVl",
    }
    assert seen.document["prompt_token_ids" if "chat" in path else "prompt"] == PROMPT_IDS
    assert ("messages" in seen.document) == ("chat" in path)
    assert "stream" not in seen.document
    assert seen.document["max_tokens"] == 16


@pytest.mark.parametrize(
    ("version", "fields"),
    [
        pytest.param("1.2.1", set(), id="1.2 knows neither field"),
        pytest.param("1.3.0rc1", {"disagg_request_id"}, id="1.3 needs the id"),
        pytest.param("1.3.0rc29", {"disagg_request_id", "schedule_style"}, id="rc3 and later have styles"),
    ],
)
async def test_fields_follow_the_engines_release(version: str, fields: set[str]) -> None:
    settings = replace(SETTINGS, engine_version=parse_version(version))
    async with running_router(PAIR, settings=settings) as router:
        await router.complete()
        await router.complete()
        first, second = (seen.document["disaggregated_params"] for seen in router.engines["p0"].seen)
        third = router.engines["d0"].seen[0].document["disaggregated_params"]

    assert set(first) == {"request_type"} | fields
    if fields:
        assert 2**40 <= first["disagg_request_id"] < 2**63
        assert first["disagg_request_id"] != second["disagg_request_id"]
        assert third["disagg_request_id"] == first["disagg_request_id"]
    assert first.get("schedule_style", 0) == 0


async def test_a_stream_comes_from_the_decode_engine_as_it_is() -> None:
    async with running_router(PAIR) as router:
        reply = await router.complete(stream=True)

    assert reply.status == 200
    assert reply.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    *tokens, done = reply.events
    assert [event["choices"][0]["text"] for event in tokens] == [" [DONE] 1", " [DONE] 2", " [DONE] 3"]
    assert done == "[DONE]"


@pytest.mark.parametrize("asked", [False, True])
async def test_the_usage_event_reaches_only_clients_that_asked_for_it(asked: bool) -> None:
    options: dict[str, Any] = {"stream_options": {"include_usage": True}} if asked else {}
    async with running_router(PAIR) as router:
        reply = await router.complete(stream=True, **options)
        sent = router.engines["d0"].seen[0].document["stream_options"]
        totals = (await router.state())["totals"]

    assert sent == {"include_usage": True}
    assert [bool(event.get("usage")) for event in reply.events[:-1]] == [False] * 3 + [True] * asked
    assert totals["completed_output_tokens"] == 3


async def test_events_that_arrive_in_pieces_reach_the_client_whole() -> None:
    async with running_router(PAIR) as router:
        router.engines["d0"].script(GENERATION, Behaviour(split=True))
        reply = await router.complete(stream=True)

    assert len(reply.events) == 4
    assert reply.events[-1] == "[DONE]"


async def test_an_answer_in_one_piece_is_passed_on_as_it_is() -> None:
    async with running_router(PAIR) as router:
        reply = await router.complete()

    assert reply.status == 200
    assert reply.document["id"] == "gen-1"
    assert reply.document["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize("pool", ["mixed", "prefill", "decode"])
async def test_a_single_replica_serves_whole_requests_without_disaggregated_params(pool: str) -> None:
    async with running_router({"r0": pool}) as router:
        sent = request_document()
        reply = await router.complete()
        (seen,) = router.engines["r0"].seen
        metrics = (await router.get("/metrics")).body.decode()

    assert reply.status == 200
    assert seen.kind == WHOLE
    assert seen.document == sent
    path = "mixed" if pool == "mixed" else "borrowed"
    assert f'outcome="completed",path="{path}"}} 1.0' in metrics


class TestFinishedAtTheFirstToken:
    """A context engine whose finish_reason is neither length nor not_finished has given the whole answer."""

    async def test_one_piece(self) -> None:
        async with running_router(PAIR) as router:
            router.engines["p0"].script(CONTEXT, Behaviour(finish_reason="stop"))
            reply = await router.complete()
            kinds = router.engines["d0"].kinds()

        assert kinds == []
        assert reply.document["choices"][0]["finish_reason"] == "stop"
        assert "disaggregated_params" not in reply.document["choices"][0]
        assert "prompt_token_ids" not in reply.document
        assert reply.document["usage"]["prompt_tokens"] == 5

    async def test_it_needs_no_parameters(self) -> None:
        async with running_router(PAIR) as router:
            router.engines["p0"].script(CONTEXT, Behaviour(finish_reason="stop", no_parameters=True))
            reply = await router.complete()

        assert reply.status == 200

    @pytest.mark.parametrize("asked", [False, True])
    @BOTH_PATHS
    async def test_stream(self, path: str, asked: bool) -> None:
        async with running_router(PAIR) as router:
            router.engines["p0"].script(CONTEXT, Behaviour(finish_reason="stop"))
            reply = await router.complete(path, stream=True, stream_options={"include_usage": asked})

        first, *rest = reply.events
        choice = first["choices"][0]
        assert (choice["delta"]["content"] if "chat" in path else choice["text"]) == ' "]" a'
        assert choice["finish_reason"] == "stop"
        assert first["object"] == ("chat.completion.chunk" if "chat" in path else "text_completion")
        assert rest[-1] == "[DONE]"
        assert [event["usage"]["completion_tokens"] for event in rest[:-1]] == [1] * asked

    async def test_replicas_are_free_again(self) -> None:
        async with running_router(PAIR) as router:
            router.engines["p0"].script(CONTEXT, Behaviour(finish_reason="stop"))
            await router.complete()
            states = (await router.state())["replicas"]

        assert all(entry["in_flight"] == entry["kv_transfers"] == 0 for entry in states)

    @pytest.mark.parametrize("reason", ["length", "not_finished"])
    async def test_other_reasons_go_on_to_the_token_phase(self, reason: str) -> None:
        async with running_router(PAIR) as router:
            router.engines["p0"].script(CONTEXT, Behaviour(finish_reason=reason))
            await router.complete()
            assert router.engines["d0"].kinds() == [GENERATION]


@pytest.mark.parametrize(
    ("behaviour", "complaint"),
    [
        pytest.param(Behaviour(choices=2), "exactly one choice, not 2", id="two choices"),
        pytest.param(Behaviour(choices=0), "exactly one choice, not 0", id="no choice"),
        pytest.param(Behaviour(no_parameters=True), "carries disaggregated_params", id="no parameters"),
        pytest.param(Behaviour(parameters={"ctx_request_id": None}), "ctx_request_id", id="no request id"),
        pytest.param(Behaviour(body="{"), "not JSON", id="no JSON"),
        pytest.param(Behaviour(body="[]"), "no JSON object", id="no object"),
        pytest.param(Behaviour(body="{}"), "exactly one choice", id="empty object"),
        pytest.param(
            Behaviour(body='{"prompt_token_ids":["a"],"choices":[]}'), "list of integers", id="ids are text"
        ),
    ],
)
async def test_a_context_answer_that_breaks_the_protocol_is_tried_elsewhere(
    behaviour: Behaviour, complaint: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_router({"p0": "prefill", "p1": "prefill", "d0": "decode"}) as router:
        router.engines["p0"].script(CONTEXT, behaviour)
        reply = await router.complete()
        kinds = [router.engines[name].kinds() for name in ("p0", "p1")]

    assert reply.status == 200
    assert kinds == [[CONTEXT], [CONTEXT]]
    assert any(complaint in vars(record).get("reason", "") for record in caplog.records)


async def test_trace_headers_and_the_request_id_reach_the_engines() -> None:
    headers = {"traceparent": "00-1-2-01", "X-Request-Id": "mine", "Authorization": "Bearer secret"}
    async with running_router(PAIR) as router:
        async with router.client.post(
            "/v1/completions", json=request_document(), headers=headers
        ) as response:
            answered = response.headers["X-Request-Id"]
        seen = router.engines["p0"].seen[0].headers

    assert answered == "mine"
    assert seen["traceparent"] == "00-1-2-01"
    assert seen["x-request-id"] == "mine"
    assert "authorization" not in seen


REFUSED: list[Any] = [
    pytest.param(b"{", 400, None, "not JSON", id="half an object"),
    pytest.param(b"[" * 100_000, 400, None, "nested too deeply", id="deep nesting"),
    pytest.param(b"[]", 400, None, "JSON object", id="a list"),
    pytest.param({"model": None}, 400, "model", "model is None", id="no model"),
    pytest.param({"model": "other"}, 404, "model", "ask for served", id="another model"),
    pytest.param({"prompt": ""}, 400, "prompt", "non-empty", id="empty prompt"),
    pytest.param({"prompt": []}, 400, "prompt", "non-empty", id="empty list"),
    pytest.param({"prompt": [1, "a"]}, 400, "prompt", "token ids", id="mixed list"),
    pytest.param({"prompt": [True]}, 400, "prompt", "token ids", id="booleans are no tokens"),
    pytest.param({"prompt": [1, -1]}, 400, "prompt", "holds -1", id="a negative token"),
    pytest.param({"prompt": [[1], [2**31]]}, 400, "prompt", "from 0 to", id="a token beyond 32 bits"),
    pytest.param({"prompt": [10**320]}, 400, "prompt", "bits", id="a huge token"),
    pytest.param({"stream": "yes"}, 400, "stream", "true or false", id="stream is text"),
    pytest.param({"n": 129}, 400, "n", "from 1 to 128", id="too many answers"),
    pytest.param({"n": 10**320}, 400, "n", "from 1 to 128", id="more answers than a float holds"),
    pytest.param({"n": 0}, 400, "n", "from 1 to 128", id="no answer"),
    pytest.param({"n": "2"}, 400, "n", "from 1 to 128", id="answers as text"),
    pytest.param({"best_of": 200}, 400, "best_of", "from 1 to 128", id="too many tries"),
    pytest.param({"max_tokens": 2**31}, 400, "max_tokens", "at most", id="more than engines count"),
    pytest.param(
        {"max_completion_tokens": 10**320}, 400, "max_completion_tokens", "at most", id="a huge answer"
    ),
    pytest.param({"stream_options": 1}, 400, "stream_options", "an object", id="options are a number"),
    pytest.param(
        {"disaggregated_params": {"request_type": "context_only"}},
        400,
        "disaggregated_params",
        "belongs to the router",
        id="engine fields",
    ),
]


@pytest.mark.parametrize(("body", "status", "param", "words"), REFUSED)
async def test_a_request_that_is_wrong_is_told_what_is_wrong(
    body: Any, status: int, param: str | None, words: str
) -> None:
    async with running_router(PAIR) as router:
        options = {"data": body} if isinstance(body, bytes) else {"json": {**request_document(), **body}}
        async with router.client.post("/v1/completions", **options) as response:
            error = (await response.json())["error"]
        kinds = router.engines["p0"].kinds()

    assert response.status == status
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert words in error["message"]
    assert kinds == []


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        pytest.param([], "non-empty list", id="none"),
        pytest.param("hello", "non-empty list", id="text"),
        pytest.param(["hello"], "messages[0]", id="list of text"),
    ],
)
async def test_a_chat_that_is_wrong_is_told_what_is_wrong(messages: Any, words: str) -> None:
    async with running_router(PAIR) as router:
        reply = await router.complete("/v1/chat/completions", messages=messages)

    assert reply.status == 400
    assert words in reply.document["error"]["message"]


async def test_what_the_engine_says_about_a_wrong_request_reaches_the_client() -> None:
    async with running_router({**PAIR, "p1": "prefill"}) as router:
        router.engines["p0"].script(CONTEXT, Behaviour(status=400, body='{"message": "max_tokens"}'))
        reply = await router.complete()
        asked_again = router.engines["p1"].kinds()
        totals = (await router.state())["totals"]

    assert (reply.status, reply.document) == (400, {"message": "max_tokens"})
    assert asked_again == []
    assert totals["failed"] == 0


async def test_a_body_that_is_too_large_is_refused() -> None:
    async with running_router(PAIR, environment={"IC_MAX_BODY_BYTES": "2000"}) as router:
        reply = await router.complete(prompt="x" * 3000)

    assert reply.status == 413
    assert reply.document["error"]["code"] == "request_entity_too_large"


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"n": 2}, id="two answers"),
        pytest.param({"best_of": 2}, id="best of two"),
        pytest.param({"prompt": ["a", "b"]}, id="two texts"),
        pytest.param({"prompt": [[1, 2], [3]]}, id="two lists of tokens"),
    ],
)
async def test_requests_that_cannot_be_split_go_whole_to_one_replica(fields: dict[str, Any]) -> None:
    async with running_router({**PAIR, "m0": "mixed"}) as router:
        reply = await router.complete(**fields)
        kinds = {name: engine.kinds() for name, engine in router.engines.items()}

    assert reply.status == 200
    assert kinds == {"p0": [], "d0": [], "m0": [WHOLE]}


async def test_models_lists_the_served_name() -> None:
    async with running_router(PAIR) as router:
        reply = await router.get("/v1/models")

    assert [model["id"] for model in reply.document["data"]] == ["served"]


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/v1/completions", 405), ("POST", "/v1/x", 404)]
)
async def test_unknown_paths_and_methods_get_an_openai_error(method: str, path: str, status: int) -> None:
    async with running_router(PAIR) as router, router.client.request(method, path) as response:
        error = (await response.json())["error"]

    assert response.status == status
    assert error["message"]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("pools", "prefills"), [(PAIR, CONTEXT), ({"m0": "mixed"}, WHOLE)], ids=["disaggregated", "whole"]
)
async def test_cached_prompt_tokens_are_counted_where_the_prompt_was_prefilled(
    pools: dict[str, str], prefills: str, stream: bool
) -> None:
    async with running_router(pools) as router:
        for engine in router.engines.values():
            # What a decode engine says of a prompt that it has not prefilled is no hit.
            engine.always[GENERATION] = Behaviour(cached_tokens=5)
            engine.script(prefills, Behaviour(cached_tokens=3), Behaviour())
        for _ in range(2):
            assert (await router.complete(stream=stream)).status == 200
        totals = (await router.state())["totals"]
        metrics = (await router.get("/metrics")).body.decode()
    assert (totals["prefilled_prompt_tokens"], totals["cached_prompt_tokens"]) == (10, 3)
    assert 'inferencecluster_router_cached_prompt_tokens_total{cluster="c",namespace="n"} 3.0' in metrics
    assert 'inferencecluster_router_prefilled_prompt_tokens_total{cluster="c",namespace="n"} 10.0' in metrics
