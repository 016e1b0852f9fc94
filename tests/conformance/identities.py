"""Rows of identities and of architectures."""

import functools

import jax.numpy as jnp
import numpy as np
from conformance import worlds
from conformance.case import row
from conformance.worlds import ADAM

import jaxunlearn as ju
from jaxunlearn import identity, nas

FIT = ju.Fit(ADAM, 4, 8)
SPACE = nas.Space(2, channels=2, nodes=1, cells=("reduce",))


@functools.cache
def searched() -> worlds.World:
  """A supernet and a network of tiny images; requests are some rows."""
  rng = np.random.default_rng(5)
  fold = np.arange(20) % 2 == 0
  data = {"x": rng.normal(size=(20, 4, 4, 1)), "label": np.arange(20) // 3 % 2}
  data = {
    "x": jnp.asarray(data["x"], jnp.float32),
    "label": jnp.asarray(data["label"], jnp.int32),
    "fold": jnp.asarray(fold),
  }
  model = nas.network_model(SPACE)
  variables = worlds.filled(lambda key: model.init(key, data["x"]))
  rows = jnp.arange(20)
  return worlds.World(
    SPACE, variables, data, jnp.stack([rows < 4, (rows > 7) & (rows < 13)])
  )


def _respond(model):
  return lambda variables, step, key: model.predict(variables, step.rows["x"])


def _search(factory, build, **flags):
  return row(searched, factory, build, reads="retain", slow=True, **flags)


IDENTITIES = [
  row(
    worlds.classes,
    identity.uniform_teacher,
    lambda m: identity.uniform_teacher(
      m, FIT, logits=lambda v, rows: m.predict(v, rows["x"])
    ),
  ),
  row(
    worlds.classes,
    identity.anchor_to_class,
    lambda m: identity.anchor_to_class(
      m,
      FIT,
      respond=_respond(m),
      anchor=identity.retain_mean(_respond(m)),
    ),
    devices=False,  # The mean is over a device's share of the rows.
  ),
  row(
    worlds.classes,
    identity.clipped_reversal,
    lambda m: identity.clipped_reversal(m, FIT, ceiling=3.0),
  ),
  # Of the architecture's step a device would average over its share alone.
  _search(nas.darts, lambda s: nas.darts(s, FIT), devices=False),
  _search(nas.emonas, lambda s: nas.emonas(s, FIT, FIT), devices=False),
  _search(nas.train_network, lambda s: nas.train_network(s, FIT)),
  _search(nas.tune_network, lambda s: nas.tune_network(s, FIT)),
]
