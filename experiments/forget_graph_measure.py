"""What was forgotten of a graph, in numbers of every lane."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxunlearn as ju
from experiments.forget_graph_study import (
  Study,
  at,
  make_task,
  rows_of,
  training,
)
from jaxunlearn import attacks, graph, metrics

# What the gap to retraining is a mean over.
GAPS = {
  "links": ("test_auc", "forget_auc"),
  "nodes": ("forget_accuracy", "retain_accuracy", "test_accuracy"),
}


def fit_attack(study: Study) -> graph.PresenceAttack:
  """What tells training edges from others, of links; leaves [S, ...].

  A model of the test edges alone shows how pairs look that were trained on.
  """

  def program(features, splits, seeds):
    def lane(seed):
      split = at(splits, seed)
      task = make_task(study, features, split.test)
      rows = graph.link_data(task.graph)
      everything = jnp.ones(rows["label"].shape, bool)
      key = jax.random.fold_in(study.train_keys[seed], 2)
      shadow, _ = graph.train(task, rows, everything, key, **training(study))
      seen, unseen = (
        graph.pair_features(task, shadow, pairs)
        for pairs in (split.test, split.absent)
      )
      return graph.fit_presence(seen, unseen)

    return ju.map_many(lane, seeds, strategy=study.strategy)

  seeds = jnp.arange(len(study.seeds))
  splits = jax.tree.map(jnp.asarray, study.splits)
  return jax.jit(program)(study.data.features, splits, seeds)


class Measured(NamedTuple):
  """Numbers of every lane, [R * S], and answers of the first lane.

  Attributes:
    metrics: by name.
    shown: of links the probability of each edge of the split, float [E]; of
      nodes the class that each node is given, int [n].
    flops: of a forward pass over all nodes, in the first lane.
  """

  metrics: dict[str, np.ndarray]
  shown: np.ndarray
  flops: float


def make_measure(
  study: Study,
  originals: Any,
  retrained: Any,
  attack: graph.PresenceAttack | None,
):
  """A function `(name, variables) -> Measured` of models of every lane.

  Args:
    study: see `Study`.
    originals: leaves [S, ...].
    retrained: leaves [R * S, ...], what all are compared with.
    attack: of links; None for nodes.
  """
  one = _measure_links if study.task == "links" else _measure_nodes

  def program(is_stacked, variables, retrained, originals, attack, shared):
    features, splits, masks, gone = shared

    def lane(own, theirs, request, seed):
      split = at(splits, seed)
      task = make_task(study, features, split.edges)
      rows, mask = rows_of(study, task, split), masks[request, seed]
      left = 1 - task.removed(rows, mask)
      answers = _Answers(task, own, left, is_stacked)
      return one(
        (study, rows, split, mask, gone[request, seed]),
        answers,
        _Answers(task, theirs, left, False),
        _Answers(task, at(originals, seed), left, False),
        None if attack is None else at(attack, seed),
      )

    lanes = tuple(map(jnp.asarray, study.lanes))
    return ju.map_many(
      lane, variables, retrained, *lanes, strategy=study.strategy
    )

  compiled = jax.jit(program, static_argnums=0)
  shared = jax.tree.map(
    jnp.asarray, (study.data.features, study.splits, study.masks, study.gone)
  )
  reference: dict[str, np.ndarray] = {}

  def measure(name: str, variables: Any) -> Measured:
    is_stacked = name == "partition"
    found, shown = compiled(
      is_stacked, variables, retrained, originals, attack, shared
    )
    values = {k: np.asarray(v, np.float64) for k, v in found.items()}
    if not reference:
      if name != "retrained":
        measure("retrained", retrained)
      else:
        reference.update(values)
    values["retrained_gap"] = np.mean(
      [np.abs(values[k] - reference[k]) for k in GAPS[study.task]], axis=0
    )
    flops = _flops(study, jax.tree.map(lambda v: v[0], variables), is_stacked)
    return Measured(values, np.asarray(shown[0]), flops)

  return measure


class _Answers(NamedTuple):
  """One model, or the mean of several, and the graph that it answers on."""

  task: graph.GraphModel
  variables: Any
  left: jax.Array
  is_stacked: bool

  def logits(self, x: jax.Array) -> jax.Array:
    if self.is_stacked:
      return graph.predict_shards(self.task, self.variables, x, self.left)
    return self.task.model.predict(self.variables, x)

  def features(self, pairs: jax.Array) -> jax.Array:
    """What the attack sees."""
    if not self.is_stacked:
      return graph.pair_features(self.task, self.variables, pairs)
    one = lambda v: graph.pair_features(
      self.task, graph.with_weight(v, self.left), pairs
    )
    return jax.vmap(one)(self.variables).mean(axis=0)


def _measure_links(lane, own, theirs, before, attack):
  _, rows, split, mask, gone = lane
  kept = ~gone[split.test].any(axis=1)
  kept_others = ~gone[split.others].any(axis=1)
  pairs = rows["x"]
  scores, their_scores = own.logits(pairs), theirs.logits(pairs)
  forgotten = graph.edge_distance(scores, their_scores, mask)
  presence = [
    graph.presence(attack, model.features(pairs)) for model in (before, own)
  ]
  found = {
    "test_auc": graph.ranking_auc(
      own.logits(split.test), own.logits(split.others), kept, kept_others
    ),
    "forget_auc": graph.ranking_auc(scores, scores, ~mask, mask),
    "mi_ratio": attacks.membership_ratio(*presence, mask).before_over_after,
    "js_to_retrained": forgotten.js,
    "forget_probability": forgotten.mean,
    "delta_p": graph.edge_distance(scores, their_scores, ~mask).delta,
  }
  return found, jax.nn.sigmoid(scores)


def _measure_nodes(lane, own, theirs, before, attack):
  del before, attack
  study, _, split, mask, _ = lane
  label = jnp.asarray(study.data.label)
  every = jnp.arange(label.size)
  logits, their_logits = own.logits(every), theirs.logits(every)
  right = lambda nodes, weight: metrics.accuracy(
    logits[nodes], label[nodes], weight
  )
  trained, tested = split.rows, split.test
  # Of a class request the test nodes of that class are apart.
  classes = jnp.zeros(len(study.data.class_names), bool)
  classes = classes.at[label[trained]].max(mask)
  whole = jnp.ones(classes.shape, bool).at[label[trained]].min(mask) & classes
  of_class = whole[label[tested]]
  found = {
    "forget_accuracy": right(trained, mask),
    "retain_accuracy": right(trained, ~mask),
    "test_accuracy": right(tested, jnp.ones(tested.shape, bool)),
    "forget_test_accuracy": right(tested, of_class),
    "retain_test_accuracy": right(tested, ~of_class),
    "js_to_retrained": metrics.mean_js(
      logits[trained], their_logits[trained], mask
    ),
  }
  return found, jnp.argmax(logits, axis=1)


def _flops(study: Study, variables: Any, is_stacked: bool) -> float:
  """Of a forward pass of a lane's model; of several, of all."""
  split = at(study.splits, 0)
  task = make_task(
    study, jnp.asarray(study.data.features), jnp.asarray(split.edges)
  )
  if not is_stacked:
    return graph.forward_flops(task, variables)
  first = jax.tree.map(lambda v: v[0], variables)
  weight = graph.edge_weight(task.graph)
  one = graph.forward_flops(task, graph.with_weight(first, weight))
  return study.recipe.shards * one
