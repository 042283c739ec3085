"""Header fields of HTTP/1.1, for requests and answers alike (RFC 9112, 5; RFC 9110, 5.5)."""

import re

Fields = tuple[tuple[str, str], ...]
"""Names and values, in order."""

# A token, a colon with nothing before it, no control character in the value, a whole line.
_FIELD = re.compile(
    r"^([!#$%&'*+.^_`|~0-9A-Za-z-]++):[ \t]*+([^\x00-\x08\x0a-\x1f\x7f]*+)(?:\r\n|\Z)",
    re.MULTILINE,
)


def header_fields(lines: str) -> list[tuple[str, str]] | None:
    """Names and values, in order; None = some line is not a field.

    Args:
        lines: Fields with CRLF between them, none at the end; empty = there are none.
    """
    if not lines:
        return []
    found = _FIELD.findall(lines)
    if len(found) != lines.count("\n") + 1:
        return None
    return [(name, value.rstrip(" \t")) for name, value in found]
