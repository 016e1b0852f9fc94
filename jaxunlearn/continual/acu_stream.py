"""Streams of requests for analytic continual unlearning, and forgetting classes.

`acu_stream` serves a sequence of events "learn these rows, forget those" in one
program and guards the sums: a mask remembers which rows are in. Learning a row
that is in, forgetting one that is not, or the same request twice, are then
defined: nothing happens, and it is counted. `acu_by_class` keeps sums for each
class, so that whole classes are forgotten without their rows.

Source: arXiv:2505.12239; see `acu`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxunlearn.continual.acu import Acu, AcuHead, AcuState, _added
from jaxunlearn.core import checks
from jaxunlearn.core.sampling import take_rows
from jaxunlearn.core.shaped import arrays, shaped
from jaxunlearn.core.types import PyTree


class AcuStream(NamedTuple):
  """A learner's state and what is in it.

  Attributes:
    state: of the `Acu`.
    included: bool [N], rows that have been learned and not forgotten.
  """

  state: Any
  included: jax.Array


class AcuStreamInfo(NamedTuple):
  """What each event did.

  Attributes:
    num_learned: int32 [T], rows that came in.
    num_forgotten: int32 [T], rows that went out.
    num_ignored: int32 [T], rows to learn that were in, or to forget that were
      not.
    num_left_over: int32 [T], rows beyond `max_rows`, which stay as they were;
      outside jit they raise instead.
    evaluation: what `evaluate` returned, leaves [T, ...], or None.
  """

  num_learned: jax.Array
  num_forgotten: jax.Array
  num_ignored: jax.Array
  num_left_over: jax.Array
  evaluation: PyTree


def acu_stream(
  learner: Acu,
  features: jax.Array,
  targets: jax.Array,
  learn_masks: jax.Array,
  forget_masks: jax.Array,
  *,
  max_rows: int | None = None,
  evaluate: Callable[[AcuHead, jax.Array], PyTree] | None = None,
  start: AcuStream | None = None,
) -> tuple[AcuStream, AcuStreamInfo]:
  """Serves a stream of events, each learning some rows and forgetting some.

  Memory does not grow with the number of events, except by the masks and what
  `evaluate` returns. Within an event rows are learned first.

      stream, info = jax.jit(functools.partial(acu_stream, learner, z, y))(
        learn_masks, forget_masks)
      head = learner.solve(stream.state)  # equals acu_ridge on stream.included

  Args:
    learner: see `acu`.
    features: [N, D]; rows that no event learns are not read.
    targets: [N, C].
    learn_masks: bool [T, N].
    forget_masks: bool [T, N].
    max_rows: static; None, or the most rows that an event learns, and that it
      forgets: they are gathered, so that an event costs that many rows instead
      of N.
    evaluate: None, or `(head, included [N]) -> pytree`, after every event.
    start: where an earlier stream over these rows ended; nothing learned by
      default.

  Returns:
    The end of the stream, and what each event did.

  Raises:
    ValueError: masks that are not bool [T, N], a start of other rows,
      max_rows < 1; outside jit, an event of more rows than max_rows, nan in a
      row that is learned.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import continual
    >>> learner, z = continual.acu(2, 2), jnp.eye(2)
    >>> learn = jnp.array([[True, True], [False, False]])
    >>> forget = jnp.array([[False, False], [True, False]])
    >>> stream, info = continual.acu_stream(learner, z, z, learn, forget)
    >>> stream.included.tolist(), info.num_forgotten.tolist()
    ([False, True], [0, 1])
  """
  features, targets = jnp.asarray(features), jnp.asarray(targets)
  learn_masks, forget_masks = (
    jnp.asarray(learn_masks),
    jnp.asarray(forget_masks),
  )
  n = checks.num_rows((features, targets), name="features and targets")
  for name, masks in (
    ("learn_masks", learn_masks),
    ("forget_masks", forget_masks),
  ):
    shaped(f"{name} bool [T, {n}]", masks)
  checks.num_rows((learn_masks, forget_masks), name="learn and forget masks")
  used = learn_masks.any(axis=0)
  if start is not None:
    if start.included.shape != (n,):
      raise ValueError(
        f"Expected a start of {n} rows, got one of {start.included.shape[0]}."
      )
    used = used | start.included
  if max_rows is not None:
    checks.counts(max_rows=max_rows)
  if checks.is_concrete(used) and checks.is_concrete(features):
    # Once, before the loop hides the numbers.
    learner.check(features, targets, used)
  if start is None:
    start = AcuStream(learner.init(), jnp.zeros(n, bool))
  size = n if max_rows is None else min(max_rows, n)

  def change(apply: Callable[..., Any], state: Any, mask: jax.Array) -> Any:
    """Applies to the first rows of a mask; returns those rows as a mask."""
    if size == n:
      return apply(state, features, targets, mask), mask
    row_id = jnp.nonzero(mask, size=size, fill_value=n)[0]
    weight = row_id < n
    safe = jnp.where(weight, row_id, 0)
    rows = take_rows((features, targets), safe, weight)
    done = jnp.zeros(n, bool).at[row_id].set(True, mode="drop")
    return apply(state, *rows, weight), done

  def body(stream: AcuStream, masks: tuple[jax.Array, jax.Array]) -> Any:
    state, included = stream
    learn = masks[0] & ~included
    state, learned = change(learner.learn, state, learn)
    included = included | learned
    forget = masks[1] & included
    state, forgotten = change(learner.forget, state, forget)
    count = lambda mask: mask.sum(dtype=jnp.int32)
    ignored = count(masks[0] & ~learn) + count(masks[1] & ~included)
    left_over = count(learn & ~learned) + count(forget & ~forgotten)
    included = included & ~forgotten
    evaluation = None
    if evaluate is not None:
      evaluation = evaluate(learner.solve(state), included)
    info = AcuStreamInfo(
      count(learned), count(forgotten), ignored, left_over, evaluation
    )
    return AcuStream(state, included), info

  stream, info = jax.lax.scan(body, start, (learn_masks, forget_masks))
  left_over = info.num_left_over
  if checks.is_concrete(left_over) and left_over.size:
    worst = int(left_over.max())
    if worst:
      raise ValueError(
        f"Expected events of at most max_rows={max_rows} rows, got one with "
        f"{worst} rows more."
      )
  return stream, info


class AcuByClass(NamedTuple):
  """A learner with sums for each class, made by `acu_by_class`.

  Attributes:
    init: `() -> state`, leaves [C, ...].
    learn: `(state, features [k, D], label int [k], weights=None) -> state`.
    forget: the same; takes rows out that are in.
    forget_classes: `(state, class_mask bool [C]) -> state`; without any row.
      A class that was never learned, or is forgotten already, changes nothing.
    merge: `state -> AcuState` of the plain learner.
    solve: `state -> AcuHead`.
  """

  init: Callable[[], AcuState]
  learn: Callable[..., AcuState]
  forget: Callable[..., AcuState]
  forget_classes: Callable[[AcuState, jax.Array], AcuState]
  merge: Callable[[AcuState], AcuState]
  solve: Callable[[AcuState], AcuHead]


def acu_by_class(learner: Acu, num_classes: int) -> AcuByClass:
  """Keeps the sums of each class apart, so that classes go without their rows.

  The identity is exact: the sums of all rows are the sums over classes. Memory
  and the cost of learning are C times those of the plain learner.

  Args:
    learner: an `acu` of the form "exact" or "statistics".
    num_classes: C of the learner; static.

  Returns:
    An `AcuByClass`. In the form "exact" its head has the bits of the plain
    learner's.

  Raises:
    ValueError: a learner of the form "recursive"; on a call, labels that are no
      integers or out of range, a class mask that is not bool [C].

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import continual
    >>> learner = continual.acu_by_class(continual.acu(2, 2, l2=3.0), 2)
    >>> state = learner.learn(learner.init(), jnp.eye(2), jnp.array([0, 1]))
    >>> state = learner.forget_classes(state, jnp.array([True, False]))
    >>> learner.solve(state).kernel.tolist()
    [[0.0, 0.0], [0.0, 0.25]]
  """
  checks.counts(num_classes=num_classes)
  empty = learner.init()
  if not isinstance(empty, AcuState):
    raise ValueError(
      "Expected a learner that keeps sums, got one of form='recursive'."
    )
  if jax.eval_shape(learner.solve, empty).class_active.shape != (num_classes,):
    raise ValueError(
      f"Expected num_classes of the learner, got num_classes={num_classes}."
    )

  def init() -> AcuState:
    lanes = lambda leaf: jnp.broadcast_to(leaf, (num_classes, *leaf.shape))
    return jax.tree.map(lanes, learner.init())

  def change(apply: Callable[..., AcuState]) -> Callable[..., AcuState]:
    def run(state, features, label, weights=None):
      label = jnp.asarray(label)
      n = checks.num_rows((features, label), name="features and label")
      weights = jnp.ones(n, bool) if weights is None else jnp.asarray(weights)
      checks.request({"x": features}, weights, name="weights")
      checks.labels(jnp.where(weights > 0, label, 0), num_classes)
      targets = jax.nn.one_hot(label, num_classes)
      learner.check(features, targets, weights)

      def one(lane: tuple[AcuState, jax.Array]) -> AcuState:
        own, number = lane
        of_class = jnp.where(label == number, weights, jnp.zeros_like(weights))
        return apply(own, features, targets, of_class)

      return jax.lax.map(one, (state, jnp.arange(num_classes)))

    return run

  def forget_classes(state: AcuState, class_mask: jax.Array) -> AcuState:
    mask = arrays(f"class_mask bool [{num_classes}]", class_mask)
    drop = lambda leaf: jnp.where(
      mask.reshape(-1, *[1] * (leaf.ndim - 1)), jnp.zeros_like(leaf), leaf
    )
    return jax.tree.map(drop, state)

  def merge(state: AcuState) -> AcuState:
    add = lambda total, one: (_added(total, one), None)
    return jax.lax.scan(add, learner.init(), state)[0]

  return AcuByClass(
    init,
    change(learner.learn),
    change(learner.forget),
    forget_classes,
    merge,
    lambda state: learner.solve(merge(state)),
  )


def acu_leave_one_out(
  state: AcuState,
  learner: Acu,
  features: jax.Array,
  targets: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Each row's residual after that row alone is forgotten, in closed form.

      y - z W_without = (y - z W) / (1 - h),   h = z (Z'Z + l2 I)^-1 z'

  Args:
    state: of a learner that keeps sums or of the recursive one.
    learner: see `acu`.
    features: [k, D], rows that are in, each with weight 1.
    targets: [k, C].

  Returns:
    Residuals [k, C], and h [k], in [0, 1).

  Raises:
    ValueError: as `learner.learn` and `learner.solve`.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import continual
    >>> learner, z = continual.acu(1, 1, l2=1.0), jnp.array([[1.0], [1.0]])
    >>> state = learner.learn(learner.init(), z, z)
    >>> residual, leverage = continual.acu_leave_one_out(state, learner, z, z)
    >>> [round(v, 3) for v in (*residual[0].tolist(), leverage[0].item())]
    [0.5, 0.333]
  """
  learner.check(features, targets)
  head = learner.solve(state)
  z = jnp.asarray(features).astype(head.kernel.dtype)
  y = jnp.asarray(targets).astype(head.kernel.dtype)
  highest = jax.lax.Precision.HIGHEST
  across = jnp.matmul(z, learner.inverse(state), precision=highest)
  leverage = (across * z).sum(axis=1)
  residual = y - jnp.matmul(z, head.kernel, precision=highest)
  return residual / (1 - leverage[:, None]), leverage
