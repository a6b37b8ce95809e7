"""`customer link`: a signed link to the page on which a customer sees its own usage."""

import re
import time
from typing import Annotated, Final

import typer

from gateway.app.key_holders.links import account_link
from gateway.cli.context import DEFAULT_CONFIG, ConfigFile, on_backend, read_settings
from gateway.cli.customer import customers
from gateway.cli.output import AsJson, err, fail, out, plain, print_json
from gateway.operations.backend import Backend
from gateway.operations.customers import wallet_of
from gateway.operations.documents import timestamp

_LENGTH: Final = re.compile(r"([0-9]{1,4})([mhdw])")
_UNIT_S: Final = {"m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
LONGEST_S: Final = 90 * 86_400


def _seconds(text: str) -> int:
    match = _LENGTH.fullmatch(text)
    seconds = int(match[1]) * _UNIT_S[match[2]] if match else 0
    if not 0 < seconds <= LONGEST_S:
        raise typer.BadParameter(f"{text!r} is not a length of time up to 90d, such as 12h or 7d")
    return seconds


@customers.command()
def link(
    customer_id: Annotated[str, typer.Argument(metavar="CUSTOMER", help="Whose page it opens.")],
    valid: Annotated[
        int,
        typer.Option(parser=_seconds, metavar="TIME", help="How long it can be used: 12h, 7d, 2w."),
    ] = "7d",  # type: ignore[assignment]  # parsed
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Print a link to the page with the customer's balance and usage (`key_holders.page`).

    Whoever has the link can open the page until it expires. All links end when `link_secret` is replaced.
    """
    settings = read_settings(config)
    holders = settings.key_holders
    if not (holders.enabled and holders.page):
        raise fail("the page is not served: set `key_holders.enabled` and `key_holders.page`")

    async def check(backend: Backend) -> None:
        await wallet_of(backend, customer_id)

    on_backend(settings, check)
    expires_at_s = int(time.time()) + valid
    url = account_link(settings, customer_id, expires_at_s)
    if as_json:
        print_json({"url": url, "expires_at": timestamp(expires_at_s * 1000)})
        return
    out.print(plain(url), soft_wrap=True)
    said = f"opens the page of {customer_id} until {timestamp(expires_at_s * 1000)}"
    err.print(plain(said, "dim"))
