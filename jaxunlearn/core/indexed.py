"""Batches of data that no memory holds: requests as row numbers on disk.

`indexed_batches` reads any source of rows by number (a Grain data set or data
source, one of tensorflow-datasets, memory maps, a class of the caller's) and
draws the very rows that a phase on the device would. A request is the sorted
numbers of its rows; the others are never listed: the k-th of them follows from
those by bisection. Memory holds a batch, on the host and on the device, whatever
the number of rows.

    write_index("forget.npy", rows)
    source = grain.sources.ArrayRecordDataSource(paths)     # or tfds.data_source
    batches = prefetched(indexed_batches(source, "forget.npy"))
    ju.stream(method, variables, batches, key, checkpoint_dir=...)
"""

from __future__ import annotations

import concurrent.futures
import itertools
import os
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import checks, fingerprints, sampling
from jaxunlearn.core.host_batches import BatchSource
from jaxunlearn.core.phase import sample_key
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import ALL, PyTree, Step

_FORGET, _RETAIN, _MIXED = range(3)  # The order of `Draw.sizes`.
_MOST = 2**31 - 1  # Row numbers are int32 on the device.
Rows = np.ndarray | str | os.PathLike


def write_index(path: str | os.PathLike, rows: Any) -> None:
  """Writes a set of row numbers as `indexed_batches` reads it: sorted int64.

  Args:
    path: of a ".npy" file; one that is there is replaced at once.
    rows: int [n], in any order; of equal numbers one is kept.

  Raises:
    ValueError: rows that are no integers >= 0.

  Example:
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> import jaxunlearn as ju
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   path = pathlib.Path(folder, "forget.npy")
    ...   ju.core.write_index(path, [7, 2, 7])
    ...   print(np.load(path).tolist())
    [2, 7]
  """
  rows = np.unique(np.asarray(rows))
  if rows.size and (rows.dtype.kind not in "iu" or rows[0] < 0):
    raise ValueError(
      f"Expected row numbers, integers >= 0, got {rows[:3]} of {rows.dtype}."
    )
  partial = f"{os.fspath(path)}.{os.getpid()}"
  with open(partial, "wb") as file:
    np.save(file, rows.astype(np.int64))
  os.replace(partial, path)


def indexed_batches(
  source: Any,
  forget: Rows,
  *,
  left_out: Rows | None = None,
  host: tuple[int, int] | None = None,
) -> BatchSource:
  """Draws batches by row number, as a phase draws them of all rows in memory.

  Args:
    source: the rows. A pytree of arrays or memory maps [N, ...]; or anything of
      a length whose `source[i]` is row i, a pytree of arrays or numbers, as data
      sources of Grain and tensorflow-datasets are (`__getitems__` is used where
      there is one).
    forget: the request, int [n] sorted, or the file that `write_index` wrote.
    left_out: rows that no method sees, likewise.
    host: number of this process and how many there are, those of JAX by
      default. Each reads its stretch of every batch's rows, which are put
      together with `jax.make_array_from_process_local_data`; what is said of
      rows is whole on each. Which rows a step has does not depend on it.

  Returns:
    A source for `stream`: row for row and number for number what
    `host_batches` gives for the same request.

  Raises:
    ValueError: an index that is not sorted or leaves the source; a request of
      rows that are left out; when read: a draw of all rows at once or of
      selected ones, which would list them; a batch that the hosts do not divide.

  Example:
    >>> import jax, numpy as np, optax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import toy
    >>> model, variables, data, request, key = toy.classifier()
    >>> finetune = ju.methods.finetune(model, ju.Fit(optax.sgd(0.1), 3, 16))
    >>> on_disk = jax.tree.map(np.asarray, data)  # Memory maps, as a rule.
    >>> batches = ju.core.indexed_batches(on_disk, np.flatnonzero(request))
    >>> made, infos = ju.stream(finetune, variables, batches, key)
    >>> [(name, info.loss.shape) for name, info in infos]
    [('finetune', (3,))]
  """
  take, n = _reader(source)
  asked, out = _index(forget, n, "forget"), _index(left_out, n, "left_out")
  if np.isin(asked, out, assume_unique=True).any():
    raise ValueError("Expected forget without rows of left_out, got some.")
  number, count = host or (jax.process_index(), jax.process_count())
  checks.count(1, hosts=count)
  if not 0 <= number < count:
    raise ValueError(f"Expected host in 0 .. {count - 1}, got {number}.")
  neither = np.union1d(asked, out)
  sizes = (len(asked), n - len(neither), n - len(out))
  row_of: tuple[Callable[[np.ndarray], np.ndarray], ...] = (
    lambda k: asked[k] if len(asked) else k,
    lambda k: _others(neither, k),
    lambda k: _others(out, k),
  )

  def batch(pools: list[Any], draw: tuple[int, ...], step: int) -> Step:
    kinds, offset = [], 0
    for kind, (pool, size) in enumerate(zip(pools, draw)):
      if not size:
        continue
      place = np.arange(size, dtype=np.int32)
      position = (step * size + place.astype(np.int64)).astype(np.uint32)
      k, epoch = jax.device_get(_places(*pool, position))
      row = row_of[kind](k) if sizes[kind] else np.zeros(size, np.int64)
      is_forget = np.full(size, kind == _FORGET)
      if kind == _MIXED:
        is_forget = np.isin(row, asked)
      weight = np.full(size, sizes[kind] > 0, np.float32)
      kinds.append((weight, is_forget, row, place + offset, epoch))
      offset += size
    weight, is_forget, row, place, epoch = map(np.concatenate, zip(*kinds))
    share = len(row) // count
    if share * count != len(row):
      raise ValueError(
        f"Expected a batch that {count} hosts can share, got {len(row)} rows."
      )
    rows = take(row[number * share : (number + 1) * share])
    ids = (row.astype(np.int32), place.astype(np.int32), epoch)
    told: Any = (weight, is_forget, *ids)
    return Step(rows, *told)

  def batches(link: Transform, key: jax.Array, start: int) -> Iterator[Step]:
    draw = link.needs
    if ALL in draw.sizes or draw.select is not None:
      raise ValueError(
        f"Expected {link.name} to draw mini-batches of any rows from an index, "
        "got a draw of all rows or of selected ones."
      )
    # As `make_plan` does, but for the order of rows, which is never made.
    keys = jax.random.split(sample_key(key), 4)[1:]
    pools = [
      (sampling.pool_seed(k), jnp.int32(size)) for k, size in zip(keys, sizes)
    ]
    for step in itertools.count(start):
      yield batch(pools, draw.sizes, step)

  some = take(np.linspace(0, n - 1, 16).astype(np.int64))
  batches.request = {  # type: ignore[attr-defined]
    "request": fingerprints.checksum((asked, out)),
    "data": fingerprints.checksum((np.int64(n), some)),
  }
  return batches


def prefetched(
  source: BatchSource,
  ahead: int = 2,
  put: Callable[[PyTree], PyTree] = jax.device_put,
) -> BatchSource:
  """Reads batches ahead, in a thread, and puts their rows on the device.

  Args:
    source: `host_batches`, `indexed_batches` or the like.
    ahead: static; batches that wait, at least 1.
    put: of the rows of a batch. Where hosts share batches,
      `lambda rows: jax.make_array_from_process_local_data(sharding, rows)`.

  Returns:
    A source of the same batches in the same order. An error of the source is
    raised where its batch is due.

  Raises:
    ValueError: ahead < 1.

  Example:
    >>> import jax, numpy as np, optax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import toy
    >>> model, variables, data, request, key = toy.classifier()
    >>> finetune = ju.methods.finetune(model, ju.Fit(optax.sgd(0.1), 3, 16))
    >>> on_host = jax.tree.map(np.asarray, data)
    >>> batches = ju.core.prefetched(ju.core.host_batches(on_host, request))
    >>> made, infos = ju.stream(finetune, variables, batches, key)
    >>> [(name, info.loss.shape) for name, info in infos]
    [('finetune', (3,))]
  """
  checks.count(1, ahead=ahead)

  def batches(link: Transform, key: jax.Array, start: int) -> Iterator[Step]:
    reading = iter(source(link, key, start))

    def read() -> Step | None:
      batch = next(reading, None)
      return None if batch is None else batch._replace(rows=put(batch.rows))

    with concurrent.futures.ThreadPoolExecutor(1) as thread:
      waiting = deque(thread.submit(read) for _ in range(ahead))
      while (batch := waiting.popleft().result()) is not None:
        waiting.append(thread.submit(read))
        yield batch

  if hasattr(source, "request"):
    batches.request = source.request  # type: ignore[attr-defined]
  return batches


_places = jax.jit(sampling.places)


def _others(index: np.ndarray, k: np.ndarray) -> np.ndarray:
  """The k-th rows that are not in a sorted index, by bisection."""
  # Before the j-th row of the index there are index[j] - j others.
  low, high = np.zeros(k.shape, np.int64), np.full(k.shape, len(index))
  while (open_ := low < high).any():
    middle = (low + high) // 2
    at = np.minimum(middle, max(len(index) - 1, 0))
    is_before = open_ & (index[at] - at <= k)
    low = np.where(is_before, middle + 1, low)
    high = np.where(open_ & ~is_before, middle, high)
  return k + low


def _index(rows: Rows | None, n: int, name: str) -> np.ndarray:
  """Row numbers, of a file as a map of it."""
  if rows is None:
    return np.zeros(0, np.int64)
  if isinstance(rows, str | os.PathLike):
    rows = np.load(rows, mmap_mode="r", allow_pickle=False)
  rows = np.asanyarray(rows)
  if rows.ndim != 1 or rows.dtype.kind not in "iu":
    raise ValueError(
      f"Expected {name} to be row numbers, int [n], got {rows.dtype} of shape "
      f"{rows.shape}; write_index makes a file of them."
    )
  if len(rows) and (
    rows[0] < 0 or rows[-1] >= n or not (rows[1:] > rows[:-1]).all()
  ):
    raise ValueError(
      f"Expected {name} to rise within 0 .. {n - 1}, got {rows[:3].tolist()} "
      f".. {int(rows[-1])}."
    )
  return rows


def _reader(source: Any) -> tuple[Callable[[np.ndarray], PyTree], int]:
  """How rows are taken by their numbers, and how many there are."""
  by_row = hasattr(source, "__getitem__") and not isinstance(
    source, dict | tuple | list | np.ndarray | jax.Array
  )
  n = len(source) if by_row else checks.num_rows(source)
  if not 0 < n <= _MOST:
    raise ValueError(f"Expected a source of 1 .. {_MOST} rows, got {n}.")
  if not by_row:
    return lambda row: jax.tree.map(lambda leaf: leaf[row], source), n

  def take(row: np.ndarray) -> PyTree:
    if hasattr(source, "__getitems__"):
      found = source.__getitems__(row.tolist())
    else:
      found = [source[i] for i in row.tolist()]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *found)

  return take, n
