"""TLS on the public address: one context for as long as the process lives, its certificate renewed in place."""

import ssl

from cortex.config.certificates import Pair


class Certificate:
    """What the public address shows to clients.

    The listening socket keeps its context, and each connection is moved to the latest one at the
    start of its handshake. Loading a new pair into the same context would not do: OpenSSL keeps a
    pair for each kind of key, and goes on showing the old one where the kind has changed.
    """

    def __init__(self, pair: Pair) -> None:
        self.renew(pair)
        self.context = _context_of(pair)
        # Called for clients that name no server too.
        self.context.sni_callback = self._choose

    def renew(self, pair: Pair) -> None:
        """Show another one to connections from now on; those there are go on."""
        self._latest = _context_of(pair)
        #: Unix time.
        self.expires_at_s = pair.expires_at_s

    def _choose(
        self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext
    ) -> None:
        connection.context = self._latest


def _context_of(pair: Pair) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # The ciphers are left to Python's defaults, or to the policy of the distribution.
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    pair.install(context)
    return context
