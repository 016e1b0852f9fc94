"""Label-agnostic forgetting (LAF): unlearning in the space of embeddings.

Source: Shen et al. (2024), arXiv:2404.00506, and its released code.
Class: heuristic. Labels are not read, except by `repair` (their LAF+R). Model
state: frozen; all in evaluation mode. Cost: one pass over the rows, two small
auto-encoders, and two gradients of a batch of each kind per step.
Differences: losses are means over the rows of a kind where the released code has
sums, which Adam does not notice; `centered` is ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.core import checks
from jaxunlearn.core.combinators import chain, masked
from jaxunlearn.core.links import per_row, provide
from jaxunlearn.core.phase import phase
from jaxunlearn.core.recording import record
from jaxunlearn.core.rounds import alternate
from jaxunlearn.core.tasks import Fit, Model, as_fit
from jaxunlearn.core.training import fitting, train_many
from jaxunlearn.core.transform import PhaseInfo, Transform
from jaxunlearn.core.trees import last_layers
from jaxunlearn.core.types import Draw, PyTree, Slot, Step, Variables

CNN = Fit(optax.adam(5e-5), 1000, 32)  # Theirs for a small network, one class.
CNN_ALIGN = optax.adam(1e-4)
VAE_FIT = Fit(optax.adam(1e-3), 600, 32)
_EPSILON = 1e-8  # Added to norms: ReLU embeddings may be all zeros.


def exp_ratio(error: jax.Array) -> jax.Array:
  """exp(s / (s + 1)) of an error s >= 0: from 1 to e, and soon flat."""
  return jnp.exp(error / (1 + error))


def alignment(
  moved: jax.Array,
  is_forget: jax.Array,
  weight: jax.Array,
  temperature: float | jax.Array,
) -> jax.Array:
  """Terms whose mean over retain rows minus that over forget rows is the loss.

  A retain row has its distance d, and every forget row of the batch has
  log sum exp(d / temperature) over the forget rows.

  Args:
    moved: d [B], one minus the cosine of an embedding and the original one.
    is_forget: bool [B].
    weight: [B], 0 for padding.
    temperature: > 0.
  """
  counts = jnp.where(is_forget, weight, 0.0)
  # Without a forget row nobody reads it, and it has to be finite.
  counts = jnp.where(counts.sum() > 0, counts, 1.0)
  pushed = jax.nn.logsumexp(moved / temperature, b=counts)
  return jnp.where(is_forget, pushed, moved)


def laf(
  model: Model,
  fit: Fit = CNN,
  *,
  align: optax.GradientTransformation = CNN_ALIGN,
  temperature: float | jax.Array = 20.0,
  centered: bool = False,
  embedding: str = "features",
  autoencoder: Any = None,
  autoencoder_fit: Fit = VAE_FIT,
  discrepancy: Callable[[jax.Array], jax.Array] = exp_ratio,
  repair: Fit | None = None,
) -> Transform:
  """Embeddings of forget rows leave what they were, those of others stay.

  First two auto-encoders learn the original embeddings of all rows and of the
  forget rows. Then two updates take turns: (a) the first auto-encoder shall
  rebuild embeddings of retain rows, the second one no longer those of forget
  rows; (b) embeddings of retain rows keep the direction that the original model
  gave them, those of forget rows leave it.

  Args:
    model: with `features`.
    fit: of (a); its rows are drawn of each kind, for (b) too.
    align: optimiser of (b), which has its own state.
    temperature: of the forget rows in (b), > 0; a large one moves all of them,
      a small one those that are farthest. May be traced.
    centered: whether cosines in (b) are of embeddings less the mean original one.
      As they are, embeddings after a ReLU have none below 0: the farthest that a
      forget row gets is a right angle, where the last layer may name its class
      still. Rates want to be chosen anew with it.
    embedding: the entry of `model.features`, [B, d].
    autoencoder: of embeddings; `vae()` by default.
    autoencoder_fit: of both, which are trained side by side.
    discrepancy: of the summed squared error of rebuilding, [B] to [B].
    repair: LAF+R: a fit of the last layer to the labels of retain rows.

  Returns:
    A `Transform` with infos "autoencoders" (leaves [2, ...]: all rows, forget
    rows), "apart" (of "extract", (a), and "align", (b)) and perhaps "repair".

  Raises:
    ValueError: a temperature that is not positive; a model without the
      features; from the call, a soft request.

  Example:
    >>> import jax, optax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.models.vae import vae
    >>> problem = toy.classifier()
    >>> unlearn = ju.methods.laf(
    ...   problem.model, ju.Fit(optax.adam(0.02), num_steps=20, batch_size=16),
    ...   align=optax.adam(0.05), embedding="hidden", autoencoder=vae((8,), 2),
    ...   autoencoder_fit=ju.Fit(optax.adam(0.02), 10, 16))
    >>> made, info = jax.jit(unlearn)(*problem.arguments)
    >>> info["autoencoders"].loss.shape
    (2, 10)
    >>> {name: found.loss.shape for name, found in info["apart"].items()}
    {'align': (20, 1), 'extract': (20, 1)}
  """
  fit = as_fit(fit, {})
  checks.positive(temperature=temperature)
  checks.optimizer(align, "align")
  if model.features is None:
    raise ValueError(
      "Expected model.features, which has the embeddings, for laf, got None; "
      "pass features to the adapter."
    )
  if autoencoder is None:
    from jaxunlearn.models.vae import vae

    autoencoder = vae()
  coder = autoencoder
  before: Slot[jax.Array] = Slot("original embeddings")  # [N, d]
  centre: Slot[jax.Array] = Slot("mean original embedding")  # [d]
  coders: Slot[tuple[Variables, PhaseInfo]] = Slot("autoencoders")

  def embed(variables: Variables, rows: PyTree) -> jax.Array:
    assert model.features is not None
    found = model.features(variables, rows["x"])
    if embedding not in found:
      raise ValueError(
        f"Expected embedding among {sorted(found)}, got {embedding!r}."
      )
    flat = found[embedding].reshape(len(found[embedding]), -1)
    return flat.astype(jnp.float32)

  def learn(carry, data, request, key):
    checks.hard_request(request.forget)
    masks = jnp.stack([request.forget | request.retain, request.forget])
    return train_many(
      coder.task,
      {"x": carry[before]},
      masks,
      jax.random.split(key),
      autoencoder_fit,
    )

  def middle(carry, data, request, key):
    del data, key
    seen, all_rows = request.forget | request.retain, carry[before]
    total = jnp.where(seen[:, None], all_rows, 0.0).sum(axis=0)
    return total / jnp.maximum(seen.sum(), 1)

  def leave(variables: Variables, step: Step, key: jax.Array) -> jax.Array:
    e, noise = embed(variables, step.rows), step.keys(key)
    both, _ = step[coders]
    rebuild = jax.vmap(coder.rebuild, in_axes=(0, None, None))
    whole, gone = rebuild(both.params, e, noise)
    rebuilt = jnp.where(step.forget[:, None], gone, whole)
    return discrepancy(((rebuilt - e) ** 2).sum(axis=-1))

  def stay(variables: Variables, step: Step, key: jax.Array) -> jax.Array:
    e, e0 = embed(variables, step.rows), step[before][step.row_id]
    origin = step[centre][None] if centered else 0.0
    moved = 1 - _cosine(e - origin, e0 - origin)
    return alignment(moved, step.forget, step.weight, temperature)

  draw = Draw(forget=fit.batch_size, retain=fit.batch_size)
  one = fit._replace(num_steps=1)
  links = [
    per_row(before, embed),
    *([provide(centre, middle)] if centered else []),
    provide(coders, learn),
    record("autoencoders", lambda carry: carry[coders][1]),
    alternate(
      phase(leave, one, draw=draw, forget_weight=-1.0, name="extract"),
      phase(
        stay,
        one._replace(optimizer=align),
        draw=draw,
        forget_weight=-1.0,
        name="align",
      ),
      rounds=fit.num_steps,
      name="apart",
    ),
  ]
  if repair is not None:
    head = lambda variables, data, request, key: last_layers(
      model, variables, data["x"][:1], 1
    )
    links.append(masked(fitting(model, repair, name="repair"), head))
  return chain(*links, name="laf")


def _cosine(a: jax.Array, b: jax.Array) -> jax.Array:
  size = (a**2).sum(axis=-1) * (b**2).sum(axis=-1)
  return (a * b).sum(axis=-1) / jnp.sqrt(size + _EPSILON)
