"""A model of what providers answer: it draws the truth first, then writes it down in one of the many
ways that are seen in the wild. So what a meter should find is known without reading the answer.

Drawn are: the dialect, whether it streams, the figures, the text and its pieces; how usage is
spelled, where it stands and how often; placeholders, empty and repeated reports; members that mean
nothing, some of them megabytes long or not quite JSON; the order of members; how bytes are cut.
"""

import json
import math
import random
from dataclasses import dataclass, field
from typing import Any, Final

DIALECTS: Final = (
    "openai_chat",
    "openai_completions",
    "openai_responses",
    "anthropic_messages",
    "gemini_generate",
)

TEXTS: Final = (
    "a", "word", " and more", "line\n", 'say "yes"', "back\\slash", "é", "日本", "😀", "{}[],:", "data: x",
    "x" * 50, '","usage":{"prompt_tokens":1}', "</html>", "\u2028",
)  # fmt: skip


@dataclass
class Truth:
    """What happened.

    texts:      the pieces of output, each a frame where the answer streams
    reported:   exclusive pools that the answer reports; None when it reports nothing
    """

    dialect: str
    stream: bool
    texts: list[str]
    reported: dict[str, int] | None
    calls: int = 0
    hidden: bool = False
    pieces: list[bytes] = field(default_factory=list)
    answer: bytes = b""

    @property
    def counted(self) -> int:
        """The output that the gate counts, as its documentation says."""
        size = sum(len(text.encode()) for text in self.texts)
        frames = len(self.texts) if self.stream else (1 if self.texts else 0)
        return max(frames, math.ceil(size / 4))


class Writer:
    """Draws one answer."""

    def __init__(self, seed: int, *, most_bytes: int) -> None:
        self.pick = random.Random(seed)
        self.most_bytes = most_bytes

    def chance(self, share: float) -> bool:
        return self.pick.random() < share

    def answer(self) -> Truth:
        pick = self.pick
        dialect = pick.choice(DIALECTS)
        stream = self.chance(0.6)
        texts = [pick.choice(TEXTS) for _ in range(pick.choice([1, 1, 2, 5, 30]))]
        if not stream:
            texts = ["".join(texts)]
        truth = Truth(dialect, stream, texts, None)
        report = self._figures(truth) if self.chance(0.85) else None
        write = getattr(self, f"_{dialect}")
        truth.answer = write(truth, report)
        truth.pieces = self._cut(truth.answer)
        return truth

    # Figures

    def _figures(self, truth: Truth) -> dict[str, Any]:
        """The truth of a report, and one way to spell it."""
        pick = self.pick
        prompt = pick.choice([1, 10, 999, 100_000])
        cached = pick.choice([0, 0, prompt // 2, prompt])
        completion = pick.choice([1, 20, 5000])
        reasoning = pick.choice([0, 0, completion // 2, completion])
        if truth.dialect == "anthropic_messages":
            return self._anthropic_figures(truth, prompt, cached, completion)
        if truth.dialect == "gemini_generate":
            return self._gemini_figures(truth, prompt, cached, completion, reasoning)
        return self._openai_figures(truth, prompt, cached, completion, reasoning)

    def _pools(self, truth: Truth, **pools: int) -> None:
        truth.reported = {unit: quantity for unit, quantity in pools.items() if quantity}

    def _openai_figures(
        self, truth: Truth, prompt: int, cached: int, completion: int, reasoning: int
    ) -> dict[str, Any]:
        pick = self.pick
        self._pools(
            truth,
            input=prompt - cached,
            cache_read=cached,
            output=completion - reasoning,
            reasoning=reasoning,
        )
        new = truth.dialect == "openai_responses" or self.chance(0.2)
        first, second = ("input", "output") if new else ("prompt", "completion")
        report: dict[str, Any] = {
            f"{first}_tokens": self._number(prompt),
            f"{second}_tokens": self._number(completion),
        }
        if cached:
            spelled: list[dict[str, Any]] = [
                {f"{first}_tokens_details": {"cached_tokens": self._number(cached)}},
                {"cached_tokens": self._number(cached)},
                {"prompt_cache_hit_tokens": cached, "prompt_cache_miss_tokens": prompt - cached},
                {"cache_read_input_tokens": cached},
            ]
            for each in pick.sample(spelled, pick.choice([1, 1, 2])):
                report.update(each)
        if reasoning:
            details = {"reasoning_tokens": self._number(reasoning), "audio_tokens": 0}
            report[f"{second}_tokens_details"] = details
            if self.chance(0.3):  # beside the completion; the total says so
                assert truth.reported is not None
                truth.reported["output"] = completion
                report["total_tokens"] = prompt + completion + reasoning
                return report
        if self.chance(0.6):
            report["total_tokens"] = self._number(prompt + completion)
        return report

    def _anthropic_figures(
        self, truth: Truth, prompt: int, cached: int, completion: int
    ) -> dict[str, Any]:
        written = self.pick.choice([0, 0, 300])
        self._pools(truth, input=prompt, cache_read=cached, cache_write=written, output=completion)
        report = {"input_tokens": self._number(prompt), "output_tokens": self._number(completion)}
        if cached or self.chance(0.5):
            report["cache_read_input_tokens"] = cached
        if written:
            report["cache_creation_input_tokens"] = written
        return report

    def _gemini_figures(
        self, truth: Truth, prompt: int, cached: int, completion: int, reasoning: int
    ) -> dict[str, Any]:
        self._pools(
            truth, input=prompt - cached, cache_read=cached, output=completion, reasoning=reasoning
        )
        report = {
            "promptTokenCount": self._number(prompt),
            "candidatesTokenCount": self._number(completion),
            "totalTokenCount": prompt + completion + reasoning,
        }
        if cached:
            report["cachedContentTokenCount"] = self._number(cached)
        if reasoning:
            report["thoughtsTokenCount"] = self._number(reasoning)
        return report

    def _number(self, value: int) -> Any:
        return self.pick.choice([value, value, value, float(value), str(value), f"{value}.0"])

    # Documents

    def _openai_chat(self, truth: Truth, report: Any) -> bytes:
        name = "content" if truth.dialect == "openai_chat" else "text"
        if not truth.stream:
            inner = {name: truth.texts[0]}
            choice = {"index": 0, **({"message": inner} if name == "content" else inner)}
            choice["finish_reason"] = "stop"
            return self._document(self._placed({"choices": [choice]}, report))
        frames = []
        for text in truth.texts:
            inner = {name: text}
            choice = {"index": 0, **({"delta": inner} if name == "content" else inner)}
            early = {"usage": self._empty_openai()} if self.chance(0.1) else {}
            frames.append({"choices": [choice], **early})
        last: dict[str, Any] = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
        if report is not None and self.chance(0.5):
            frames += [last, {"choices": [], "usage": report}]
        else:
            frames.append(self._placed(last, report))
        if report is not None and self.chance(0.2):
            frames.append({"choices": [], "usage": self.pick.choice([report, {}, None])})
        return self._events(frames, done=True)

    _openai_completions = _openai_chat

    def _placed(self, document: dict[str, Any], report: Any) -> dict[str, Any]:
        """The report in one or several places of a document."""
        if report is None:
            return document if self.chance(0.5) else {**document, "usage": self._empty_openai()}
        places = self.pick.sample(["top", "choice", "groq"], self.pick.choice([1, 1, 2]))
        if "top" in places:
            document["usage"] = report
        if "choice" in places:
            document["choices"][0]["usage"] = report
        if "groq" in places:
            document["x_groq"] = {"id": "req", "usage": report}
        return document

    def _empty_openai(self) -> Any:
        return self.pick.choice([None, {}, {"prompt_tokens": 0, "completion_tokens": 0}])

    def _openai_responses(self, truth: Truth, report: Any) -> bytes:
        text = "".join(truth.texts)
        message = {"type": "message", "content": [{"type": "output_text", "text": text}]}
        calls = self.pick.choice([0, 0, 1, 3])
        truth.calls = calls
        searches = [
            {"type": "web_search_call", "id": f"ws{n}", "status": "completed"} for n in range(calls)
        ]
        response = {"id": "r", "status": "completed", "output": [*searches, message]}
        response["usage"] = report
        if not truth.stream:
            return self._document(response)
        frames: list[dict[str, Any]] = [{"type": "response.created", "response": {"id": "r"}}]
        for item in searches:
            frames += [
                {"type": f"response.output_item.{kind}", "item": item} for kind in ("added", "done")
            ]
        frames += [{"type": "response.output_text.delta", "delta": t} for t in truth.texts]
        frames.append({"type": "response.completed", "response": response})
        return self._events(frames)

    def _anthropic_messages(self, truth: Truth, report: Any) -> bytes:
        if not truth.stream:
            content = [{"type": "text", "text": truth.texts[0]}]
            return self._document({"content": content, "stop_reason": "end_turn", "usage": report})
        start, last = {}, {}
        if report is not None:
            start = {k: v for k, v in report.items() if k != "output_tokens"}
            last = {"output_tokens": report["output_tokens"]}
            if self.chance(0.3):
                start, last = {"input_tokens": 0, "output_tokens": 0}, report
            elif self.chance(0.3):
                last = {**dict.fromkeys(start, 0), **last}
        frames: list[dict[str, Any]] = [{"type": "message_start", "message": {"usage": start}}]
        for text in truth.texts:
            delta = {"type": "text_delta", "text": text}
            frames.append({"type": "content_block_delta", "index": 0, "delta": delta})
        stop = {"stop_reason": "end_turn"}
        frames.append({"type": "message_delta", "delta": stop, "usage": last})
        frames.append({"type": "message_stop"})
        return self._events(frames)

    def _gemini_generate(self, truth: Truth, report: Any) -> bytes:
        queries = self.pick.choice([[], [], ["a"], ["a", "b", "a", ""]])
        truth.calls = len(set(queries) - {""})

        def piece(text: str, **more: Any) -> dict[str, Any]:
            candidate = {"content": {"parts": [{"text": text}]}, "index": 0, **more}
            if queries:
                candidate["groundingMetadata"] = {"webSearchQueries": queries}
            return {"candidates": [candidate]}

        if not truth.stream:
            document = piece(truth.texts[0], finishReason="STOP")
            return self._document({**document, "usageMetadata": report})
        frames = [piece(text) for text in truth.texts]
        for frame in frames[:-1]:
            if self.chance(0.2):
                frame["usageMetadata"] = self.pick.choice([{}, {"promptTokenCount": 0}])
        frames[-1] = {**piece(truth.texts[-1], finishReason="STOP"), "usageMetadata": report}
        return self._events(frames)

    # Bytes

    def _document(self, document: dict[str, Any]) -> bytes:
        return self._write(self._noisy(document))

    def _events(self, frames: list[dict[str, Any]], *, done: bool = False) -> bytes:
        end = self.pick.choice([b"\n\n", b"\n\n", b"\r\n\r\n"])
        written = []
        for frame in frames:
            noisy = self._noisy(frame) if self.chance(0.3) else frame
            written.append(b"data: " + self._write(noisy).strip())
            if self.chance(0.05):
                written.append(self.pick.choice([b": ping", b"event: ping\ndata: {}", b"id: 7"]))
        if done:
            written.append(b"data: [DONE]")
        return b"".join(frame + end for frame in written)

    def _noisy(self, document: dict[str, Any]) -> dict[str, Any]:
        """With members that mean nothing, in another order."""
        noise: dict[str, Any] = {}
        for n in range(self.pick.choice([0, 0, 1, 3])):
            noise[f"x_{n}"] = self._nonsense()
        items = [*document.items(), *noise.items()]
        if "choices" in document or "candidates" in document or "output" in document:
            self.pick.shuffle(items)
        return dict(items)

    def _nonsense(self) -> Any:
        pick = self.pick
        size = pick.choice([3, 100, 1000, self.most_bytes // 8])
        return pick.choice(
            [
                None,
                {"usage": {"prompt_tokens": 10**7, "completion_tokens": 10**7}},
                ["usage", '"usage":{"prompt_tokens":5}'],
                [0.25] * size,
                "QUJD" * size,
                [{"token": "t", "logprob": -0.5}] * min(size, self.most_bytes // 40),
                [[[[{"deep": [1]}]]]] * min(size, 1000),
                math.nan,
                [math.inf, -math.inf],
                "\ud800",
            ]
        )

    def _write(self, document: dict[str, Any]) -> bytes:
        separators = self.pick.choice([(",", ":"), (", ", ": ")])
        ascii_only = self.pick.random() < 0.5
        text = json.dumps(document, separators=separators, ensure_ascii=ascii_only)
        data = text.encode("utf-8", "surrogatepass")
        return data + self.pick.choice([b"", b"", b"\n"])

    def _cut(self, data: bytes) -> list[bytes]:
        pick = self.pick
        if len(data) < 3000 and self.chance(0.3):
            return [data[at : at + 1] for at in range(len(data))]
        most = min(60, len(data) - 1)
        cuts = sorted(pick.sample(range(1, len(data)), pick.randint(0, most))) if most > 0 else []
        return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
