"""The clients of `make clients` are pinned, by hash, and the lock names no registry."""

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def read(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((HERE / name).read_text())
    return document


def test_each_client_is_pinned_to_one_version() -> None:
    wanted: dict[str, str] = read("package.json")["dependencies"]
    packages = read("package-lock.json")["packages"]
    assert packages[""]["dependencies"] == wanted
    for name, version in wanted.items():
        assert packages[f"node_modules/{name}"]["version"] == version


def test_the_lock_has_hashes_and_no_addresses() -> None:
    packages = read("package-lock.json")["packages"]
    assert all("integrity" in package for name, package in packages.items() if name)
    assert not any("resolved" in package for package in packages.values())
