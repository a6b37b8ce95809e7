"""Reading Gemini's requests: one spelling, one model, a bound, and nothing of unknown price."""

from typing import Any

import orjson
import pytest

from gateway.dialects import DIALECTS
from gateway.dialects.base import (
    Asked,
    BadRequest,
    ForwardOptions,
    MediaTokens,
    ReadOptions,
    Refusal,
    RequestFacts,
    Unmeasured,
)

GENERATE = "/v1beta/models/small:generateContent"
STREAM = "/v1beta/models/small:streamGenerateContent"
HELLO = {"contents": [{"role": "user", "parts": [{"text": "Grüezi"}]}]}
REFERENCE = 16_384


def read(
    document: Any,
    *,
    path: str = GENERATE,
    query: str = "",
    name: str = "gemini_generate",
    **more: Any,
) -> RequestFacts:
    body = document if isinstance(document, bytes) else orjson.dumps(document)
    asked = Asked("POST", path, query, (), body)
    return DIALECTS[name].read(asked, ReadOptions(**more))


def part(**members: Any) -> dict[str, Any]:
    return {"contents": [{"parts": [members]}]}


def config(**members: Any) -> dict[str, Any]:
    return {**HELLO, "generationConfig": members}


def forwarded(facts: RequestFacts, **more: Any) -> Any:
    options = ForwardOptions("big-1", **more)
    return orjson.loads(DIALECTS["gemini_generate"].forward_body(facts, options))


def test_the_model_is_the_path_s_and_so_is_what_goes_upstream() -> None:
    facts = read(HELLO, path=STREAM, query="alt=sse")
    assert (facts.model, facts.stream, facts.choices, facts.output_bound) == (
        "small",
        True,
        1,
        None,
    )
    dialect, options = DIALECTS["gemini_generate"], ForwardOptions("big-1")
    assert dialect.forward_target(facts, options, STREAM) == (
        "/v1beta/models/big-1:streamGenerateContent?alt=sse"
    )
    array = read(HELLO, path=STREAM)
    assert dialect.forward_target(array, options, STREAM).endswith(":streamGenerateContent")
    whole = read(HELLO, query="alt=json")
    assert not whole.stream
    assert (
        dialect.forward_target(whole, options, GENERATE) == "/v1beta/models/big-1:generateContent"
    )


def test_both_spellings_are_read_and_one_is_forwarded() -> None:
    snake = {
        **HELLO,
        "system_instruction": {"parts": [{"text": "Be brief."}]},
        "generation_config": {"max_output_tokens": 5, "candidate_count": 2},
    }
    facts = read(snake)
    assert (facts.output_bound, facts.choices) == (5, 2)
    document = forwarded(facts)
    assert document["generationConfig"] == {"maxOutputTokens": 5, "candidateCount": 2}
    assert "system_instruction" not in document


def test_a_maximum_is_filled_in_where_the_policy_has_one() -> None:
    assert forwarded(read(HELLO), max_output=7)["generationConfig"] == {"maxOutputTokens": 7}
    said = read(config(temperature=1, maxOutputTokens=3))
    assert forwarded(said, max_output=7)["generationConfig"]["maxOutputTokens"] == 3


def test_the_bound_is_never_below_the_bytes_of_what_is_sent() -> None:
    plain = read(HELLO).input_bound
    assert plain >= len("Grüezi".encode())
    longer = read({"contents": [{"parts": [{"text": "x" * 1000}]}]}).input_bound
    assert longer - plain >= 1000 - 7
    tools = {"tools": [{"functionDeclarations": [{"name": "look_up", "description": "d" * 500}]}]}
    assert read({**HELLO, **tools}).input_bound - plain >= 1000
    schema = {"responseMimeType": "application/json", "responseSchema": {"description": "d" * 500}}
    assert read(config(**schema)).input_bound - plain >= 1000


@pytest.mark.parametrize(
    ("member", "bound", "images", "audio"),
    [
        ({"inlineData": {"mimeType": "image/png", "data": "aGk="}}, REFERENCE, True, False),
        (
            {"inline_data": {"mime_type": "audio/wav", "data": "A" * 1_000_000}},
            1_000_000 // 32,
            False,
            True,
        ),
        (
            {"inlineData": {"mimeType": "text/plain", "data": "A" * 50_000}},
            50_000,
            False,
            False,
        ),
    ],
)
def test_media_are_held_at_what_they_can_be(
    member: dict[str, Any], bound: int, images: bool, audio: bool
) -> None:
    facts = read(part(**member))
    assert facts.input_bound >= bound
    assert (facts.images, facts.audio) == (images, audio)
    assert facts.unmeasured is None


YOUTUBE = {"fileData": {"fileUri": "https://www.youtube.com/watch?v=x"}}


@pytest.mark.parametrize(
    ("member", "kind"),
    [
        (YOUTUBE, "video"),
        ({"file_data": {"file_uri": "https://example.org/a", "mime_type": "video/mp4"}}, "video"),
        (
            {"fileData": {"fileUri": "https://example.org/a", "mimeType": "application/pdf"}},
            "document",
        ),
        ({"fileData": {"fileUri": "https://example.org/a", "mimeType": "text/html"}}, "document"),
        ({"fileData": {"fileUri": "https://example.org/a", "mimeType": "image/png"}}, "image"),
        ({"fileData": {"fileUri": "https://example.org/a", "mimeType": "audio/mp3"}}, "audio"),
        ({"inlineData": {"mimeType": "application/pdf", "data": "A"}}, "document"),
        ({"inlineData": {"mimeType": "video/mp4", "data": "A"}}, "video"),
        ({"inlineData": {"mimeType": "application/zip", "data": "A"}}, "video"),
        ({"functionResponse": {"name": "f", "response": {}, "parts": [YOUTUBE]}}, "video"),
    ],
)
def test_media_that_the_body_does_not_measure_are_noted(member: dict[str, Any], kind: str) -> None:
    facts = read(part(**member))
    assert facts.unmeasured is not None
    assert facts.unmeasured.kind == kind
    stated = MediaTokens(image=1000, document=2000, video=3000, audio=4000)
    facts = read(part(**member), media_tokens=stated)
    assert facts.unmeasured is None
    assert (
        facts.input_bound >= {"image": 1000, "document": 2000, "video": 3000, "audio": 4000}[kind]
    )
    facts = read(part(**member), reference_tokens=5000)
    assert facts.unmeasured is None
    assert facts.input_bound >= 5000


def test_tools_are_the_caller_s_or_the_operator_s_to_decide() -> None:
    own: list[dict[str, Any]] = [{"computerUse": {}}, {"functionDeclarations": [{"name": "f"}]}]
    for tool in own:
        read({**HELLO, "tools": [tool]})
    others: list[dict[str, Any]] = [{"googleSearch": {}}, {"brandNew": {"x": 1}}]
    for tool in others:
        with pytest.raises(BadRequest) as refused:
            read({**HELLO, "tools": [tool]})
        assert "unknown_tools: pass" in refused.value.message
        assert next(iter(tool)) in refused.value.message
        facts = read({**HELLO, "tools": [tool]}, unknown_tools="pass")
        assert forwarded(facts)["tools"] == [tool]
        assert facts.input_bound - read(HELLO).input_bound > REFERENCE


def test_fields_of_the_operator_s_list_pass_and_are_counted() -> None:
    listed = frozenset({"somethingNew"})
    facts = read({**HELLO, "somethingNew": "x" * 500}, extra_fields=listed)
    assert forwarded(facts)["somethingNew"] == "x" * 500
    assert facts.input_bound >= 500


BAD: list[tuple[str, Any, str | None]] = [
    ("no contents", {}, "contents"),
    ("empty contents", {"contents": []}, "contents"),
    ("contents an object", {"contents": {"parts": []}}, "contents"),
    ("a content that is text", {"contents": ["hi"]}, "contents[0]"),
    (
        "two spellings",
        {**HELLO, "generationConfig": {}, "generation_config": {}},
        "generation_config",
    ),
    ("a name in another case", {**HELLO, "GenerationConfig": {}}, "GenerationConfig"),
    ("the same name twice", b'{"contents":[{"parts":[{"text":"a"}]}],"contents":[]}', "contents"),
    ("an unknown name", {**HELLO, "fallbackModel": "x"}, "fallbackModel"),
    ("another model", {**HELLO, "model": "models/big"}, "model"),
    ("a cache", {**HELLO, "cachedContent": "cachedContents/1"}, "cachedContent"),
    ("the store", {**HELLO, "store": True}, "store"),
    ("a dearer tier", {**HELLO, "serviceTier": "priority"}, "serviceTier"),
    *(
        (f"maximum {v!r}", config(maxOutputTokens=v), "maxOutputTokens")
        for v in (-1, 0, 1.5, True, "8")
    ),
    *((f"candidates {v!r}", config(candidateCount=v), "candidateCount") for v in (0, 129, "2")),
    (
        "two maxima",
        config(maxOutputTokens=1, max_output_tokens=9),
        "generationConfig.max_output_tokens",
    ),
    ("images out", config(responseModalities=["IMAGE"]), "generationConfig.responseModalities"),
    ("a router", config(routingConfig={}), "generationConfig.routingConfig"),
    (
        "a thinking budget that is text",
        config(thinkingConfig={"thinkingBudget": "9"}),
        "generationConfig.thinkingConfig.thinkingBudget",
    ),
    *(
        (f"the tool {name}", {**HELLO, "tools": [{name: {}}]}, f"tools[0].{name}")
        for name in ("googleSearch", "codeExecution", "urlContext", "googleMaps", "fileSearch")
    ),
    ("google_search", {**HELLO, "tools": [{"google_search": {}}]}, "tools[0].googleSearch"),
    (
        "a stored file",
        part(fileData={"fileUri": "https://generativelanguage.googleapis.com/v1beta/files/x"}),
        "contents[0].parts[0].fileData.fileUri",
    ),
    ("a bucket", part(fileData={"fileUri": "gs://b/x"}), "contents[0].parts[0].fileData.fileUri"),
    ("text that is none", part(text=3), "contents[0].parts[0].text"),
    ("data that is none", part(inlineData={"mimeType": "a/b"}), "contents[0].parts[0].inlineData"),
    ("an unknown part", part(gift="x"), "contents[0].parts[0].gift"),
]


@pytest.mark.parametrize(("document", "param"), [pytest.param(d, p, id=i) for i, d, p in BAD])
def test_what_has_no_known_price_or_no_one_meaning_is_refused(
    document: Any, param: str | None
) -> None:
    with pytest.raises(BadRequest) as refused:
        read(document)
    assert refused.value.param == param


@pytest.mark.parametrize("query", ["alt=proto", "alt=sse&alt=json", "fields=x", "alt=sse&x"])
def test_a_query_may_only_choose_the_form(query: str) -> None:
    with pytest.raises(BadRequest):
        read(HELLO, path=STREAM, query=query)


def test_a_priced_tool_is_held_with_what_its_results_may_be() -> None:
    plain = read(HELLO)
    searching = read(
        {**HELLO, "tools": [{"googleSearch": {}}]}, priced_tools=frozenset({"googleSearch"})
    )
    assert searching.tool_calls == 16
    assert searching.input_bound > 16 * (plain.input_bound + REFERENCE)


def test_what_is_stored_passes_where_the_route_allows_it() -> None:
    facts = read({**HELLO, "cachedContent": "cachedContents/1"}, allow_stateful_ids=True)
    assert facts.unmeasured == Unmeasured("stored", "cachedContent")
    assert (facts.images, facts.audio) == (True, True)


def test_counting_is_free_and_read_as_strictly() -> None:
    path = "/v1beta/models/small:countTokens"
    dialect = DIALECTS["gemini_count_tokens"]
    plain = read(HELLO, path=path, name="gemini_count_tokens")
    assert (plain.input_bound, plain.choices, plain.model) == (0, 0, "small")
    whole = {"generateContentRequest": {**HELLO, "model": "models/small"}}
    facts = read(whole, path=path, name="gemini_count_tokens")
    body = orjson.loads(dialect.forward_body(facts, ForwardOptions("big-1")))
    assert body["generateContentRequest"]["model"] == "models/big-1"
    other = {"generateContentRequest": {**HELLO, "model": "models/big"}}
    with pytest.raises(BadRequest):
        read(other, path=path, name="gemini_count_tokens")


def test_refusals_have_google_s_shape() -> None:
    refusal = Refusal(
        "credit_held",
        "Wait.",
        "req_1",
        param="contents",
        detail={"available": "1"},
        retry_after_s=2,
    )
    status, body = DIALECTS["gemini_generate"].refusal(refusal)
    error = orjson.loads(body)["error"]
    assert status == error["code"] == 429
    assert (error["status"], error["message"]) == ("RESOURCE_EXHAUSTED", "Wait.")
    kinds = [detail["@type"].rpartition(".")[2] for detail in error["details"]]
    assert kinds == ["ErrorInfo", "BadRequest", "RetryInfo"]
    assert error["details"][0]["metadata"] == {"available": "1", "request_id": "req_1"}
