"""The supervisor: start, watch, reload, drain, stop.

Law, in the order of a life:
- sockets are bound before anything is started, so a taken port costs nothing;
- the ledger is started first and stopped last; workers are drained before the exporter;
- a configuration is taken over by all children or by none: all prepare, then all commit. A
  child that dies meanwhile is not asked: its replacement starts with what was decided;
- whatever dies is replaced, with a growing pause, and counted.
"""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import structlog

from gateway.admin.http import AdminSide, Readiness, admin_token, start_admin
from gateway.app.children import Slot, Turn
from gateway.app.control import ChildGone, ChildRefused
from gateway.app.roles import Assignment, CannotServe, Resources, Role
from gateway.app.watch import changes
from gateway.telemetry.logs import failure, log_loop_failures
from gateway.telemetry.metrics import Snapshot, sum_snapshots
from gateway.telemetry.names import SupervisorMetrics

log = structlog.get_logger("supervisor")

HURRIED_GRACE_S: Final = 0.5
"""The grace after a second Ctrl-C."""
_LEDGER_LOOK_EVERY_S: Final = 1.0
_LEDGER_ANSWER_WITHIN_S: Final = 2.0
_LISTEN_BACKLOG: Final = 1024


class CannotStart(Exception):
    """The gate cannot start. The message says why and what to change."""


class Ledger(Protocol):
    pass
