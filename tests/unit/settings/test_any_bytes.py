"""Whatever bytes a configuration file holds, reading it ends in settings or in line-numbered problems."""

from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.settings import SettingsError, load_settings

SAMPLES = [
    path.read_bytes() for path in sorted((Path(__file__).parents[3] / "config").rglob("*.yaml"))
]
PIECES = st.sampled_from(
    [
        *(bytes([byte]) for byte in b"{}[]:\n\t -&*!|>\"'\\#?%,~\0\r"),
        b"- ", b"&a ", b"*a", b"<<: ", b"<<: *a", b"!!str ", b"!x ", b"!!binary ", b"---\n", b"...\n",
        b"\xff", b"\x85", b"\xc2\x85", b"\xe2\x80\xa8", b"\xef\xbb\xbf", b"\xf0\x9f\x98\x80",
        b"${", b"${X}", b"${X:-", b"${file:", b"${file:/}", b"1e999", b"-1", b"9" * 30, b"nan", b"null",
        b'"\\0"', b'"\\ud800"', b"://", b"http://[", b"[" * 60, b"{" * 60, b"a" * 300,
        b"2027-13-45T00:00:00Z", b"%YAML 9.9\n", b"models:", b"customers:", b"prices:",
    ]
)  # fmt: skip
EDITS = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 40), st.lists(PIECES, max_size=3).map(b"".join)),
    min_size=1,
    max_size=5,
)


def edited(sample: bytes, edits: list[tuple[float, int, bytes]]) -> bytes:
    """A sample configuration with some bytes replaced, at shares of its length."""
    text = bytearray(sample)
    for share, length, piece in edits:
        at = int(share * len(text))
        text[at : at + length] = piece
    return bytes(text)


ANY = st.one_of(
    st.binary(max_size=200),
    st.lists(PIECES, max_size=30).map(b"".join),
    st.builds(edited, st.sampled_from(SAMPLES), EDITS),
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(content=ANY)
def test_arbitrary_bytes_never_crash_a_check(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "any.yaml"
    file.write_bytes(content)
    problems = []
    try:
        load_settings(file, {})
    except SettingsError as error:
        problems = error.problems
    assert all(problem.line >= 1 and str(problem) for problem in problems)
