"""Rows of the methods that unlearn answers of language models."""

import functools

import jax.numpy as jnp
import numpy as np
import optax
from conformance.case import row
from conformance.worlds import World, filled

import jaxunlearn as ju
from jaxunlearn import language
from jaxunlearn.language import concept_vectors

FIT = ju.Fit(optax.adam(0.01), 3, 8)


@functools.cache
def answers() -> World:
  """Rows of five owners, with something else to say; requests are an owner's."""
  sizes = {"width": 16, "num_layers": 2, "num_heads": 2, "mlp_width": 24}
  config = language.DecoderConfig(32, max_length=12, **sizes)
  lm = language.language_model(config)
  rng = np.random.default_rng(4)

  def texts():
    length = rng.integers(6, 13, 24)
    made = (rng.integers(0, 32, (24, 12)), length, length // 2)
    return language.Text(*(jnp.asarray(a, jnp.int32) for a in made))

  data = {"x": texts(), "alternative": texts()}
  variables = filled(lambda key: lm.model.init(key, data["x"]))
  owner = jnp.arange(24) // 5  # 5 rows do not fill a batch of 8 evenly.
  requests = jnp.stack([owner == 0, owner == 3])
  return World(lm, variables, data, requests)


def _answers(factory, build, variant="", **flags):
  return row(answers, factory, build, variant, **flags)


ANSWERS = [
  _answers(language.npo, lambda lm: language.npo(lm, FIT)),
  _answers(
    language.npo,
    lambda lm: language.npo(lm, FIT, retain=None),
    "alone",
    reads="forget",
    slow=True,
  ),
  _answers(
    language.npo,
    lambda lm: ju.by_forget_gradient(language.npo(lm, FIT), language.sam(0.05)),
    "sam",
    slow=True,
  ),
  _answers(
    language.npo,
    lambda lm: ju.through(
      language.lora(rank=2), lambda m: language.npo(m, FIT), lm
    ),
    "lora",
    slow=True,
  ),
  _answers(language.simnpo, lambda lm: language.simnpo(lm, FIT), slow=True),
  _answers(language.dpo, lambda lm: language.dpo(lm, FIT), slow=True),
  _answers(language.idk, lambda lm: language.idk(lm, FIT), slow=True),
  _answers(
    language.gradient_ascent,
    lambda lm: language.gradient_ascent(lm, FIT),
    reads="forget",
    slow=True,
  ),
  _answers(
    language.gradient_ascent,
    lambda lm: language.gradient_ascent(lm, FIT, retain="kl"),
    "kl",
    slow=True,
  ),
  _answers(
    concept_vectors.needle,
    lambda lm: concept_vectors.needle(concept_vectors.Place(0, 3)),
    reads="nothing",
    requestless=True,
  ),
  _answers(
    ju.methods.task_vector,
    lambda lm: ju.methods.task_vector(lm, FIT, strength=2.0),
    reads="forget",
    slow=True,
  ),
  _answers(
    language.whp,
    lambda lm: language.whp(lm, FIT, strength=2.0),
    reads="forget",
    moves=False,
    keeps_state=False,
    slow=True,
  ),
  _answers(language.wga, lambda lm: language.wga(lm, FIT), slow=True),
  _answers(language.satimp, lambda lm: language.satimp(lm, FIT), slow=True),
  _answers(
    language.undial,
    lambda lm: language.undial(lm, FIT),
    reads="forget",
    slow=True,
  ),
  _answers(
    language.ceu, lambda lm: language.ceu(lm, FIT), reads="forget", slow=True
  ),
  _answers(language.diverge, lambda lm: language.diverge(lm, FIT), slow=True),
  _answers(
    language.flat, lambda lm: language.flat(lm, FIT), reads="forget", slow=True
  ),
  _answers(language.rmu, lambda lm: language.rmu(lm, FIT, layer=1), slow=True),
  _answers(language.pdu, lambda lm: language.pdu(lm, FIT), slow=True),
  _answers(
    language.inverted_hinge,
    lambda lm: language.inverted_hinge(lm, FIT),
    slow=True,
  ),
  _answers(
    language.loku,
    lambda lm: language.loku(lm, FIT, rank=2, importance_batch_size=8),
    slow=True,
  ),
]
