"""A user's own graph network or recommender: what it must take, and its checks.

`--model package.module:factory` names a function without arguments that returns
a Flax linen module, or one that is given `nnx.Rngs` and returns an nnx module.

A graph network is called on one `jraph.GraphsTuple`: `nodes` float [n, d] in the
order of the data file, `senders` and `receivers` int32 [2 E] with both directions
of every edge, and `edges` float32 [2 E], their weights. It returns [n, D], or a
graph with such nodes: embeddings whose inner products are the logits of links, or
logits of the D classes of nodes. A linen module that has what
`jaxunlearn.graph.layers.Encoder` has (`widths`, `num_classes`, `convolve`,
`classify`) is called as that is, layer by layer, and takes all methods.

A recommender is called on one `recsys.graphs.Graph`: `user` and `item` int32 [N],
`weight` float32 [N], `has_edge` bool [I] and `dense`, None or float32 [U, I]. It
returns embeddings, users [U, D] and items [I, D], in the order of `user_ids` and
`item_ids` of the data file, else of the sorted ids; it keeps no state beside its
parameters and is called in evaluation mode.

Both see what is deleted as a weight of 0, which has to be as good as no edge: it
is tried before anything is trained.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxunlearn as ju
from jaxunlearn import graph
from jaxunlearn.core.types import Variables
from jaxunlearn.graph.tasks import GraphModel
from jaxunlearn.recsys.graphs import interaction_graph
from jaxunlearn.recsys.types import Embeddings, Recommender

from . import models

_STEP = ju.Fit(optax.sgd(0.1), 1, ju.ALL)
GraphTask = Callable[[Any], GraphModel]
_PARTS = ("widths", "num_classes", "convolve", "classify")


def graph_tasks(name: str, *, on_edges: bool) -> tuple[GraphTask, bool]:
  """A function from a graph to the user's model on it, and whether it has layers.

  Raises:
    ValueError: in one line, what cannot be made of `--model`.
  """
  with_layers = _with_layers(models.factory_of(name))
  if with_layers is not None:
    kind = graph.link_prediction if on_edges else graph.node_classification
    return functools.partial(kind, with_layers), True
  network = models.user_model(name)
  return functools.partial(
    graph.from_network, network, on_edges=on_edges
  ), False


def check_graph_task(
  name: str, task_on: GraphTask, g: Any, classes: int
) -> GraphModel:
  """The user's model on a graph, tried on it.

  Args:
    name: as it was given.
    task_on: of `graph_tasks`.
    g: see `graph.from_edges`.
    classes: of the labels; 0 of links.

  Raises:
    ValueError: it does not take the graph, returns something else, takes no
      training step, or reads edges of weight 0.
  """
  wanted = "a jraph.GraphsTuple"
  task = _tried(name, wanted, lambda: task_on(g))
  rows = graph.link_data(g)
  if classes:
    rows = graph.node_data(np.zeros(len(g.nodes), np.int32))
    like = jax.eval_shape(task.model.init, jax.random.key(0), None)
    width = jax.eval_shape(task.model.predict, like, np.arange(2)).shape[-1]
    if width < classes:
      raise ValueError(
        f"Expected --model {name} to return logits of {classes} classes or more "
        f"for a node, got {width}."
      )
  everything = np.ones(len(rows["x"]), bool)
  fit = lambda key: graph.train(task, rows, everything, key, _STEP)
  _tried(
    name,
    f"a training step on {wanted}",
    lambda: jax.eval_shape(fit, jax.random.key(0)),
  )
  half = (jnp.arange(len(g.edges) // 2) % 2).astype(jnp.float32)
  moved = jnp.repeat(half, 2).astype(jnp.int32)

  @jax.jit
  def outputs(ends):
    here = task_on(g._replace(senders=ends[0], receivers=ends[1]))
    variables = here.model.init(jax.random.key(0), None)
    return here.embed(graph.with_weight(variables, half))[-1]

  ends = jnp.stack([g.senders, g.receivers])
  _check_unread(name, outputs, ends, ends * moved[None], "edges of weight 0")
  return task


def own_recommender(
  name: str, num_users: int, num_items: int, data: Any
) -> Recommender:
  """The user's recommender, tried on interactions {"x": int32 [N, 2]}.

  Raises:
    ValueError: likewise.
  """
  network = models.user_model(name)
  made = functools.partial(
    interaction_graph, num_users=num_users, num_items=num_items
  )
  empty = {"x": jnp.zeros((1, 2), jnp.int32)}
  start = lambda key: network.init(key, made(empty, jnp.zeros(1, bool)))

  def embed(variables: Variables, g: Any) -> Embeddings:
    return Embeddings(*network.predict(Variables(variables.params), g))

  model = Recommender(num_users, num_items, start, made, embed)
  nothing = np.zeros(len(data["x"]), bool)
  look = lambda: jax.eval_shape(
    lambda key: model.embed_under(start(key), data, nothing), jax.random.key(0)
  )
  found = _tried(name, "a recsys.graphs.Graph and return Embeddings", look)
  shapes = [getattr(part, "shape", ()) for part in found[:2]]
  if [shape[:1] for shape in shapes] != [(num_users,), (num_items,)] or (
    any(len(shape) != 2 for shape in shapes) or shapes[0][1] != shapes[1][1]
  ):
    raise ValueError(
      f"Expected --model {name} to return users [{num_users}, D] and items "
      f"[{num_items}, D], got {' and '.join(str(list(s)) for s in shapes)}."
    )
  if state := jax.eval_shape(start, jax.random.key(0)).model_state:
    raise ValueError(
      f"Expected --model {name} to keep no state beside its parameters, got "
      f"{', '.join(state)}."
    )
  half = np.arange(len(nothing)) % 2 == 0
  moved = {"x": np.where(half[:, None], 0, data["x"])}
  outputs = jax.jit(
    lambda data: model.embed_under(start(jax.random.key(0)), data, half)[:2]
  )
  _check_unread(name, outputs, data, moved, "interactions of weight 0")
  return model


def _with_layers(factory: Any) -> Any:
  """What the factory returns, where that has an encoder's parts; else None."""
  try:
    inspect.signature(factory).bind()
    made = factory()
  except Exception:  # `models.user_model` says it better.
    return None
  return made if all(hasattr(made, part) for part in _PARTS) else None


def _tried(name: str, wanted: str, run: Callable[[], Any]) -> Any:
  try:
    return run()
  except Exception as error:
    text = models.brief(error)
    if not text.startswith("Expected"):
      text = f"Expected it to take {wanted}, got {text}"
    raise ValueError(f"--model {name}: {text}") from error


def _check_unread(
  name: str, outputs: Any, data: Any, moved: Any, words: str
) -> None:
  """Outputs stay when edges of weight 0 are moved elsewhere."""
  ours, theirs = (
    np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(outputs(d))])
    for d in (data, moved)
  )
  scale = 1e-6 + np.abs(ours).max()
  if not np.abs(ours - theirs).max() <= 1e-3 * scale:
    raise ValueError(
      f"Expected --model {name} to take {words} for none, which is how it is told "
      "what is deleted, got outputs that change with where they lead."
    )
