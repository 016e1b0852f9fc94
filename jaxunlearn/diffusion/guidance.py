"""Predictors: what a sampler follows. Classifier-free guidance, and switching.

Source: Ho and Salimans (2022), arXiv:2207.12598.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxunlearn.core.types import PyTree
from jaxunlearn.diffusion.types import Diffusion, Predictor, check_tokens


def guided_eps(
  diffusion: Diffusion,
  params: PyTree,
  x: jax.Array,
  t: jax.Array,
  context: jax.Array,
  guidance: float | jax.Array,
) -> jax.Array:
  """eps(null) + guidance (eps(context) - eps(null)), in one call of the network.

  Args:
    diffusion: the model.
    params: its params.
    x: noisy images [B, H, W, C].
    t: int [B].
    context: encoded prompts [B, L, D].
    guidance: 0 ignores the prompt, 1 is the prompt alone; may be traced.

  Returns:
    [B, H, W, C].

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import diffusion, toy
    >>> model, variables, data, *_ = toy.diffusion()
    >>> params, x, t = variables.params, data["x"], jnp.zeros(4, int)
    >>> context = model.encode(params, data["tokens"])
    >>> eps = diffusion.guided_eps(model, params, x, t, context, guidance=3.0)
    >>> null, prompted = diffusion.both_eps(model, params, x, t, context)
    >>> far, near = abs(eps - null).max(), abs(prompted - null).max()
    >>> round(float(far / near), 3)
    3.0
  """
  null, prompted = both_eps(diffusion, params, x, t, context)
  return null + guidance * (prompted - null)


def both_eps(
  diffusion: Diffusion,
  params: PyTree,
  x: jax.Array,
  t: jax.Array,
  context: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """The noise under the empty prompt and under `context`, from one call.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import diffusion, toy
    >>> model, variables, data, *_ = toy.diffusion()
    >>> params, x, t = variables.params, data["x"], jnp.zeros(4, int)
    >>> context = model.null_context(params, 4)  # Of the empty prompt.
    >>> null, prompted = diffusion.both_eps(model, params, x, t, context)
    >>> null.shape, float(jnp.abs(prompted - null).max())
    ((4, 2, 2, 1), 0.0)
  """
  null = diffusion.null_context(params, x.shape[0])
  double = diffusion.eps(
    params,
    jnp.concatenate([x, x]),
    jnp.concatenate([t, t]),
    jnp.concatenate([null, context]),
  )
  return double[: x.shape[0]], double[x.shape[0] :]


def classifier_free(
  diffusion: Diffusion,
  params: PyTree,
  tokens: jax.Array,
  guidance: float | jax.Array,
) -> Predictor:
  """The predictor of classifier-free guidance for given prompts.

  Args:
    diffusion: the model.
    params: its params.
    tokens: int [B, L], a prompt an image.
    guidance: see `guided_eps`; may be traced.

  Raises:
    ValueError: tokens that are no integers [B, L], or out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import diffusion, toy
    >>> model, variables, data, *_ = toy.diffusion()
    >>> x, tokens = data["x"], data["tokens"]
    >>> predictor = diffusion.classifier_free(
    ...   model, variables.params, tokens, guidance=3.0
    ... )
    >>> eps, _ = predictor.predict(predictor.init(x), x, jnp.zeros(4, int), 0)
    >>> eps.shape
    (4, 2, 2, 1)
  """
  check_tokens(diffusion, tokens)
  context = diffusion.encode(params, jnp.asarray(tokens))

  def predict(state, x, t, index):
    del index
    return guided_eps(diffusion, params, x, t, context, guidance), state

  return Predictor(lambda x: (), predict)
