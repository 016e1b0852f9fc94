"""UNSIR, Bad Teacher, SCRUB and SSD as one writes them in a script of JAX.

A jitted step for each kind of step, a Python loop over batches that NumPy cut
out, no masks: what the library's one program is to be held against in `cold`.
Same steps, batch sizes, losses and optimisers as there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxunlearn.core.tasks import Model
from jaxunlearn.core.types import Variables


class Work(NamedTuple):
  """One request on one model: what both sides get.

  Attributes:
    model: a classifier; both sides call its `apply`.
    original: its trained variables.
    x: float [N, ...].
    label: int [N].
    forget: bool [N].
    steps: of each part of a method.
    batch_size: rows a step.
  """

  model: Model
  original: Variables
  x: np.ndarray
  label: np.ndarray
  forget: np.ndarray
  steps: int
  batch_size: int


def _batches(
  work: Work, chosen: np.ndarray, steps: int, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  rows = np.flatnonzero(chosen)
  for _ in range(steps):
    index = rng.choice(rows, work.batch_size, replace=len(rows) < 1)
    yield work.x[index], work.label[index]


def _cross_entropy(logits: jax.Array, label: jax.Array) -> jax.Array:
  return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()


def _divergence(teacher: jax.Array, student: jax.Array, t: float) -> jax.Array:
  target = jax.nn.softmax(teacher / t)
  return optax.losses.kl_divergence(
    jax.nn.log_softmax(student / t), target
  ).mean()


def _trainer(
  optimizer: optax.GradientTransformation, loss: Callable[..., Any]
) -> Callable[..., Any]:
  """A jitted step of `loss(params, state, *batch) -> (loss, state)`."""

  @jax.jit
  def step(params, state, opt_state, *batch):
    grads, state = jax.grad(loss, has_aux=True)(params, state, *batch)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), state, opt_state

  return step


def _supervised(model: Model) -> Callable[..., Any]:
  def loss(params, state, x, label):
    logits, state = model.apply(Variables(params, state), x, train=True)
    return _cross_entropy(logits, label), state

  return loss


def unsir(work: Work, seed: int) -> Any:
  model, rng = work.model, np.random.default_rng(seed)
  params, state = work.original.params, work.original.model_state
  wanted = int(work.label[work.forget][0])
  adam = optax.adam(0.1)
  label = jnp.full(work.batch_size, wanted)

  @jax.jit
  def learn(noise, opt_state):
    def loss(noise):
      wrong = -_cross_entropy(model.predict(work.original, noise), label)
      return (
        wrong
        + 0.1
        * jnp.square(noise).reshape(len(noise), -1).sum(1).mean()
        / noise[0].size
      )

    updates, opt_state = adam.update(jax.grad(loss)(noise), opt_state)
    return noise + updates, opt_state

  noise = jnp.asarray(
    rng.normal(size=(work.batch_size, *work.x.shape[1:])), jnp.float32
  )
  opt_state = adam.init(noise)
  for _ in range(work.steps):
    noise, opt_state = learn(noise, opt_state)
  noise = np.asarray(noise)
  for rate, mixed in ((0.02, True), (0.01, False)):
    optimizer = optax.adam(rate)
    step, opt_state = (
      _trainer(optimizer, _supervised(model)),
      optimizer.init(params),
    )
    for x, y in _batches(work, ~work.forget, work.steps, rng):
      if mixed:
        use = rng.random(len(y)) < 0.5
        x = np.where(use.reshape(-1, *[1] * (x.ndim - 1)), noise, x)
        y = np.where(use, wanted, y).astype(y.dtype)
      params, state, opt_state = step(params, state, opt_state, x, y)
  return params


def bad_teacher(work: Work, seed: int) -> Any:
  model, rng = work.model, np.random.default_rng(seed)
  params, state = work.original.params, work.original.model_state
  untaught = jax.jit(model.init)(jax.random.key(seed), work.x[:1])

  def loss(params, state, x, forget, original, untaught):
    student, state = model.apply(Variables(params, state), x, train=True)
    teacher = jnp.where(
      forget[:, None], model.predict(untaught, x), model.predict(original, x)
    )
    return _divergence(teacher, student, 1.0), state

  optimizer = optax.adam(1e-4)
  step, opt_state = _trainer(optimizer, loss), optimizer.init(params)
  for _ in range(work.steps):
    index = rng.choice(len(work.label), work.batch_size, replace=False)
    batch = work.x[index], work.forget[index], work.original, untaught
    params, state, opt_state = step(params, state, opt_state, *batch)
  return params


def scrub(work: Work, seed: int) -> Any:
  model, rng = work.model, np.random.default_rng(seed)
  params, state = work.original.params, work.original.model_state
  optimizer = optax.adam(1e-3)

  def disobey(params, state, x, label, original):
    logits, state = model.apply(Variables(params, state), x, train=True)
    return -4 * _divergence(model.predict(original, x), logits, 2.0), state

  def obey(params, state, x, label, original):
    logits, state = model.apply(Variables(params, state), x, train=True)
    near = 4 * _divergence(model.predict(original, x), logits, 2.0)
    return _cross_entropy(logits, label) + 0.5 * near, state

  away, back = _trainer(optimizer, disobey), _trainer(optimizer, obey)
  opt_state = optimizer.init(params)
  for epoch in range(3):
    turns = [(back, ~work.forget)]
    turns = [(away, work.forget), *turns] if epoch < 2 else turns
    for step, chosen in turns:
      for x, y in _batches(work, chosen, work.steps, rng):
        params, state, opt_state = step(
          params, state, opt_state, x, y, work.original
        )
  return params


def ssd(work: Work, seed: int) -> Any:
  del seed  # Nothing is drawn.
  model, original = work.model, work.original

  @jax.jit
  def squares(params, x, label):
    def loss(params):
      logits = model.predict(original._replace(params=params), x)
      return _cross_entropy(logits, label)

    return jax.tree.map(jnp.square, jax.grad(loss)(params))

  add = jax.jit(partial(jax.tree.map, jnp.add))

  def importance(chosen):
    rows, total, count = np.flatnonzero(chosen), None, 0
    for start in range(0, len(rows) - work.batch_size + 1, work.batch_size):
      index = rows[start : start + work.batch_size]
      found = squares(original.params, work.x[index], work.label[index])
      total = found if total is None else add(total, found)
      count += 1
    return jax.tree.map(lambda leaf: leaf / count, total)

  @jax.jit
  def dampen(params, forget, full):
    def shrink(p, f, d):
      factor = jnp.minimum(d / jnp.maximum(f, 1e-30), 1.0)
      return jnp.where(f > 10.0 * d, p * factor, p)

    return jax.tree.map(shrink, params, forget, full)

  everything = np.ones(len(work.label), bool)
  return dampen(
    original.params, importance(work.forget), importance(everything)
  )


SCRIPTS: dict[str, Callable[[Work, int], Any]] = {
  "UNSIR": unsir,
  "Bad Teacher": bad_teacher,
  "SCRUB": scrub,
  "SSD": ssd,
}
