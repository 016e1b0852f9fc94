"""Low-rank adapters on a frozen backbone, in blocks from the output down.

Source: Hu et al., "LoRA", arXiv:2106.09685; scaled by the root of the rank as in
arXiv:2312.03732.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import checks
from jaxunlearn.core.keys import derive
from jaxunlearn.core.tasks import Model
from jaxunlearn.core.trees import layers
from jaxunlearn.core.types import PyTree, Variables


class LowRank(NamedTuple):
  """A model whose params are adapters and the head.

  Attributes:
    model: params {"adapters": {layer: {"down", "up"}}, "head"}; the backbone is
      `Variables.frozen`, {"params", "model_state"}. It runs in evaluation mode,
      so that its statistics stay those of the data that it was made from.
    layers: names of the adapted kernels, each with its number from the top.
  """

  model: Model
  layers: dict[str, int]

  def block(self, index: Any, count: int) -> PyTree:
    """What is trained in stage `index` of `count`: a mask, a prefix of params.

    Layers are dealt to stages from the top. Where there are fewer layers than
    stages, several stages in a row train the same.
    """
    total = len(set(self.layers.values()))

    def is_on(layer: int) -> Any:
      if total >= count:
        return jnp.asarray(layer * count // total == index)
      return jnp.asarray(index * total // count == layer)

    masks = {name: is_on(number) for name, number in self.layers.items()}
    return {"adapters": masks, "head": jnp.asarray(True)}


def low_rank(
  model: Model, base: Variables, inputs: PyTree, rank: int
) -> LowRank:
  """The model with a change of low rank for each kernel, and its head anew.

  A kernel W [..., C] becomes W + sqrt(rank) D U with D of shape [-1, rank] and
  U [rank, C]. U begins with zeros: the model begins as its backbone. The last
  layer is the head, which is trained as it is.

  Args:
    model: the backbone's.
    base: its variables.
    inputs: a batch; of which only shapes matter.
    rank: static, >= 1.

  Raises:
    ValueError: a rank below 1, a model without a layer.

  Example:
    >>> import jax
    >>> from jaxunlearn import exact, toy
    >>> model, base, data, _, key = toy.classifier()
    >>> small = exact.low_rank(model, base, data["x"], rank=2)
    >>> variables = small.model.init(key, data["x"])
    >>> adapters = variables.params["adapters"]  # Of a kernel [6, 8].
    >>> [{n: leaf.shape for n, leaf in a.items()} for a in adapters.values()]
    [{'down': (6, 2), 'up': (2, 8)}]
  """
  checks.count(rank=rank)
  name = jax.tree_util.keystr
  shapes = {
    path: jnp.shape(leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(base.params)
  }
  ordered = layers(model, base, inputs)
  heavy = [
    i for i, own in enumerate(ordered) if any(len(shapes[p]) > 1 for p in own)
  ]
  if not heavy:
    raise ValueError("Expected a model with a layer, got one without kernels.")
  head = {name(p) for own in ordered[heavy[-1] :] for p in own}
  numbers = {
    name(path): number
    for number, i in enumerate(reversed(heavy[:-1]))
    for path in ordered[i]
    if len(shapes[path]) > 1
  }
  scale = rank**0.5

  def init(key: jax.Array, inputs: PyTree) -> Variables:
    del inputs
    adapters, kept = {}, {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(base.params):
      own = name(path)
      if own in head:
        kept[own] = leaf
      if own not in numbers:
        continue
      wide = int(np.prod(leaf.shape[:-1]))
      down = jax.random.normal(derive(key, own), (wide, rank), leaf.dtype)
      up = jnp.zeros((rank, leaf.shape[-1]), leaf.dtype)
      adapters[own] = {"down": down / wide**0.5, "up": up}
    frozen = {"params": base.params, "model_state": base.model_state}
    return Variables({"adapters": adapters, "head": kept}, {}, frozen)

  def merged(variables: Variables) -> Variables:
    adapters, kept = variables.params["adapters"], variables.params["head"]

    def put(path: Any, leaf: jax.Array) -> jax.Array:
      own = name(path)
      if own in kept:
        return kept[own]
      if own not in adapters:
        return leaf
      change = adapters[own]["down"] @ adapters[own]["up"]
      return leaf + (scale * change).reshape(leaf.shape).astype(leaf.dtype)

    frozen = variables.frozen
    params = jax.tree_util.tree_map_with_path(put, frozen["params"])
    return Variables(params, frozen["model_state"])

  def apply(variables, inputs, *, train=False, key=None):
    del train, key
    return model.predict(merged(variables), inputs), variables.model_state

  return LowRank(Model(init, apply, model.loss), numbers)
