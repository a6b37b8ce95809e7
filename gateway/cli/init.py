"""`init`: a configuration from the files of another gateway."""

import io
import os
import time
from pathlib import Path
from typing import Annotated

import typer

from gateway.cli import app
from gateway.cli.files import complete_file
from gateway.cli.output import AsJson, err, fail, out, plain, print_json, row, table
from gateway.operations.errors import OperationError
from gateway.operations.litellm_keys import read_litellm_export
from gateway.operations.litellm_models import read_litellm_file
from gateway.operations.moving_in import DraftConfiguration, rendered

_YAML = (".yaml", ".yml")


@app.command()
def init(
    sources: Annotated[
        list[Path],
        typer.Option(
            "--from",
            metavar="FILE",
            help="LiteLLM's configuration (.yaml), or a CSV export of its tables"
            " LiteLLM_VerificationToken or LiteLLM_TeamTable; may be repeated.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Where to write it.")
    ] = Path("gateway.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a configuration from the files of LiteLLM, and list what could not be carried over.

    Secrets are not copied: the configuration refers to variables. Nothing is sent or started.
    """
    if output.exists() and not force:
        raise fail(f"{output} exists: name another file by --output, or replace it with --force", 2)
    draft = DraftConfiguration()
    # Models first: keys refer to them.
    for source in sorted(sources, key=lambda source: source.suffix not in _YAML):
        _read(source, draft)
    if not draft.models:
        draft.leave_out("models", "there are none: give LiteLLM's configuration to --from as well")
    text = rendered(draft)
    with complete_file(output) as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(text.encode())
    keys = sum(len(each.get("keys", ())) for each in draft.customers.values())
    if as_json:
        print_json(
            {
                "file": str(output),
                "upstreams": len(draft.upstreams),
                "models": len(draft.models),
                "customers": len(draft.customers),
                "keys": keys,
                "left_out": [{"what": each.what, "reason": each.reason} for each in draft.left_out],
            }
        )
        return
    out.print(
        plain(
            f"{output}: {len(draft.models)} models on {len(draft.upstreams)} upstreams,"
            f" {len(draft.customers)} customers with {keys} keys."
        )
    )
    if draft.left_out:
        shown = table("not carried over", "reason")
        for each in draft.left_out:
            row(shown, (each.what, each.reason))
        out.print(shown)
    err.print(plain(f"Next: creditgate check {output}", "dim"))


def _read(source: Path, draft: DraftConfiguration) -> None:
    try:
        text = source.read_text("utf-8-sig")
    except OSError as error:
        raise fail(f"cannot read {source}: {error.strerror}", 2) from None
    except UnicodeDecodeError:
        raise fail(f"cannot read {source}: it is not UTF-8 text", 2) from None
    try:
        if source.suffix in _YAML:
            read_litellm_file(text, draft)
        else:
            read_litellm_export(io.StringIO(text, newline=""), draft, time.time_ns() // 1_000_000)
    except OperationError as error:
        raise fail(f"{source}: {error}", 2) from None
