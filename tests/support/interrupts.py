"""Loaded by every run (see `addopts`): a shell makes its background jobs, and all that they start,
ignore an interrupt. The programs that these tests start and interrupt must hear it."""

import signal

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
