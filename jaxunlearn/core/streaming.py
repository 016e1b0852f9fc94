"""The host loop: the same steps over batches that come from outside the device.

For data that does not fit, and for runs that must survive a kill. `stream` walks
over a transform's primitive links, feeds each step a batch, saves its state
every so often and goes on from the last save, to the same bits.
"""

from __future__ import annotations

import contextlib
import operator
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import checks, sampling
from jaxunlearn.core.phase import PhaseState, all_finite, sample_key
from jaxunlearn.core.types import (
  Batch,
  Carry,
  Env,
  PhaseInfo,
  PyTree,
  Transform,
  Variables,
)

BatchSource = Callable[[Transform, jax.Array, int], Iterator[Batch]]

_SHOW_AFTER = 2.0  # Seconds before a progress bar appears.


def host_batch(
  rows: PyTree, forget: Any, weight: Any = None, start: int = 0
) -> Batch:
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
  """
  n = checks.num_rows(rows, "rows")
  forget = np.asarray(forget)
  weight = np.ones(n, np.float32) if weight is None else np.asarray(weight)
  if forget.shape != (n,) or forget.dtype != np.bool_:
    raise ValueError(
      f"Expected forget of shape ({n},) and dtype bool, got {forget.shape} of "
      f"{forget.dtype}."
    )
  if weight.shape != (n,):
    raise ValueError(f"Expected weight of shape ({n},), got {weight.shape}.")
  slot = np.arange(n, dtype=np.int32)
  fields: list[Any] = [
    weight.astype(np.float32),
    forget,
    slot + np.int32(start),
    slot,
    np.zeros(n, np.int32),
  ]
  return Batch(rows, *fields)


def host_batches(data: PyTree, forget_mask: Any) -> BatchSource:
  """Draws batches from host arrays exactly as a phase draws them on the device.

  Args:
    data: pytree of NumPy arrays or memory maps [N, ...]; only the drawn rows are
      read.
    forget_mask: bool [N].

  Returns:
    A source for `stream`.

  Raises:
    ValueError: the mask does not fit the data.
  """
  checks.request(data, forget_mask)
  mask = jnp.asarray(forget_mask)

  def source(link: Transform, key: jax.Array, start: int) -> Iterator[Batch]:
    # The plan's own selection may look at the data; hand it what it needs.
    plan = sampling.make_plan(data, mask, link.needs, sample_key(key))
    at = jax.jit(plan.at)
    for step in range(start, link.num_steps):
      batch = jax.device_get(at(step))
      rows = jax.tree.map(operator.itemgetter(batch.row_id), data)
      yield batch._replace(rows=rows)

  return source


def stream(
  transform: Transform,
  variables: Variables,
  batches: BatchSource | Iterable[Batch],
  key: jax.Array,
  *,
  data: PyTree = None,
  forget_mask: jax.Array | None = None,
  checkpoint_dir: Any = None,
  checkpoint_every: int = 100,
  progress: bool = True,
) -> tuple[Variables, list[tuple[str, PhaseInfo]]]:
  """Applies a transform batch by batch from the host.

  On the same draws it computes what calling the transform does.

  Args:
    transform: the method; not one that chooses among rounds or computes its
      weight mask from data.
    variables: the original model, `Variables`; kept.
    batches: `host_batches(...)`, a function `(link, key, start) -> iterator` that
      yields the batches of a link from step `start` on, or any iterable of
      batches in order. An iterable must give the same batches again when a run
      resumes, since those already used are skipped.
    key: typed PRNG key.
    data: what one-shot links of the method read (labels, or all rows); pytree
      of arrays [N, ...].
    forget_mask: bool [N], for those links.
    checkpoint_dir: where to save the state; a directory of this run alone. If
      it holds a state of the same run, the run goes on from there.
    checkpoint_every: steps between saves.
    progress: show a bar when the run takes longer than two seconds.

  Returns:
    The unlearned variables, and `(name, PhaseInfo)` for each phase in order; its
    counts are -1 where no `forget_mask` was given.

  Raises:
    ValueError: batches end early, or checkpoint_dir holds another run.
  """
  checks.positive(checkpoint_every=checkpoint_every)
  links = transform.expand(key)
  run = _Run(transform, links, variables, key, data, forget_mask)
  feed = _feed(batches)
  with contextlib.ExitStack() as stack:
    store = None
    if checkpoint_dir is not None:
      store = stack.enter_context(_open(checkpoint_dir))
    resumed = None if store is None else _resume(store, run)
    bar = stack.enter_context(_progress(transform, progress))
    carry = Carry(variables, variables, {})
    infos: list[tuple[str, PhaseInfo]] = []
    steps: dict[int, Any] = {}
    first, done = 0, 0
    if resumed is not None:
      first, infos, done = resumed.link, resumed.infos, resumed.done
    for number in range(first, len(links)):
      link, link_key = links[number]
      if not link.is_phase:
        carry = _one_shot(link, link_key, carry, run)
        continue
      if resumed is not None and number == first:
        state, losses = resumed.state, resumed.losses
      else:
        state = link.init(carry, link_key, Env())
        losses = np.zeros(link.num_steps, np.float32)
      step_fn = steps.setdefault(id(link), _compile(link))
      # Donated buffers must be nobody else's.
      moving: Any = jax.tree.map(jnp.copy, state[:-1])
      constant = state.carry
      start = int(state.step)
      pending: list[jax.Array] = []
      source = feed(link, link_key, start, done)
      for index in range(start, link.num_steps):
        batch = next(source, None)
        if batch is None:
          raise ValueError(
            f"Expected {link.num_steps} batches for {link.name}, got {index}."
          )
        moving, loss = step_fn(moving, constant, batch, link_key)
        pending.append(loss)
        done += 1
        bar(done, link.name, loss)
        if store is not None and done % checkpoint_every == 0:
          _drain(pending, losses, index + 1)
          state = _join(moving, constant)
          _save(store, run, done, number, state, losses, infos)
      _drain(pending, losses, link.num_steps)
      carry = link.finish(_join(moving, constant))
      infos = [*infos, (link.name, run.info(link, losses, carry))]
  return carry.variables, infos


class _Run(NamedTuple):
  """What identifies a run and stays the same throughout."""

  transform: Transform
  links: list[tuple[Transform, jax.Array]]
  variables: Variables
  key: jax.Array
  data: PyTree
  forget_mask: Any

  def fingerprint(self) -> dict[str, Any]:
    crc = 0
    for leaf in jax.tree.leaves(self.variables):
      crc = zlib.crc32(np.ascontiguousarray(leaf).tobytes(), crc)
    return {
      "transform": self.transform.name,
      "links": [[link.name, link.num_steps] for link, _ in self.links],
      "original": crc,
      "key": np.asarray(jax.random.key_data(self.key)).tolist(),
    }

  def info(self, link: Transform, losses: Any, carry: Carry) -> PhaseInfo:
    counts: list[Any] = [-1, -1]
    if self.forget_mask is not None and self.data is not None:
      plan = sampling.make_plan(
        self.data, self.forget_mask, link.needs, self.key
      )
      counts = [plan.forget_count, plan.retain_count]
    finite = all_finite((jnp.asarray(losses), carry.variables))
    return PhaseInfo(jnp.asarray(losses), finite, *map(jnp.asarray, counts))


class _Resumed(NamedTuple):
  link: int
  state: PhaseState
  losses: np.ndarray
  infos: list[tuple[str, PhaseInfo]]
  done: int


def _compile(link: Transform) -> Callable[..., Any]:
  def step(moving, constant, batch, key):
    state = _join(moving, constant)
    state, loss = link.step(state, batch, key, Env())
    return state[:-1], loss

  return jax.jit(step, donate_argnums=0)


def _join(moving: Any, constant: Carry) -> PhaseState:
  """A state of its donated part and the part that stays."""
  trained, model_state, opt_state, step = moving
  return PhaseState(trained, model_state, opt_state, step, constant)


def _one_shot(
  link: Transform, key: jax.Array, carry: Carry, run: _Run
) -> Carry:
  carry, _ = link.run(carry, run.data, run.forget_mask, key, Env())
  return carry


def _feed(batches: BatchSource | Iterable[Batch]) -> Callable[..., Any]:
  """One way to ask for batches, whatever the caller has."""
  if callable(batches):
    return lambda link, key, start, done: iter(batches(link, key, start))
  iterator, used = iter(batches), 0

  def plain(link, key, start, done):
    nonlocal used
    while used < done:  # A resumed run skips what it has seen.
      if next(iterator, None) is None:
        return
      used += 1
    for batch in iterator:
      used += 1
      yield batch

  return plain


def _drain(pending: list[jax.Array], losses: np.ndarray, end: int) -> None:
  """Fetches the losses of the steps before `end`."""
  values = jax.device_get(pending)
  losses[end - len(values) : end] = values
  pending.clear()


@contextlib.contextmanager
def _open(directory: Any) -> Iterator[Any]:
  from jaxunlearn.core import checkpoints

  store = checkpoints.open_store(directory)
  try:
    yield store
  finally:
    checkpoints.close_store(store)


def _save(store, run, done, number, state, losses, infos) -> None:
  from jaxunlearn.core import checkpoints

  # The original is the caller's to keep; its checksum is in the fingerprint.
  carry = state.carry._replace(original=None)
  tree = (state._replace(carry=carry), losses, [info for _, info in infos])
  names = [name for name, _ in infos]
  metadata = {"run": run.fingerprint(), "link": number, "infos": names}
  checkpoints.save_step(store, done, tree, metadata)


def _resume(store: Any, run: _Run) -> _Resumed | None:
  from jaxunlearn.core import checkpoints

  done = checkpoints.latest(store)
  if done is None:
    return None
  metadata: Any = checkpoints.read_metadata(store, done)
  if metadata["run"] != run.fingerprint():
    raise ValueError(
      "Expected checkpoint_dir to hold this run or nothing, got another run: "
      f"{metadata['run']['transform']} of "
      f"{sum(n for _, n in metadata['run']['links'])} steps, or other "
      "variables or another key."
    )
  number = metadata["link"]
  link, _ = run.links[number]
  state = jax.eval_shape(lambda: _entering(run, number))
  bare = state._replace(carry=state.carry._replace(original=None))
  phases = [previous for previous, _ in run.links[:number] if previous.is_phase]
  scalar = lambda dtype: jax.ShapeDtypeStruct((), dtype)
  counts: list[Any] = [scalar(jnp.bool_), scalar(jnp.int32), scalar(jnp.int32)]

  def like_info(steps: Any) -> PhaseInfo:
    return PhaseInfo(steps, *counts)

  infos = [
    like_info(jax.ShapeDtypeStruct((p.num_steps,), jnp.float32)) for p in phases
  ]
  like = (bare, jax.ShapeDtypeStruct((link.num_steps,), jnp.float32), infos)
  (state, losses, infos), _ = checkpoints.restore_step(store, done, like)
  carry = state.carry._replace(original=run.variables)
  return _Resumed(
    number,
    state._replace(carry=carry),
    np.array(losses),
    list(zip(metadata["infos"], infos)),
    done,
  )


def _entering(run: _Run, number: int) -> PhaseState:
  """The state at the start of a link, for its structure."""
  carry = Carry(run.variables, run.variables, {})
  for link, key in run.links[:number]:
    if not link.is_phase:
      carry = _one_shot(link, key, carry, run)
    else:
      carry = link.finish(link.init(carry, key, Env()))
  link, key = run.links[number]
  return link.init(carry, key, Env())


@contextlib.contextmanager
def _progress(
  transform: Transform, wanted: bool
) -> Iterator[Callable[[int, str, jax.Array], None]]:
  """A bar on standard error that stays away from short runs."""
  if not wanted:
    yield lambda done, name, loss: None
    return
  from rich.console import Console
  from rich.progress import Progress

  began = time.monotonic()
  bar = Progress(console=Console(stderr=True), transient=True)
  task = bar.add_task(transform.name, total=transform.num_steps)
  shown = [began]

  def update(done: int, name: str, loss: jax.Array) -> None:
    now = time.monotonic()
    if now - began < _SHOW_AFTER or now - shown[0] < 0.2:
      return
    shown[0] = now
    bar.start()
    text = f"{transform.name}: {name}, loss {float(loss):.4g}"
    bar.update(task, completed=done, description=text)

  try:
    yield update
  finally:
    bar.stop()
