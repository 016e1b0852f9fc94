"""Rows of the methods for language models, and of the library's on text."""

import jax
import optax
from conformance import worlds
from conformance.case import row
from conformance.worlds import ADAM

import jaxunlearn as ju

FIT = ju.Fit(ADAM, 3, 8)


def _texts(factory, build, variant="", **flags):
  return row(worlds.texts, factory, build, variant, **flags)


TEXTS = [
  # Of the library's methods, one of each way to use a task.
  _texts(
    ju.methods.finetune,
    lambda lm: ju.methods.finetune(lm, FIT),
    "texts",
    reads="retain",
  ),
  _texts(
    ju.methods.retrain,
    lambda lm: ju.methods.retrain(lm, FIT),
    "texts",
    reads="retain",
    slow=True,
  ),
  _texts(
    ju.methods.gradient_ascent,
    lambda lm: ju.methods.gradient_ascent(lm, FIT, loss_ceiling=6.0),
    "texts",
    reads="forget",
    slow=True,
  ),
  _texts(
    ju.methods.neggrad_plus,
    lambda lm: ju.methods.neggrad_plus(lm, FIT, retain_batch_size=8),
    "texts",
    slow=True,
  ),
  _texts(
    ju.methods.l1_sparse,
    lambda lm: ju.methods.l1_sparse(lm, FIT, penalty=1e-3, plain_steps=1),
    "texts",
    reads="retain",
    slow=True,
  ),
  _texts(
    ju.methods.ssd,
    lambda lm: ju.methods.ssd(lm, alpha=1.0, dampening=0.5, batch_size=8),
    "texts",
    keyless=True,
    slow=True,
  ),
  _texts(
    ju.methods.amnesiac,
    lambda lm: ju.methods.amnesiac(
      lm,
      jax.tree.map(lambda p: 0.1 * p, worlds.texts().variables.params),
      ju.Fit(optax.adam(0.01), 3, 8),
    ),
    "texts",
    reads="retain",
    low_precision=False,  # The ledger is that of the float32 training.
    slow=True,
  ),
]
