"""Dialects: a provider's API as facts. `base` defines the interface; one file for each dialect.

| file | holds |
|---|---|
| `base` | the interfaces: dialect, meter, facts, refusal |
| `openai/`, `anthropic/`, `gemini/`, `generic` | the dialects of providers |
| `openai/plain_request`, `openai/chat_completion`, `anthropic/complete_message` | the ordinary case, read in one pass |
| `any_api/` | routes with separate prices, and the quantities that price them |
| `fields`, `bounds`, `tools`, `reading/strict_json` | read a request: one meaning, exact types, an upper bound |
| `reading/` | read a response: frames (`sse`, `array`), meters (`meters`), usage (`usage`, `tables`) |
| `content_encoding` | decodes requests, and copies of responses for the meter |
| `passing` | header fields, betas and query parameters of requests that pass, by API |
| `models` | bodies of `GET /v1/models` |

To add a dialect: write its module, add it to `DIALECTS`, give it a route in
`gateway/settings/default_routes.py`, and add its transcripts to
`tests/unit/dialects/transcripts/` and `test_meters.py`.
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
