"""Batches from the host: made by hand, drawn as on the device, or iterated."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from jaxunlearn.core import checks, fingerprints, given, sampling
from jaxunlearn.core.phase import pool_of, sample_key
from jaxunlearn.core.shaped import shaped
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import ALL, PyTree, Request, Step, as_request

BatchSource = Callable[[Transform, jax.Array, int], Iterator[Step]]

NOTHING = (0, 0, 0)  # The sizes of a draw of no rows.


def host_batch(
  rows: PyTree, forget: Any, weight: Any = None, start: int = 0
) -> Step:
  """A batch for `stream` from host arrays.

  Args:
    rows: pytree of arrays [B, ...], in the order of the step's draw: forget
      rows, retain rows, mixed rows.
    forget: bool [B], whether a row is in the request.
    weight: float [B], 0 for padding; ones by default.
    start: the number of rows in the batches before, which gives each row a
      number of its own.

  Raises:
    ValueError: lengths differ, or `forget` is not bool.

  Example:
    >>> import numpy as np
    >>> import jaxunlearn as ju
    >>> rows = {"x": np.zeros((3, 6)), "label": np.array([1, 0, 2])}
    >>> step = ju.core.host_batch(rows, np.array([True, False, False]))
    >>> step.rows["x"].shape, step.weight.tolist(), step.row_id.tolist()
    ((3, 6), [1.0, 1.0, 1.0], [0, 1, 2])
  """
  n = checks.num_rows(rows, "rows")
  forget = np.asarray(forget)
  weight = np.ones(n, np.float32) if weight is None else np.asarray(weight)
  shaped(f"forget bool [{n}] and weight [{n}]", forget, weight)
  place = np.arange(n, dtype=np.int32)
  fields: list[Any] = [
    weight.astype(np.float32),
    forget,
    place + np.int32(start),
    place,
    np.zeros(n, np.int32),
  ]
  return Step(rows, *fields)


def host_batches(data: PyTree, request: Any) -> BatchSource:
  """Draws batches from host arrays exactly as a phase draws them on the device.

  Args:
    data: pytree of NumPy arrays or memory maps [N, ...]; only the drawn rows are
      read.
    request: a `Request`, or bool [N], True = forget.

  Returns:
    A source for `stream`.

  Raises:
    ValueError: the mask does not fit the data.

  Example:
    >>> import jax, numpy as np, optax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import toy
    >>> model, variables, data, request, key = toy.classifier()
    >>> finetune = ju.methods.finetune(model, ju.Fit(optax.sgd(0.1), 3, 16))
    >>> on_host = jax.tree.map(np.asarray, data)
    >>> batches = ju.core.host_batches(on_host, request)
    >>> streamed, _ = ju.stream(finetune, variables, batches, key)
    >>> called, _ = jax.jit(finetune)(variables, data, request, key)
    >>> bias = lambda v: v.params["output"]["bias"]
    >>> round(float(abs(bias(streamed) - bias(called)).max()), 4)
    0.0
  """
  request = as_request(request, data)
  given.rows(data)

  def source(link: Transform, key: jax.Array, start: int) -> Iterator[Step]:
    draw = link.needs
    plan = sampling.make_plan(data, request, draw, sample_key(key))
    sizes = draw._replace(select=None, source=None)
    for step in itertools.count(start):
      batch = jax.device_get(_row_numbers(plan, sizes, step))
      rows = jax.tree.map(operator.itemgetter(batch.row_id), data)
      yield batch._replace(rows=rows)

  # For `stream` to tell one run's checkpoints from another's; a function around
  # this one hands it on, `mine.request = source.request`.
  source.request = {  # type: ignore[attr-defined]
    "request": fingerprints.checksum(request),
    "data": fingerprints.checksum(data),
  }
  return source


# One program for all requests and links that draw alike.
_row_numbers = jax.jit(sampling.row_numbers, static_argnums=1)


def reads_host(link: Transform) -> bool:
  """Whether a phase's rows come from the host."""
  return link.needs.sizes != NOTHING and link.needs.source is None


def check_batch(link: Transform, batch: Step) -> None:
  """A step takes rows for what their place says they are."""
  if not isinstance(batch, Step):
    raise ValueError(
      f"Expected batches for {link.name} as host_batch makes them, got "
      f"{type(batch).__name__}."
    )
  sizes = link.needs.sizes
  found = len(batch.weight)
  if ALL not in sizes and found != sum(sizes):
    raise ValueError(
      f"Expected a batch of {sum(sizes)} rows for {link.name} (forget, retain, "
      f"mixed: {sizes}), got {found}."
    )
  if ALL in sizes:
    return
  live, flags = np.asarray(batch.weight) > 0, np.asarray(batch.forget)
  forget, retain, _ = sizes
  place = np.arange(found)
  wrong = live & (
    ((place < forget) & ~flags)
    | ((place >= forget) & (place < forget + retain) & flags)
  )
  if wrong.any():
    raise ValueError(
      f"Expected {forget} forget rows, then {retain} retain rows in a batch for "
      f"{link.name}, got the other kind at {place[wrong][:5].tolist()}."
    )


def feeder(batches: BatchSource | Iterable[Step]) -> Callable[..., Any]:
  """One way to ask for batches, whatever the caller has.

  Raises:
    ValueError: it has no batches.
  """
  if not callable(batches) and not isinstance(batches, Iterable):
    raise ValueError(
      "Expected batches to be host_batches(data, request), a function or an "
      f"iterable, got {type(batches).__name__}."
    )
  iterator = None if callable(batches) else iter(batches)
  seen = 0

  def plain(used: int) -> Iterator[Step]:
    nonlocal seen
    assert iterator is not None
    for batch in iterator:
      seen += 1
      if seen > used:  # A resumed run skips what it has used.
        yield batch

  def feed(link: Transform, key: jax.Array, state: Any, used: int) -> Any:
    start = int(state.step)
    if link.needs.sizes == NOTHING:
      return itertools.repeat(sampling.empty_batch())
    if link.needs.source is not None:  # Rows that an earlier link made.
      rows, request = pool_of(state.carry, None, Request(), link.needs)
      return host_batches(jax.device_get(rows), request)(link, key, start)
    if callable(batches):
      return iter(batches(link, key, start))
    return plain(used)

  return feed
