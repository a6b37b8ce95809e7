"""What the gate concluded from the head of a request.

SDKs repeat the head of their requests byte for byte. The server recognises that and passes the same
`RequestHead` again; the flow keeps its conclusions in the head's `memo`. Equal bytes lead to equal
conclusions while configuration and account stay the same, which `holds` checks.
"""

from typing import Final

from gateway.domain.reservation import Account
from gateway.flow.authentication import Accounts
from gateway.flow.catalog import Catalog, Route
from gateway.flow.headers import Forwarding
from gateway.flow.plan import Plan
from gateway.flow.request_body import BodyHead
from gateway.http.interface import RequestHead

MOST_REMEMBERED: Final = 64
"""Forwarded heads that one head keeps; beyond that it starts over."""


class KnownHead:
    """Route, account and what else follows from a head alone.

    catalog, accounts: the configuration that it was concluded by
    revision:    `Accounts.revision` at that time
    trusted:     the peer may name the customer by a header
    account:     None on public routes
    body:        how the body is sent
    also:        encoded fields that every response to it carries, apart from the request's id
    name:        the client's Idempotency-Key, None when it gives none
    expects:     the client waits for 100 (Continue) before it sends its body
    names_request: whether responses carry the request's id under the dialect's own name too
    retry_count: an SDK's own count of its retries
    plans:       of the account at the route, by the name of the model as the client writes it
    """

    __slots__ = (
        "_forwarded", "account", "accounts", "also", "body", "catalog", "expects", "head", "name",
        "names_request", "plans", "retry_count", "revision", "route",
        "trusted",
    )  # fmt: skip

    def __init__(self, head: RequestHead, catalog: Catalog, accounts: Accounts) -> None:
        self.head = head
        self.catalog = catalog
        self.accounts = accounts
        self.revision = accounts.revision
        self.trusted = False
        self.route: Route
        self.account: Account | None = None
        self.body: BodyHead
        self.also = b""
        self.retry_count = head.header("x-stainless-retry-count")
        self.names_request = False
        self.name: str | None = None
        self.expects = head.header("expect") is not None
        self.plans: dict[str, Plan] = {}
        self._forwarded: dict[tuple[Forwarding, str | None], bytes] = {}

    def holds(self, catalog: Catalog, accounts: Accounts, remote: str) -> bool:
        """Whether the conclusions are right for an equal head from this peer: nothing was reloaded,
        no account has changed, and the peer is trusted as the first one was.

        Connections of different peers may share a head, but a header that names the customer is
        believed from trusted networks alone.
        """
        return (
            self.catalog is catalog
            and self.accounts is accounts
            and self.revision == accounts.revision
            and (not accounts.trusts_headers or accounts.trusts(remote) is self.trusted)
        )

    @property
    def enforces(self) -> bool:
        """Whether what the ledger says may refuse the request."""
        account = self.account
        return account is None or self.catalog.modes.of(account.customer_id)[0] == "enforce"

    def forwarded(self, forwarding: Forwarding, media_type: str | None) -> bytes:
        """The encoded fields that an upstream sees of this head. media_type: of the body there"""
        fields = self._forwarded.get((forwarding, media_type))
        if fields is None:
            head = self.head
            fields = forwarding.fields(
                head.headers(), head.header("connection"), media_type, self.route.dialect.api
            )
            if len(self._forwarded) >= MOST_REMEMBERED:
                self._forwarded.clear()
            self._forwarded[forwarding, media_type] = fields
        return fields
