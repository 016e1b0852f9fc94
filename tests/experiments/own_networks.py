"""Graph networks and recommenders as a user would write them."""

import jax
from flax import linen as nn
from flax import nnx

from jaxunlearn.graph.layers import GCN, Encoder


def mean_of_neighbours(x, graph):
  """Sums over weighted edges and the node itself, over their number."""
  count = 1 + jax.ops.segment_sum(graph.edges, graph.receivers, len(x))
  sent = graph.edges[:, None] * x[graph.senders]
  return (x + jax.ops.segment_sum(sent, graph.receivers, len(x))) / count[
    :, None
  ]


class Net(nn.Module):
  """Two rounds of means; with noise and statistics of its own in training."""

  width: int = 4
  is_noisy: bool = False

  @nn.compact
  def __call__(self, graph, train: bool = False):
    x = nn.Dense(6, name="into")(graph.nodes)
    if self.is_noisy:
      x = nn.BatchNorm(use_running_average=not train)(x)
      x = nn.Dropout(0.5, deterministic=not train)(x)
    x = nn.relu(mean_of_neighbours(x, graph))
    x = nn.Dense(self.width, name="out")(x)
    return graph._replace(nodes=mean_of_neighbours(x, graph))


class ReadsEveryEdge(nn.Module):
  @nn.compact
  def __call__(self, graph):
    x = nn.Dense(3)(graph.nodes)
    return x + jax.ops.segment_sum(x[graph.senders], graph.receivers, len(x))


class OfEachNode(nn.Module):
  @nn.compact
  def __call__(self, graph):
    own = self.param("own", nn.initializers.normal(), (34, 3))
    return mean_of_neighbours(nn.Dense(3)(graph.nodes) + own, graph)


class Factors(nn.Module):
  users: int = 12
  items: int = 9
  reads_all: bool = False

  @nn.compact
  def __call__(self, graph):
    normal = nn.initializers.normal(1.0)
    users = self.param("user", normal, (self.users, 3))
    items = self.param("item", normal, (self.items, 3))
    if self.reads_all:
      items = items.at[graph.item].add(1.0)
    return users, items


class NnxFactors(nnx.Module):
  def __init__(self, rngs):
    self.user = nnx.Param(jax.random.normal(rngs.params(), (12, 3)))
    self.item = nnx.Param(jax.random.normal(rngs.params(), (9, 3)))

  def __call__(self, graph):
    return self.user[...], self.item[...]


def layers():
  return Encoder(GCN, (4, 3))


def links():
  return Net()


def classes():
  return Net(width=2, is_noisy=True)


def one_class():
  return Net(width=1)


def reads_every_edge():
  return ReadsEveryEdge()


def of_each_node():
  return OfEachNode()


def factors():
  return Factors()


def other_factors():
  return Factors(users=11)


def all_factors():
  return Factors(reads_all=True)


def nnx_factors(rngs):
  return NnxFactors(rngs)


class Summed(nn.Module):
  @nn.compact
  def __call__(self, graph):
    return nn.Dense(1)(graph.nodes).sum()


def summed():
  return Summed()
