"""Notes on a valid configuration: not mistakes, but possible surprises."""

from collections.abc import Iterator
from urllib.parse import urlsplit

from gateway.exporter.sinks.options import SqliteOptions
from gateway.http.client.target import join_path
from gateway.settings.root import Settings


def notes_of(settings: Settings) -> Iterator[str]:
    """Yield each note as one or two sentences."""
    yield from _versions_in_base_urls(settings)
    yield from _files_of_one_gate(settings)


def _versions_in_base_urls(settings: Settings) -> Iterator[str]:
    """Yield base URLs whose version replaces that of the request's path."""
    for name, upstream in settings.upstreams.items():
        base = urlsplit(upstream.base_url).path
        origin = upstream.base_url.removesuffix(base)
        for route in settings.routes.values():
            if route.upstream not in (None, name):
                continue
            target = join_path(base, route.path)
            if target != base + route.path:
                yield (
                    f"upstreams.{name}.base_url names a version, which replaces the path's: "
                    f"{route.path} goes to {origin}{target}."
                )
                break


def _files_of_one_gate(settings: Settings) -> Iterator[str]:
    """Yield optional sinks that are a file of this machine, while other gates may share the ledger."""
    if settings.redis.connection_url() is None:
        return
    for name, options in settings.optional_sinks().items():
        if isinstance(options, SqliteOptions):
            yield (
                f"export.sinks.{name} is a file of this machine: if several gates share the ledger, the"
                " file of each gets the events of its share of the shards only."
            )
