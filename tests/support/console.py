"""The admin process' service inside the test's process: real settings, ledger and sockets.

`async with running_console(tmp_path, valkey_socket) as console:` serves on a free port.
"""

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import httpx
import yaml
from fastapi import FastAPI

from gateway.admin.context import AdminContext
from gateway.admin.service import AdminService, build_admin
from gateway.app.roles import Resources
from gateway.app.sync import sync_accounts
from gateway.domain.access import Role
from gateway.ledger.accounts import AccountStore
from gateway.ledger.client.endpoint import Endpoint
from gateway.ledger.client.redis_runner import RedisRunner
from gateway.operations.backend import Backend
from gateway.operations.tokens import NewToken, create_token
from gateway.settings import Settings, load_settings
from tests.support.gate import PLAIN, SHARDS, gate_config
from tests.support.loose_ledger import LooseLedger

ADMIN_TOKEN = "the-admin-token-of-tests"


@dataclass(slots=True)
class Console:
    """A running admin process and a client of its API.

    client: sends the admin token; `bare` sends no credential
    """

    url: str
    service: AdminService
    settings: Settings
    client: httpx.AsyncClient
    bare: httpx.AsyncClient
    config: Path
    _tokens: dict[Role, str] = field(default_factory=dict)

    @property
    def app(self) -> FastAPI:
        """The application."""
        return self.service.app

    @property
    def context(self) -> AdminContext:
        """The context in force."""
        return cast(AdminContext, self.app.state.context)

    @property
    def backend(self) -> Backend:
        """What the operations work on."""
        return self.context.backend

    async def token(self, role: Role) -> str:
        """A token of this role."""
        if role not in self._tokens:
            made = await create_token(self.backend, NewToken(f"the {role} token", role))
            self._tokens[role] = made.secret
        return self._tokens[role]

    async def as_role(self, role: Role) -> dict[str, str]:
        """Headers with a token of this role."""
        return {"authorization": f"Bearer {await self.token(role)}"}


@asynccontextmanager
async def running_console(
    tmp_path: Path, valkey_socket: Path, **changes: Any
) -> AsyncIterator[Console]:
    """Serve the console on a free port; drained and closed at the end. The ledger is emptied first.

    console: replaces fields of the section. Other changes replace whole sections.
    """
    file, ledger_url = tmp_path / "gateway.yaml", f"unix://{valkey_socket}"
    section = {"port": 0, **changes.pop("console", {})}
    sections: dict[str, Any] = {"admin": {"port": 0, "token": ADMIN_TOKEN}, "console": section}
    config = gate_config("http://127.0.0.1:9", tmp_path / "data", ledger_url, **sections | changes)
    file.write_text(yaml.dump(config, Dumper=yaml.CSafeDumper))
    settings = load_settings(file)
    redis_client = Endpoint.from_url(ledger_url).client(name="test")
    await redis_client.flushall()
    accounts = AccountStore(redis_client, shard_count=SHARDS)
    await accounts.creation.record()
    wallets = LooseLedger(RedisRunner(redis_client), shard_count=SHARDS).wallets
    await sync_accounts(settings, wallets, accounts)
    await redis_client.aclose()
    (tmp_path / "data").mkdir(mode=0o700, exist_ok=True)
    service = await build_admin(settings, Resources(ledger_url, str(settings.data_dir), "admin-0"))
    sock = socket.create_server((settings.console.host, 0))
    scheme = "https" if settings.console.tls else "http"
    url = f"{scheme}://127.0.0.1:{sock.getsockname()[1]}"
    await service.start(sock)
    token = {"authorization": f"Bearer {ADMIN_TOKEN}"}
    try:
        async with (
            httpx.AsyncClient(base_url=url, timeout=30, verify=PLAIN, headers=token) as client,
            httpx.AsyncClient(base_url=url, timeout=30, verify=PLAIN) as bare,
        ):
            yield Console(url, service, settings, client, bare, file)
    finally:
        await service.drain(1.0)


Serve = Callable[..., AbstractAsyncContextManager[Console]]
"""`running_console` for one test's folder and ledger: see the fixture `serve`."""
