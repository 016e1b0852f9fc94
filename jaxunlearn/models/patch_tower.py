"""A small image tower of dense layers on patches: images to a few tokens.

Patches are embedded, and then each two by two of them merged, as Swin does (Liu
et al., 2021, arXiv:2103.14030), until few are left. Without a convolution, which
a loop on a CPU and a `vmap` over weights are slow at; see `conv`.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxunlearn.models.layers import check_images


class PatchTower(nn.Module):
  """Images [B, H, W, C] to features [B, P, F] of P square regions.

  Attributes:
    patch_size: side of the first patches.
    widths: of their embedding, and after each merging of two by two; H and W are
      multiples of patch_size * 2 ** (len(widths) - 1). F is the last.
  """

  patch_size: int = 4
  widths: tuple[int, ...] = (64, 128, 128)

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    check_images(x)
    side = self.patch_size * 2 ** (len(self.widths) - 1)
    if x.shape[1] % side or x.shape[2] % side:
      raise ValueError(
        f"Expected images of sides that are multiples of {side}, got "
        f"{x.shape[1]} x {x.shape[2]}."
      )
    for i, width in enumerate(self.widths):
      x = _grouped(x, self.patch_size if i == 0 else 2)
      # What makes an image unlike others is small beside what all share.
      x = nn.gelu(nn.Dense(width)(nn.LayerNorm()(x)))
    return x.reshape(x.shape[0], -1, self.widths[-1])


def _grouped(x: jax.Array, side: int) -> jax.Array:
  """[B, H, W, C] to [B, H / side, W / side, side * side * C]."""
  batch, height, width, channels = x.shape
  rows, columns = height // side, width // side
  x = x.reshape(batch, rows, side, columns, side, channels)
  x = jnp.swapaxes(x, 2, 3)
  return x.reshape(batch, rows, columns, side * side * channels)
