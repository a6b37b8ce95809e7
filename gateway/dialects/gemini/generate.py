"""Google's Gemini API: generateContent, streamGenerateContent and countTokens.

Request: ai.google.dev/api/generate-content. The path names the model, so the priced model is the
last segment's, and the path that goes upstream is rebuilt. Protobuf's JSON reads each name in two
spellings (`maxOutputTokens`, `max_output_tokens`): both are understood, one of them is forwarded, two at
once are refused, and so is every name that is not known: its effect on the price is unknown.

The output maximum covers thoughts as well as candidates. A stream has one of two forms: events
(`alt=sse`), or one JSON array whose elements arrive in turn.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Final, Literal, cast

import orjson

from gateway.dialects.base import (
    INLINE_IMAGE_TOKENS,
    Answered,
    Asked,
    BadRequest,
    Dialect,
    ForwardOptions,
    MediaKind,
    Meter,
    ReadOptions,
    Refusal,
    RequestFacts,
    form_of,
)
from gateway.dialects.bounds import (
    PART_TOKENS,
    PROVIDER_TOOL_TOKENS,
    TOOLS_PREAMBLE_TOKENS,
    Prompt,
    text_tokens,
)
from gateway.dialects.fields import (
    MAX_COUNT,
    MAX_MODEL_CHARS,
    read_count,
    read_output_bound,
    unknown_field,
)
from gateway.dialects.gemini.answers import error_of, refuse
from gateway.dialects.gemini.reader import GeminiReader
from gateway.dialects.generic import NothingMeter
from gateway.dialects.reading.meters import ArrayMeter, DocumentMeter, EventMeter
from gateway.dialects.reading.strict_json import parse_document

GENERATE: Final = "generateContent"
STREAM: Final = "streamGenerateContent"
COUNT: Final = "countTokens"

HOSTED_CALLS: Final = 16
"""What is held for each hosted tool: the API has no field for the most calls."""

_PATH: Final = "path"
_SSE: Final = "sse"
_BODY: Final = "body"


def _spellings(names: str) -> Mapping[str, str]:
    """Both spellings of each name → the one that is forwarded."""
    known = {}
    for name in names.split():
        snake = "".join(f"_{c.lower()}" if c.isupper() else c for c in name)
        known[name] = known[snake] = name
    return known


_REQUEST = _spellings(
    "contents systemInstruction tools toolConfig safetySettings generationConfig cachedContent"
    " labels serviceTier store model"
)
_GENERATION = _spellings(
    "stopSequences responseMimeType responseSchema responseJsonSchema responseModalities"
    " candidateCount maxOutputTokens temperature topP topK seed presencePenalty frequencyPenalty"
    " responseLogprobs logprobs enableEnhancedCivicAnswers speechConfig thinkingConfig"
    " mediaResolution audioTimestamp"
)
_THINKING = _spellings("includeThoughts thinkingBudget thinkingLevel")
_CONTENT = _spellings("role parts")
_PART = _spellings(
    "text thought thoughtSignature inlineData fileData functionCall functionResponse"
    " executableCode codeExecutionResult videoMetadata mediaResolution"
)
_BLOB = _spellings("mimeType data displayName")
_FILE = _spellings("mimeType fileUri displayName")
_RESPONSE_PART = _spellings("text inlineData fileData")
_TOOL = _spellings(
    "functionDeclarations googleSearch googleSearchRetrieval codeExecution urlContext googleMaps"
    " fileSearch computerUse enterpriseWebSearch mcpServers"
)
_COUNTED = _spellings("contents generateContentRequest")

_RENDERED: Final = ("responseSchema", "responseJsonSchema")
_PRICED_MODALITIES: Final = frozenset({"TEXT", "AUDIO"})


class Gemini(Dialect):
    """`POST …/models/{model}:generateContent` and `:streamGenerateContent`."""

    name = "gemini_generate"
    verbs: tuple[str, ...] = (GENERATE, STREAM)
    """What the route's path may end in."""
    reads_key_query = True

    def read(self, asked: Asked, options: ReadOptions) -> RequestFacts:
        """Read a request strictly, its path and query included. Raises BadRequest."""
        path, model, verb = _target(asked.path)
        sse = _reads_events(asked.query) and verb == STREAM
        document = read_content(asked.body, options)
        _check_model(document, model)
        prompt = Prompt(options)
        calls = _read_content(document, prompt)
        config = document.get("generationConfig", {})
        output_bound = read_output_bound(config, ("maxOutputTokens",))
        input_bound = prompt.tokens
        if calls:
            # The model reads everything so far again with the result of each call.
            each = options.result_tokens
            input_bound = (calls + 1) * (input_bound + calls * each + (output_bound or 0))
        return RequestFacts(
            model=model,
            stream=verb == STREAM,
            input_bound=input_bound,
            output_bound=output_bound,
            choices=read_count(config, "candidateCount", MAX_COUNT) or 1,
            audio=prompt.audio or "AUDIO" in (config.get("responseModalities") or ()),
            images=prompt.images,
            tool_calls=calls,
            document={_BODY: document, _PATH: (path, verb), _SSE: sse},
            input_own=prompt.own,
            unmeasured=prompt.unmeasured,
            readings=1 + calls,
        )

    def read_request(self, body: bytes, options: ReadOptions) -> RequestFacts:
        """A body without a path: it names its model as a path would, `models/NAME`. Raises BadRequest."""
        model = read_content(body, options).get("model")
        if type(model) is not str:
            raise BadRequest("`model` is missing or not a text.", param="model")
        path = f"/v1beta/models/{model.removeprefix('models/')}:{self.verbs[0]}"
        return self.read(Asked("POST", path, "", (), body), options)

    def forward_target(self, facts: RequestFacts, options: ForwardOptions, path: str) -> str:  # noqa: ARG002
        """The path with the upstream's name of the model."""
        prefix, verb = facts.document[_PATH]
        form = "?alt=sse" if facts.document[_SSE] else ""
        return f"{prefix}/{options.upstream_model}:{verb}{form}"

    def forward_body(self, facts: RequestFacts, options: ForwardOptions) -> bytes:
        """The strict parse, with a maximum; streams report usage anyway."""
        document = dict(facts.document[_BODY])
        if options.fills(facts.output_bound):
            config = document.get("generationConfig", {})
            document["generationConfig"] = {**config, "maxOutputTokens": options.max_output}
        return orjson.dumps(document)

    def streams(self, facts: RequestFacts, media_type: str, start: bytes = b"") -> bool:
        """Both forms of a stream: events, or an array."""
        if facts.stream and not facts.document[_SSE] and not start.lstrip().startswith(b"{"):
            return True
        return super().streams(facts, media_type, start)

    def meter_answer(self, facts: RequestFacts, answered: Answered, *, streaming: bool) -> Meter:
        """A meter for the form that came."""
        types = [value for name, value in answered.fields if name.lower() == b"content-type"]
        labelled = any(t.lower().startswith(b"text/event-stream") for t in types)
        if streaming and not labelled and form_of(answered.start) != "events":
            return ArrayMeter(GeminiReader(choices=facts.choices))
        return self.meter(facts, streaming=streaming)

    def meter(self, facts: RequestFacts, *, streaming: bool) -> Meter:
        """A meter for the answer; a stream is one of events."""
        new_reader = partial(GeminiReader, choices=facts.choices)
        return EventMeter(new_reader()) if streaming else DocumentMeter(new_reader)

    def refusal(self, refusal: Refusal) -> tuple[int, bytes]:
        """Status and JSON body of a refusal."""
        return refuse(refusal)

    def error_frame(self, refusal: Refusal) -> bytes:
        """An event with an error, after which the stream ends."""
        return b"data: " + orjson.dumps({"error": error_of(refusal)}) + b"\n\n"

    def end_stream(self, facts: RequestFacts, refusal: Refusal) -> bytes:
        """Of an array that is broken off, no end is one."""
        return self.error_frame(refusal) if facts.document[_SSE] else b""


class GeminiCountTokens(Gemini):
    """`POST …/models/{model}:countTokens`: free, but read as strictly; nothing is generated."""

    name = "gemini_count_tokens"
    verbs = (COUNT,)

    def read(self, asked: Asked, options: ReadOptions) -> RequestFacts:
        """Facts of a request that costs nothing. Raises BadRequest."""
        path, model, verb = _target(asked.path)
        _reads_events(asked.query)
        document = _known(parse_document(asked.body, options.max_json_values), _COUNTED, "")
        whole = document.get("generateContentRequest")
        if whole is None:
            contents = orjson.dumps({"contents": document.get("contents")})
            document.update(read_content(contents, options))
            _read_content(document, Prompt(options))
        else:
            inner = read_content(orjson.dumps(whole), options)
            _check_model(inner, model)
            _read_content(inner, Prompt(options))
            document["generateContentRequest"] = inner
        return RequestFacts(
            model=model,
            stream=False,
            input_bound=0,
            output_bound=0,
            choices=0,
            document={_BODY: document, _PATH: (path, verb), _SSE: False},
        )

    def forward_body(self, facts: RequestFacts, options: ForwardOptions) -> bytes:
        """The strict parse; a request inside names the upstream's model."""
        document = dict(facts.document[_BODY])
        if "generateContentRequest" in document:
            inner = document["generateContentRequest"]
            named = {**inner, "model": f"models/{options.upstream_model}"}
            document["generateContentRequest"] = named
        return orjson.dumps(document)

    def meter_answer(self, facts: RequestFacts, answered: Answered, *, streaming: bool) -> Meter:  # noqa: ARG002
        """A meter that finds nothing: the tokens it tells were counted, not used."""
        return NothingMeter()

    def meter(self, facts: RequestFacts, *, streaming: bool) -> Meter:  # noqa: ARG002
        """A meter that finds nothing."""
        return NothingMeter()


def read_content(body: bytes, options: ReadOptions) -> dict[str, Any]:
    """A request's body with its names in one spelling. Raises BadRequest."""
    extra = {name: name for name in options.extra_fields}
    document = _known(
        parse_document(body, options.max_json_values),
        {**extra, **_REQUEST} if extra else _REQUEST,
        "",
    )
    if type(document.get("contents")) is not list or not document["contents"]:
        raise BadRequest("`contents` must be a list with at least one content.", param="contents")
    document["contents"] = [
        _content(each, f"contents[{at}]") for at, each in enumerate(document["contents"])
    ]
    system = document.get("systemInstruction")
    if system is not None:
        document["systemInstruction"] = _content(system, "systemInstruction")
    if document.get("generationConfig") is None:
        document.pop("generationConfig", None)
    else:
        config = _known(document["generationConfig"], _GENERATION, "generationConfig")
        if config.get("thinkingConfig") is not None:
            where = "generationConfig.thinkingConfig"
            config["thinkingConfig"] = _known(config["thinkingConfig"], _THINKING, where)
        document["generationConfig"] = config
    if document.get("tools") is not None:
        document["tools"] = [
            _tool(tool, f"tools[{at}]", options) for at, tool in enumerate(_list(document, "tools"))
        ]
    return document


def _known(
    value: Any,
    known: Mapping[str, str],
    where: str,
    unknown: Callable[[str, str], BadRequest] | None = None,
) -> dict[str, Any]:
    """An object with only known names, each once and in one spelling. Raises BadRequest."""
    if type(value) is not dict:
        raise BadRequest(f"`{where or 'The body'}` must be an object.", param=where or None)
    members: dict[str, Any] = {}
    for name, member in value.items():
        spelling = known.get(name)
        param = f"{where}.{name}" if where else name
        if spelling is None:
            raise unknown(name, param) if unknown else unknown_field(name, where and param)
        if spelling in members:
            raise BadRequest(f"`{spelling}` is present in two spellings; send one.", param=param)
        members[spelling] = member
    return members


def _tool(value: Any, where: str, options: ReadOptions) -> dict[str, Any]:
    """A tool with its names in one spelling; names that are not known stay as they are."""
    others = {}
    if type(value) is dict and options.unknown_tools == "pass":
        others = {name: name for name in value if name not in _TOOL}
    return _known(value, {**_TOOL, **others}, where, _unknown_tool)


def _unknown_tool(name: str, param: str) -> BadRequest:
    """What to raise for a tool that is neither priced nor the caller's."""
    return BadRequest(
        f"The tool `{name[:64]}` may bill by the call and has no price here. Omit it, or ask the"
        " operator to price it (`priced_tools` of the route) or to let it pass (`unknown_tools: pass`).",
        param=param[:256],
        code="unsupported_tool",
    )


def _content(value: Any, where: str) -> dict[str, Any]:
    content = _known(value, _CONTENT, where)
    parts = _list(content, "parts", where)
    content["parts"] = [_part(part, f"{where}.parts[{at}]") for at, part in enumerate(parts)]
    return content


def _part(value: Any, where: str) -> dict[str, Any]:
    part = _known(value, _PART, where)
    if part.get("inlineData") is not None:
        part["inlineData"] = _known(part["inlineData"], _BLOB, f"{where}.inlineData")
    if part.get("fileData") is not None:
        part["fileData"] = _known(part["fileData"], _FILE, f"{where}.fileData")
    return part


def _list(members: Mapping[str, Any], name: str, where: str = "") -> list[Any]:
    value = members.get(name)
    if value is None:
        return []
    if type(value) is not list:
        path = f"{where}.{name}" if where else name
        raise BadRequest(f"`{name}` must be a list.", param=path)
    return value


def _target(path: str) -> tuple[str, str, str]:
    """What is before the model, the model, the verb."""
    prefix, _, last = path.rpartition("/")
    model, _, verb = last.rpartition(":")
    if not model or len(model) > MAX_MODEL_CHARS:
        raise BadRequest("The path names no model, such as models/NAME:generateContent.")
    return prefix, model, verb


def _reads_events(query: str) -> bool:
    """Whether a query asks for events; it can ask for nothing else. Raises BadRequest."""
    if query not in ("", "alt=sse", "alt=json"):
        raise BadRequest("The query may be `alt=sse` or `alt=json`, nothing else.")
    return query == "alt=sse"


def _check_model(document: dict[str, Any], model: str) -> None:
    """A model in the body is the path's, or the request is refused. Raises BadRequest."""
    if document.pop("model", None) not in (None, model, f"models/{model}"):
        raise BadRequest("`model` is not the model of the path.", param="model")


def _read_content(document: dict[str, Any], prompt: Prompt) -> int:
    """Add up the bound; return how many hosted calls are held. Raises BadRequest."""
    options = prompt.options
    overhead = options.template_overhead_tokens
    contents: Iterable[tuple[str, dict[str, Any]]] = [
        (f"contents[{at}]", each) for at, each in enumerate(document["contents"])
    ]
    system = document.get("systemInstruction")
    if system is not None:
        contents = [*contents, ("systemInstruction", system)]
    for where, content in contents:
        prompt.tokens += overhead
        role = content.get("role")
        if role is not None and type(role) is not str:
            raise BadRequest("`role` must be a string.", param=f"{where}.role")
        for at, part in enumerate(content["parts"]):
            _read_part(part, f"{where}.parts[{at}]", prompt)
    prompt.add_extra(document)
    _read_stored(document, prompt, options)
    config = document.get("generationConfig", {})
    _read_config(config)
    for name in _RENDERED:
        if config.get(name) is not None:
            prompt.add_structure(config[name])
    if document.get("toolConfig") is not None:
        prompt.add_structure(document["toolConfig"])
    return _read_tools(document.get("tools") or [], prompt)


def _read_stored(document: dict[str, Any], prompt: Prompt, options: ReadOptions) -> None:
    if document.get("cachedContent") not in (None, ""):
        if not options.allow_stateful_ids:
            raise BadRequest(
                "`cachedContent` names something stored at the provider, whose size is unknown and"
                " which other customers could name; send the content itself.",
                param="cachedContent",
            )
        prompt.add_stored("cachedContent")
    if document.get("store") not in (None, False) and not options.allow_stateful_ids:
        raise BadRequest("The provider's store is shared by all customers here.", param="store")
    if document.get("serviceTier") not in (None, "", "standard", "SERVICE_TIER_UNSPECIFIED"):
        raise BadRequest(
            "This `serviceTier` selects a rate that isn't configured here; omit it.",
            param="serviceTier",
        )


def _read_part(part: dict[str, Any], where: str, prompt: Prompt) -> None:
    prompt.tokens += PART_TOKENS
    text = part.get("text")
    if text is not None:
        if type(text) is not str:
            raise BadRequest("`text` must be a string.", param=f"{where}.text")
        prompt.tokens += text_tokens(text)
    rest = {
        name: value
        for name, value in part.items()
        if name not in ("text", "thought", "inlineData", "fileData") and value is not None
    }
    if rest:
        prompt.add_structure(rest)
    _read_carried(part, where, prompt)
    answered = part.get("functionResponse")
    if type(answered) is dict:
        inside = _list(answered, "parts", f"{where}.functionResponse")
        for at, each in enumerate(inside):
            place = f"{where}.functionResponse.parts[{at}]"
            _read_carried(_known(each, _RESPONSE_PART, place), place, prompt)


def _read_carried(part: Mapping[str, Any], where: str, prompt: Prompt) -> None:
    """What a part carries other than text, in the body or by reference."""
    if part.get("inlineData") is not None:
        blob = _known(part["inlineData"], _BLOB, f"{where}.inlineData")
        _read_media(blob, f"{where}.inlineData", prompt)
    if part.get("fileData") is not None:
        _read_file(
            _known(part["fileData"], _FILE, f"{where}.fileData"), f"{where}.fileData", prompt
        )


def _read_media(blob: dict[str, Any], where: str, prompt: Prompt) -> None:
    data, kind = blob.get("data"), blob.get("mimeType")
    if type(data) is not str or type(kind) is not str:
        raise BadRequest("`mimeType` and `data` must be texts.", param=where)
    media = _media_of(kind)
    if media == "image":
        prompt.add_media("image", where, INLINE_IMAGE_TOKENS)
    elif media == "audio":
        # 32 tokens a second, and no usual coding has less than a kilobyte in it.
        measured = -(-len(data) // 32)
        prompt.add_media("audio", where, measured, least=measured)
    elif media == "text":
        prompt.tokens += len(data)
    else:
        prompt.add_media(media, where)


def _media_of(kind: str) -> MediaKind | Literal["text"]:
    """What a media type is held as: an unknown one as video, the most expensive kind."""
    family, _, form = kind.lower().partition(";")[0].strip().partition("/")
    if family in ("image", "audio", "text"):
        return cast(MediaKind, family)
    return "document" if form == "pdf" else "video"


def _read_file(file: dict[str, Any], where: str, prompt: Prompt) -> None:
    uri = file.get("fileUri")
    if type(uri) is not str:
        raise BadRequest("`fileUri` must be a string.", param=f"{where}.fileUri")
    public = uri.startswith(("https://", "http://")) and "googleapis.com" not in uri.lower()
    if not public and not prompt.options.allow_stateful_ids:
        raise BadRequest(
            "`fileUri` refers to something stored at the provider, whose size is unknown and which"
            " other customers could name; send the content itself.",
            param=f"{where}.fileUri",
        )
    kind = file.get("mimeType") or ""
    if type(kind) is not str:
        raise BadRequest("`mimeType` must be a string.", param=f"{where}.mimeType")
    media = _media_of(kind)
    prompt.add_media("document" if media == "text" else media, where)


def _read_config(config: Mapping[str, Any]) -> None:
    """What of the configuration decides the cost has its exact type. Raises BadRequest."""
    where = "generationConfig"
    for modality in _list(config, "responseModalities", where):
        if modality not in _PRICED_MODALITIES:
            raise BadRequest(
                f"Output of the modality {str(modality)[:32]!r} has a price that is not known here.",
                param=f"{where}.responseModalities",
            )
    thinking = config.get("thinkingConfig")
    budget = thinking.get("thinkingBudget") if thinking else None
    if budget is not None and (type(budget) is not int or not -1 <= budget <= 1_000_000):
        raise BadRequest(
            "`thinkingBudget` must be a whole number, or -1.",
            param=f"{where}.thinkingConfig.thinkingBudget",
        )


def _read_tools(tools: list[dict[str, Any]], prompt: Prompt) -> int:
    calls = 0
    for at, tool in enumerate(tools):
        for name, settings in tool.items():
            if settings is None:
                continue
            prompt.add_structure({name: settings})
            if name == "functionDeclarations":
                continue
            if name in prompt.options.priced_tools:
                prompt.add_room(PROVIDER_TOOL_TOKENS)
                calls += HOSTED_CALLS
            elif name == "computerUse":  # the caller performs its actions
                prompt.add_room(PROVIDER_TOOL_TOKENS)
            elif prompt.options.unknown_tools == "pass":
                prompt.add_room(PROVIDER_TOOL_TOKENS + prompt.options.result_tokens)
            else:
                raise _unknown_tool(name, f"tools[{at}].{name}")
    if tools:
        prompt.add_room(TOOLS_PREAMBLE_TOKENS)
    return calls
