"""A GAN of which everything can be reckoned by hand, for several tests."""

import jax
import jax.numpy as jnp

from jaxunlearn import gan
from jaxunlearn.core.types import Variables

DIM = 3


def linear(scale=0.0, slope=(1.0, -2.0, 0.5)):
  """x = start + scale * z, and the logit slope . x."""

  def init(key):
    del key
    synthesis = {
      "start": {"bias": jnp.zeros(DIM)},
      "layer_1": {"scale": jnp.full(DIM, scale)},
    }
    generator = {"mapping": {"shift": jnp.zeros(DIM)}, "synthesis": synthesis}
    judge = {"slope": jnp.array(slope)}
    return Variables({"generator": generator, "discriminator": judge})

  def synthesis(params, w):
    part = params["synthesis"]
    return part["start"]["bias"][None] + part["layer_1"]["scale"][None] * w

  return gan.Gan(
    init,
    lambda params, z: z + params["mapping"]["shift"][None],
    synthesis,
    lambda params, x: x @ params["slope"],
    DIM,
    (DIM,),
  )


def begun(scale=1.0):
  """The linear model, its variables, its samples and those that are large."""
  model = linear(scale)
  variables = model.init(None)
  data = gan.pool(model, variables, jax.random.key(3), 64)
  return model, variables, {"x": data["x"]}, data["x"][:, 0] > 0.5
