"""The digest of a configured key, whichever of its three forms it has."""

import hashlib

from cortex.config.schema import Key


def digest_of(key: Key) -> bytes:
    """The SHA-256 of the key.

    Raises:
        ValueError: What is wrong with its file, or that it is empty.
    """
    if key.key_sha256 is not None:
        return bytes.fromhex(key.key_sha256)
    if key.key_file is not None:
        try:
            secret = key.key_file.read_text(encoding="utf-8").strip()
        except UnicodeDecodeError as exc:
            raise ValueError("not UTF-8 text") from exc
        except OSError as exc:
            raise ValueError(exc.strerror or "cannot be read") from exc
    else:
        assert key.key is not None
        secret = key.key.get_secret_value().strip()
    if not secret:
        # It would let everybody in who sends an empty header.
        raise ValueError("empty")
    return hashlib.sha256(secret.encode()).digest()
