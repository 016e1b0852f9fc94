"""Residual networks with BatchNorm.

Source: He et al. (2016), arXiv:1512.03385; `resnet20` is their section 4.2.
Difference from the source: where a stage halves the size, the shortcut is a 1x1
convolution (their option B), on CIFAR too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxunlearn.models.conv import Conv, Implementation
from jaxunlearn.models.layers import check_images


class BasicBlock(nn.Module):
  """Two 3x3 convolutions and a shortcut.

  Attributes:
    filters: output channels.
    strides: of the first convolution.
    conv: makes a convolution layer from channels, kernel size and strides.
    norm: makes a normalisation layer.
  """

  filters: int
  strides: int
  conv: Callable[..., nn.Module]
  norm: Callable[..., nn.Module]

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    y = self.conv(self.filters, (3, 3), strides=self.strides)(x)
    y = nn.relu(self.norm()(y))
    y = self.norm()(self.conv(self.filters, (3, 3))(y))
    if x.shape != y.shape:
      x = self.conv(self.filters, (1, 1), strides=self.strides)(x)
      x = self.norm()(x)
    return nn.relu(x + y)


class BottleneckBlock(nn.Module):
  """1x1, 3x3 and 1x1 convolutions to four times `filters`, and a shortcut.

  Attributes:
    filters: channels of the first two convolutions.
    strides: of the 3x3 convolution.
    conv: makes a convolution layer from channels, kernel size and strides.
    norm: makes a normalisation layer.
  """

  filters: int
  strides: int
  conv: Callable[..., nn.Module]
  norm: Callable[..., nn.Module]

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    y = nn.relu(self.norm()(self.conv(self.filters, (1, 1))(x)))
    y = self.conv(self.filters, (3, 3), strides=self.strides)(y)
    y = nn.relu(self.norm()(y))
    y = self.norm()(self.conv(4 * self.filters, (1, 1))(y))
    if x.shape != y.shape:
      x = self.conv(4 * self.filters, (1, 1), strides=self.strides)(x)
      x = self.norm()(x)
    return nn.relu(x + y)


class ResNet(nn.Module):
  """Stages of residual blocks; each stage but the first halves the size.

  Sows `intermediates`: `stem`, `stage0`, `stage1`, ... [B, H, W, C] and
  `features` [B, C], the mean over positions.

  Attributes:
    num_classes: outputs.
    stage_sizes: blocks in each stage.
    num_filters: of the first stage; each further stage doubles them.
    block: `BasicBlock`, `BottleneckBlock` or a module of the same attributes.
    stem: "3x3" for small images; "7x7" with stride 2, then 3x3 max pooling with
      stride 2, for large ones.
    batch_norm_momentum: share that a running statistic keeps at each step.
    axis_name: mapped device axis over which batch statistics are averaged.
    dtype: dtype of the computation and output; None infers it. BatchNorm's
      statistics are float32.
    implementation: see `convolution`.
  """

  num_classes: int
  stage_sizes: Sequence[int]
  num_filters: int = 64
  block: Callable[..., nn.Module] = BasicBlock
  stem: Literal["3x3", "7x7"] = "3x3"
  batch_norm_momentum: float = 0.9
  axis_name: str | None = None
  dtype: Any = None
  implementation: Implementation = "auto"

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Logits [B, num_classes] of images [B, H, W, C].

    Raises:
      ValueError: if `x` is not a batch of images, or for an unknown stem.
    """
    check_images(x)
    if self.stem not in ("3x3", "7x7"):
      raise ValueError(
        f"Expected stem to be '3x3' or '7x7', got stem={self.stem!r}."
      )
    conv = functools.partial(
      Conv,
      use_bias=False,
      kernel_init=nn.initializers.he_normal(),
      dtype=self.dtype,
      implementation=self.implementation,
    )
    norm = functools.partial(
      nn.BatchNorm,
      use_running_average=not train,
      momentum=self.batch_norm_momentum,
      axis_name=self.axis_name,
      dtype=self.dtype,
    )
    large = self.stem == "7x7"
    size, strides = ((7, 7), 2) if large else ((3, 3), 1)
    x = conv(self.num_filters, size, strides=strides, name="stem_conv")(x)
    x = nn.relu(norm(name="stem_norm")(x))
    if large:
      x = nn.max_pool(x, (3, 3), (2, 2), padding="SAME")
    self.sow("intermediates", "stem", x)
    for i, num_blocks in enumerate(self.stage_sizes):
      for j in range(num_blocks):
        x = self.block(
          filters=self.num_filters * 2**i,
          strides=2 if i > 0 and j == 0 else 1,
          conv=conv,
          norm=norm,
          name=f"stage{i}_block{j}",
        )(x)
      self.sow("intermediates", f"stage{i}", x)
    x = jnp.mean(x, axis=(1, 2))
    self.sow("intermediates", "features", x)
    return nn.Dense(self.num_classes, dtype=self.dtype, name="classifier")(x)


def resnet20(num_classes: int, **kwargs: Any) -> ResNet:
  """The ResNet-20 of CIFAR: 3 stages of 3 basic blocks from 16 filters.

  Args:
    num_classes: outputs.
    **kwargs: further attributes of `ResNet`.

  Returns:
    A module for images of 8x8 pixels and more.

  Example:
    >>> module = resnet20(10, dtype=jnp.bfloat16)
    >>> module.stage_sizes, module.num_filters
    ((3, 3, 3), 16)
  """
  return ResNet(num_classes, (3, 3, 3), 16, **kwargs)


def resnet18(num_classes: int, **kwargs: Any) -> ResNet:
  """A ResNet-18 for small images: 3x3 stem, no pooling, from 64 filters.

  Args:
    num_classes: outputs.
    **kwargs: further attributes of `ResNet`; `stem="7x7"` is the ImageNet one.

  Returns:
    A module for images of 8x8 pixels and more.

  Example:
    >>> import jax
    >>> from jaxunlearn.models import resnet18
    >>> x = jax.ShapeDtypeStruct((1, 32, 32, 3), "float32")
    >>> shapes = jax.eval_shape(resnet18(10).init, jax.random.key(0), x)
    >>> sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
    11173962
  """
  return ResNet(num_classes, (2, 2, 2, 2), 64, **kwargs)
