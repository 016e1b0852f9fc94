"""Graph layers and GNNDelete against published code."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn import graph
from jaxunlearn.core.types import Variables
from jaxunlearn.graph.layers import GAT, GCN, GIN, Encoder


def _case(d):
  """The task, its variables without edges, and the edges [E, 2]."""
  name = "gin" if "param_conv1_nn_weight" in d else "gcn"
  name = "gat" if "param_conv1_att_src" in d else name
  index = d["edge_index"].T
  edges = index[index[:, 0] < index[:, 1]]
  made = graph.from_edges(d["x"], edges)
  layer = {"gcn": GCN, "gat": GAT, "gin": GIN}[name]
  task = graph.link_prediction(Encoder(layer, (8, 5)), made)
  part = "nn" if name == "gin" else "lin"
  params = {}
  for i in (0, 1):
    read = lambda what: jnp.asarray(d[f"param_conv{i + 1}_{what}"])
    params[f"layers_{i}"] = {
      "Dense_0": {"kernel": read(f"{part}_weight").T},
      "bias": read("nn_bias" if name == "gin" else "bias"),
    }
    if name == "gat":
      params[f"layers_{i}"]["attend_source"] = read("att_src")[0, 0]
      params[f"layers_{i}"]["attend_target"] = read("att_dst")[0, 0]
  return task, Variables(params, {}), edges


def _kept(d, edges, name):
  """A mask over directed edges, as weights of rows."""
  kept = {tuple(e) for e in d["edge_index"].T[d[name] > 0].tolist()}
  weight = jnp.asarray([float(tuple(e) in kept) for e in edges.tolist()])
  assert 0 < weight.sum() < len(edges)
  return weight


def layers(d):
  task, variables, edges = _case(d)
  embed, out = jax.jit(task.embed), {}
  for which in ("all", "retained", "sdf"):
    if which == "all":
      weight = jnp.ones(len(edges))
    else:
      weight = _kept(d, edges, f"{which}_edge_mask")
    z1, z2 = embed(graph.with_weight(variables, weight))
    out |= {f"z1_{which}": z1, f"z2_{which}": z2}
  return out


def link_logits(d):
  task, variables, edges = _case(d)
  variables = graph.with_weight(variables, jnp.ones(len(edges)))
  pairs = np.concatenate([d["edge_index"].T, d["negative_edges"].T])
  logits = jax.jit(task.model.predict)(variables, jnp.asarray(pairs))
  return {"edge_logits_all": logits}


def deletion_operators(d):
  task, variables, edges = _case(d)
  base = graph.with_weight(variables, _kept(d, edges, "sdf_edge_mask"))
  zones = tuple(jnp.asarray(d[f"node_{i}hop_mask"] > 0) for i in (1, 2))
  operators = tuple(
    jnp.asarray(d[f"param_deletion{i}_deletion_weight"]) for i in (1, 2)
  )

  def squares(operators):
    deletion = {"operators": operators, "zones": zones}
    stack = jax.tree.map(lambda leaf: leaf[None], deletion)  # One place.
    state = {**base.model_state, "deletions": stack}
    z1, z2 = task.embed(base._replace(model_state=state))
    return (z2**2).sum(), (z1, z2)

  grads, (z1, z2) = jax.jit(jax.grad(squares, has_aux=True))(operators)
  return {
    "delete_z1_sdf": z1,
    "delete_z2_sdf": z2,
    "grad_deletion1_of_sumsq": grads[0],
    "grad_deletion2_of_sumsq": grads[1],
  }


def deletion_losses(d):
  edges = jnp.asarray(d["edge_index"].T[d["deleted_edge_mask"] > 0])
  others = jnp.asarray(d["negative_edges"].T)
  alpha, out = float(d["alpha"]), {}
  for kind, distance in (
    ("mse_mean", graph.embedding_mse),
    ("kld_mean", graph.embedding_kl),
    ("cosine_mean", graph.embedding_cosine),
  ):

    def losses(z1, z2, distance=distance):
      parts = []
      for i, z in ((1, z1), (2, z2)):
        old = jnp.asarray(d[f"z{i}_original"])
        near = (d[f"node_{i}hop_mask"] > 0) & ~(d["endpoint_mask"] > 0)
        gone = graph.deleted_edge_consistency(
          z, old, edges, others, jnp.ones(len(edges)), distance
        )
        parts.append((gone, distance(z, old, jnp.asarray(near, jnp.float32))))
      return parts

    def both(z1, z2, losses=losses):
      parts = losses(z1, z2)
      return sum(alpha * gone + (1 - alpha) * near for gone, near in parts)

    z = jnp.asarray(d["z1"]), jnp.asarray(d["z2"])
    (r1, l1), (r2, l2) = losses(*z)
    slopes = jax.grad(both, (0, 1))(*z)
    parts = {"loss_r1": r1, "loss_l1": l1, "loss_r2": r2, "loss_l2": l2}
    parts |= {"both_all": both(*z), "grad_z1": slopes[0], "grad_z2": slopes[1]}
    out |= {f"nodeemb_{kind}_{name}": part for name, part in parts.items()}
  return out


def papers_losses(d):
  """They count the ends as neighbours."""
  return {
    f"ni_layer{i}_paper": graph.embedding_mse(
      jnp.asarray(d[f"z{i}"]),
      jnp.asarray(d[f"z{i}_original"]),
      jnp.asarray(d[f"node_{i}hop_mask"], jnp.float32),
    )
    for i in (1, 2)
  }


def zones(d):
  """Hops in both directions."""
  index = d["edge_index"].T
  rows = index[:, 0] < index[:, 1]
  made = graph.from_edges(d["x"], index[rows])
  gone = jnp.asarray(d["deleted_edge_mask"][rows] > 0)
  ends = graph.endpoints(made, gone)
  return {"endpoint_mask": ends} | {
    f"node_{hops}hop_mask_undirected": graph.hops(made, ends, hops)
    for hops in (1, 2)
  }
