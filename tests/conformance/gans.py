"""Rows of the methods for GANs."""

import optax
from conformance import worlds
from conformance.case import row

import jaxunlearn as ju
from jaxunlearn import gan

FIT = gan.GanFit(optax.adam(0.02), 3, 8, r1=0.5, r1_every=2, ema=0.5)
STEPS = ju.Fit(optax.adam(0.02), 3, 8)
MAPPER = gan.Mapper(STEPS, (4,))


def encode(x):
  return x


GANS = [
  row(
    worlds.samples,
    gan.finetune,
    lambda g: gan.finetune(g, FIT),
    reads="retain",
  ),
  row(
    worlds.samples,
    gan.adapt_to_negatives,
    lambda g: gan.adapt_to_negatives(g, FIT, fisher_samples=4),
    reads="forget",
    slow=True,
  ),
  row(
    worlds.samples,
    gan.adapt_unlearn,
    lambda g: gan.adapt_unlearn(g, FIT, num_anchors=2),
    slow=True,
  ),
  row(
    worlds.samples,
    gan.extrapolate,
    lambda g: gan.extrapolate(g, FIT, num_anchors=2),
    reads="forget",
    slow=True,
  ),
  row(
    worlds.named_samples,
    gan.text_to_unlearn,
    lambda g: gan.text_to_unlearn(g, encode, STEPS, mapper=MAPPER),
    reads="nothing",
  ),
  row(
    worlds.named_samples,
    gan.prompt_ascent,
    lambda g: gan.prompt_ascent(g, encode, STEPS),
    reads="nothing",
  ),
]
