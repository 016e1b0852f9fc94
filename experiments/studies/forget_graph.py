"""Can a graph network forget edges or nodes, and how near does it come?

Question: D2DGN (arXiv:2309.16173) teaches a graph network to keep by one teacher
and to forget by another; GNNDelete (arXiv:2302.13406) freezes it and trains small
maps around what was deleted. How near do they come to a model trained without the
deleted part, beside plain unlinking, gradient ascent, descent on the rest and a
partition, and at what cost?

    python -m experiments.forget_graph --out out/graph

forgets edges, and then nodes, of a link predictor on the nearest neighbours of
scikit-learn's digits;

    python -m experiments.forget_graph --data cora --data-dir DIR
    python -m experiments.forget_graph --data cora --data-dir DIR --task nodes

does so with citations of Cora, and with a classifier of its papers.

How to read it: a method should have the retrained model's numbers. A high AUC of
kept over deleted edges is OVER-FORGETTING: links that were deleted stay plausible,
and the retrained model gives them nearly the probability of the others.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxunlearn as ju
from jaxunlearn import attacks, graph, metrics, report
from jaxunlearn.core.reduction import all_finite
from jaxunlearn.graph.layers import GAT, GCN, GIN, Encoder
from jaxunlearn.report.verdict import DAMAGE, TELLTALE, TRACE

from .. import bench, flags
from ..beds import models
from ..beds import own_networks as own
from ..bench import Case, Measure, Method, Rule, cautions, render, table
from ..bench.tune import Between
from ..datasets import graphs
from ..flags import described
from . import forget_graph_pieces as pieces
from . import forget_graph_view as view

LAYERS = {"gcn": GCN, "gat": GAT, "gin": GIN}
# What the gap to retraining is a mean over, and what bars show.
GAPS = {
  "links": ("test_auc", "forget_auc"),
  "nodes": ("forget_accuracy", "retain_accuracy", "test_accuracy"),
}
_SMOKE_NODES = 200
_EVERY_SHARE = ";".join(
  f"{kind}:{share}" for kind in ("in", "out") for share in (0.005, 0.025, 0.05)
)
# How much above the retrained model's AUC is worth a sentence.
_OVER = 0.05


@dataclasses.dataclass(frozen=True)
class Options(bench.RecipeOptions):
  """Forget edges, nodes or a class of nodes of a graph."""

  data: Annotated[
    str,
    described(
      "Graph: digits (scikit-learn's, each joined to its nearest), karate "
      "(Zachary's club, 34 members), cora, or npz:PATH, a file with features "
      "[n, d], edges [E, 2], each once, perhaps integer classes label [n], ids "
      "[n] of the nodes, which the edges are then between, and edges_test [K, 2] "
      "or nodes_test [T], which are not trained on."
    ),
  ] = "digits"

  task: Annotated[
    Literal["links", "nodes"],
    described(
      "What the network predicts: links between nodes, or the classes of nodes."
    ),
  ] = "links"

  request: Annotated[
    str | None,
    described(
      "What to forget: edges:FILE (two nodes on every line), nodes:ID,ID, "
      "index:FILE (rows of the edges, or of the nodes with --task nodes), "
      "edges:0.05 (5 % of the edges), in:0.05 or out:0.05 (as many, inside or "
      "outside the 2-hop neighbourhood of the test edges), within:3 (edges inside "
      "a class), nodes:0.1 (a tenth of the nodes), class:3; several with "
      "semicolons between. A node takes its edges along. By default some that "
      "suit the data.",
      "TEXT",
    ),
  ] = None

  layer: Annotated[
    Literal["gcn", "gat", "gin"], described("Kind of graph layer.")
  ] = "gcn"

  model: Annotated[
    str | None,
    described(
      "package.module:factory, a function of yours that returns a Flax linen "
      "module or, given nnx.Rngs, an nnx module. It is called on a "
      "jraph.GraphsTuple, both directions of every edge, whose edges [2 E] are "
      "weights, of which 0 is no edge, and returns a row a node: embeddings "
      "(links are inner products) or logits. By default layers of --layer.",
      "STR",
    ),
  ] = None

  checkpoint: Annotated[
    str | None,
    described(
      "Orbax checkpoint with the trained values of the network, which takes "
      "npz:PATH with edges_test or nodes_test; without it the network is trained "
      "here first.",
      "DIR",
    ),
  ] = None

  methods: Annotated[
    str,
    described(
      "Methods: usual, all (d2dgn_feature too), or names as in unlink,d2dgn."
    ),
  ] = "usual"

  out: flags.Out = "out/graph"


class Recipe(NamedTuple):
  """Of training, retraining and shards: Adam, all steps full batch.

  Attributes:
    widths: of the encoder's layers.
    rate: constant.
    steps: of each.
    shards: of the partition.
  """

  widths: tuple[int, ...]
  rate: float
  steps: int
  shards: int


RECIPES = {
  "smoke": Recipe((16, 8), 1e-2, 40, 2),
  "quick": Recipe((128, 64), 1e-2, 200, 4),
  "paper": Recipe((128, 64), 1e-2, 200, 8),
}
# Steps of ascent, descent, GNNDelete and D2DGN.
_STEPS = {
  "smoke": (3, 4, 8, 8),
  "quick": (10, 40, 500, 40),
  "paper": (10, 40, 1000, 40),
}


def settings_of(options: Options) -> dict[str, bench.Setting]:
  ascent, descent, delete, distil = _STEPS[options.preset]
  # The rate of GNNDelete's code, for the baselines too.
  slow = {"learning_rate": 1e-3}
  # Chosen on Cora, on other seeds than are reported by default.
  taught = {"num_steps": distil, "learning_rate": 1e-2, "retain_weight": 0.97}
  return {
    "gradient_ascent": {**slow, "num_steps": ascent},
    "descent_to_delete": {**slow, "num_steps": descent},
    "gnndelete": {**slow, "num_steps": delete},
    "d2dgn": taught,
    "d2dgn_feature": {**taught, "knowledge": "feature"},
  }


def default_request(options: Options) -> str:
  if options.task == "nodes":
    return "nodes:0.1;class:0"
  if options.data != "cora":
    return "edges:0.05;nodes:0.05"
  if options.preset == "paper":
    return f"{_EVERY_SHARE};nodes:0.05;class:0"
  return "in:0.05;out:0.05"


class Source(NamedTuple):
  """What a seed's requests are about."""

  data: graphs.GraphData
  split: graphs.Split
  seed: int


def beds(
  options: Options, seeds: Sequence[int], part: str, asks: Sequence[Any]
) -> bench.Beds:
  """The graph, split once per seed: graphs differ, their shapes do not."""
  limit = _SMOKE_NODES if options.preset == "smoke" else None
  data = graphs.load(options.data, data_dir=options.data_dir, max_nodes=limit)
  names = {"train_steps": "steps", "learning_rate": "rate"}
  recipe = RECIPES[options.preset]._replace(**bench.given(options, names))
  return make_beds(data, options, recipe, seeds, part, asks)


def make_beds(
  data: graphs.GraphData,
  options: Options,
  recipe: Recipe,
  seeds: Sequence[int],
  part: str = bench.REPORT,
  asks: Sequence[Any] = (),
) -> bench.Beds:
  """The same of a graph that is there.

  Raises:
    ValueError: classes that the data lack; a graph too small to split; a network
      or a checkpoint that does not fit.
  """
  on_links = options.task == "links"
  if not on_links and data.label is None:
    raise ValueError("Expected data with classes for --task nodes, got none.")
  if len(data.edges) < 20:
    raise ValueError(
      f"Expected --data with 20 edges or more, got {len(data.edges)}."
    )
  split_of = graphs.split_links if on_links else graphs.split_nodes
  pinned = graphs.pinned(asks, data, on_links=on_links)
  splits = [split_of(data, seed, part, pinned) for seed in seeds]
  template = graph.from_edges(data.features, splits[0].edges)
  classes = 0 if on_links else len(data.class_names)
  encoder = Encoder(LAYERS[options.layer], recipe.widths, classes)
  kind = graph.link_prediction if on_links else graph.node_classification
  task_on, has_layers = functools.partial(kind, encoder), True
  if options.model is not None:
    task_on, has_layers = own.graph_tasks(options.model, on_edges=on_links)
    own.check_graph_task(options.model, task_on, template, classes)

  def make(features, of_seed) -> bench.Bed:
    split, cut = of_seed
    g = graphs.on_edges(template, features, split.edges)
    rows = (
      graph.link_data(g)
      if on_links
      else graph.node_data(data.label, split.rows)
    )
    return bench.Bed(task_on(g), rows, split, recipe, (task_on, cut))

  cut = None
  if "partition" in flags.chosen(options.methods, METHODS, groups=GROUPS):
    cut = pieces.cut(template, splits, seeds, recipe.shards)
  return bench.Beds(
    data.features,
    (jax.tree.map(lambda *leaves: np.stack(leaves), *splits), cut),
    make,
    [Source(data, *pair) for pair in zip(splits, seeds)],
    {
      "nodes": len(data.features),
      "features": data.features.shape[1],
      "edges": len(data.edges),
      "recipe": recipe._asdict(),
      "has_layers": has_layers,
    },
    _given(options, data, task_on(template)),
  )


def _given(
  options: Options, data: graphs.GraphData, task: graph.GraphModel
) -> Any:
  """The user's trained model, if there is one."""
  if options.checkpoint is None:
    return None
  name = "edges_test" if task.on_edges else "nodes_test"
  if getattr(data, name) is None:
    raise ValueError(
      f"Expected with --checkpoint npz:PATH with {name}, which it was not trained "
      f"on, got --data {options.data} without."
    )
  like = jax.eval_shape(task.model.init, jax.random.key(0), None)
  state = dict(like.model_state)
  del state["edge_weight"]
  found = models.joined(options.checkpoint, like._replace(model_state=state))
  state = {**found.model_state, "edge_weight": graph.edge_weight(task.graph)}
  return found._replace(model_state=state)


def fit(plan: bench.Plan) -> bench.Plan:
  """Leaves out what this network cannot serve.

  Raises:
    ValueError: such a method was asked for by name.
  """
  lacks = {}
  if not plan.beds.facts["has_layers"]:
    lacks = dict.fromkeys(
      ("gnndelete", "d2dgn_feature"),
      "for a --model that is called as a whole, since it acts on each layer",
    )
    if "partition" in plan.methods and not pieces.fit_the_network(plan.beds):
      lacks["partition"] = (
        "for a --model of as many nodes as the graph has, since it trains on "
        "parts of it"
      )
  rows = graphs.rows_of(*plan.beds.sources[0][:2])
  said = cautions.of_copies(plan.requests, rows)
  said += cautions.of_few(plan.requests)
  return bench.leave_out(plan._replace(notes=tuple(said)), lacks)


def train(bed: bench.Bed, weights: jax.Array, key: jax.Array):
  return graph.train(bed.model, bed.data, weights, key, _fit(bed.recipe))


def _fit(recipe: Recipe) -> ju.Fit:
  return ju.Fit(optax.adam(recipe.rate), recipe.steps, ju.ALL)


def _by_adam(factory: Callable[..., Any], space: bench.Setting) -> Method:
  def build(bed: bench.Bed, setting: bench.Setting) -> ju.Transform:
    rest = dict(setting)
    by, steps = optax.adam(rest.pop("learning_rate")), rest.pop("num_steps")
    return factory(bed.model, ju.Fit(by, steps, ju.ALL), **rest)

  return Method(build, space)


def _partition(bed: bench.Bed, setting: bench.Setting):
  task_on, cut = bed.extra
  return pieces.training(bed, task_on, cut, _fit(bed.recipe))


_RATE = {"learning_rate": Between(1e-5, 1e-1)}
_DISTIL = {**_RATE, "retain_weight": Between(0.5, 0.999, log=False)}
METHODS = {
  "unlink": Method(lambda bed, setting: graph.unlink(bed.model)),
  "gradient_ascent": _by_adam(graph.gradient_ascent, _RATE),
  "descent_to_delete": _by_adam(graph.descent_to_delete, _RATE),
  "partition": Method(
    _partition,
    note="cuts the graph in pieces and trains a model of each anew. Edges between "
    "pieces are trained on by none; all pieces are retrained, touched or not, in "
    "one program.",
  ),
  "gnndelete": _by_adam(graph.gnndelete, _RATE),
  "d2dgn": _by_adam(graph.d2dgn, _DISTIL),
  "d2dgn_feature": _by_adam(graph.d2dgn, _DISTIL),
}
_ACCESS = {
  "unlink": "what is to be deleted, to leave it out",
  "gradient_ascent": "rows to be deleted",
  "descent_to_delete": "rows that stay",
  "partition": "rows that stay",
  "gnndelete": "all rows",
  "d2dgn": "all rows",
  "d2dgn_feature": "all rows",
}
METHODS = {
  name: method._replace(access=_ACCESS[name])
  for name, method in METHODS.items()
}
GROUPS = {"usual": tuple(METHODS)[:-1]}


def fit_attack(bed: bench.Bed, key: jax.Array) -> graph.PresenceAttack:
  """What tells training edges from others.

  A model of the test edges alone shows how pairs look that were trained on.
  """
  split, (task_on, _) = bed.test, bed.extra
  g = graphs.on_edges(bed.model.graph, bed.model.graph.nodes, split.test)
  task, rows = task_on(g), graph.link_data(g)
  everything = jnp.ones(rows["label"].shape, bool)
  shadow, _ = graph.train(task, rows, everything, key, _fit(bed.recipe))
  seen, unseen = (
    graph.pair_features(task, shadow, pairs)
    for pairs in (split.test, split.absent)
  )
  return graph.fit_presence(seen, unseen)


class _Answers(NamedTuple):
  """One model, or the mean of several, and the graph that it answers on."""

  task: graph.GraphModel
  variables: Any
  left: jax.Array

  def logits(self, x: jax.Array) -> jax.Array:
    if isinstance(self.variables, pieces.Models):
      models = self.variables.models
      return graph.predict_shards(self.task, models, x, self.left)
    return self.task.model.predict(self.variables, x)

  def features(self, pairs: jax.Array) -> jax.Array:
    """What the attack sees."""
    if not isinstance(self.variables, pieces.Models):
      return graph.pair_features(self.task, self.variables, pairs)
    one = lambda v: graph.pair_features(
      self.task, graph.with_weight(v, self.left), pairs
    )
    return jax.vmap(one)(self.variables.models).mean(axis=0)


def _answers(case: Case) -> tuple[_Answers, ...]:
  """Of this model, the retrained one and the original."""
  task = case.bed.model
  left = 1 - task.removed(case.bed.data, case.forget)
  models = case.variables, case.retrained, case.original
  return tuple(_Answers(task, variables, left) for variables in models)


def measure_links(case: Case) -> dict[str, Any]:
  own, theirs, before = _answers(case)
  split, mask, gone = case.bed.test, case.forget, case.marks
  kept = ~gone[split.test].any(axis=1)
  kept_others = ~gone[split.others].any(axis=1)
  pairs = case.bed.data["x"]
  scores, their_scores = own.logits(pairs), theirs.logits(pairs)
  forgotten = graph.edge_distance(scores, their_scores, mask)
  presence = [
    graph.presence(case.fitted, model.features(pairs))
    for model in (before, own)
  ]
  return {
    "is_finite": all_finite(scores),
    "test_auc": graph.ranking_auc(
      own.logits(split.test), own.logits(split.others), kept, kept_others
    ),
    "forget_auc": graph.ranking_auc(scores, scores, ~mask, mask),
    "mi_ratio": attacks.membership_ratio(*presence, mask).before_over_after,
    "js_to_retrained": forgotten.js,
    "forget_probability": forgotten.mean,
    "delta_p": graph.edge_distance(scores, their_scores, ~mask).delta,
    "shown": jax.nn.sigmoid(scores),
  }


def measure_nodes(data: graphs.GraphData, case: Case) -> dict[str, Any]:
  own, theirs, _ = _answers(case)
  split, mask, label = case.bed.test, case.forget, jnp.asarray(data.label)
  every = jnp.arange(label.size)
  logits, their_logits = own.logits(every), theirs.logits(every)
  right = lambda nodes, weight: metrics.accuracy(
    logits[nodes], label[nodes], weight
  )
  trained, tested = split.rows, split.test
  # Of a class request the test nodes of that class are apart.
  classes = jnp.zeros(len(data.class_names), bool)
  classes = classes.at[label[trained]].max(mask)
  whole = jnp.ones(classes.shape, bool).at[label[trained]].min(mask) & classes
  of_class = whole[label[tested]]
  return {
    "is_finite": all_finite(logits),
    "forget_accuracy": right(trained, mask),
    "retain_accuracy": right(trained, ~mask),
    "test_accuracy": right(tested, jnp.ones(tested.shape, bool)),
    "forget_test_accuracy": right(tested, of_class),
    "retain_test_accuracy": right(tested, ~of_class),
    "js_to_retrained": metrics.mean_js(
      logits[trained], their_logits[trained], mask
    ),
    "shown": jnp.argmax(logits, axis=1),
  }


def _flops(evidence: bench.Evidence, method: str) -> dict[str, Any]:
  """Of a forward pass of the first lane's model; of several, of all."""
  beds, variables = evidence.plan.beds, evidence.found[method].first
  first = jax.tree.map(lambda v: jnp.asarray(v[0]), beds.of_seed)
  task, count = beds.make(jnp.asarray(beds.shared), first).model, 1
  if isinstance(variables, pieces.Models):
    count = evidence.plan.beds.facts["recipe"]["shards"]
    one = jax.tree.map(lambda v: v[0], variables.models)
    variables = graph.with_weight(one, graph.edge_weight(task.graph))
  flops = count * graph.forward_flops(task, variables) / 1e6
  return {"forward_mflop": np.full(len(evidence.plan.lanes[0]), flops)}


def measures(plan: bench.Plan) -> list[Measure]:
  beds, on_links = plan.beds, plan.options.task == "links"
  explanation = "both AUCs."
  main = Measure(
    _LINKS,
    measure_links,
    ("shown",),
    rules=(
      Rule("test_auc", 0.02, above="", below=DAMAGE),
      Rule("forget_auc", 0.05, above=TELLTALE, below=TRACE),
      Rule("forget_probability", 0.05, above=TRACE, below=TELLTALE),
      bench.distance("js_to_retrained", 0.01),
    ),
    fit=fit_attack,
  )
  if not on_links:
    explanation = "the accuracies on forgotten, kept and test nodes."
    main = Measure(
      _NODES,
      functools.partial(measure_nodes, beds.sources[0].data),
      ("shown",),
      rules=(
        Rule("forget_accuracy", 0.05, above=TRACE, below=TELLTALE),
        Rule("test_accuracy", 0.02, above="", below=DAMAGE),
        bench.distance("js_to_retrained", 0.01),
      ),
    )
  gap = table.gap(
    GAPS[plan.options.task],
    f"Mean absolute difference to the retrained model over {explanation}",
    **({"unit": "", "decimals": 3} if on_links else {}),
  )
  return [main, gap, Measure((_FORWARD,), after=_flops)]


_JS = functools.partial(
  table.shared, "js_to_retrained", unit="nats", decimals=4, headline=True
)
_LINKS = (
  report.Metric(
    "test_auc",
    "AUC, test edges",
    "Chance that a test edge, never trained on, is given a higher probability "
    "than a pair that no edge joins; of edges at forgotten nodes none counts.",
    headline=True,
  ),
  report.Metric(
    "forget_auc",
    "AUC, kept over deleted edges",
    "Chance that a kept training edge is given a higher probability than a "
    "deleted one. Near 1 is over-forgetting: to a model that never saw the "
    "deleted edges they are nearly as plausible as the others.",
    headline=True,
  ),
  report.Metric(
    "mi_ratio",
    "MI ratio",
    "Mean over deleted edges of the probability that an attack gives to their "
    "having been trained on, before over after (arXiv:2302.13406). 1 is no "
    "change; far above the retrained model's value is over-forgetting.",
    decimals=2,
    headline=True,
  ),
  _JS(
    label="JS, deleted edges",
    explanation="Jensen-Shannon divergence between the probabilities that this "
    "model and the retrained one give to deleted edges.",
  ),
  report.Metric(
    "forget_probability",
    "Probability, deleted edges",
    "Mean probability that the model gives to deleted edges.",
  ),
  report.Metric(
    "delta_p",
    "Delta p, kept edges",
    "Mean over kept edges of the probability minus the retrained model's "
    "(arXiv:2402.10695); below 0 is damage.",
  ),
)
_NODES = (
  *map(table.shared, GAPS["nodes"]),
  table.shared("forget_test_accuracy"),
  table.shared("retain_test_accuracy"),
  _JS(
    label="JS, forgotten nodes",
    explanation="Jensen-Shannon divergence between the class probabilities that "
    "this model and the retrained one give to forgotten nodes.",
  ),
)
_FORWARD = report.Metric(
  "forward_mflop",
  "Forward pass",
  "Operations of a forward pass over all nodes, by the compiler's count.",
  "MFLOP",
  1,
  report.LOWER,
)
_NOTES = {
  "links": (
    "Each seed has a split of its own: 85 % of the edges are trained on, 5 % are "
    "test edges, 5 % serve the attack and 5 % only --tune. Every model answers on the graph without "
    "the deleted edges, but the original, which answers on the whole one.",
    "The attack of the MI ratio is a logistic regression that learned on a model "
    "of the test edges how pairs look that were trained on. It is weak; a ratio "
    "says how its opinion changed, not that nothing is left.",
  ),
  "nodes": (
    "Each seed has a split of its own: 60 % of the nodes are trained on. A "
    "forgotten node takes its edges along and is then judged by its features "
    "alone; every model but the original answers on the graph without them.",
  ),
}


_OF_TESTS = {
  "edges_test": "All edges of the file are trained on; of those to test on, a fifth "
  "is for --tune alone, and of the others half serve the attack, drawn per seed.",
  "nodes_test": "All nodes of the file are trained on but those to test on, of "
  "which a fifth is for --tune alone.",
}


def _notes(plan: bench.Plan) -> tuple[str, ...]:
  found, data = _NOTES[plan.options.task], plan.beds.sources[0].data
  name = "edges_test" if plan.options.task == "links" else "nodes_test"
  if getattr(data, name) is None:
    return found
  rest = found[0].partition(". ")[2]
  return (f"{_OF_TESTS[name]} {rest}", *found[1:])


def findings(evidence: bench.Evidence) -> list[str]:
  """Cautions, and what the numbers say of links beyond their nearness."""
  said = list(evidence.plan.notes)
  if evidence.plan.options.task != "links":
    return said
  overall = report.summarise(evidence.rows).overall
  mean = lambda method, name: overall[method][name].mean
  theirs = mean(bench.RETRAINED, "forget_auc")
  over = [
    f"{name} ({mean(name, 'forget_auc'):.3f})"
    for name in evidence.plan.methods
    if mean(name, "forget_auc") > theirs + _OVER
  ]
  if not over:
    return said
  return [
    *said,
    "Over-forgetting, kept edges ranked further above deleted ones than by the "
    f"retrained model ({theirs:.3f}): {', '.join(over)}.",
  ]


def panels(evidence: bench.Evidence) -> dict[str, tuple[Any, str]]:
  """What is kept against what is forgotten, distances, and a neighbourhood."""
  plan, known = evidence.plan, table.definitions(evidence.plan)
  gap = GAPS[plan.options.task]
  is_over = "Near 1 on deleted edges is over-forgetting."
  axes = "forget_auc", "test_auc"
  if plan.options.task == "nodes":
    is_over = (
      "Lower on forgotten nodes than the dashed line is over-forgetting."
    )
    axes = "forget_accuracy", "test_accuracy"
  summary = report.summarise(evidence.rows)
  bars = render.bars(
    gap,
    "means and standard deviations over seeds. The dashed line is the retrained "
    f"model, which is the aim. {is_over}",
  )
  return {
    **bars(evidence),
    "trade_off": (
      report.trade_off(summary, *axes, definitions=known),
      "What is kept against what is forgotten, means over requests and seeds. "
      "A method should lie where the dashed lines cross: at the retrained model. "
      "The square is the original model.",
    ),
    "distance": (
      report.distance_plot(summary, definitions=known),
      "How far each method ends from the retrained model, and how long it takes. "
      "Down is better forgetting, left is faster.",
    ),
    "neighbourhood": (view.neighbourhood(evidence), view.caption(plan)),
  }


def _name(plan: bench.Plan) -> str:
  source = plan.options.data
  return Path(source).name if source.startswith("npz:") else source


def _lead(plan: bench.Plan) -> str:
  options, facts = plan.options, plan.beds.facts
  what = {"links": "which nodes are joined", "nodes": "classes of nodes"}
  rows = f"{_name(plan)}, {facts['nodes']} nodes and {facts['edges']} edges"
  return (
    f"A graph network ({options.model or options.layer.upper()}) that predicts "
    f"{what[options.task]} was {bench.origin(plan, rows)}, and then made to forget a part of it by "
    f"{len(plan.methods)} methods, with {len(plan.seeds)} seeds. A good one "
    "answers as a model does that was trained without that part: as well on the "
    "rest, and neither more nor less sure of what is gone."
  )


def _masks(kind: str, value: str, source: Source):
  return graphs.masks(kind, value, *source)


STUDY = bench.Study(
  name="forget_graph",
  options=Options,
  beds=beds,
  kinds={
    kind: bench.Kind(form, functools.partial(_masks, kind))
    for kind, form in graphs.FORMS.items()
  },
  request=default_request,
  train=train,
  methods=METHODS,
  groups=GROUPS,
  settings=settings_of,
  measures=measures,
  seeds=lambda options: {"smoke": 2, "quick": 3, "paper": 5}[options.preset],
  title=lambda plan: f"Forgetting a part of the graph {_name(plan)}",
  lead=_lead,
  fit=fit,
  notes=lambda plan: (
    *_notes(plan),
    *bench.of_given(plan),
    "Without --tune, gradient ascent and GNNDelete have the rates of the latter's "
    "code; d2dgn's rate, steps and weight were chosen on Cora, on other seeds.",
  ),
  tune_request=lambda options: (
    "edges:0.1" if options.task == "links" else "nodes:0.2"
  ),
  columns=lambda plan: (
    *GAPS[plan.options.task],
    *(["mi_ratio"] if plan.options.task == "links" else []),
    *("js_to_retrained", "retrained_gap", "speedup"),
  ),
  panels=(panels,),
  findings=findings,
  time_alone=True,
)
