"""Causal tracing: which states bring back a fact whose subject is drowned.

Three runs of a prompt: as it is; with noise on the embeddings of its subject;
and with that noise, but one state put back as it was, for every layer and place.
All patches are one program: where to put a state back is an array.

Source: Meng et al. (2022), arXiv:2202.05262; as the search for layers to train,
arXiv:2504.12996. The noise of a draw is the same in all runs, so that effects
are of the patch alone.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.legacy import old_fields, renamed
from jaxunlearn.core.shaped import arrays
from jaxunlearn.core.types import Variables
from jaxunlearn.language.types import LanguageModel, Text, check_text
from jaxunlearn.models.decoder import Edits, States

_KINDS = ("residual", "attention", "mlp")


class Trace(NamedTuple):
  """Probabilities of the answer's first token.

  Attributes:
    clean: [N], of the prompt as it is.
    corrupt: [N], with noise on the subject, the mean over draws.
    restored: [N, layers, L], with the noise and a state put back; of every
      `step`-th layer.
  """

  clean: jax.Array
  corrupt: jax.Array
  restored: jax.Array

  @property
  def total_effect(self) -> jax.Array:
    """What the noise takes away, [N]."""
    return self.clean - self.corrupt

  @property
  def indirect_effect(self) -> jax.Array:
    """What a state brings back, [N, layers, L]."""
    return self.restored - self.corrupt[:, None, None]


class Corruption(NamedTuple):
  """What drowns the subject.

  Attributes:
    noise: standard deviations of the numbers of the embedding. May be traced.
    num_draws: static; draws of it.
  """

  noise: float | jax.Array = 3.0
  num_draws: int = 10


CORRUPTION = Corruption()


@renamed(chunk_size="chunk")
@old_fields(corruption=Corruption)
def causal_trace(
  lm: LanguageModel,
  variables: Variables,
  x: Text,
  subject: jax.Array,
  key: jax.Array,
  *,
  kind: str = "residual",
  window: int = 1,
  step: int = 1,
  corruption: Corruption = CORRUPTION,
  chunk_size: int = 8,
) -> Trace:
  """Traces facts over all layers and places.

  Args:
    lm: the model.
    variables: its values.
    x: texts [N, L]; the prompt is what comes before token `prompt`, which is
      the answer. What follows is not looked at.
    subject: bool [N, L], which tokens name the subject; `requests.phrases`
      finds them.
    key: typed PRNG key.
    kind: static; "residual", the stream after a block, "attention" or "mlp",
      what they add to it.
    window: static; blocks put back at once, from window // 2 before the one.
    step: static; 2 traces every second block only, at half of the cost.
    corruption: of the subject; see `Corruption`.
    chunk_size: static; patches at a time, each a pass over N * num_draws texts.

  Returns:
    A `Trace`. Put `jax.jit` around it.

  Raises:
    ValueError: see `check_text`; subjects of another shape or dtype; (concrete)
      a row whose prompt names no subject; a count < 1, noise < 0.

  Example:
    >>> import jax
    >>> from jaxunlearn import attribution, toy
    >>> lm, variables, data, _, key = toy.decoder()
    >>> subject = jax.numpy.zeros((8, 4), bool).at[:, 1].set(True)
    >>> trace = jax.jit(lambda v: attribution.causal_trace(
    ...   lm, v, data["x"], subject, key,
    ...   corruption=attribution.Corruption(num_draws=3)))(variables)
    >>> trace.restored.shape  # Of eight facts, two layers and four tokens.
    (8, 2, 4)
    >>> means = trace.clean.mean(), trace.corrupt.mean()
    >>> [round(float(p), 1) for p in means]
    [0.9, 0.2]
  """
  check_text(x, lm.config)
  checks.typed_key(key)
  checks.one_of(_KINDS, kind=kind)
  noise, num_draws = corruption
  checks.count(
    1, window=window, step=step, num_draws=num_draws, chunk_size=chunk_size
  )
  checks.non_negative(noise=noise)
  subject = arrays(f"subject bool {list(x.tokens.shape)}", subject)
  length = x.tokens.shape[1]
  place = jnp.arange(length, dtype=jnp.int32)[None]
  subject &= place < x.prompt[:, None]
  if checks.is_concrete(subject) and not bool(subject.any(axis=1).all()):
    raise ValueError("Expected every prompt to name its subject, got one none.")
  vocabulary = jnp.arange(lm.config.vocab_size, dtype=jnp.int32)[None]
  scale = noise * lm.embed(variables, vocabulary).astype(jnp.float32).std()
  hidden = lm.embed(variables, x.tokens)
  shape = (num_draws, *hidden.shape)
  drawn = scale * jax.random.normal(key, shape, jnp.float32)
  drowned = hidden[None] + jnp.where(
    subject[None, :, :, None], drawn.astype(hidden.dtype), 0
  )

  def answer(hidden: jax.Array) -> jax.Array:
    """p of the token after the prompt, [N], from the last block [N, L, D]."""
    at = lambda values, index: jnp.take_along_axis(
      values, index.reshape(-1, *[1] * (values.ndim - 1)), axis=1
    )[:, 0]
    logits = lm.logits(variables, at(hidden, x.prompt - 1))
    target = at(x.tokens, jnp.minimum(x.prompt, length - 1))
    return at(jax.nn.softmax(logits), target)

  clean = lm.blocks(variables, hidden)
  values = States(**{kind: getattr(clean.states, kind)})

  def patched(where: jax.Array) -> jax.Array:
    """Mean over draws, [N], with what is kept put back; bool [layers, L]."""
    edits = Edits(States(**{kind: where}), values)
    run = lambda noisy: answer(lm.blocks(variables, noisy, edits=edits).hidden)
    return jax.vmap(run)(drowned).mean(axis=0)

  layers = lm.config.num_layers
  block = jnp.arange(layers)
  first = block[::step] - window // 2
  near = (block[None] >= first[:, None]) & (
    block[None] < first[:, None] + window
  )
  where = near[:, None, :, None] & jnp.eye(length, dtype=bool)[None, :, None]
  restored = jax.lax.map(
    patched, where.reshape(-1, layers, length), batch_size=chunk_size
  )
  corrupt = patched(jnp.zeros((layers, length), bool))
  restored = restored.reshape(first.shape[0], length, -1)
  return Trace(answer(clean.hidden), corrupt, jnp.moveaxis(restored, -1, 0))
