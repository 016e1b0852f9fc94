"""What `doco`'s model and its discriminator minimise; for the source see there."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.core.keys import derive
from jaxunlearn.core.phase import Objective
from jaxunlearn.core.tasks import Model
from jaxunlearn.core.types import Losses, PyTree
from jaxunlearn.diffusion import schedules, steps
from jaxunlearn.diffusion.surgery import gradient_surgery, with_gradient
from jaxunlearn.diffusion.training import noise_error, noisy_rows
from jaxunlearn.diffusion.types import Diffusion, parameter_group

# `(params, original params, rows, keys [B]) -> clean images under the concept's
# prompts and under the anchors', [B, H, W, C]`.
Predict = Callable[..., tuple[jax.Array, jax.Array]]


class Preservation(NamedTuple):
  """What `doco` does for the prior.

  Attributes:
    mode: static; "exact" or "released", see `gradient_surgery`; or "none".
    strength: of the cut. May be traced.
    keep: static; adds the gradient of L_p after the cut; not in "none".
    weight: of L_p in "none" only. May be traced.
    clip_gradient: the largest global norm of each gradient. May be traced.
  """

  mode: str = "exact"
  strength: float | jax.Array = 1.0
  keep: bool = False
  weight: float | jax.Array = 0.1
  clip_gradient: float | jax.Array = 1.0


def telling_apart(predict: Predict, discriminator: Model) -> Objective:
  """The discriminator's loss L_D of rows; no gradient reaches the model.

  Example:
    >>> import jax.numpy as jnp
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.adapters.functions import from_functions
    >>> from jaxunlearn.diffusion.doco_losses import telling_apart
    >>> _, variables, data, _, key = toy.diffusion()
    >>> blind = from_functions(
    ...   lambda key, x: {}, lambda params, x: jnp.zeros(len(x))
    ... )
    >>> predict = lambda params, original, rows, keys: (rows["x"], -rows["x"])
    >>> objective = telling_apart(predict, blind)
    >>> step = ju.core.as_step(data)._replace(variables=variables, original=variables)
    >>> losses = objective(blind.init(key, data["x"]), step, key)
    >>> [round(loss, 3) for loss in losses.value.tolist()]  # 2 log 2.
    [1.386, 1.386, 1.386, 1.386]
  """

  def objective(network, step, key):
    ours, anchors = jax.lax.stop_gradient(
      predict(
        step.variables.params, step.original.params, step.rows, step.keys(key)
      )
    )
    real_key, fake_key = jax.random.split(derive(key, "network"))
    # One after the other, each by its own statistics where it has any.
    real, state = discriminator.apply(
      network, anchors, train=True, key=real_key
    )
    network = network._replace(model_state=state)
    fake, state = discriminator.apply(network, ours, train=True, key=fake_key)
    each = lambda logits: logits.reshape(len(ours), -1).mean(axis=1)
    loss = each(jax.nn.softplus(real)) + each(jax.nn.softplus(-fake))
    return Losses(loss, None, state)

  return objective


def correction(
  both_losses: Callable[..., tuple[Callable, Callable]],
  group: str,
  preservation: Preservation,
) -> Objective:
  """The model's loss L_u, with the gradient that is left after the cut.

  Args:
    both_losses: `(params, step, key) -> (L_u, L_p)`, functions of the params.
    group: see `doco`.
    preservation: see `doco`.

  Example:
    >>> import jax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn.diffusion.doco_losses import Preservation, correction
    >>> to_k = lambda value: {"denoiser": {"attn2": {"to_k": value}}}
    >>> both = lambda params, step, key: (
    ...   lambda p: p["denoiser"]["attn2"]["to_k"].sum(),  # L_u.
    ...   lambda p: -p["denoiser"]["attn2"]["to_k"][0],  # L_p.
    ... )
    >>> objective = correction(both, "xattn-kv", Preservation())
    >>> loss = lambda p: objective(ju.Variables(p), None, None).sum()
    >>> gradient = jax.grad(loss)(to_k(jax.numpy.array([3.0, 3.0])))
    >>> [round(g, 3) for g in gradient["denoiser"]["attn2"]["to_k"].tolist()]
    [0.0, 0.707]
  """
  mode, largest = preservation.mode, preservation.clip_gradient

  def objective(variables, step, key):
    # What is lent to `params` below is the only gradient that reaches them.
    frozen = jax.lax.stop_gradient(variables.params)
    deceive, preserve = both_losses(frozen, step, key)
    moves = parameter_group(frozen, group)
    loss, unlearn = jax.value_and_grad(deceive)(frozen)
    kept = jax.grad(preserve)(frozen)
    if mode == "none":
      weight = preservation.weight
      both = jax.tree.map(lambda u, p: u + weight * p, unlearn, kept)
      gradient = _clipped(both, moves, largest)
    else:
      kept = _clipped(kept, moves, largest)
      unlearn = _clipped(unlearn, moves, largest)
      gradient = gradient_surgery(
        unlearn, kept, preservation.strength, mode=mode
      )
      if preservation.keep:
        gradient = jax.tree.map(jnp.add, gradient, kept)
    return with_gradient(loss[None], variables.params, gradient)

  return objective


def make_predict(diffusion: Diffusion, clip_clean: float | None) -> Predict:
  """What the model makes of noisy anchor images under the concept's prompts.

  Beside it what the original makes of the same images under the anchors'.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.diffusion.doco_losses import make_predict
    >>> model, (params, *_), data, request, key = toy.diffusion()
    >>> predict = make_predict(model, clip_clean=1.0)
    >>> rows = {
    ...   "x": data["x"][:2],
    ...   "target": request.concept.prompts,
    ...   "tokens": request.concept.anchors,
    ... }
    >>> ours, anchors = predict(params, params, rows, jax.random.split(key, 2))
    >>> ours.shape, anchors.shape
    ((2, 2, 2, 1), (2, 2, 2, 1))
  """

  def predict(params, original, rows, keys):
    x_t, t, _ = noisy_rows(diffusion, rows["x"], keys)

    def clean(params, tokens):
      eps = diffusion.eps(params, x_t, t, diffusion.encode(params, tokens))
      return schedules.predict_clean(
        diffusion.alphas_bar, x_t, eps, t, clip_clean
      )

    original = jax.lax.stop_gradient(original)
    return clean(params, rows["target"]), clean(original, rows["tokens"])

  return predict


def make_prior_loss(
  diffusion: Diffusion, time_weights: jax.Array | None
) -> Callable[..., jax.Array]:
  """`(params, images, key, count) -> loss []` of denoising some of them.

  Example:
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.diffusion.doco_losses import make_prior_loss
    >>> model, (params, *_), data, _, key = toy.diffusion()
    >>> loss = make_prior_loss(model, time_weights=0 * model.alphas_bar)
    >>> float(loss(params, data, key, 8))  # No time has a weight.
    0.0
  """

  def loss(params, images, key, count):
    row_key, noise_key = jax.random.split(key)
    rows = steps.some_rows(images, row_key, count)
    keys = jax.random.split(noise_key, count)
    x_t, t, noise = noisy_rows(diffusion, rows["x"], keys)
    context = diffusion.encode(params, rows["tokens"])
    eps = diffusion.eps(params, x_t, t, context)
    return noise_error(eps, noise, t, time_weights).mean()

  return loss


def _clipped(gradient: PyTree, moves: PyTree, largest: PyTree) -> PyTree:
  """The group's part of a gradient, scaled to a norm of at most `largest`."""
  gradient = jax.tree.map(
    lambda moved, g: g if moved else jnp.zeros_like(g), moves, gradient
  )
  wide = jax.tree.map(
    lambda g: g.astype(jnp.promote_types(jnp.float32, g.dtype)), gradient
  )
  norm = optax.tree.norm(wide)
  scale = jnp.minimum(1.0, largest / jnp.maximum(norm, 1e-12))
  return jax.tree.map(lambda g: (g * scale).astype(g.dtype), gradient)
