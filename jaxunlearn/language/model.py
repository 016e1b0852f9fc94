"""A decoder as the functions that methods take."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.legacy import renamed
from jaxunlearn.core.tasks import Model, Task
from jaxunlearn.core.types import Losses, PyTree, Step, Variables
from jaxunlearn.language.scores import summed, token_nll
from jaxunlearn.language.types import LanguageModel, Text, check_text, counted
from jaxunlearn.losses.classification import cross_entropy
from jaxunlearn.models.decoder import (
  Adapters,
  Blocks,
  Decoder,
  DecoderConfig,
  Edits,
)


@renamed(chunk_size="chunk")
def language_model(
  config: DecoderConfig, *, chunk_size: int | None = None
) -> LanguageModel:
  """A `LanguageModel` of a decoder.

  Args:
    config: its sizes and switches.
    chunk_size: None, or how many positions at a time losses put the head on: the
      logits of a batch are never all there.

  Returns:
    The model; `lm.model.init(key, text)` makes fresh weights, and `ju.train`
    and every method for a `Task` take it as it is.

  Example:
    >>> import jax
    >>> from jaxunlearn import language, toy
    >>> config = language.DecoderConfig(
    ...   28, width=8, num_layers=1, num_heads=2, mlp_width=12, max_length=16
    ... )
    >>> lm = language.language_model(config)
    >>> x = toy.decoder().data["x"]
    >>> variables = jax.jit(lm.model.init)(jax.random.key(0), x)
    >>> jax.jit(lm.model.predict)(variables, x).shape  # Logits of each token.
    (8, 4, 28)
  """
  decoder = Decoder(config)
  if chunk_size is not None:
    checks.count(1, chunk_size=chunk_size)

  def call(variables: Variables, *args: Any, method: Any) -> Any:
    return decoder.apply({"params": variables.params}, *args, method=method)

  def init(key: jax.Array, inputs: PyTree) -> Variables:
    check_text(inputs)
    tokens = jnp.zeros((1, 1), jnp.int32)
    return Variables(decoder.init(key, tokens)["params"])

  def embed(variables: Variables, tokens: jax.Array) -> jax.Array:
    return call(variables, tokens, method=Decoder.embed_tokens)

  def blocks(
    variables: Variables,
    hidden: jax.Array,
    *,
    positions: jax.Array | None = None,
    mask: jax.Array | None = None,
    cache: Any = None,
    edits: Edits | None = None,
    adapters: Adapters | None = None,
    layers: int | None = None,
  ) -> Blocks:
    params, run = variables.params, decoder
    if layers is not None:
      checks.count(1, layers=layers)
      cut = lambda tree: jax.tree.map(lambda w: w[:layers], tree)
      first = cut(params["blocks"])
      params = {**params, "blocks": first}
      run = Decoder(dataclasses.replace(config, num_layers=layers))
      if adapters is not None:
        adapters = adapters._replace(factors=cut(adapters.factors))
    given = (hidden, positions, mask, cache, edits, adapters)
    out: Any = run.apply({"params": params}, *given, method=Decoder.run_blocks)
    return out

  def logits(variables: Variables, hidden: jax.Array) -> jax.Array:
    return call(variables, hidden, method=Decoder.to_logits)

  return assemble(init, config, embed, blocks, logits, chunk_size)


def assemble(
  init: Callable[[jax.Array, PyTree], Variables],
  config: DecoderConfig,
  embed: Callable[[Variables, jax.Array], jax.Array],
  blocks: Callable[..., Blocks],
  logits: Callable[[Variables, jax.Array], jax.Array],
  chunk_size: int | None = None,
) -> LanguageModel:
  """A `LanguageModel` of its parts, see there; with the losses of text.

  Args:
    init: `(key, texts) -> Variables`.
    config, embed, blocks, logits, chunk_size: see `LanguageModel`.

  Example:
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.language.model import assemble
    >>> problem = toy.decoder()
    >>> lm = problem.model
    >>> half = lambda variables, hidden: 0.5 * lm.logits(variables, hidden)
    >>> hot = assemble(lm.model.init, lm.config, lm.embed, lm.blocks, half)
    >>> toy.likelihoods(problem._replace(model=hot), problem.variables)
    (0.41, 0.42)
  """

  def apply(
    variables: Variables,
    inputs: PyTree,
    *,
    train: bool = False,
    key: jax.Array | None = None,
  ) -> tuple[jax.Array, PyTree]:
    del train, key
    check_text(inputs, config)
    hidden = blocks(variables, embed(variables, inputs.tokens)).hidden
    return logits(variables, hidden), variables.model_state

  def row_loss(outputs: jax.Array, rows: PyTree) -> jax.Array:
    out = _losses(outputs, rows["x"], rows.get("token_weight"))
    assert out.weight is not None
    return out.value / jnp.where(out.weight > 0, out.weight, 1)

  def features(variables: Variables, inputs: Text) -> dict[str, jax.Array]:
    check_text(inputs, config)
    states = blocks(variables, embed(variables, inputs.tokens)).states
    return {f"block_{i}": states.residual[i] for i in range(config.num_layers)}

  model = Model(init, apply, row_loss, features)

  def loss(
    variables: Variables, step: Step, key: jax.Array, *, train: bool = False
  ) -> Losses:
    del key, train
    weight = step.rows.get("token_weight")
    return token_nll(lm, variables, step.rows["x"], weight)

  task = Task(model.task.init, loss, model.predict, features)
  lm = LanguageModel(model, config, embed, blocks, logits, task, chunk_size)
  return lm


def _losses(outputs: jax.Array, x: Text, weight: jax.Array | None) -> Losses:
  """Sums of a row's losses from logits [B, L, V]."""
  mask = counted(x)
  targets = jnp.where(mask, x.tokens[:, 1:], 0)
  return summed(cross_entropy(outputs[:, :-1], targets), mask, weight)
