"""Unlearning on graphs: requests over edges and nodes, models, methods, measures.

    g = graph.from_edges(features, edges)
    task = graph.link_prediction(Encoder(GCN), g)
    data = graph.link_data(g)
    fit = functools.partial(graph.train, task, optimizer=adam, num_steps=200)
    original, _ = jax.jit(fit)(data, jnp.ones(len(edges), bool), key)
    forget_mask = graph.sample_edges(key, g, 0.05)
    unlearned, _ = graph.d2dgn(task).compiled(original, data, forget_mask, key)

Layers are imported by name, `from jaxunlearn.graph.layers import GCN, Encoder`,
since they need Flax; graphs need jraph.
"""

from jaxunlearn.graph.baselines import descent_to_delete, gradient_ascent
from jaxunlearn.graph.d2dgn import d2dgn
from jaxunlearn.graph.evaluation import (
  EdgeDistance,
  PresenceAttack,
  df_auc,
  dt_auc,
  edge_distance,
  fit_presence,
  forward_flops,
  pair_features,
  presence,
  ranking_auc,
)
from jaxunlearn.graph.gnndelete import deleted_edge_consistency, gnndelete
from jaxunlearn.graph.losses import bernoulli_kl, link_loss
from jaxunlearn.graph.networks import from_network
from jaxunlearn.graph.objectives import (
  embedding_cosine,
  embedding_kl,
  embedding_mse,
)
from jaxunlearn.graph.partition import (
  balanced_shards,
  predict_shards,
  shard_rows,
  touched,
  train_shards,
)
from jaxunlearn.graph.requests import (
  edge_classes,
  edges_within,
  sample_edges,
)
from jaxunlearn.graph.rows import link_data, node_data
from jaxunlearn.graph.state import weight_of, with_weight
from jaxunlearn.graph.structure import (
  NonEdges,
  are_joined,
  draw_non_edges,
  edge_rows,
  edge_weight,
  endpoints,
  from_edges,
  hops,
  incident_edges,
  non_edges,
  num_nodes,
)
from jaxunlearn.graph.tasks import (
  GraphModel,
  link_prediction,
  node_classification,
  unlink,
)
from jaxunlearn.graph.training import retrain, train, train_many

__all__ = [
  "EdgeDistance",
  "GraphModel",
  "NonEdges",
  "PresenceAttack",
  "are_joined",
  "balanced_shards",
  "bernoulli_kl",
  "d2dgn",
  "deleted_edge_consistency",
  "descent_to_delete",
  "df_auc",
  "draw_non_edges",
  "dt_auc",
  "edge_classes",
  "edge_distance",
  "edge_rows",
  "edge_weight",
  "edges_within",
  "embedding_cosine",
  "embedding_kl",
  "embedding_mse",
  "endpoints",
  "fit_presence",
  "forward_flops",
  "from_edges",
  "from_network",
  "gnndelete",
  "gradient_ascent",
  "hops",
  "incident_edges",
  "link_data",
  "link_loss",
  "link_prediction",
  "node_classification",
  "node_data",
  "non_edges",
  "num_nodes",
  "pair_features",
  "predict_shards",
  "presence",
  "ranking_auc",
  "retrain",
  "sample_edges",
  "shard_rows",
  "touched",
  "train",
  "train_many",
  "train_shards",
  "unlink",
  "weight_of",
  "with_weight",
]
