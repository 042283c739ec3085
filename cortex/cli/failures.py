"""Failures that end a command with a clear line on stderr, or one per mistake, and an exit code."""

from cortex.cli.exit_codes import Exit


class CliError(Exception):
    """Each line is shown as `cortex: LINE`; `exit_code` becomes the command's."""

    exit_code = Exit.FAILURE


class UsageError(CliError):
    """Options that are fine one by one but not together."""

    exit_code = Exit.USAGE


class TemporaryError(CliError):
    """The gateway answers, but cannot serve this now: it starts, drains or is overloaded."""


class UnreachableError(CliError):
    """Nothing answers at the endpoint, or what answers broke off."""

    exit_code = Exit.UNREACHABLE


class KeyRefusedError(CliError):
    """401 or 403."""

    exit_code = Exit.KEY_REFUSED


class ConfigFileError(CliError):
    """The configuration that the command needs cannot be used."""

    exit_code = Exit.CONFIG
