"""Lua 5.1 as tokens, and where its statements and expressions end: as much as mutants need.

Invariants: a token knows its place in the source, so that a mutant is the source with one place changed.
Comments are no tokens. What the scripts do not use is refused, not guessed at: long strings, hex
numbers, exponents, escapes but that of the zero byte, functions inside expressions.
"""

import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["name", "keyword", "number", "string", "sign"]

KEYWORDS = frozenset(
    {
        "and", "break", "do", "else", "elseif", "end", "false", "for", "function", "if", "in",
        "local", "nil", "not", "or", "repeat", "return", "then", "true", "until", "while",
    }
)  # fmt: skip
BINARY = frozenset(
    {"+", "-", "*", "/", "%", "^", "..", "==", "~=", "<", "<=", ">", ">=", "and", "or"}
)
_TOKEN = re.compile(
    r"(?P<space>\s+|--[^\n]*|\A\#![^\n]*)"
    r"|(?P<number>\d+(?:\.\d+)?)(?![\w.])"
    r"|(?P<name>[A-Za-z_]\w*)"
    r"|(?P<string>'(?:[^'\\\n]|\\0)*')"
    r"|(?P<sign>\.\.\.|\.\.|==|~=|<=|>=|[-+*/%^#<>=(){}\[\];:,.])"
)
_UNARY = frozenset(["-", "#", "not"])
_CLOSES = {"(": ")", "[": "]", "{": "}"}


@dataclass(frozen=True, slots=True)
class Token:
    """One word of Lua: `start` and `end` are offsets in the source."""

    kind: Kind
    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Statement:
    """An assignment to what stands already, or a call for its effect; offsets in the source.

    targets and values: the places of both sides of an assignment, empty for a call.
    """

    start: int
    end: int
    targets: tuple[tuple[int, int], ...] = ()
    values: tuple[tuple[int, int], ...] = ()


def tokens_of(source: str) -> list[Token]:
    """All tokens in order. Raises ValueError at what is not Lua as the scripts write it."""
    tokens, at = [], 0
    while at < len(source):
        found = _TOKEN.match(source, at)
        if found is None or source.startswith(("--[[", "[["), at):
            line = source.count("\n", 0, at) + 1
            raise ValueError(f"line {line}: {source[at : at + 20]!r} is no token known here")
        at = found.end()
        if found.lastgroup != "space":
            text = found[0]
            kind: Kind = "keyword" if text in KEYWORDS else found.lastgroup  # type: ignore[assignment]
            tokens.append(Token(kind, text, found.start(), found.end()))
    return tokens


def statements_of(tokens: list[Token]) -> list[Statement]:
    """Every assignment but a `local` one, and every call that stands as a statement."""
    found = []
    for at, token in enumerate(tokens):
        before = tokens[at - 1] if at else None
        if token.kind == "name" and (before is None or _ends_a_statement(before)):
            found.append(_statement(tokens, at))
    return found


def expressions(tokens: list[Token], at: int) -> tuple[list[tuple[int, int]], int]:
    """The places of a list of expressions that begins with token `at`; and the token after it."""
    places = []
    while True:
        end = _expression(tokens, at)
        places.append((tokens[at].start, tokens[end - 1].end))
        if end >= len(tokens) or tokens[end].text != ",":
            return places, end
        at = end + 1


def _statement(tokens: list[Token], at: int) -> Statement:
    start, targets = tokens[at].start, []
    while True:
        end = _suffixes(tokens, at + 1)
        targets.append((tokens[at].start, tokens[end - 1].end))
        if end == len(tokens) or tokens[end].text != ",":
            break
        at = end + 1
    if end == len(tokens) or tokens[end].text != "=":
        return Statement(start, tokens[end - 1].end)
    values, end = expressions(tokens, end + 1)
    return Statement(start, tokens[end - 1].end, tuple(targets), tuple(values))


def _ends_a_statement(token: Token) -> bool:
    """Whether a name that follows begins a statement: nothing joins two operands in Lua."""
    if token.kind == "keyword":
        return token.text in (
            "then",
            "do",
            "else",
            "repeat",
            "end",
            "nil",
            "true",
            "false",
            "break",
        )
    return token.kind in ("name", "number", "string") or token.text in (")", "]", "}", ";", "...")


def _expression(tokens: list[Token], at: int) -> int:
    """The token after the expression that begins at `at`."""
    while True:
        while tokens[at].text in _UNARY:
            at += 1
        if tokens[at].text == "function":
            raise ValueError("a function inside an expression is not known here")
        at = _closing(tokens, at) + 1 if tokens[at].text in _CLOSES else at + 1
        at = _suffixes(tokens, at)
        if at >= len(tokens) or tokens[at].text not in BINARY:
            return at
        at += 1


def _suffixes(tokens: list[Token], at: int) -> int:
    """The token after what continues an operand: fields, indexes, calls."""
    while at < len(tokens):
        if tokens[at].text in (".", ":"):
            at += 2
        elif tokens[at].text in ("(", "["):
            at = _closing(tokens, at) + 1
        else:
            break
    return at


def _closing(tokens: list[Token], at: int) -> int:
    """The bracket that closes the one at `at`."""
    wanted = [_CLOSES[tokens[at].text]]
    while wanted:
        at += 1
        text = tokens[at].text
        if text in _CLOSES:
            wanted.append(_CLOSES[text])
        elif text == wanted[-1]:
            wanted.pop()
    return at
