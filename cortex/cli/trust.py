"""What a command trusts of a gateway at https."""

import re
import ssl
from pathlib import Path

from cortex.cli.endpoint import Endpoint
from cortex.cli.failures import ConfigFileError

_CERTIFICATE = re.compile(
    r"-----BEGIN CERTIFICATE-----\s.*?-----END CERTIFICATE-----", re.DOTALL
)


def context_of(endpoint: Endpoint) -> ssl.SSLContext:
    """What `--ca` names; else, of the configured gateway, its own certificate; else the machine's.

    Raises:
        ConfigFileError: The file of `--ca` cannot be used.
    """
    if endpoint.ca is not None:
        try:
            return ssl.create_default_context(cafile=endpoint.ca)
        except (OSError, ssl.SSLError) as error:
            raise ConfigFileError(f"--ca {endpoint.ca}: no certificates can be read") from error
    if endpoint.certificate is not None:
        pinned = _pinned(endpoint.certificate)
        if pinned is not None:
            return pinned
    # $SSL_CERT_FILE is OpenSSL's own.
    return ssl.create_default_context()


def _pinned(file: Path) -> ssl.SSLContext | None:
    """Exactly this certificate, whatever it is made out to: it is asked for by an address."""
    try:
        first = _CERTIFICATE.search(file.read_text(encoding="ascii", errors="replace"))
        if first is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        # It need not be one that vouches for itself. Those after it are not trusted: they vouch
        # for others too.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.load_verify_locations(cadata=first[0])
    except (OSError, ssl.SSLError):
        return None
    return context
