"""Every failure that cortex answers for, by code; HTTP statuses live in `gateway.errors`.

A code is stable and documented; a message is for people and may change. `retry_after_s`
is set where waiting helps.
"""


class CortexError(Exception):
    """A failure with a stable code and a message that a person can act on."""

    code = "internal_error"

    def __init__(
        self, message: str, *, code: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code
        self.retry_after_s = retry_after_s
        self.written: str | None = None
        """What may be written down of it; None = the message, without what it quotes."""


class RequestError(CortexError):
    """The caller must change something; a retry of the same request cannot succeed.

    `param` names the offending field where there is one.
    """

    code = "invalid_request"

    def __init__(
        self, message: str, *, code: str | None = None, param: str | None = None
    ) -> None:
        super().__init__(message, code=code)
        self.param = param


class CapacityError(CortexError):
    """The fleet cannot serve this now; the caller may retry after `retry_after_s`."""

    code = "no_capacity"


class ConflictError(CortexError):
    """What was asked for is forbidden by the present state; change that first."""

    code = "conflict"


class NodeError(CortexError):
    """A node misbehaved: refused, reset, fell silent, broke the protocol, answered 5xx."""

    code = "node_error"


class NodeUnreachableError(NodeError):
    """No connection, or one that ended before the node answered."""

    code = "node_unreachable"


class NodeTimeoutError(NodeError):
    """The node was silent for longer than the configured gap."""

    code = "node_timeout"


class NodeSilentError(NodeTimeoutError):
    """The node was asked and said nothing for too long. `at_work`: it may have begun all the same."""

    def __init__(self, message: str, *, at_work: bool) -> None:
        super().__init__(message)
        self.at_work = at_work


class NodeUntriedError(NodeError):
    """This process has no file descriptor or memory left for a connection: not the node's fault."""

    code = "no_capacity"


class NodeProtocolError(NodeError):
    """The node answered with something that its contract does not allow."""

    code = "node_protocol"


class NodeTruncatedError(NodeError):
    """The node ended a stream without its terminator: an unload or a crash cut it."""

    code = "node_truncated"


class StoreError(CortexError):
    """SQLite could not take or give something; inference goes on."""

    code = "store_failing"


class ConfigError(CortexError):
    """One or more mistakes in the configuration, one line each. Exit code 78."""

    code = "config_error"

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines
