"""Where Parquet files lie: a folder or an S3 bucket. Objects are created and listed, never changed.

Invariants: `create` puts an object complete and only where its name is free; when it has returned, the object
survives a power cut. No message has a secret in it.
"""

import asyncio
import os
import re
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import S3Store

from gateway.exporter.sink import SinkUnavailable
from gateway.exporter.sinks.options_parquet import ParquetOptions

T = TypeVar("T")

_INCOMING: Final = ".incoming"
_STALE_S: Final = 3600.0
_CODE: Final = re.compile(r"<Code>(\w+)</Code>")


class Objects(Protocol):
    """A flat namespace of objects. Every method raises SinkUnavailable."""

    async def check(self) -> None:
        """Whether it can be reached."""
        ...

    async def names(self, folder: str) -> list[str]:
        """Names of the objects in a folder, without it."""
        ...

    async def create(self, path: str, content: bytes) -> bool:
        """Put a new object. False if there is one of that name."""
        ...


def objects_at(options: ParquetOptions) -> Objects:
    """The place that a URL names."""
    url = urlsplit(options.url)
    if url.scheme == "file":
        return Folder(Path(unquote(url.path)))
    return Bucket(options)


class Folder:
    """A folder of this machine. A file is written aside, synced, and linked to its name."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._incoming = root / _INCOMING

    async def check(self) -> None:
        """Make the folder, and remove what a kill has left unfinished in it."""
        await self._in_thread(self._check)

    async def names(self, folder: str) -> list[str]:
        """See `Objects`."""
        return await self._in_thread(lambda: self._names(folder))

    async def create(self, path: str, content: bytes) -> bool:
        """See `Objects`."""
        return await self._in_thread(lambda: self._create(self._root / path, content))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.to_thread(work)
        except OSError as error:
            raise SinkUnavailable(f"{self._root}: {error.strerror or error}") from error

    def _check(self) -> None:
        self._incoming.mkdir(parents=True, exist_ok=True)
        for left in self._incoming.iterdir():
            if left.stat().st_mtime < time.time() - _STALE_S:
                left.unlink(missing_ok=True)

    def _names(self, folder: str) -> list[str]:
        path = self._root / folder
        return os.listdir(path) if path.is_dir() else []

    def _create(self, path: Path, content: bytes) -> bool:
        aside = self._incoming / uuid.uuid4().hex
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(aside, path)
            created = True
        except FileExistsError:
            created = False
        finally:
            aside.unlink()
        for folder in (path.parent, *path.parent.parents):
            _sync_folder(folder)
            if folder == self._root:
                break
        return created


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Bucket:
    """A prefix of an S3 bucket, or of a service that speaks S3 and honours `If-None-Match: *`."""

    def __init__(self, options: ParquetOptions) -> None:
        self._name = urlsplit(options.url).netloc
        self._options = options
        self._made: S3Store | None = None

    @property
    def _store(self) -> S3Store:
        """Made when it is needed, because settings that do not fit fail here. Raises SinkUnavailable."""
        if self._made is None:
            try:
                self._made = self._make(self._options)
            except BaseError as error:
                why = str(error).partition("\n")[0]  # names a setting, no value of a secret
                raise SinkUnavailable(f"bucket {self._name}: check `options`: {why}") from error
        return self._made

    @staticmethod
    def _make(options: ParquetOptions) -> S3Store:
        settings: Any = {
            "client_options": {"timeout": f"{options.timeout_ms}ms", "connect_timeout": "5s"},
            "retry_config": {"max_retries": 0},  # the feeder waits and retries by itself
        }
        config: Any = dict(options.settings)
        if str(config.get("endpoint", config.get("aws_endpoint", ""))).startswith("http://"):
            settings["client_options"]["allow_http"] = True
        return S3Store.from_url(options.url, config=config, **settings)

    async def check(self) -> None:
        """List one object: shows a wrong name, a wrong key, and a missing right to list."""
        await self._guarded(obstore.list_with_delimiter_async(self._store))

    async def names(self, folder: str) -> list[str]:
        """See `Objects`."""
        found = await self._guarded(obstore.list_with_delimiter_async(self._store, prefix=folder))
        return [str(each["path"]).rpartition("/")[2] for each in found["objects"]]

    async def create(self, path: str, content: bytes) -> bool:
        """See `Objects`."""
        try:
            await self._guarded(
                obstore.put_async(self._store, path, content, mode="create", use_multipart=False)
            )
        except AlreadyExistsError:
            return False
        return True

    async def _guarded(self, call: Any) -> Any:
        try:
            return await call
        except AlreadyExistsError:
            raise
        except (BaseError, OSError) as error:
            raise SinkUnavailable(f"bucket {self._name}: {_why(error)}") from error


def _why(error: Exception) -> str:
    """What S3 says in one word, or which kind of failure it was: the complete text has URLs in it."""
    code = _CODE.search(str(error))
    why = code[1] if code else type(error).__name__
    if why in ("AccessDenied", "PermissionDeniedError"):
        return f"{why}: the key needs s3:ListBucket and s3:PutObject"
    if why in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "UnauthenticatedError"):
        return f"{why}: the access key is wrong"
    return why
