"""SalUn for diffusion models: another prompt for the images of a concept.

Source: Fan et al. (2024), arXiv:2310.12508 (generation), and the released code.
Class: heuristic. Data access: forget and retain rows, images and prompts. Model
state: there is none. Cost: for the mask one gradient over all rows, of which
those to keep weigh 0; one gradient and one more forward pass a step.
Differences from the released code: both prompts see the same noisy image and the
same dropped prompts; forget and retain terms are both means over pixels (its
DDPM part sums the retain term, so that its alpha of 1e-3 is about 3 here); the
mask is that of the mean over the forget set, weights outside it get no update.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.core import checks, per_example
from jaxunlearn.core.combinators import masked
from jaxunlearn.core.phase import Objective, phase
from jaxunlearn.core.saliency import largest
from jaxunlearn.core.types import ALL, Draw, PyTree, Transform
from jaxunlearn.diffusion.guidance import guided_eps
from jaxunlearn.diffusion.steps import restricted
from jaxunlearn.diffusion.training import (
  Augment,
  check_data,
  check_time_weights,
  noise_error,
  noisy_rows,
  row_keys,
)
from jaxunlearn.diffusion.types import Diffusion, parameter_group


def salun(
  diffusion: Diffusion,
  relabel: Augment,
  *,
  optimizer: optax.GradientTransformation | None = None,
  num_steps: int = 1000,
  batch_size: int = 8,
  keep: float | jax.Array = 0.5,
  retain_weight: float | jax.Array = 0.5,
  null_rate: float | jax.Array = 0.1,
  augment: Augment | None = None,
  group: str = "full",
  mask_guidance: float | jax.Array = 8.5,
  time_weights: jax.Array | None = None,
  chunk_size: int = 256,
) -> Transform:
  """Learns to see in a concept's images what another prompt says.

  Minimises over the salient weights, with c' the new prompt of a forget row,

      mean |eps(x_t, t, c) - stop_gradient(eps(x_t, t, c'))|^2  (forget rows)
        + retain_weight mean |eps(x_t, t, c) - noise|^2         (retain rows)

  Args:
    diffusion: the model.
    relabel: static; `(tokens int [L], key) -> tokens int [L]`, another prompt
      for that of a forget row: `replace_words`, or a constant prompt.
    optimizer: Adam of 1e-5 by default, the published setting.
    num_steps: static.
    batch_size: static; forget rows a step, and as many retain rows.
    keep: share of the group's weights that may change, in [0, 1]; 1 is plain
      relabelling. May be traced.
    retain_weight: alpha >= 0; may be traced.
    null_rate: share of rows that get the empty prompt, in [0, 1]; a forget row
      then teaches nothing. May be traced.
    augment: None, or what is done to a prompt before: `drop_words`.
    group: static; one of `parameter_groups`, of whose weights the share is
      taken.
    mask_guidance: w of the guided noise whose error marks the weights; the
      published 1 + 7.5. May be traced.
    time_weights: None, the paper's loss; or float [T], see `denoising`.
    chunk_size: static; rows at a time for the mask.

  Returns:
    A `Transform` whose info is a `PhaseInfo`, needing forget and retain rows. An
    empty request marks no weights and returns the params as they are; only with
    a keep of 1 that is not traced, which needs no mask, does it fine-tune.

  Raises:
    ValueError: an option outside its range, an unknown group; from the call,
      rows that do not fit the model.
  """
  checks.positive(batch_size=batch_size)
  checks.non_negative(retain_weight=retain_weight)
  mask = saliency_mask(
    diffusion,
    keep,
    group=group,
    guidance=mask_guidance,
    time_weights=time_weights,
    chunk_size=chunk_size,
  )
  fit = phase(
    relabelling(
      diffusion,
      relabel,
      null_rate=null_rate,
      augment=augment,
      time_weights=time_weights,
    ),
    restricted(optimizer or optax.adam(1e-5), group),
    num_steps,
    draw=Draw(forget=batch_size, retain=batch_size),
    retain_weight=retain_weight,
    name="salun",
  )
  # Without a choice there is no gradient to take.
  if not (checks.is_concrete(keep) and keep == 1):
    fit = masked(fit, mask, needs=Draw(forget=ALL))
  return fit


def relabelling(
  diffusion: Diffusion,
  relabel: Augment,
  *,
  null_rate: float | jax.Array = 0.1,
  augment: Augment | None = None,
  time_weights: jax.Array | None = None,
) -> Objective:
  """SalUn's loss of rows, an objective; arguments are those of `salun`.

  Returns:
    `(variables, batch, key) -> losses [B]`, means over pixels.
  """
  checks.fraction(null_rate=null_rate)
  check_time_weights(diffusion, time_weights)

  def objective(variables, batch, key):
    check_data(diffusion, batch.rows)
    params, x = variables.params, batch.rows["x"]

    def prompts(tokens, key):
      null_key, word_key, new_key = jax.random.split(key, 3)
      if augment is not None:
        tokens = augment(tokens, word_key)
      is_null = jax.random.bernoulli(null_key, null_rate)
      pair = jnp.stack([tokens, relabel(tokens, new_key)])
      return jnp.where(is_null, diffusion.null_tokens[None], pair)

    keys = jax.vmap(jax.random.split)(row_keys(key, batch.slot))
    x_t, t, noise = noisy_rows(diffusion, x, keys[:, 0])
    tokens = jax.vmap(prompts)(batch.rows["tokens"], keys[:, 1])
    of = lambda q, c: diffusion.eps(q, x_t, t, diffusion.encode(q, c))
    other = of(jax.lax.stop_gradient(params), tokens[:, 1])
    forget = batch.forget[:, None, None, None]
    wanted = jnp.where(forget, other, noise)
    return noise_error(of(params, tokens[:, 0]), wanted, t, time_weights)

  return objective


def saliency_mask(
  diffusion: Diffusion,
  keep: float | jax.Array = 0.5,
  *,
  group: str = "full",
  guidance: float | jax.Array = 8.5,
  time_weights: jax.Array | None = None,
  chunk_size: int = 256,
) -> Callable[..., PyTree]:
  """A weight mask for `masked`: where the forget set's guided loss is steepest.

  Marks the share `keep` of largest |G|, G the gradient of the mean of
  |eps_guided(x_t, t, c) - noise|^2 over the forget set, one draw of t and noise
  a row.

  Args:
    diffusion: the model.
    keep: in [0, 1]; floor(keep * P) of the group's P weights. May be traced.
    group: static; one of `parameter_groups`; others are not marked.
    guidance: see `mask_guidance` of `salun`.
    time_weights: see `salun`.
    chunk_size: static; rows at a time.

  Returns:
    `(variables, data, forget_mask, key) -> pytree of bool like the params`;
    False everywhere for an empty request.

  Raises:
    ValueError: keep outside [0, 1], chunk_size < 1.
  """
  checks.fraction(keep=keep)
  checks.positive(chunk_size=chunk_size)
  check_time_weights(diffusion, time_weights)

  def mask(variables, data, forget_mask, key):
    check_data(diffusion, data)

    def chunk(rows, weight):
      keys = row_keys(key, rows["row"])
      x_t, t, noise = noisy_rows(diffusion, rows["x"], keys)

      def loss(params):
        context = diffusion.encode(params, rows["tokens"])
        guided = guided_eps(diffusion, params, x_t, t, context, guidance)
        losses = noise_error(guided, noise, t, time_weights)
        return jnp.where(weight > 0, weight * losses, 0.0).sum()

      return jax.grad(loss)(variables.params)

    rows: dict[str, Any] = {name: data[name] for name in ("x", "tokens")}
    rows["row"] = jnp.arange(forget_mask.shape[0])
    total = per_example.sum_chunks(
      chunk, rows, forget_mask, chunk_size=chunk_size
    )
    chosen = _largest_in(total, keep, parameter_group(variables.params, group))
    # Of gradients that are all 0 the first would be taken.
    is_asked = (forget_mask > 0).any()
    return jax.tree.map(lambda marks: marks & is_asked, chosen)

  return mask


def replace_words(table: jax.Array) -> Augment:
  """Puts another token in the place of each: an `Augment`.

  Args:
    table: int [V], what each token becomes; those that stay are themselves, as
      do tokens beyond the table. May be traced, so that one program serves every
      concept.

  Raises:
    ValueError: a table that is not int [V], or with tokens out of range.
  """
  table = jnp.asarray(table)
  if table.ndim != 1 or table.size == 0:
    raise ValueError(f"Expected table of shape [V], got {table.shape}.")
  checks.labels(table, table.size, "table")

  def augment(tokens, key):
    del key
    known = table[jnp.minimum(tokens, table.size - 1)]
    return jnp.where(tokens < table.size, known, tokens).astype(tokens.dtype)

  return augment


def _largest_in(
  scores: PyTree, keep: float | jax.Array, group: PyTree
) -> PyTree:
  """`largest` among the leaves that the group marks; False in the others."""
  leaves, tree = jax.tree.flatten(scores)
  marks = jax.tree.leaves(group)
  chosen = iter(largest([s for s, m in zip(leaves, marks) if m], keep))
  return jax.tree.unflatten(
    tree,
    [
      next(chosen) if m else jnp.zeros(s.shape, bool)
      for s, m in zip(leaves, marks, strict=True)
    ],
  )
