"""Numbers that are easily got wrong, in every dtype, for the tables of the tests beside.

`NUMBERS` has values for each kind of dtype; `arrays(dtype)` those of them that the dtype holds, as an array.
"""

import ml_dtypes
import numpy as np

FLOATS = (
    "float16", "float32", "float64", "bfloat16", "float8_e3m4", "float8_e4m3", "float8_e4m3b11fnuz", "float8_e4m3fn",
    "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu", "float4_e2m1fn",
)  # fmt: skip
WHOLE = (
    "int2", "int4", "int8", "int16", "int32", "int64", "uint2", "uint4", "uint8", "uint16", "uint32", "uint64",
)  # fmt: skip
COMPLEX = ("complex64", "complex128")
DTYPES = ("bool", *WHOLE, *FLOATS, *COMPLEX)


def dtype_of(name):
    return np.dtype(getattr(ml_dtypes, name, name))


def kind_of(name):
    """``bool``, ``int``, ``float`` or ``complex``."""
    return "int" if name in WHOLE else "float" if name in FLOATS else "complex" if name in COMPLEX else "bool"


def limits(name):
    """The smallest and the largest finite number, as Python's."""
    dtype = dtype_of(name)
    if kind_of(name) == "bool":
        return 0, 1
    if kind_of(name) == "int":
        info = ml_dtypes.iinfo(dtype)
        return int(info.min), int(info.max)
    info = ml_dtypes.finfo(dtype if dtype.kind != "c" else f"f{dtype.itemsize // 2}")
    return float(info.min), float(info.max)


def array(name):
    """Ordinary and odd numbers of a dtype, each of which it holds exactly."""
    low, high = limits(name)
    kind, dtype = kind_of(name), dtype_of(name)
    if kind in ("bool", "int"):
        return np.array([*dict.fromkeys([low, high, 0, 1])], np.uint64 if low == 0 else np.int64).astype(dtype)
    info = ml_dtypes.finfo(dtype if dtype.kind != "c" else f"f{dtype.itemsize // 2}")
    with np.errstate(all="ignore"):
        real = np.array([low, high, 0.0, -0.0, 1.0, -1.0, 0.5, float(info.smallest_subnormal), np.nan, np.inf, -np.inf])
        narrow = real.astype(dtype if kind == "float" else f"f{dtype.itemsize // 2}")
        kept = narrow[np.isclose(narrow.astype(np.float64), real, rtol=0, atol=0, equal_nan=True)]
    if kind == "float":
        return kept
    whole = np.zeros((len(kept), len(kept)), dtype)
    whole.real, whole.imag = kept[:, None], kept[None, :]
    return whole.reshape(-1)
