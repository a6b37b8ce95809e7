"""A gate's report as it is kept: a msgpack map by field name, so that other releases can read it."""

from dataclasses import asdict, fields
from typing import Any

from msgpack import packb, unpackb
from msgpack.exceptions import UnpackException

from gateway.domain.gates import GateFigures, GateReport


def pack_report(report: GateReport) -> bytes:
    """Every field."""
    packed: bytes = packb(asdict(report))
    return packed


def read_report(packed: bytes) -> GateReport | None:
    """What this release knows of a report; None for one that it cannot read."""
    try:
        said = unpackb(packed, use_list=False)
        figures = GateFigures(**_known(GateFigures, said["figures"]))
        return GateReport(**{**_known(GateReport, said), "figures": figures})
    except (UnpackException, ValueError, TypeError, KeyError):
        return None


def _known(kind: type[Any], said: dict[str, Any]) -> dict[str, Any]:
    names = {each.name for each in fields(kind)}
    return {name: value for name, value in said.items() if name in names}
