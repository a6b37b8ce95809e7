"""Section for key holders: what customers see of their own usage, on the address that they call."""

from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from pydantic import BeforeValidator, WithJsonSchema, model_validator

from gateway.settings.problems import Wrong
from gateway.settings.scalars import BaseUrl, Secret, Section, Switch, Whole, field

SHORTEST_SECRET: Final = 32


def _page(value: Any) -> str:
    text = str(value)
    try:
        url = urlsplit(text.replace("{customer}", "id"))
        sound = url.scheme in ("http", "https") and bool(url.hostname) and text.isprintable()
    except ValueError:
        sound = False
    if not sound or not text.isascii() or set(text) & set(' "<>\\^`|') or "@" in url.netloc:
        raise Wrong(
            f"{text!r} is not the address of a page",
            "Write it as https://billing.example.com/top-up?customer={customer}, with or without"
            " {customer}.",
        )
    return text


PageUrl = Annotated[str, BeforeValidator(_page), WithJsonSchema({"type": "string"})]


class KeyHoldersSection(Section):
    """What customers see of their own usage, on the address that they call (docs/how-to/key-holders.md)."""

    enabled: Switch = field(
        "Serve `/v1/usage` and `/v1/requests/ID`, and show prices in the lists of models.",
        True,
        False,
    )
    stream_cost: Switch = field(
        "With `enabled`: write the cost into the last chunk of a stream whose client asks for usage"
        " (`stream_options.include_usage`). That chunk then waits for the settlement.",
        False,
        True,
    )
    page: Switch = field("With `enabled`: serve the page `/account`.", False, True)
    public_url: BaseUrl | None = field(
        "Address under which customers reach the gate, for links to the page and for its cookie. Over"
        " https the cookie is never sent unencrypted.",
        "https://api.example.com",
        None,
    )
    link_secret: Secret | None = field(
        "Signs links to the page and its cookies; at least 32 characters, the same on every gate. A new"
        " one ends all links. If absent, one is generated in `data_dir`/links.secret.",
        "${LINK_SECRET}",
        None,
    )
    session_minutes: Annotated[int, Whole(1, 1440)] = field(
        "How long the page stays open after a link or a key was entered.", 30, 60
    )
    top_up_url: PageUrl | None = field(
        "Where customers add credit; shown by 402 and the page, whether `enabled` or not. `{customer}`"
        " stands for the customer's id.",
        "https://billing.example.com/top-up?customer={customer}",
        None,
    )

    @model_validator(mode="after")
    def _long_enough(self) -> "KeyHoldersSection":
        secret = self.link_secret
        if secret is not None and len(secret.get_secret_value()) < SHORTEST_SECRET:
            raise Wrong(
                f"is shorter than {SHORTEST_SECRET} characters",
                "Try `openssl rand -hex 32`.",
                at="link_secret",
            )
        return self
