"""Arrays out of one file, many at a time: neighbours in one read, and each digest while its bytes are still in cache.

A small leaf costs a system call, an allocation and a pass over cold memory if it is read on its own, and a checkpoint
has thousands. So small leaves are taken in *batches*; what lies together in the file is read at once into one buffer,
and each leaf is a view of its part. A batch is so large that its buffer gets the large pages of the system, and a leaf
that is kept alone keeps no more than its batch in memory. A large leaf is a batch of its own, and is read and digested
piece by piece.

Where a caller keeps what it gets, a few threads read batches ahead: reading and digesting both let others run. What is
done for each leaf is written out in one loop: with thousands of leaves, calls are most of the time.
"""

from __future__ import annotations

import collections
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, TypeAlias

import numpy as np
import xxhash

from batiste.checkpoint._arrays import as_bytes, dtype_by_name
from batiste.checkpoint._types import Damage, NumpyArray, Record, misfit

__all__ = ["read_ranges"]

_BATCH: Final = 1 << 23
_LARGE: Final = 1 << 20
_PIECE: Final = 1 << 18
_THREADS: Final = 4
_ENDS: Final = "the file ends within it"

_Batch: TypeAlias = list[tuple[int, str, Record]]
_Found: TypeAlias = tuple[str, NumpyArray | Damage]


def read_ranges(
    file: Any,
    paths: Iterable[str],
    records: Mapping[str, Record],
    begins: Mapping[str, int],
    *,
    verify: bool,
    ahead: bool,
) -> Iterator[_Found]:
    """Read whole arrays in the order given.

    Args:
      file: an unbuffered binary file.
      paths: the leaves that are wanted.
      records: what they are.
      begins: where the bytes of each begin in the file.
      verify: whether to compare digests, where they are known.
      ahead: whether to read some batches ahead, so that more than one is in memory.
    """
    end = os.fstat(file.fileno()).st_size
    batches = _batches(paths, records, begins)
    threads = min(_THREADS, os.cpu_count() or 1, len(batches)) if ahead and hasattr(os, "preadv") else 1
    if threads < 2:
        for batch in batches:
            yield from _read_batch(file, batch, end, verify=verify)
        return
    from concurrent.futures import Future, ThreadPoolExecutor  # which opening a checkpoint does without

    with ThreadPoolExecutor(threads) as pool:
        running: collections.deque[Future[list[_Found]]] = collections.deque()
        for batch in batches:
            if len(running) == threads:
                yield from running.popleft().result()
            running.append(pool.submit(_read_batch, file, batch, end, verify=verify))
        while running:
            yield from running.popleft().result()


def _batches(paths: Iterable[str], records: Mapping[str, Record], begins: Mapping[str, int]) -> list[_Batch]:
    made: list[_Batch] = []
    size = _BATCH
    for path in paths:
        record = records[path]
        count = record.bytes if record.bytes <= _LARGE else _BATCH
        if size + count > _BATCH or not made:
            made.append([])
            size = 0
        made[-1].append((begins[path], path, record))
        size += count
    return made


def _read_batch(file: Any, batch: _Batch, end: int, *, verify: bool) -> list[_Found]:
    begin, path, record = batch[0]
    if len(batch) == 1:
        cut = begin + record.bytes > end
        return [(path, Damage(path, _ENDS) if cut else _read_one(file, begin, path, record, verify=verify))]
    spans = sorted(batch)
    found: list[_Found] = []
    first = 0
    stop = spans[0][0]
    for number, (begin, _, record) in enumerate(spans):
        if begin != stop:
            found += _read_together(file, spans[first:number], verify=verify)
            first = number
        stop = begin + record.bytes
    found += _read_together(file, spans[first:], verify=verify)
    if spans == batch:
        return found
    by_path = dict(found)
    return [(path, by_path[path]) for _, path, _ in batch]


def _read_together(file: Any, spans: _Batch, *, verify: bool) -> Iterator[_Found]:
    """Read leaves that lie one after the other."""
    start = spans[0][0]
    buffer = np.empty(spans[-1][0] + spans[-1][2].bytes - start, np.uint8)
    view = as_bytes(buffer)
    done = 0
    while done < len(view) and (count := _read_into(file, view[done:], start + done)):
        done += count
    digest_of, array_of = xxhash.xxh3_128_hexdigest, np.ndarray
    for begin, path, record in spans:
        at = begin - start
        size = record.bytes
        if at + size > done:
            yield path, Damage(path, _ENDS)
        elif verify and record.digest is not None and digest_of(view[at : at + size]) != record.digest:
            yield path, misfit(path, record)
        elif size:
            dtype = dtype_by_name(record.dtype)
            array = array_of(record.shape, dtype, buffer, at)
            yield path, array if at % dtype.itemsize == 0 else array.copy()  # files of others may have them anywhere
        else:
            yield path, np.empty(record.shape, dtype_by_name(record.dtype))


def _read_one(file: Any, begin: int, path: str, record: Record, *, verify: bool) -> NumpyArray | Damage:
    array = np.empty(record.shape, dtype_by_name(record.dtype))
    view = as_bytes(array)
    state = xxhash.xxh3_128() if verify and record.digest is not None else None
    piece = _PIECE if state is not None else len(view)
    done = 0
    while done < len(view):
        count = _read_into(file, view[done : done + piece], begin + done)
        if not count:
            return Damage(path, _ENDS)
        if state is not None:
            state.update(view[done : done + count])
        done += count
    return array if state is None or state.hexdigest() == record.digest else misfit(path, record)


def _read_into(file: Any, view: memoryview, begin: int) -> int:
    """Read at a place; where the system can, without a position that threads would share."""
    if hasattr(os, "preadv"):
        return os.preadv(file.fileno(), [view], begin)
    file.seek(begin)
    return file.readinto(view)
