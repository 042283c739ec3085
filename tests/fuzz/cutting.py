"""The same bytes in other pieces."""


def pieces(data: bytes, cut: int) -> list[bytes]:
    """Cut into pieces of `cut` bytes, more or less; 0 leaves it whole."""
    if not cut:
        return [data]
    step = 1 + cut % 37
    return [data[at : at + step] for at in range(0, len(data), step)]
