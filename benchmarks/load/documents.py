"""JSON as applications send it: the same keys again and again, and other values each time."""

from __future__ import annotations

import json
from random import Random
from typing import Final

_SYMBOLS: Final = ("ACME", "BOLT", "CORE", "DUNE", "ECHO", "FLUX", "GRID", "HALO")
_PADDING: Final = "Prices are delayed by a quarter of an hour and come without any warranty. "


def documents(count: int, size: int) -> list[str]:
    """Texts of `size` characters, all ASCII, the same ones each time. Raises `ValueError` when
    `size` is too small."""
    random = Random(count)  # noqa: S311 - nobody has to be surprised
    return [_document(random, number, size) for number in range(count)]


def _document(random: Random, number: int, size: int) -> str:
    prices: list[dict[str, object]] = []
    document = {"type": "prices", "sequence": 100_000 + number, "prices": prices, "note": ""}
    while True:
        prices.append(_price(random))
        missing = size - len(json.dumps(document))
        if missing < 0:
            prices.pop()
            break
    if not prices:
        raise ValueError(f"{size} characters are too few for a document.")
    missing = size - len(json.dumps(document))
    document["note"] = (_PADDING * (missing // len(_PADDING) + 1))[:missing]
    return json.dumps(document)


def _price(random: Random) -> dict[str, object]:
    return {
        "id": f"{random.getrandbits(64):016x}",
        "symbol": random.choice(_SYMBOLS),
        "price": round(random.uniform(1, 1000), 2),
        "change": round(random.gauss(0, 3), 2),
        "volume": random.randrange(1_000_000),
        "at": f"2026-01-{random.randrange(1, 29):02d}T{random.randrange(24):02d}:"
        f"{random.randrange(60):02d}:{random.randrange(60):02d}.{random.randrange(1000):03d}Z",
    }
