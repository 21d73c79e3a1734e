"""How a valid file becomes a hostile one: changes to bytes, and changes to JSON that leave it JSON.

All of them take their choices from a `random.Random`, so that a number is a case: Hypothesis draws the number, and
libFuzzer gives one with every input.
"""

import copy
import json
import math
import struct

NUMBERS = (
    0,
    1,
    -1,
    2,
    127,
    255,
    256,
    1 << 15,
    1 << 31,
    (1 << 32) - 1,
    1 << 32,
    1 << 53,
    1 << 62,
    1 << 63,
    1 << 64,
    10**30,
)
VALUES = (
    *NUMBERS, *(-number for number in NUMBERS), 0.5, -0.0, 1e308, math.nan, math.inf, True, False, None, "", "a",
    "x" * 300, "../x", "/etc/passwd", "..", ".", "\x00", "\ud800", "a/b", "~0", "float32", "bfloat16", "int4", "object",
    "V8", "F32", "I64", "BOOL", "tuple", "list", "dict", "namedtuple", "none", "dataclass", "node", "int", "orbax",
    "safetensors", "antigravity", "builtins", "fry", "threefry2x32", [], {}, [[]], {"": {}}, [0], [1 << 62, 1 << 62],
    [-1, 4], [0] * 70, {"python": "int", "value": 3},
    {"shape": [2], "dtype": "float32", "bytes": 8, "xxh3_128": "0" * 32},
)  # fmt: skip
"""What a reader may not expect in the place of a number, a name, a list or a table."""


def mutated_json(body, random):
    """Return a JSON value with one to four changes somewhere in it."""
    body = copy.deepcopy(body)
    for _ in range(random.randint(1, 4)):
        places = list(_places([body], []))
        holder, key = random.choice(places)
        root = [body]
        inner = root if holder is None else _at(root, holder)
        change = random.randrange(6)
        if change == 0 and holder:
            del inner[key]
        elif change == 1:
            other, other_key = random.choice(places)
            found = root[0] if other is None else _at(root, other)[other_key]
            inner[key] = copy.deepcopy(found)
        elif change == 2 and isinstance(inner, dict):
            inner[random.choice([value for value in VALUES if isinstance(value, str)])] = inner.pop(key)
        elif change == 3 and isinstance(inner[key], int | float) and not isinstance(inner[key], bool):
            inner[key] = random.choice([inner[key] + 1, inner[key] - 1, -inner[key], inner[key] * 2, float(inner[key])])
        elif change == 4:
            for _ in range(random.choice([1, 5, 300])):
                inner[key] = random.choice([{"a": inner[key]}, [inner[key]]])
        else:
            inner[key] = copy.deepcopy(random.choice(VALUES))
        body = root[0]
    return body


def _places(root, path):
    """Yield the path of each container with each of its keys, the outermost one first."""
    node = _at(root, path)
    keys = range(len(node)) if isinstance(node, list) else list(node)
    for key in keys:
        yield path, key
        if isinstance(node[key], dict | list) and node[key]:
            yield from _places(root, [*path, key])


def _at(root, path):
    for key in path:
        root = root[key]
    return root


def mutated_text(data, random):
    """Return JSON text with a change to what it says, or to its letters; what follows a zero byte stays as it is."""
    text, zero, rest = data.partition(b"\0")
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return mutated_bytes(data, random)
    if random.random() < 0.1:
        return mutated_bytes(text, random) + zero + rest
    try:
        new = json.dumps(mutated_json(body, random), separators=(",", ":"), ensure_ascii=random.random() < 0.9)
    except (ValueError, RecursionError, IndexError):
        return mutated_bytes(data, random)
    return new.encode("utf-8", "surrogatepass") + zero + rest


def mutated_bytes(data, random):
    """Return bytes with one to four changes somewhere in them."""
    data = bytearray(data)
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(data) + 1)
        end = min(len(data), at + random.choice([1, 2, 4, 8, 40]))
        change = random.randrange(6)
        if change == 0 and at < len(data):
            data[at] ^= 1 << random.randrange(8)
        elif change == 1:
            size, kind = random.choice([(1, "B"), (2, "H"), (4, "I"), (8, "Q")])
            number = random.choice(NUMBERS) % (1 << (8 * size))
            data[at : at + size] = struct.pack(random.choice("<>") + kind, number)
        elif change == 2:
            del data[at:end]
        elif change == 3:
            data[at:at] = data[at:end] * random.choice([1, 2, 100])
        elif change == 4:
            del data[at:]
        else:
            data[at:end] = random.randbytes(end - at)
    return bytes(data)
