"""One target under libFuzzer: `python -m tests.fuzz.drive TARGET [libFuzzer's options]`."""

import importlib
import sys

import atheris


def main() -> None:
    name = sys.argv.pop(1)
    with atheris.instrument_imports(include=["cortex"], enable_loader_override=False):
        target = importlib.import_module(f"tests.fuzz.{name}")
    atheris.Setup(sys.argv, target.one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
