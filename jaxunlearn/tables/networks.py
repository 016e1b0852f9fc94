"""The networks of the tabular VAE and GAN, in Flax."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp


class Autoencoder(nn.Module):
  """Encoder and decoder of two hidden layers each.

  Attributes:
    num_features: of an encoded row.
    num_numbers: the first of them, which are numbers.
    latent_size: of the latent vector.
    width: of the hidden layers.
  """

  num_features: int
  num_numbers: int
  latent_size: int
  width: int

  def setup(self):
    self.encoder = [nn.Dense(self.width) for _ in range(2)]
    self.latent = nn.Dense(2 * self.latent_size)
    self.decoder = [nn.Dense(self.width) for _ in range(2)]
    self.output = nn.Dense(self.num_features)
    shape = (self.num_numbers,)
    self.log_std = self.param("log_std", nn.initializers.constant(-0.7), shape)

  def __call__(self, x: jax.Array, noise: jax.Array):
    """Decoded features [B, F], their log deviations, latent mean and log std."""
    h = x
    for layer in self.encoder:
      h = nn.relu(layer(h))
    mean, log_std = jnp.split(self.latent(h), 2, axis=1)
    log_std = jnp.clip(log_std, -6, 6)
    outputs, spread = self.decode(mean + jnp.exp(log_std) * noise)
    return outputs, spread, mean, log_std

  def decode(self, z: jax.Array):
    """Features [B, F] of latent vectors, and log deviations of the numbers."""
    for layer in self.decoder:
      z = nn.relu(layer(z))
    # Deviations stay in [0.01, 1], as in the reference implementation.
    return self.output(z), jnp.clip(self.log_std, -4.605, 0)


class Synthesiser(nn.Module):
  """The GAN's generator: residual blocks that keep what they were given.

  Attributes:
    num_features: of an encoded row.
    width: of the two blocks.
  """

  num_features: int
  width: int

  @nn.compact
  def __call__(self, noise: jax.Array, condition: jax.Array) -> jax.Array:
    """Features [B, F] of noise [B, Z] and a condition [B, L]."""
    h = jnp.concatenate([noise, condition], axis=1)
    for _ in range(2):
      h = jnp.concatenate([nn.relu(nn.Dense(self.width)(h)), h], axis=1)
    return nn.Dense(self.num_features)(h)


class Critic(nn.Module):
  """Judges rows beside their conditions: two hidden layers, leaky.

  Attributes:
    width: of the hidden layers.
  """

  width: int

  @nn.compact
  def __call__(self, row: jax.Array, condition: jax.Array) -> jax.Array:
    """Scores [B] of rows [B, F]."""
    h = jnp.concatenate([row, condition], axis=1)
    for _ in range(2):
      h = nn.leaky_relu(nn.Dense(self.width)(h), 0.2)
    return nn.Dense(1)(h)[:, 0]
