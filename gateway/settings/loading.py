"""Load a file as `Settings`, or report every mistake in it at once.

Invariants: one mistake does not hide another. A malformed value is replaced by its field's
example, and then the result is checked for consistency. A finding that touches a replaced value
is not reported, because fixing the first mistake may fix it.
"""

import copy
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path as FilePath
from typing import Any, Final

from pydantic import ValidationError

from gateway.dialects import DIALECTS
from gateway.settings.checks import Names, run_checks
from gateway.settings.client_tls import ClientTlsSection
from gateway.settings.document import Document
from gateway.settings.explaining import explain, fields_at
from gateway.settings.keyfiles import include_key_files
from gateway.settings.problems import Finding, Path, SettingsError
from gateway.settings.root import Settings
from gateway.settings.upstreams import TlsSection

MAX_ROUNDS: Final = 20


def load_settings(path: str | FilePath, environ: Mapping[str, str] = os.environ) -> Settings:
    """Read and check a configuration file.

    Raises SettingsError, whose `problems` are all that is wrong with it.
    """
    document = Document(FilePath(path), environ)
    if () in document.unread:
        raise SettingsError(document.problems)
    include_key_files(document)
    settings, findings, mended = _validate(document)
    findings = [finding for finding in findings if finding.path not in document.unread]
    mended |= document.unread
    problems = [*document.problems, *(document.problem(finding) for finding in findings)]
    if settings is not None:
        problems += (
            document.problem(finding)
            for finding in run_checks(settings, _names(document.tree))
            if not any(_touch(finding.path, path) for path in mended)
        )
    if problems or settings is None:
        raise SettingsError(problems)
    inputs = _input_files(settings)
    files = tuple(dict.fromkeys([*document.files, *inputs]))
    object.__setattr__(settings, "_digest", _digest(document.tree, inputs))
    object.__setattr__(settings, "_files", files)
    return settings


def _validate(document: Document) -> tuple[Settings | None, list[Finding], set[Path]]:
    """Return the settings (with malformed values replaced), the mistakes, and their places."""
    tree, mended = document.tree, set[Path]()
    findings: list[Finding] = []
    context = {"folder": document.folder}
    for attempt in range(MAX_ROUNDS):
        try:
            return Settings.model_validate(tree, context=context), findings, mended
        except ValidationError as invalid:
            found = [explain(error, Settings) for error in invalid.errors(include_url=False)]
        if attempt == 0:
            # What shows only in later rounds comes from the mending, not from the file.
            findings = found
            tree = copy.deepcopy(tree)
        for finding in found:
            _mend(tree, finding.path, mended)
    return None, findings, mended


def _mend(tree: dict[str, Any], path: Path, mended: set[Path]) -> None:
    """Replace a malformed value by the field's example; if that does not help, remove it. A
    malformed list item removes the list, so that the positions of other items stay valid."""
    info = fields_at(Settings, path[:-1]).get(str(path[-1])) if path else None
    parent = _at(tree, path[:-1])
    if info and info.examples and path not in mended and isinstance(parent, dict):
        parent[path[-1]] = copy.deepcopy(info.examples[0])
        mended.add(path)
        return
    while path:
        parent = _at(tree, path[:-1])
        mended.add(path)
        if isinstance(parent, dict) and path[-1] in parent:
            del parent[path[-1]]
            return
        path = path[:-1]


def _at(tree: Any, path: Path) -> Any:
    for step in path:
        try:
            tree = tree[step]
        except (KeyError, IndexError, TypeError):
            return None
    return tree


def _touch(one: Path, other: Path) -> bool:
    """Say whether one path is inside the other."""
    shorter = min(len(one), len(other))
    return one[:shorter] == other[:shorter]


def _names(tree: dict[str, Any]) -> Names:
    def named(section: str) -> Iterable[str]:
        names = tree.get(section)
        return list(names) if isinstance(names, dict) else ()

    routes = tree.get("routes")
    priced = [
        name
        for name, route in (routes.items() if isinstance(routes, dict) else ())
        if isinstance(route, dict) and "prices" in route
    ]
    return Names(
        upstreams=list(named("upstreams")),
        models=[*named("models"), *priced],
        plans=list(named("plans")),
        groups=list(named("model_groups")),
        dialects=list(DIALECTS),
    )


def _input_files(settings: Settings) -> list[FilePath]:
    """List the certificates and keys that parts of the gate read themselves."""
    sections: list[ClientTlsSection | TlsSection] = [settings.redis.tls]
    sections += (upstream.tls for upstream in settings.upstreams.values())
    for sink in settings.export.sinks.values():
        sections += (kind.tls for kind in (sink.kafka, sink.nats) if kind and kind.tls)
    named = [path for tls in sections for path in (tls.ca_file, tls.client_cert, tls.client_key)]
    ports = (settings.listen.tls, settings.admin.tls, settings.console.tls)
    named += (path for tls in ports if tls is not None for path in tls.named_files())
    return [path for path in named if path is not None]


def _digest(tree: dict[str, Any], inputs: list[FilePath]) -> str:
    digest = hashlib.sha256(json.dumps(tree, sort_keys=True).encode())
    for path in inputs:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]
