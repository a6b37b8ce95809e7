"""Encoded header fields, taken apart."""


def parse_fields(encoded: bytes) -> list[tuple[bytes, bytes]]:
    """Name and value of each line."""
    pairs = []
    for line in encoded.split(b"\r\n")[:-1]:
        name, _, value = line.partition(b": ")
        pairs.append((name, value))
    return pairs
