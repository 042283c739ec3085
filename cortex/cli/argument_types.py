"""What argparse reads a value with. Standard library only."""

import argparse
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def reads(read: Callable[[str], T]) -> Callable[[str], T]:
    """`read` for argparse, which shows the text of an `ArgumentTypeError` but not of a `ValueError`."""

    def convert(text: str) -> T:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


def whole(least: int, most: int) -> Callable[[str], int]:
    """A whole number within bounds."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
            raise ValueError(f"{text!r} is not a whole number from {least} to {most}")
        return int(text)

    return reads(read)
