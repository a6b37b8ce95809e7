"""`/account`: who may open the page, and how it is answered.

    GET  /account              the page, or the form that asks for a key
    POST /account              a key, exchanged for a cookie
    GET  /account/enter?token= a signed link, exchanged for a cookie
    POST /account/sign-out     ends the cookie

Routes without a key: nothing about them is logged. The cookie ends after an hour at most, and with
the key that was entered for it.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Final
from urllib.parse import parse_qs, quote, urlsplit

from gateway.app.key_holders.holder import HolderReader
from gateway.app.key_holders.links import Pass, Signer
from gateway.app.key_holders.page import AccountPages
from gateway.domain.customers import customer_of
from gateway.domain.reservation import Account
from gateway.flow.authentication import Accounts
from gateway.flow.credentials import MAX_KEY_CHARS
from gateway.flow.refusals import Refused
from gateway.http.interface import BodyError, Exchange, encode_fields
from gateway.ledger.client.errors import LedgerUnavailable

COOKIE: Final = "creditgate_account"
MAX_FORM_BYTES: Final = 4096
TRIES: Final = 10
TRIES_WINDOW_S: Final = 60.0
MAX_ADDRESSES: Final = 10_000
_BUSY: Final = "This cannot be shown at the moment. Try again shortly."


class Tries:
    """Counts wrong keys by address. A worker's own: a gate of n workers allows n times as many."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failed: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def exhausted(self, address: str) -> bool:
        """Whether this address has to wait."""
        since_s, count = self._failed.get(address, (0.0, 0))
        return count >= TRIES and self._clock() - since_s < TRIES_WINDOW_S

    def fail(self, address: str) -> None:
        """Count a wrong key."""
        now_s = self._clock()
        since_s, count = self._failed.get(address, (now_s, 0))
        if now_s - since_s >= TRIES_WINDOW_S:
            since_s, count = now_s, 0
        self._failed[address] = since_s, count + 1
        self._failed.move_to_end(address)
        if len(self._failed) > MAX_ADDRESSES:
            self._failed.popitem(last=False)


@dataclass(frozen=True, slots=True)
class AccountTerms:
    """What the configuration says of the page. secure: the cookie is for https alone"""

    session_minutes: int
    secure: bool
    top_up_url: str | None


class AccountPage:
    """Answers the routes of the page. accounts: those in force"""

    def __init__(
        self,
        accounts: Callable[[], Accounts],
        reader: HolderReader,
        signer: Signer,
        terms: AccountTerms,
    ) -> None:
        self._accounts = accounts
        self._reader = reader
        self._signer = signer
        self._terms = terms
        self._pages = AccountPages(terms.session_minutes)
        self._tries = Tries()

    async def show(self, exchange: Exchange, _: Account | None, __: str) -> None:
        """`GET /account`."""
        account = await self._of_cookie(exchange)
        if account is None:
            await self._answer(exchange, 200, self._pages.sign_in())
            return
        try:
            holder = await self._reader.read(account)
        except (LedgerUnavailable, Refused):
            await self._answer(exchange, 503, self._pages.sign_in(_BUSY))
            return
        url = self._terms.top_up_url
        if url is not None:
            url = url.replace("{customer}", quote(customer_of(account.customer_id)[0], safe=""))
        await self._answer(exchange, 200, self._pages.account(holder, url))

    async def take_key(self, exchange: Exchange, _: Account | None, __: str) -> None:
        """`POST /account`."""
        if not _same_origin(exchange):
            await self._refuse(exchange, 403, "Open this page itself and enter the key there.")
            return
        if self._tries.exhausted(exchange.remote):
            await self._refuse(exchange, 429, "Too many wrong keys. Try again in a minute.")
            return
        try:
            form = parse_qs((await exchange.read_body(MAX_FORM_BYTES)).decode(), max_num_fields=5)
        except (BodyError, ValueError):
            form = {}
        key = form.get("key", [""])[0].strip()
        accounts = self._accounts()
        digest = accounts.digest_of(key)
        try:
            if not key.isascii() or not key.isprintable() or not 0 < len(key) <= MAX_KEY_CHARS:
                raise Refused("bad_key", "This is not an API key.")
            account = await accounts.of_key(digest, exchange.remote)
        except Refused:
            self._tries.fail(exchange.remote)
            await self._refuse(exchange, 403, "This API key is not known here.")
            return
        except LedgerUnavailable:
            await self._refuse(exchange, 503, _BUSY)
            return
        cookie = self._cookie(account.customer_id, digest)
        await self._answer(exchange, 303, b"", [("location", "/account"), cookie])

    async def take_link(self, exchange: Exchange, _: Account | None, __: str) -> None:
        """`GET /account/enter`."""
        try:
            [token] = parse_qs(exchange.query, max_num_fields=5)["token"]
        except (KeyError, ValueError):
            token = ""
        granted = self._signer.read(token, "link", time.time())
        if granted is None:
            problem = "This link is not valid any more. Ask for a new one, or enter an API key."
            await self._refuse(exchange, 403, problem)
            return
        cookie = self._cookie(granted.customer_id)
        await self._answer(exchange, 200, self._pages.enter(), [cookie])

    async def sign_out(self, exchange: Exchange, _: Account | None, __: str) -> None:
        """`POST /account/sign-out`."""
        ended = ("set-cookie", f"{COOKIE}=; Max-Age=0; {self._scope}")
        await self._answer(exchange, 303, b"", [("location", "/account"), ended])

    async def _of_cookie(self, exchange: Exchange) -> Account | None:
        try:
            cookies = SimpleCookie(exchange.header("cookie") or "")
        except CookieError:
            return None
        token = cookies[COOKIE].value if COOKIE in cookies else ""
        granted = self._signer.read(token, "session", time.time())
        if granted is None:
            return None
        accounts = self._accounts()
        try:
            if granted.key_digest:
                account = await accounts.of_key(granted.key_digest, exchange.remote)
                return account if account.customer_id == granted.customer_id else None
            return await accounts.of_customer(granted.customer_id)
        except (Refused, LedgerUnavailable):
            return None

    def _cookie(self, customer_id: str, key_digest: str = "") -> tuple[str, str]:
        seconds = self._terms.session_minutes * 60
        granted = Pass("session", customer_id, int(time.time()) + seconds, key_digest)
        token = self._signer.sign(granted)
        return "set-cookie", f"{COOKIE}={token}; Max-Age={seconds}; {self._scope}"

    @property
    def _scope(self) -> str:
        secure = "; Secure" if self._terms.secure else ""
        return f"Path=/account; HttpOnly; SameSite=Strict{secure}"

    async def _refuse(self, exchange: Exchange, status: int, problem: str) -> None:
        await self._answer(exchange, status, self._pages.sign_in(problem))

    async def _answer(
        self,
        exchange: Exchange,
        status: int,
        body: bytes,
        also: list[tuple[str, str]] | None = None,
    ) -> None:
        # With `no-referrer` browsers would hide the origin of the form, too; only links have a secret
        # in their address.
        with_token = exchange.path.endswith("/enter")
        fields = [
            ("content-type", "text/html; charset=utf-8"),
            ("cache-control", "no-store"),
            ("content-security-policy", self._pages.policy),
            ("referrer-policy", "no-referrer" if with_token else "same-origin"),
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("cross-origin-opener-policy", "same-origin"),
            *(also or ()),
        ]
        await exchange.answer(status, encode_fields(fields), body)


def _same_origin(exchange: Exchange) -> bool:
    """Whether a form was sent from this site, as far as the browser says."""
    site = exchange.header("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = exchange.header("origin")
    return origin is None or urlsplit(origin).netloc == exchange.header("host")
