"""Every exit code of the `cortex` command; the parser's epilog and the man page are made from here."""

from enum import IntEnum


class Exit(IntEnum):
    """What the command's exit code says."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    UNREACHABLE = 69
    OS_ERROR = 71
    KEY_REFUSED = 77
    CONFIG = 78
    INTERRUPTED = 130
    PIPE = 141


MEANINGS = {
    Exit.OK: "success",
    Exit.FAILURE: "a failure, an impaired gateway, or an error that `doctor` found",
    Exit.USAGE: "the command line is wrong",
    Exit.UNREACHABLE: "no gateway answers at the endpoint",
    Exit.OS_ERROR: "the address to listen on is taken or not of this machine",
    Exit.KEY_REFUSED: "the gateway refused the key in $CORTEX_API_KEY, or wants one",
    Exit.CONFIG: "the configuration is wrong or missing",
    Exit.INTERRUPTED: "interrupted by Ctrl-C",
    Exit.PIPE: "whoever read the output closed it",
}
