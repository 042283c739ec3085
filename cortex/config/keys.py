"""Secrets of the configuration: those in files, and the digest of a client's key in any form."""

import hashlib
from pathlib import Path

from cortex.config.schema import Key


def secret_in(path: Path) -> str:
    """The one line of a file, as it goes into a header.

    Raises:
        ValueError: What is wrong with it.
    """
    try:
        secret = path.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as exc:
        raise ValueError("not UTF-8 text") from exc
    except OSError as exc:
        raise ValueError(exc.strerror or "cannot be read") from exc
    if not secret:
        # It would let everybody in who sends an empty header.
        raise ValueError("empty")
    if len(secret.splitlines()) > 1:
        raise ValueError("more than one line")
    if not secret.isascii() or not secret.isprintable():
        raise ValueError("characters that no header can carry")
    return secret


def digest_of(key: Key) -> bytes:
    """The SHA-256 of the key.

    Raises:
        ValueError: What is wrong with its file, or that it is empty.
    """
    if key.key_sha256 is not None:
        return bytes.fromhex(key.key_sha256)
    if key.key_file is not None:
        secret = secret_in(key.key_file)
    else:
        assert key.key is not None
        secret = key.key.get_secret_value().strip()
    if not secret:
        raise ValueError("empty")
    return hashlib.sha256(secret.encode()).digest()
