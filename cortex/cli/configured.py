"""The configuration that `cortex serve` would use, for commands that read it themselves."""

import os
from pathlib import Path

from cortex.cli.failures import ConfigFileError
from cortex.config.load import find, load
from cortex.config.schema import Config
from cortex.core.errors import ConfigError


def configured(given: str | None, hint: str = "") -> tuple[Path, Config]:
    """The file and what it says.

    Args:
        given: `--config`.
        hint: A line below the mistakes.

    Raises:
        ConfigFileError: There is none, or it has mistakes.
    """
    path = Path(given) if given else None
    try:
        return find(path, os.environ), load(path, os.environ)
    except ConfigError as error:
        raise ConfigFileError("\n".join(filter(None, (*error.lines, hint)))) from error
