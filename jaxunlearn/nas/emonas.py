"""EmoNAS: one family of small networks found by differentiable search.

Source: Verma et al. (2023), arXiv:2303.13653, ABSTRACT ONLY. The search is that of
DARTS; space, sizes and steps are ours, offered under the paper's name.
Class: `emonas` is exact, since it begins anew on the retain rows; `tune_network`
is heuristic, and the architecture it keeps was searched on all rows. Model state:
none.

Params: "architecture", "weights" of the supernet, and "network", the weights of
the architecture that was cut out.
"""

from __future__ import annotations

from typing import Any

import jax

from jaxunlearn.core.combinators import chain
from jaxunlearn.core.keys import derive
from jaxunlearn.core.links import edit
from jaxunlearn.core.phase import phase, supervised
from jaxunlearn.core.tasks import Fit, Model
from jaxunlearn.core.training import init_variables
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import Draw, PyTree, Variables
from jaxunlearn.nas import supernet
from jaxunlearn.nas.architecture import discretise
from jaxunlearn.nas.darts import darts, search_model
from jaxunlearn.nas.supernet import Space


def network_model(space: Space) -> Model:
  """The architecture that was cut out, of params "network".

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from jaxunlearn import nas
    >>> space = nas.Space(num_classes=2, channels=2, nodes=1, cells=("normal",))
    >>> model, x = nas.network_model(space), jnp.ones((3, 4, 4, 1))
    >>> variables = jax.eval_shape(model.init, jax.random.key(0), x)
    >>> logits = jax.eval_shape(model.predict, variables, x)
    >>> sorted(variables.params), logits.shape
    (['architecture', 'network', 'weights'], (3, 2))
  """
  search = search_model(space)

  def init(key: jax.Array, x: PyTree) -> Variables:
    found = search.init(key, x)
    fresh = supernet.init_weights(space, derive(key, "network"))
    return found._replace(params={**found.params, "network": fresh})

  def apply(variables, x, *, train=False, key=None):
    gates = discretise(space, variables.params["architecture"])
    logits = supernet.apply(space, variables.params["network"], gates, x)
    return logits, variables.model_state

  return search._replace(init=init, apply=apply)


def tune_network(space: Space, fit: Fit) -> Transform:
  """Goes on training the network on retain rows; the architecture stays.

  Example:
    >>> import jax, jax.numpy as jnp, optax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import nas
    >>> space = nas.Space(num_classes=2, channels=2, nodes=1, cells=("normal",))
    >>> label = jnp.arange(8) % 2
    >>> data = {"x": jnp.ones((8, 4, 4, 1)) * label[:, None, None, None],
    ...         "label": label}
    >>> key = jax.random.key(0)
    >>> start = nas.network_model(space).init(key, data["x"])
    >>> tune = nas.tune_network(space, ju.Fit(optax.adam(0.05), 3, 4))
    >>> made, info = jax.jit(tune)(start, data, jnp.arange(8) == 0, key)
    >>> info.loss.shape
    (3,)
  """
  return phase(
    supervised(network_model(space), train=True),
    fit,
    draw=Draw(retain=fit.batch_size),
    on="network",
    name="network",
  )


def train_network(space: Space, fit: Fit) -> Transform:
  """`tune_network` from new weights.

  Example:
    >>> import jax, jax.numpy as jnp, optax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import nas
    >>> space = nas.Space(num_classes=2, channels=2, nodes=1, cells=("normal",))
    >>> label = jnp.arange(8) % 2
    >>> data = {"x": jnp.ones((8, 4, 4, 1)) * label[:, None, None, None],
    ...         "label": label}
    >>> key = jax.random.key(0)
    >>> start = nas.network_model(space).init(key, data["x"])
    >>> anew = nas.train_network(space, ju.Fit(optax.adam(0.05), 3, 4))
    >>> made, info = jax.jit(anew)(start, data, jnp.arange(8) == 0, key)
    >>> {name: phase.loss.shape for name, phase in info.items()}
    {'network': (3,)}
  """

  def renew(variables, data, request, key):
    params = variables.params
    fresh = jax.tree.map(
      lambda new, old: new.astype(old.dtype),
      supernet.init_weights(space, key),
      params["network"],
    )
    return variables._replace(params={**params, "network": fresh})

  fresh = edit(renew, reads="nothing", name="init")
  return chain(fresh, tune_network(space, fit), name="train_network")


def emonas(space: Space, search: Fit, fit: Fit, **options: Any) -> Transform:
  """Searches, cuts out and trains on the retain rows, from nothing.

  Args:
    space: see `Space`.
    search: of `darts`.
    fit: of `train_network`.
    **options: the other arguments of `darts`.

  Example:
    >>> import jax, jax.numpy as jnp, optax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import nas
    >>> space = nas.Space(num_classes=2, channels=2, nodes=1, cells=("normal",))
    >>> label = jnp.arange(16) % 2
    >>> data = {"x": jnp.ones((16, 4, 4, 1)) * label[:, None, None, None],
    ...         "label": label, "fold": jnp.arange(16) < 8}
    >>> fit, key = ju.Fit(optax.adam(0.05), 3, 4), jax.random.key(0)
    >>> start = nas.network_model(space).init(key, data["x"])
    >>> unlearn = nas.emonas(space, search=fit, fit=fit)
    >>> made, info = jax.jit(unlearn)(start, data, jnp.arange(16) == 0, key)
    >>> sorted(made.params), sorted(info)
    (['architecture', 'network', 'weights'], ['darts', 'train_network'])
  """
  model = network_model(space)
  fresh = edit(
    lambda variables, data, request, key: init_variables(
      model, data, key, like=variables
    ),
    reads="shapes",
    name="init",
  )
  return chain(
    fresh,
    darts(space, search, **options),
    train_network(space, fit),
    name="emonas",
  )
