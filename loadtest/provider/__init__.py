"""The simulated provider: OpenAI's, Anthropic's and Gemini's endpoints on a raw protocol, cheap and exact.

    python -m loadtest.provider --port 0 [--sim "tokens=62 itl_ms=20"] [--cert … --key …]

prints its URL as its first line. In a program: `async with running(Provider()) as url`.
`loadtest/faults.py` describes the controls of its answers; `GET /_served` returns what it served
(`?rows=0` for the totals only, `DELETE` to reset), see `loadtest/served.py`.

- `simulator`   its controls, requests as understood, serving
- `connection`  one client connection: reads requests, answers them in order
- `player`      plays the steps of an answer

Invariants: a healthy answer without delays is one dictionary look-up and one write; everything
else is played step by step (`loadtest/sim_script.py`), never faster than the client reads.
"""

from loadtest.provider.simulator import Provider, running

__all__ = ["Provider", "running"]
