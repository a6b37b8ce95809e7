"""TLS on the console's port, and reloads of what it serves."""

import shutil
import ssl
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from gateway.settings import load_settings
from gateway.settings.problems import SettingsError
from loadtest.tls import make_tls_files
from tests.support.console import ADMIN_TOKEN, Console, Serve

HEADERS = {"authorization": f"Bearer {ADMIN_TOKEN}"}


async def get(console: Console, trusted: ssl.SSLContext, path: str) -> httpx.Response:
    """Over a new connection."""
    async with httpx.AsyncClient(base_url=console.url, verify=trusted, headers=HEADERS) as client:
        return await client.get(path)


async def reloaded(console: Console, **section: Any) -> None:
    """Reload with another section `console`."""
    config = yaml.safe_load(console.config.read_text())
    config["console"] |= section
    console.config.write_text(yaml.safe_dump(config))
    await console.service.prepare(load_settings(console.config))
    console.service.commit()


async def test_the_port_speaks_tls_and_a_reload_renews_its_certificate(
    serve: Serve, tmp_path: Path
) -> None:
    files = {name: make_tls_files(_folder(tmp_path / name)) for name in ("old", "new")}
    served = _folder(tmp_path / "served")
    tls = {"cert_file": str(served / "cert.pem"), "key_file": str(served / "key.pem")}

    def install(name: str) -> ssl.SSLContext:
        shutil.copy(files[name].certificate, tls["cert_file"])
        shutil.copy(files[name].key, tls["key_file"])
        return files[name].client_context()

    def spoil() -> None:
        Path(tls["key_file"]).write_text("no key")

    old = install("old")
    async with serve(console={"tls": tls}) as console:
        answer = await get(console, old, "/api/v1/wallets/acme")
        assert answer.status_code == 200
        assert "max-age" in answer.headers["strict-transport-security"]
        new = install("new")
        await reloaded(console)
        assert (await get(console, new, "/api/v1/wallets/acme")).status_code == 200
        with pytest.raises(httpx.ConnectError):
            await get(console, old, "/api/v1/wallets/acme")
        spoil()
        with pytest.raises(SettingsError, match="key_file"):
            await reloaded(console)
        assert (await get(console, new, "/api/v1/wallets/acme")).status_code == 200


async def test_a_reload_replaces_settings_and_keeps_sessions(serve: Serve) -> None:
    async with serve() as console:
        signed_in = await console.bare.post(
            "/console/sign-in", data={"secret": ADMIN_TOKEN}, headers={"origin": console.url}
        )
        assert signed_in.status_code == 200
        host = {"host": "console.example"}
        assert (await console.client.get("/api/v1/tokens", headers=host)).status_code == 403
        await reloaded(console, allowed_hosts=["console.example"])
        assert (await console.client.get("/api/v1/tokens", headers=host)).status_code == 200
        assert (await console.bare.get("/api/v1/tokens")).status_code == 200


def _folder(path: Path) -> Path:
    path.mkdir()
    return path
