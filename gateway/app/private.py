"""What stays private on the operator's machine: the data folder, and the secrets of each process.

The data folder holds wallets, events, journals and the admin token. Everything in it is made for its
owner alone (umask 077), and a folder that other users can enter is refused. A child process gets the
part of the configuration that it works with, and of the environment, where secrets are usual, the
variables that an interpreter and its libraries read.
"""

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from gateway.app.parts import CannotStart

if TYPE_CHECKING:
    from gateway.settings import Settings
    from gateway.settings.console import ConsoleSection
    from gateway.settings.export import ExportSection
    from gateway.settings.upstreams import UpstreamSection

log = structlog.get_logger("supervisor")

UMASK: Final = 0o077

_PASSED: Final = frozenset(
    {
        *("HOME", "LANG", "PATH", "SHELL", "TERM", "TMPDIR", "TZ", "USER", "VIRTUAL_ENV"),
        *("XDG_RUNTIME_DIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "GLIBC_TUNABLES"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "OPENSSL_CONF", "LOCALDOMAIN", "RES_OPTIONS"),
        *("AIOHTTP_NO_EXTENSIONS", "NO_COLOR", "FORCE_COLOR", "COLUMNS"),
    }
)
_PASSED_PREFIXES: Final = ("LC_", "PYTHON", "MALLOC_", "COVERAGE_", "COV_")


def child_environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables that a worker or the exporter is given. The configuration has been read by then,
    so that those it names are not among them."""
    return {
        name: value
        for name, value in environ.items()
        if name in _PASSED or name.startswith(_PASSED_PREFIXES)
    }


def check_folder(folder: Path) -> None:
    """Refuse a data folder that other users can enter, read or write. Raises CannotStart, OSError.

    A folder of another owner cannot be closed by this process, and platforms hand out such volumes
    (Kubernetes with `fsGroup`): there a warning is all.
    """
    found = folder.stat()
    mode = stat.S_IMODE(found.st_mode)
    if not mode & UMASK:
        return
    if found.st_uid != os.geteuid():
        log.warning("data_folder_open", folder=str(folder), mode=f"{mode:04o}", owner=found.st_uid)
        return
    raise CannotStart(
        f"other users can enter the data folder {folder} (mode {mode:04o}), which holds wallets, "
        f"events and the admin token: run `chmod 700 {folder}`, or choose another folder (--data-dir)"
    )


def for_worker(settings: "Settings") -> "Settings":
    """The configuration without the secrets that serving requests has no use for. It reads the required
    store, and no other sink."""
    return settings.model_copy(
        update={
            "export": _required_alone(settings),
            "admin": settings.admin.model_copy(update={"token": None}),
            "console": _without_oidc(settings),
            "signals": settings.signals.model_copy(update={"webhook": None}),
        }
    )


def for_exporter(settings: "Settings") -> "Settings":
    """The configuration without the secrets that delivering events has no use for: those of
    providers, of the admin side, of keys."""
    return settings.model_copy(
        update={
            "admin": settings.admin.model_copy(update={"token": None}),
            "auth": settings.auth.model_copy(update={"key_pepper": None}),
            "key_holders": settings.key_holders.model_copy(update={"link_secret": None}),
            "upstreams": _without_credentials(settings),
            "console": _without_oidc(settings),
            "tracing": None,
        }
    )


def for_admin(settings: "Settings") -> "Settings":
    """The configuration without the secrets that the console and the admin API have no use for: those of
    providers. It hashes new keys, reads the required store and checks the admin token."""
    return settings.model_copy(
        update={"upstreams": _without_credentials(settings), "tracing": None}
    )


def _required_alone(settings: "Settings") -> "ExportSection":
    export = settings.export
    required = {name: sink for name, sink in export.sinks.items() if name == export.required}
    return export.model_copy(update={"sinks": required})


def _without_credentials(settings: "Settings") -> "dict[str, UpstreamSection]":
    return {
        name: upstream.model_copy(update={"credential": None, "headers": {}, "query": {}})
        for name, upstream in settings.upstreams.items()
    }


def _without_oidc(settings: "Settings") -> "ConsoleSection":
    return settings.console.model_copy(update={"oidc": None})
