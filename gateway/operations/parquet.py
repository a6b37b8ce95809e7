"""pyarrow, which is an extra, imported where a Parquet file is written."""

from importlib import import_module
from typing import Any

from gateway.operations.errors import OperationError


def parquet() -> tuple[Any, Any]:
    """Return the modules pyarrow and pyarrow.parquet. Raises OperationError if they are not installed."""
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ModuleNotFoundError as error:
        raise OperationError(
            f"{error.name} is not installed: pip install 'creditgate[parquet]'"
        ) from error
