"""All operations of the edges that leave a node, as a few products."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

ZERO, SKIP = 0, 1
OPERATIONS = (
  *("zero", "skip", "avg_pool_3"),
  *("sep_conv_3", "sep_conv_5", "dil_conv_3"),
)
SIZE = 5  # Of the window that holds all three convolutions.


def mixed(x, gates, depth, point, stride):
  """What the edges that leave a node send: [E, B, H, W, C]."""
  window = windows(nn.relu(x), SIZE, stride)
  convolved = jnp.einsum("bhwkc,eokc->ebhwoc", window, depth * _masks())
  convolved = jnp.einsum("ebhwoc,eocd->eobhwd", convolved, point)
  pooled = normalised(averaged(x, 3, stride))
  same = x if stride == 1 else averaged(x, 2, 2)
  plain = jnp.stack([same, pooled])
  return jnp.einsum("eo,obhwc->ebhwc", gates[:, SKIP:3], plain) + jnp.einsum(
    "eo,eobhwc->ebhwc", gates[:, 3:], normalised(convolved)
  )


def _masks() -> np.ndarray:
  """Which entries of a window 5x5 each convolution has, [1, 3, 25, 1]."""
  away = np.abs(np.arange(SIZE) - SIZE // 2)
  near = np.maximum(away[:, None], away[None]) <= 1
  spread = (away[:, None] % 2 == 0) & (away[None] % 2 == 0)
  masks = np.stack([near, np.ones_like(near), spread])
  return masks.reshape(1, 3, -1, 1).astype(np.float32)


def windows(x, size, stride):
  """Shifted slices of images padded with zeros: [B, H', W', size^2, C].

  As products with shift matrices: slices and their gradients take XLA minutes
  to compile.
  """
  rows, columns = (_shifts(length, size, stride) for length in x.shape[1:3])
  found = jnp.einsum("ihr,bruc->ibhuc", rows, x)
  found = jnp.einsum("jwu,ibhuc->bhwijc", columns, found)
  return found.reshape(*found.shape[:3], size**2, -1)


def averaged(x, size, stride):
  """Means of windows [B, H', W', C], of the pixels that there are."""
  for axis, to in ((1, "bruc"), (2, "burc")):
    every = _shifts(x.shape[axis], size, stride).sum(axis=0)
    mean = every / every.sum(axis=1, keepdims=True)
    x = jnp.einsum(f"hr,{to}->{to.replace('r', 'h')}", mean, x)
  return x


def _shifts(length, size, stride):
  """Constant 0/1 matrices [size, length', length], one for each shift."""
  place = np.arange(0, length, stride)[None, :, None] - (size - 1) // 2
  place = place + np.arange(size)[:, None, None]
  return (place == np.arange(length)).astype(np.float32)


def normalised(x):
  """Mean 0 and variance 1 over each image [..., H, W, C]."""
  axes = (-3, -2, -1)
  mean = x.mean(axis=axes, keepdims=True)
  return (x - mean) * jax.lax.rsqrt(x.var(axis=axes, keepdims=True) + 1e-5)
