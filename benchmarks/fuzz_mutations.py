"""Damage to a folder of files, drawn by a seed: bytes flipped, files cut, regions swapped, JSON."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

LARGEST_JSON = 2**20  # bytes of a file that is tried as JSON
LONG = 10**6  # characters of a text, or items of a list, that is made huge
HUGE = (-1, 0, 10**8, 2**40, 2**63, 10**30, 1e308, float("nan"), float("inf"))
OTHERS = (None, True, "x", "1", 1.5, -1, [], {}, [[1]], {"x": 1})


def damage(folder: Path, rng: random.Random) -> str:
    """Changes one file of a folder, or two, and says what was done.

    Args:
      folder: whose files are changed in place.
      rng: draws kind, file and place.

    Returns:
      Kind, file and place in a line.
    """
    kinds: list[Callable] = [flip_bytes, cut, swap_regions, change_json, change_json]
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    kind = rng.choice(kinds)
    if kind is swap_regions and len(files) < 2:
        kind = flip_bytes
    return kind(folder, files, rng)


def flip_bytes(folder: Path, files: list[Path], rng: random.Random) -> str:
    """Flips one bit, or some bytes, of a file."""
    path = rng.choice(files)
    content = bytearray(path.read_bytes())
    places = [_within(len(content), rng) for _ in range(rng.choice((1, 1, 8)))]
    for place in places:
        content[place] ^= rng.choice((1 << rng.randrange(8), rng.randrange(1, 256)))
    path.write_bytes(content)
    return f"flip {path.relative_to(folder)} at {', '.join(map(str, places))}"


def cut(folder: Path, files: list[Path], rng: random.Random) -> str:
    """Cuts off the end of a file, now and then all of it."""
    path = rng.choice(files)
    size = path.stat().st_size
    length = 0 if rng.random() < 0.1 else _within(size, rng)
    with path.open("r+b") as file:
        file.truncate(length)
    return f"cut {path.relative_to(folder)} to {length} of {size} bytes"


def swap_regions(folder: Path, files: list[Path], rng: random.Random) -> str:
    """Swaps a region of one file with one of another, at the same place where both have it."""
    one = rng.choice(files)
    alike = [path for path in files if path.suffix == one.suffix and path != one]
    other = rng.choice(alike or [path for path in files if path != one])
    contents = [bytearray(path.read_bytes()) for path in (one, other)]
    least = min(map(len, contents))
    length = max(1, min(least, round(2 ** rng.uniform(3, 17))))
    start = _within(least - length + 1, rng)
    region = slice(start, start + length)
    contents[0][region], contents[1][region] = contents[1][region], contents[0][region]
    for path, content in zip((one, other), contents, strict=True):
        path.write_bytes(content)
    names = " and ".join(str(path.relative_to(folder)) for path in (one, other))
    return f"swap {length} bytes of {names} at {start}"


def change_json(folder: Path, files: list[Path], rng: random.Random) -> str:
    """Renames or removes a key of a JSON file, or gives it a value of another type or size."""
    path = rng.choice([path for path in files if _is_json(path)])
    name = path.relative_to(folder)
    if path.suffix == ".jsonl":
        lines = path.read_text().splitlines()
        number = _within(len(lines), rng)
        value, what = change_value(json.loads(lines[number]), rng)
        lines[number] = json.dumps(value)
        path.write_text("\n".join(lines) + "\n")
        return f"json {name} line {number + 1}: {what}"
    value, what = change_value(json.loads(path.read_bytes()), rng)
    path.write_text(json.dumps(value))
    return f"json {name}: {what}"


def change_value(value: Any, rng: random.Random) -> tuple[Any, str]:
    """Changes a place of a JSON value, which is reached by going down at random.

    Returns:
      The value, and what was done.
    """
    container, key, path = None, None, []
    inner = value
    while isinstance(inner, dict | list) and inner and (not path or rng.random() < 0.7):
        keys = sorted(inner) if isinstance(inner, dict) else range(len(inner))
        container, key = inner, rng.choice(keys)
        inner = container[key]
        path.append(str(key))
    if container is None:
        return rng.choice(OTHERS), "all of it is another value"
    what = rng.choice(("rename", "remove", "retype", "huge", "huge"))
    if what == "rename" and isinstance(container, dict):
        container[f"{key}_"] = container.pop(key)
    elif what in ("rename", "remove"):
        del container[key]
    else:
        container[key] = _huge(inner, rng) if what == "huge" else rng.choice(OTHERS)
        what += f" to {json.dumps(container[key])[:40]}"
    return value, f"{what} {'.'.join(path)}"


def _huge(value: Any, rng: random.Random) -> Any:
    if isinstance(value, str):
        return (value or "x") * (LONG // max(1, len(value)))
    if isinstance(value, list):
        return value * (LONG // 10 // max(1, len(json.dumps(value))))
    if isinstance(value, int | float) and not isinstance(value, bool) and rng.random() < 0.4:
        return rng.choice((value * 1000, -value, value + 1))
    return rng.choice(HUGE)


def _is_json(path: Path) -> bool:
    """Whether a file is JSON that has something to change, whatever its name."""
    if path.stat().st_size > LARGEST_JSON:
        return False
    try:
        text = path.read_text()
        lines = text.splitlines() if path.suffix == ".jsonl" else [text]
        return all(isinstance(json.loads(line), dict | list) for line in lines)
    except ValueError:
        return False


def _within(size: int, rng: random.Random) -> int:
    """A place of a file, drawn so that a file some bytes longer is hit in the same part."""
    return int(rng.random() * size)
