"""The host loop: the same steps over batches that come from outside the device.

For data that does not fit, and for runs that must survive a kill. `stream` walks
over a transform's primitive links, feeds each step a batch, saves its state
every so often and goes on from the last save, to the same bits.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import checks, fingerprints, given, sampling
from jaxunlearn.core.host_batches import (
  BatchSource,
  check_batch,
  feeder,
  reads_host,
)
from jaxunlearn.core.phase import sample_key
from jaxunlearn.core.run_settings import Run, Settings
from jaxunlearn.core.transform import (
  Carry,
  Env,
  PhaseInfo,
  PhaseState,
  Transform,
)
from jaxunlearn.core.types import PyTree, Request, Step, Variables, as_request

_SHOW_AFTER = 2.0  # Seconds before a progress bar appears.


def stream(
  transform: Transform,
  variables: Variables,
  batches: BatchSource | Iterable[Step],
  key: jax.Array,
  *,
  data: PyTree = None,
  request: Request | jax.Array | None = None,
  checkpoint_dir: Any = None,
  checkpoint_every: int = 100,
  progress: bool = True,
  forget_mask: jax.Array | None = None,
) -> tuple[Variables, list[tuple[str, PhaseInfo]]]:
  """Applies a transform batch by batch from the host.

  On the same draws it computes what calling the transform does.

  Args:
    transform: the method; not one that chooses among rounds or computes its
      weight mask from data.
    variables: the original model, `Variables` or a bare params pytree; kept.
    batches: `host_batches(...)`, a function `(link, key, start) -> iterator` that
      yields the batches of a link from step `start` on, or any iterable of
      batches in order, for the phases that draw rows. An iterable must give the
      same batches again when a run resumes, since those already used are
      skipped.
    key: typed PRNG key.
    data: what one-shot links of the method read (labels, or all rows); pytree
      of arrays [N, ...].
    request: a `Request` or bool [N], for those links.
    checkpoint_dir: where to save the state; a directory of this run alone. If
      it holds a state of the same run, the run goes on from there. The same are
      the method with all its settings, the original, the key, data and request
      as far as they are given here or come from `host_batches` (of arrays above
      64 MiB, 4096 rows are compared). Another version of JAX may trace another
      program from the same method and is then refused.
    checkpoint_every: steps between saves.
    progress: show a bar when the run takes longer than two seconds.
    forget_mask: the name of `request` in release 0.1.

  Returns:
    The unlearned variables, and `(name, PhaseInfo)` for each phase in order; its
    counts are -1 where no `request` was given.

  Raises:
    ValueError: batches end early, do not have the sizes that the phase draws or
      hold a row of the wrong kind; a link reads data that is not given;
      checkpoint_dir holds another run (the line says what differs).

  Example:
    >>> import jax, numpy as np, optax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import toy
    >>> model, variables, data, request, key = toy.classifier()
    >>> finetune = ju.methods.finetune(model, ju.Fit(optax.sgd(0.1), 3, 16))
    >>> on_host = jax.tree.map(np.asarray, data)  # Memory maps, as a rule.
    >>> batches = ju.core.host_batches(on_host, request)
    >>> made, infos = ju.stream(finetune, variables, batches, key)
    >>> [(name, info.loss.shape) for name, info in infos]
    [('finetune', (3,))]
  """
  checks.transforms([transform])
  checks.typed_key(key)
  given.variables(variables)
  checks.count(checkpoint_every=checkpoint_every)
  bare = not isinstance(variables, Variables)
  variables = Variables(variables) if bare else variables
  links = transform.expand(key)
  request = forget_mask if request is None else request
  if request is not None:
    request = as_request(request, data)
  run = Run(links, variables, data, request)
  feed, known = feeder(batches), Settings(run)
  with contextlib.ExitStack() as stack:
    store, resumed, identity = None, None, {}
    if checkpoint_dir is not None:
      identity = _identity(transform, run, key, batches)
      store = stack.enter_context(_open(checkpoint_dir))
      resumed = _resume(store, run, identity, known)
    bar = stack.enter_context(_progress(transform, progress))
    carry = Carry(variables, variables, {})
    infos: list[tuple[str, PhaseInfo]] = []
    first, counts = 0, _Counts()
    if resumed is not None:
      first, infos, counts = resumed.link, resumed.infos, resumed.counts
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
      source = feed(link, link_key, state, counts.used)

      def keep(
        state: PhaseState,
        rows: PyTree,
        number=number,
        losses=losses,
        infos=infos,
      ):
        known.see(rows)
        _save(store, identity, known, counts, number, state, losses, infos)

      every = None if store is None else checkpoint_every
      state = _walk(
        link, link_key, state, source, losses, counts, bar, every, keep
      )
      carry = link.finish(state)
      infos = [*infos, (link.name, _info(run, link, link_key, losses, state))]
  return (carry.variables.params if bare else carry.variables), infos


@dataclasses.dataclass
class _Counts:
  """Steps done over all phases, and how many of them used a batch."""

  done: int = 0
  used: int = 0


def _walk(
  link, key, state, source, losses, counts, bar, every, keep
) -> PhaseState:
  """The steps of one phase that are left; fills in their losses."""
  # Donated buffers must be nobody else's.
  moving: Any = jax.tree.map(jnp.copy, state.moving())
  pending: list[jax.Array] = []
  for index in range(int(state.step - state.begin), link.num_steps):
    batch = next(source, None)
    if batch is None:
      raise ValueError(
        f"Expected {link.num_steps} batches for {link.name}, got {index}."
      )
    check_batch(link, batch)
    moving, loss = link.compiled_step(
      moving, state.begin, state.carry, batch, key
    )
    pending.append(loss)
    counts.done += 1
    counts.used += reads_host(link)
    bar(counts.done, link.name, loss)
    due = every is not None and counts.done % every == 0
    if due or index + 1 == link.num_steps:
      losses[index + 1 - len(pending) : index + 1] = jax.device_get(pending)
      pending.clear()
    if due:
      keep(state.moved_to(moving), batch.rows)
  return state.moved_to(moving)


def _info(
  run: Run, link: Transform, key: jax.Array, losses: Any, state: Any
) -> PhaseInfo:
  counts: list[Any] = [-1, -1]
  if run.request is not None and run.data is not None:
    plan = sampling.make_plan(
      run.data, run.request, link.needs, sample_key(key)
    )
    counts = [plan.forget_count, plan.retain_count]
  return link.info(state, jnp.asarray(losses), *map(jnp.asarray, counts))


class _Resumed(NamedTuple):
  link: int
  state: PhaseState
  losses: np.ndarray
  infos: list[tuple[str, PhaseInfo]]
  counts: _Counts


def _identity(
  transform: Transform, run: Run, key: jax.Array, batches: Any
) -> dict[str, Any]:
  """What tells one run's checkpoints from another's, its settings apart."""
  given = getattr(batches, "request", None)
  given = given if isinstance(given, Mapping) else {"request": given}
  return {
    "method": transform.name,
    "phases": [[link.name, link.num_steps] for link, _ in run.links],
    "variables": fingerprints.checksum(run.variables),
    "request": [
      None if run.request is None else fingerprints.checksum(run.request),
      given.get("request"),
    ],
    "data": [fingerprints.checksum(run.data), given.get("data")],
    "key": np.asarray(jax.random.key_data(key)).tolist(),
  }


def _one_shot(link: Transform, key: jax.Array, carry: Carry, run: Run) -> Carry:
  request = Request() if run.request is None else run.request
  carry, _ = link.run(carry, run.data, request, key, Env())
  return carry


@contextlib.contextmanager
def _open(directory: Any) -> Iterator[Any]:
  from jaxunlearn.core import checkpoints

  store = checkpoints.open_store(directory)
  try:
    yield store
  finally:
    checkpoints.close_store(store)


def _save(store, identity, known, counts, number, state, losses, infos) -> None:
  from jaxunlearn.core import checkpoints

  # The original is the caller's to keep; its checksum is in the fingerprint.
  carry = state.carry._replace(original=None)
  tree = (state._replace(carry=carry), losses, [info for _, info in infos])
  names = [name for name, _ in infos]
  metadata = {
    "run": identity,
    "settings": known.to_json(),
    "link": number,
    "infos": names,
    "used": counts.used,
  }
  checkpoints.save_step(store, counts.done, tree, metadata)


def _resume(
  store: Any, run: Run, identity: dict[str, Any], known: Settings
) -> _Resumed | None:
  from jaxunlearn.core import checkpoints

  done = checkpoints.latest(store)
  if done is None:
    return None
  metadata: Any = checkpoints.read_metadata(store, done)
  theirs = metadata["run"]
  differs = [f"another {n}" for n in identity if theirs.get(n) != identity[n]]
  if not differs:
    links, states = known.different(metadata["settings"])
    differs = [f"other settings of {name}" for name in links]
  if differs:
    raise ValueError(
      "Expected checkpoint_dir to hold this run or nothing, got one with "
      f"{', '.join(differs)}; it has done {done} steps of "
      f"{theirs.get('method')}."
    )
  number = metadata["link"]
  link, _ = run.links[number]
  state: Any = states[number]
  bare = state._replace(carry=state.carry._replace(original=None))
  phases = [previous for previous, _ in run.links[:number] if previous.is_phase]
  scalar = lambda dtype: jax.ShapeDtypeStruct((), dtype)
  kinds = (jnp.bool_, jnp.int32, jnp.int32, jnp.float32)
  counts: list[Any] = [scalar(dtype) for dtype in kinds]

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
    _Counts(done, metadata["used"]),
  )


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
