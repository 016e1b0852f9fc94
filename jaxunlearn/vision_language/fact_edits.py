"""Edits of one kernel for one fact at a time, and what its layers read out.

    deltas = edit_facts(lm, defend, variables, data, facts, key, layers=(2, 3))
    edited = with_delta(variables, deltas[i])

An edit is added to a kernel, so that dropping it gives back the original bit for
bit, and many cost a kernel each. `defend` is any method: those of
`fact_defences`, `language.gradient_ascent` (erasure), `language.idk` (empty
response; error injection where the alternative is a wrong answer).

Source: UnLOK-VQA, Patil et al. (2024), arXiv:2505.01456, which edits the
down-projection of layer 7 of 32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import checks, keys
from jaxunlearn.core.targets import below
from jaxunlearn.core.training import map_many
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import PyTree, Request, Variables
from jaxunlearn.core.views import View
from jaxunlearn.language.types import LanguageModel, Text, check_text


class Site(NamedTuple):
  """Which kernel is edited.

  Attributes:
    kernel: path of a leaf [layers, ...] of the params.
    layer: which of them; its block is the first whose output changes.
  """

  kernel: str = "decoder/blocks/mlp/down/kernel"
  layer: int = 0


FIRST = Site()


def kernel_delta(site: Site = FIRST, clamp: float | None = None) -> View:
  """What is added to one kernel, from zero on, in the place of all params.

  Weight decay is then of the change, not of the weights.

  Args:
    site: which.
    clamp: None, or how far at most an entry may move.

  Raises:
    ValueError: from the call, a kernel that is not there, a layer out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import toy, vision_language
    >>> problem = toy.vision_language()
    >>> view = vision_language.kernel_delta(clamp=0.1)
    >>> part, rest = view.split(*problem.arguments)
    >>> part["delta"].shape, float(jnp.abs(part["delta"]).max())
    ((12, 16), 0.0)
  """
  if clamp is not None:
    checks.positive(clamp=clamp)

  def split(variables, data, request, key):
    leaf = _kernel(variables.params, site)
    return {"delta": jnp.zeros_like(leaf[site.layer])}, variables.params

  def join(part, rest):
    change = part["delta"]
    if clamp is not None:
      change = jnp.clip(change, -clamp, clamp)
    return _added(rest, change, site)

  return View(split, join)


def with_delta(
  variables: Variables, delta: jax.Array, site: Site = FIRST
) -> Variables:
  """The model with a delta of `edit_facts` on its kernel.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import toy, vision_language
    >>> problem = toy.vision_language()
    >>> site = vision_language.Site(layer=1)
    >>> delta = 9 * jnp.ones((12, 16))
    >>> edited = vision_language.with_delta(problem.variables, delta, site)
    >>> toy.likelihoods(problem, edited)
    (0.63, 0.22)
  """
  return variables._replace(params=_added(variables.params, delta, site))


def edit_facts(
  lm: LanguageModel,
  defend: Callable[[LanguageModel], Transform],
  variables: Variables,
  data: PyTree,
  facts: jax.Array,
  key: jax.Array,
  *,
  keep: jax.Array,
  layers: Sequence[int],
  site: Site = FIRST,
  strategy: str | int = "vmap",
) -> jax.Array:
  """One edit for each of some rows, as if there were no other.

  Args:
    lm: the model.
    defend: `model -> Transform`, of the model as its part is seen.
    variables: the original's.
    data: pytree of arrays [N, ...].
    facts: int [F], rows to be forgotten, each by itself. May be traced.
    key: typed PRNG key.
    keep: bool [N], neutral rows that a method may read to keep the rest.
    layers: of `lens`, static, that the edit is to be safe from.
    site: which kernel.
    strategy: see `ju.map_many`.

  Returns:
    What is to be added to the kernel, [F, ...].

  Raises:
    ValueError: layers that are not there, or that lie below the edit and so
      could not be changed by it; (concrete) facts that are no rows.

  Example:
    >>> import jax.numpy as jnp
    >>> import jaxunlearn as ju
    >>> import optax
    >>> from jaxunlearn import toy, vision_language
    >>> problem = toy.vision_language()
    >>> fit = ju.Fit(optax.adam(0.3), num_steps=8, batch_size=4)
    >>> defend = lambda lm: vision_language.fact_erasure(lm, fit)
    >>> deltas = vision_language.edit_facts(
    ...   *(problem.model, defend, problem.variables, problem.data),
    ...   *(jnp.array([0, 5]), problem.key),
    ...   keep=jnp.arange(8) > 1,
    ...   layers=(2,),
    ... )
    >>> deltas.shape
    (2, 12, 16)
    >>> edited = vision_language.with_delta(problem.variables, deltas[0])
    >>> toy.likelihoods(problem, edited)  # Fact 0 is one of two.
    (0.39, 0.89)
  """
  check_layers(lm, layers, site)
  num = checks.num_rows(data)
  if checks.is_concrete(facts):
    checks.labels(np.asarray(facts), num, "facts")
  view = kernel_delta(site)
  method = defend(view.of(lm))
  start = view.apart(variables, keys.derive(key, "part"))
  each = jax.random.split(keys.derive(key, "facts"), len(facts))

  def one(fact: jax.Array, fact_key: jax.Array) -> jax.Array:
    forget = jnp.arange(num) == fact
    request = Request(forget, keep & ~forget)
    edited, _ = method(start, data, request, fact_key)
    return edited.params["delta"]

  return map_many(one, jnp.asarray(facts), each, strategy=strategy)


def lens(
  lm: LanguageModel, variables: Variables, x: Text, layers: Sequence[int]
) -> jax.Array:
  """The logit lens: what each layer would answer first.

  Args:
    lm: the model.
    variables: its values.
    x: texts [B, L]; the state of the last token of the prompt is read.
    layers: static; 0 is the embedding, i the stream after block i - 1.

  Returns:
    softmax(head(norm(state))), float32 [B, S, V].

  Raises:
    ValueError: a layer that is not there.

  Example:
    >>> from jaxunlearn import toy, vision_language
    >>> lm, variables, data, *_ = toy.vision_language()
    >>> p = vision_language.lens(lm, variables, data["x"], layers=(0, 1, 2))
    >>> p.shape, p[0].argmax(axis=-1).tolist()  # The answer is 12.
    ((8, 3, 28), [12, 12, 12])
  """
  check_text(x, lm.config)
  check_layers(lm, layers)
  embedded = lm.embed(variables, x.tokens)
  # Blocks add learned positions, which are no part of what is read at 0.
  states = lm.blocks(variables, embedded).states.residual
  every = jnp.concatenate([embedded[None], states])[jnp.asarray(layers)]
  last = jnp.maximum(x.prompt - 1, 0)[None, :, None, None]
  state = jnp.take_along_axis(every, last, axis=2)[:, :, 0]
  return jax.nn.softmax(lm.logits(variables, state.swapaxes(0, 1)))


def first_token(x: Text) -> jax.Array:
  """The first token of each answer, int32 [B].

  Example:
    >>> from jaxunlearn import toy, vision_language
    >>> x = toy.vision_language().data["x"]
    >>> vision_language.first_token(x).tolist()
    [12, 13, 14, 15, 16, 17, 18, 19]
  """
  return jnp.take_along_axis(x.tokens, x.prompt[:, None], axis=1)[:, 0]


def check_layers(
  lm: LanguageModel, layers: Sequence[int], site: Site | None = None
) -> None:
  """Layers of `lens` are there, and above what is edited."""
  least = 0 if site is None else site.layer + 1
  most = lm.config.num_layers
  if not layers or not all(0 <= layer <= most for layer in layers):
    raise ValueError(f"Expected layers in 0 .. {most}, got {tuple(layers)}.")
  if min(layers) < least:
    raise ValueError(
      f"Expected layers >= {least}, above the edited block {site and site.layer}, "
      f"got {tuple(layers)}."
    )


def _kernel(params: PyTree, site: Site) -> jax.Array:
  try:
    leaf = below(params, site.kernel)
  except KeyError:
    leaf = None
  if not hasattr(leaf, "shape"):
    raise ValueError(
      f"Expected params with a kernel {site.kernel!r}, got none."
    )
  if not 0 <= site.layer < leaf.shape[0]:
    raise ValueError(
      f"Expected site.layer in 0 .. {leaf.shape[0] - 1}, got {site.layer}."
    )
  return leaf


def _added(params: PyTree, change: Any, site: Site) -> PyTree:
  leaf = _kernel(params, site)
  new = leaf.at[site.layer].add(change.astype(leaf.dtype))
  wanted = site.kernel.split("/")

  def put(path: Any, old: jax.Array) -> jax.Array:
    return new if [entry.key for entry in path] == wanted else old

  return jax.tree_util.tree_map_with_path(put, params)
