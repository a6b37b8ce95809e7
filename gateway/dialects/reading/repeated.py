"""Recognises a frame that repeats an earlier one but for its text, so that it need not be parsed.

Of the frames of a stream nearly all differ from the one before in one JSON string alone: the
piece of text. Once a frame has been parsed and found to carry text and nothing else of interest,
its bytes are kept as what stands before and after that string. A later frame with the same bytes
around a string free of `"` and `\\` is the same JSON document with another text at that place, so
it has the same meaning: text, no usage, no finish. That is exact, not a guess; every other frame
is parsed. One further string, OpenAI's random `obfuscation` padding, may differ as well.

Frames that follow each other are recognised together: their texts are cut out, and put between the kept
bytes again they must make the same frames. Splitting at the bytes between two texts would look like
less work and is not: `bytes.split` prepares its search again for each piece, which takes 0.7 µs for
200 bytes.
"""

from operator import itemgetter
from typing import Final

import orjson

MAX_LESSONS: Final = 16
"""A stream whose frames never repeat (a counter in each) is parsed frame by frame after so many."""

QUOTE: Final = ord('"')
BACKSLASH: Final = ord("\\")
"""As numbers: looking for a number in bytes is one memchr, for bytes a general search."""

NOT_PLAIN: Final = b'"\\\n\r'
"""What ends a text, escapes in it, or ends a line: a text without them is left as it is by deleting them."""
_LF_END: Final = b"\n\n"

NOTHING: Final = b"\n\n\r\r"
"""What is kept before a frame was learned: no frame begins with a frame's end."""

_PADDING: Final = (b'"obfuscation":"', b'"obfuscation": "')


class RepeatedFrame:
    """What stands around the text of a frame.

    before, after:  the bytes around the text; `after` begins with the closing quote
    end:            `after` and the end of a frame
    begin, stop:    where the text begins in such a frame with its end, and where it ends
    between:        when there is padding: the bytes from the text's closing quote to the padding
    """

    __slots__ = ("_lessons", "after", "before", "begin", "between", "end", "stop")

    def __init__(self) -> None:
        self.before = NOTHING
        self.between = b""
        self.after = NOTHING
        self.end = NOTHING  # `after` and the end of a frame
        self.begin, self.stop = len(self.before), -len(self.end)
        self._lessons = 0

    def learn(self, frame: bytes, name: bytes, text: str) -> None:
        """Keep a parsed frame whose only content is `text`, the member `name`."""
        if self._lessons >= MAX_LESSONS:
            return
        self._lessons += 1
        for colon in (b'":"', b'": "'):
            head = b'"' + name + colon
            # The member must stand there once: then it is the one that was parsed.
            if frame.count(head) == 1:
                begin = frame.index(head) + len(head)
                try:
                    written = orjson.dumps(text)[1:]
                except orjson.JSONEncodeError:  # a lone surrogate
                    return
                if frame.startswith(written, begin):
                    self.before = frame[:begin]
                    self._keep_rest(frame[begin + len(written) - 1 :])
                    self.end = self.after + _LF_END
                    self.begin, self.stop = begin, -len(self.end)
                return

    def _keep_rest(self, rest: bytes) -> None:
        self.between = b""
        self.after = rest
        for head in _PADDING:
            if rest.count(head) == 1:
                at = rest.index(head) + len(head)
                end = rest.find(b'"', at)
                if end > 0 and b"\\" not in rest[at:end]:
                    self.between = rest[:at]
                    self.after = rest[end:]
                return

    def text_bytes(self, frame: bytes) -> int:
        """Bytes of the text if the frame repeats the kept one, else −1."""
        before = self.before
        begin = len(before)
        if frame[:begin] != before:
            return -1
        end = frame.find(QUOTE, begin)
        if frame.find(BACKSLASH, begin, end) >= 0:
            return -1
        at = end
        if self.between:
            if not frame.startswith(self.between, at):
                return -1
            begin_padding = at + len(self.between)
            at = frame.find(QUOTE, begin_padding)
            if frame.find(BACKSLASH, begin_padding, at) >= 0:
                return -1
        if len(frame) - at != len(self.after) or not frame.endswith(self.after):
            return -1
        return end - begin

    def texts_of(self, data: bytes) -> tuple[int, int]:
        """How many frames, and bytes of their texts, if `data` is nothing but frames that repeat the
        kept one, each ended by LF LF; else 0, 0."""
        if not data.startswith(self.before) or not data.endswith(self.end):
            return 0, 0
        frames = data.split(_LF_END)
        frames.pop()
        count, size = self.leading_texts(frames)
        if count == len(frames):
            return count, size
        if self.between and data.find(_LF_END) == len(data) - 2:
            size = self.text_bytes(data[:-2])
            if size > 0:
                return 1, size
        return 0, 0

    def leading_texts(self, frames: list[bytes]) -> tuple[int, int]:
        """How many of the first frames, and bytes of their texts, repeat the kept one; 0, 0 where
        that can only be found frame by frame. The frames were separated by LF LF."""
        before, after = self.before, self.after
        count = len(frames)
        while count and not (
            frames[count - 1].startswith(before) and frames[count - 1].endswith(after)
        ):
            count -= 1  # the frames that end a stream are others
        texts = list(map(itemgetter(slice(len(before), -len(after))), frames[:count]))
        # The frames that these texts would make are compared with those that came, all at once.
        made = before + (self.end + before).join(texts) + after
        if not texts or made != _LF_END.join(frames[:count]):
            return 0, 0
        text = b"".join(texts)
        size = len(text)
        if b"" in texts or len(text.translate(None, NOT_PLAIN)) != size:
            return 0, 0
        return count, size
