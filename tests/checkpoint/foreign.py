"""Files of other programs, made by hand: PyTorch's of both formats and GGUF, so that no test needs these programs."""

import io
import pickle
import struct
import zipfile

import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C
STORAGES = {
    "float32": "FloatStorage",
    "float64": "DoubleStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "int8": "CharStorage",
    "bool": "BoolStorage",
    "complex64": "ComplexFloatStorage",
}


def called(name, *args):
    """The pickle of a call of ``module.name``; arguments are pickled already."""
    module, _, name = name.rpartition(".")
    return b"c" + f"{module}\n{name}\n".encode() + b"(" + b"".join(args) + b"tR"


def plain(value):
    """The pickle of a value, without its beginning and end; of protocol 1, which has neither."""
    return pickle.dumps(value, 1)[:-1]


def named(pairs):
    """The pickle of a dict whose values are pickled already."""
    return b"}(" + b"".join(plain(name) + value for name, value in pairs.items()) + b"u"


class Torch:
    """A file of PyTorch, on its way: storages by number."""

    def __init__(self, order="<"):
        self.storages = []
        self.order = order

    def tensor(self, array, *, start=0, shape=None, strides=None, flags=None, storage=None):
        """The pickle of a tensor that is a view of a storage; as a rule of its own, which is all of an array."""
        if storage is None:
            self.storages.append(np.ascontiguousarray(array))
            storage = len(self.storages) - 1
        held = self.storages[storage]
        shape = held.shape if shape is None else shape
        strides = tuple(width // held.itemsize for width in held.strides) if strides is None else strides
        kind = f"ctorch\n{STORAGES[held.dtype.name]}\n".encode()
        where = b"(" + plain("storage") + kind + plain(str(storage)) + plain("cpu") + plain(held.size)
        where += b"tQ" if flags != "old" else b"NtQ"
        hooks = b"ccollections\nOrderedDict\n)R"
        more = [plain(flags)] if isinstance(flags, dict) else []
        name = "torch._utils._rebuild_tensor_v2"
        return called(name, where, plain(start), plain(tuple(shape)), plain(tuple(strides)), b"I00\n", hooks, *more)

    def raw(self, held):
        """The bytes of a storage in the file's order."""
        width = held.itemsize // (2 if held.dtype.kind == "c" else 1)
        raw = held.reshape(-1).view(f"u{width}")
        return (raw.byteswap() if self.order == ">" else raw).tobytes()

    def zip(self, content, *, compress=False):
        """The file of PyTorch 1.6 and later."""
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED) as archive:
            archive.writestr("archive/data.pkl", b"\x80\x02" + content + b".")
            archive.writestr("archive/byteorder", "big" if self.order == ">" else "little")
            for number, held in enumerate(self.storages):
                archive.writestr(f"archive/data/{number}", self.raw(held))
            archive.writestr("archive/version", "3\n")
        return made.getvalue()

    def row(self, content):
        """The file of PyTorch before 1.6."""
        facts = {"protocol_version": 1001, "little_endian": self.order == "<", "type_sizes": {"int": 4}}
        head = b"".join(pickle.dumps(value, 2) for value in (MAGIC, 1001, facts))
        keys = [str(number) for number in range(len(self.storages))]
        rest = b"".join(struct.pack(f"{self.order}q", held.size) + self.raw(held) for held in self.storages)
        return head + b"\x80\x02" + content + b"." + pickle.dumps(keys, 2) + rest


def gguf(tensors, pairs=()):
    """A GGUF file: tensors as arrays, or as ``(shape, type, bytes)``; pairs as ``(name, type, packed value)``."""

    def text(value):
        return struct.pack("<Q", len(value)) + value.encode()

    kinds = {"float32": 0, "float16": 1, "int8": 24, "bfloat16": 30}
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs))
    for name, kind, value in pairs:
        head += text(name) + struct.pack("<I", kind) + value
    body = b""
    for name, given in tensors.items():
        shape, kind, raw = (
            given if isinstance(given, tuple) else (given.shape, kinds[given.dtype.name], given.tobytes())
        )
        head += text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *reversed(shape))
        head += struct.pack("<IQ", kind, len(body))
        body += raw + bytes(-len(raw) % 32)
    return head + bytes(-len(head) % 32) + body
