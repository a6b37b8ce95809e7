"""Secrets that a gate makes for itself and keeps in its data folder."""

import os
import secrets
from pathlib import Path


def kept_secret(folder: Path, name: str) -> str:
    """The secret in this file of the data folder, generated on first use and readable by its owner
    only. Raises OSError."""
    path = folder / name
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = secrets.token_urlsafe(32)
    staged = path.with_suffix(f".{os.getpid()}")
    descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(fresh + "\n")
        os.link(staged, path)  # atomic, and fails if there is one already
    except FileExistsError:
        pass
    finally:
        staged.unlink()
    return path.read_text().strip()
