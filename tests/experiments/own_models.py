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


class Tokens(nn.Module):
  """Takes token numbers, which must be integers."""

  @nn.compact
  def __call__(self, x):
    return nn.Dense(3)(nn.Embed(50, 8)(x).mean(1))


class FailsInTraining(nn.Module):
  """Is sound until it is trained."""

  @nn.compact
  def __call__(self, x, train=False):
    if train:
      x = x.reshape(7, -1)
    return nn.Dense(3)(x)


def tokens():
  return Tokens()


def fails_in_training():
  return FailsInTraining()


def ten_outputs():
  return TwoLayers(num_classes=10)


def linen_factory():
  return TwoLayers()


def nnx_factory(rngs):
  return TwoLayersNnx(rngs)


def wrong_size():
  return TwoLayers(num_classes=7)


def no_module():
  return 3


def one_number():
  return TwoLayers(num_classes=1)
