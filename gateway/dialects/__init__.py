"""Dialects: a provider's API as facts. `base` says what a dialect is; one file for each.

| file | holds |
|---|---|
| `base` | what a dialect, a meter, facts and refusals are |
| `strict_json`, `fields`, `bounds` | reading a request: one meaning, exact types, an upper bound |
| `sse`, `repeated`, `metering`, `reported` | reading an answer: frames, meters, usage into pools |
| `coding` | decoding a copy of a coded answer, and a coded request |
| `passing` | header fields, betas and query parameters of requests that pass, by API |
| `openai_*`, `responses_meters`, `anthropic*`, `gemini*`, `generic` | the dialects |
| `any_api`, `quantities`, `pointer` | routes with prices of their own, and what they are priced by |
| `models` | bodies of `GET /v1/models` |

To add a dialect: write its file, add a line here, add its transcripts to `tests/unit/dialects`.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from gateway.dialects.anthropic.messages import AnthropicCountTokens, AnthropicMessages
from gateway.dialects.base import Dialect
from gateway.dialects.gemini.generate import Gemini, GeminiCountTokens
from gateway.dialects.generic import Generic
from gateway.dialects.openai.chat import OpenAIChat
from gateway.dialects.openai.completions import OpenAICompletions
from gateway.dialects.openai.embeddings import OpenAIEmbeddings
from gateway.dialects.openai.images import OpenAIImages
from gateway.dialects.openai.responses import OpenAIResponses
from gateway.dialects.openai.speech import OpenAISpeech
from gateway.dialects.openai.transcriptions import OpenAITranscriptions

DIALECTS: Final[Mapping[str, Dialect]] = MappingProxyType(
    {
        dialect.name: dialect
        for dialect in (
            OpenAIChat(),
            OpenAICompletions(),
            OpenAIEmbeddings(),
            OpenAIResponses(),
            OpenAIImages(),
            OpenAISpeech(),
            OpenAITranscriptions(),
            AnthropicMessages(),
            AnthropicCountTokens(),
            Gemini(),
            GeminiCountTokens(),
            Generic(),
        )
    }
)
"""Every dialect by the name that a route's configuration uses."""
