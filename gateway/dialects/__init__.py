"""Dialects: a provider's API as facts. `base` defines the interface; one file for each dialect.

| file | holds |
|---|---|
| `base` | dialects, meters, facts and refusals |
| `fields`, `bounds`, `tools`, `reading/strict_json` | reading a request: one meaning, exact types, an upper bound |
| `reading` | reading a response: frames, meters, usage into pools |
| `content_encoding` | decoding a copy of an encoded response, and an encoded request |
| `passing` | header fields, betas and query parameters of requests that pass, by API |
| `openai`, `anthropic`, `gemini`, `generic` | the dialects |
| `plain_request`, `chat_completion`, `complete_message` | the ordinary case, read in one pass |
| `any_api` | routes priced by the operator's quantities |
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
