"""Models as a user would write them: one linen, one nnx."""

from flax import linen as nn
from flax import nnx


class TwoLayers(nn.Module):
  num_classes: int = 3

  @nn.compact
  def __call__(self, x):
    return nn.Dense(self.num_classes)(nn.relu(nn.Dense(16)(x)))


class TwoLayersNnx(nnx.Module):
  def __init__(self, rngs):
    self.hidden = nnx.Linear(4, 16, rngs=rngs)
    self.out = nnx.Linear(16, 3, rngs=rngs)

  def __call__(self, x):
    return self.out(nnx.relu(self.hidden(x)))


def linen_factory():
  return TwoLayers()


def nnx_factory(rngs):
  return TwoLayersNnx(rngs)


def wrong_size():
  return TwoLayers(num_classes=7)


def no_module():
  return 3
