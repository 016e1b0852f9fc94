"""Graph convolutions under edge weights: GCN, GAT, GIN, and an encoder of them.

Every layer takes features [n, d], both directions of the edges, and a weight in
[0, 1] a directed edge. Weight 0 is no edge: degrees, normalisation and
attention are those of the graph rebuilt without it. The weights may be soft,
and outputs are differentiable in them where they are positive: an edge of
weight 0 is not read, so that there the gradient lacks its message.

Sources: GCN, Kipf and Welling (2016), arXiv:1609.02907; GAT, Velickovic et al.
(2017), arXiv:1710.10903, one head; GIN, Xu et al. (2018), arXiv:1810.00826, one
dense layer and eps 0, as in GNNDelete's code. GIN's dense layer is applied before
its sum, which is the same number at fewer operations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp


def _incoming(values, senders, receivers, weight):
  """sum_j weight_ji values_j over the edges into i; [n, d]."""
  w = weight[:, None].astype(values.dtype)
  sent = jnp.where(w > 0, w * values[senders], 0)
  return jax.ops.segment_sum(sent, receivers, values.shape[0])


class GCN(nn.Module):
  """D^-1/2 (A + I) D^-1/2 X W + b, degrees counted with the weights.

  Attributes:
    width: outputs.
  """

  width: int

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    senders: jax.Array,
    receivers: jax.Array,
    weight: jax.Array,
  ) -> jax.Array:
    """[n, width] of features x [n, d] and edges [2 E]."""
    x = nn.Dense(self.width, use_bias=False)(x)
    bias = self.param("bias", nn.initializers.zeros, (self.width,))
    degree = 1 + jax.ops.segment_sum(weight, receivers, x.shape[0])
    scale = jax.lax.rsqrt(degree)[:, None].astype(x.dtype)
    scaled = scale * x
    total = _incoming(scaled, senders, receivers, weight) + scaled
    return scale * total + bias[None].astype(x.dtype)


class GAT(nn.Module):
  """Attention over the edges into a node and the node itself, one head.

  A soft weight w enters as exp(logit) w.

  Attributes:
    width: outputs.
  """

  width: int

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    senders: jax.Array,
    receivers: jax.Array,
    weight: jax.Array,
  ) -> jax.Array:
    """[n, width] of features x [n, d] and edges [2 E]."""
    x = nn.Dense(self.width, use_bias=False)(x)
    shape, init = (self.width,), nn.initializers.normal(self.width**-0.5)
    source = x @ self.param("attend_source", init, shape).astype(x.dtype)
    target = x @ self.param("attend_target", init, shape).astype(x.dtype)
    bias = self.param("bias", nn.initializers.zeros, shape)
    n = x.shape[0]
    own = nn.leaky_relu(source + target, 0.2)
    logit = nn.leaky_relu(source[senders] + target[receivers], 0.2)
    is_edge = weight > 0
    # Any shift cancels; that of the largest logit keeps the exponents small.
    top = jnp.maximum(
      own,
      jax.ops.segment_max(jnp.where(is_edge, logit, -jnp.inf), receivers, n),
    )
    top = jax.lax.stop_gradient(top)
    logit = jnp.where(is_edge, logit - top[receivers], 0)
    share = jnp.where(is_edge, weight * jnp.exp(logit), 0).astype(x.dtype)
    own = jnp.exp(own - top)
    total = own + jax.ops.segment_sum(share, receivers, n)
    mixed = _incoming(x, senders, receivers, share) + own[:, None] * x
    return mixed / total[:, None] + bias[None].astype(x.dtype)


class GIN(nn.Module):
  """(X + A X) W + b.

  Attributes:
    width: outputs.
  """

  width: int

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    senders: jax.Array,
    receivers: jax.Array,
    weight: jax.Array,
  ) -> jax.Array:
    """[n, width] of features x [n, d] and edges [2 E]."""
    x = nn.Dense(self.width, use_bias=False)(x)
    bias = self.param("bias", nn.initializers.zeros, (self.width,))
    total = x + _incoming(x, senders, receivers, weight)
    return total + bias[None].astype(x.dtype)


class Encoder(nn.Module):
  """Graph layers with ReLU between, and a dense head for classes of nodes.

  The parts are called one by one, so that a method can act between two layers.

  Attributes:
    layer: `width -> module`, such as `GCN`.
    widths: outputs of each layer.
    num_classes: of the dense head on the last layer's ReLU; 0 has no head.
  """

  layer: Callable[..., nn.Module] = GCN
  widths: Sequence[int] = (128, 64)
  num_classes: int = 0

  def setup(self):
    self.layers = [self.layer(width) for width in self.widths]
    if self.num_classes:
      self.head = nn.Dense(self.num_classes)

  def __call__(self, x, senders, receivers, weight):
    """Outputs of all layers, before their ReLU, and the head's if there is one."""
    outputs = []
    for index in range(len(self.widths)):
      z = self.convolve(index, x, senders, receivers, weight)
      x = nn.relu(z)
      outputs.append(z)
    return tuple(outputs), self.classify(z) if self.num_classes else None

  def convolve(self, index, x, senders, receivers, weight):
    """Layer `index` (static) alone, before its ReLU."""
    return self.layers[index](x, senders, receivers, weight)

  def classify(self, z):
    """Logits [B, C] of embeddings [B, d] of the last layer."""
    return self.head(nn.relu(z))
