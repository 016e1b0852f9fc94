"""Methods for text: signs, limits, what they read and what they leave alone."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small_text
from refusals import refused

import jaxunlearn as ju
from jaxunlearn import language
from jaxunlearn.core.types import as_step
from jaxunlearn.language._objectives import answer_score

KEY = jax.random.key(0)
MASK = jnp.arange(8) < 3
ONE = ju.Fit(optax.sgd(0.1), 1, ju.ALL)
FEW = ju.Fit(optax.adam(0.003), 4, 3)


@functools.cache
def setting():
  lm, variables = small_text.small("llama")
  x, other = (small_text.texts(8, 8, 19, seed=s) for s in (1, 2))
  return lm, variables, {"x": x, "alternative": other}


def served(method, data=None, mask=MASK):
  _, variables, rows = setting()
  data = rows if data is None else data
  return method.compiled(variables, data, mask, KEY)


@functools.cache
def scorer():
  return jax.jit(
    functools.partial(answer_score, setting()[0]), static_argnums=2
  )


def log_p(variables, column="x"):
  """Mean log p of a forget token."""
  out = scorer()(variables, setting()[2], column)
  return out.value[:3].sum() / out.weight[:3].sum()


ALONE = {"retain": None}
METHODS = {
  "npo": language.npo,
  "dpo": language.dpo,
  "ceu": functools.partial(language.ceu, skip=0),
  "inverted_hinge": language.inverted_hinge,
  "flat": functools.partial(language.flat, divergence="reverse_kl"),
}
SLOW_METHODS = {
  "gradient_ascent": language.gradient_ascent,
  "simnpo": functools.partial(language.simnpo, beta=0.1),
  "wga": language.wga,
  "satimp": functools.partial(language.satimp, saturation=1.0),
  "undial": language.undial,
  "flat tv": language.flat,
  "flat neyman": functools.partial(language.flat, divergence="neyman"),
  "idk": language.idk,
}
SAYS_INSTEAD = ("dpo", "idk", "flat", "flat tv", "flat neyman")


@pytest.mark.parametrize(
  "name",
  [*METHODS, *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW_METHODS)],
)
def test_what_is_forgotten_becomes_less_likely_and_what_is_said_likelier(name):
  lm, variables, data = setting()
  make = (METHODS | SLOW_METHODS)[name]
  method = make(lm, FEW) if "flat" in name else make(lm, FEW, **ALONE)
  out, _ = method.compiled(variables, data, MASK, KEY)
  if name != "idk":
    assert log_p(out) < log_p(variables) - 1e-3
  if name in SAYS_INSTEAD:
    other = "alternative"
    assert log_p(out, other) > log_p(variables, other) + 1e-3


def test_npo_begins_as_ascent_at_its_constant():
  lm, _, _ = setting()
  ascent, _ = served(language.gradient_ascent(lm, ONE, reduction="sequence"))
  for beta in (0.1, 2.0):
    out, info = served(language.npo(lm, ONE, beta=beta, retain=None))
    loss = info["unlearn"].loss[0]
    np.testing.assert_allclose(loss, 2 / beta * np.log(2), rtol=1e-5)
    chex.assert_trees_all_close(out, ascent, rtol=1e-4, atol=1e-5)
  unweighted, _ = served(language.wga(lm, ONE, beta=0.0, retain=None))
  ascent, _ = served(language.gradient_ascent(lm, ONE))
  chex.assert_trees_all_close(unweighted, ascent, rtol=1e-4, atol=1e-5)


def test_the_retain_term_alone_is_fine_tuning_and_its_kl_rests_at_the_start():
  lm, variables, _ = setting()
  out, _ = served(language.npo(lm, ONE, forget_weight=0.0))
  wanted, _ = served(ju.methods.finetune(lm, ONE))
  chex.assert_trees_all_close(out, wanted, rtol=1e-4, atol=1e-5)
  out, info = served(
    language.gradient_ascent(lm, ONE, retain="kl", forget_weight=0.0)
  )
  np.testing.assert_allclose(info["unlearn"].loss, 0, atol=1e-6)
  chex.assert_trees_all_close(out, variables, atol=1e-6)
  out, _ = served(language.undial(lm, ONE, strength=0.0))
  chex.assert_trees_all_close(out, variables, atol=1e-6)


def test_going_away_begins_at_the_entropy_and_by_kl_at_rest():
  lm, variables, data = setting()
  out, info = served(
    language.diverge(lm, ONE, divergence="kl", retain_weight=0.0)
  )
  np.testing.assert_allclose(info["unlearn"].loss, 0, atol=1e-6)
  chex.assert_trees_all_close(out, variables, atol=1e-6)
  _, info = served(language.diverge(lm, ONE, retain=None))
  own = jax.jit(functools.partial(language.token_scores, lm))(
    variables, data["x"]
  )
  rows = own.mask[:3]
  entropy = -(own.expected[:3] * rows).sum() / rows.sum()
  np.testing.assert_allclose(info["unlearn"].loss[0], -entropy, rtol=1e-5)
  refused("divergence", language.diverge, lm, ONE, divergence="js")


def test_methods_without_retain_rows_read_none():
  """Neither their weights, which may be nan, nor their tokens."""
  lm, _, data = setting()
  weight = jnp.ones((8, 8)).at[3:].set(jnp.nan)
  spoilt = jax.tree.map(lambda leaf: leaf.at[3:].set(1), data)
  for make in (
    functools.partial(language.npo, retain=None),
    functools.partial(language.dpo, retain=None),
    language.flat,
  ):
    method = make(lm, FEW)
    assert method.needs.retain == 0 and method.needs.mixed == 0
    clean, _ = served(method, {**data, "token_weight": jnp.ones((8, 8))})
    other, _ = served(method, {**spoilt, "token_weight": weight})
    chex.assert_trees_all_equal(clean, other)


def test_parts_of_a_batch_give_the_same_step():
  lm, _, _ = setting()
  fit = ju.Fit(optax.sgd(0.1), 2, 4)
  for make in (language.npo, functools.partial(language.rmu, layer=1)):
    one, _ = served(make(lm, fit))
    two, _ = served(make(lm, fit._replace(microbatches=2)))
    chex.assert_trees_all_close(one, two, rtol=1e-4, atol=1e-5)


def test_rmu_moves_nothing_after_its_block():
  lm, variables, _ = setting()
  out, info = served(language.rmu(lm, FEW, layer=1))
  chex.assert_trees_all_equal(out.params["norm"], variables.params["norm"])
  for old, new in zip(
    *map(jax.tree.leaves, (variables.params["blocks"], out.params["blocks"]))
  ):
    np.testing.assert_array_equal(old[2], new[2])
    assert (old[0] != new[0]).any()
  loss = info["unlearn"].loss
  assert loss[-1] < loss[0]
  refused("layer < 3", language.rmu, lm, FEW, layer=3)


def test_the_multiplier_climbs_by_the_violation_and_stays_positive():
  lm, variables, data = setting()
  fit = ju.Fit(optax.sgd(0.0), 3, ju.ALL)
  _, info = served(language.pdu(lm, fit, bound=1.0, dual_rate=0.5))
  rows = jax.tree.map(lambda leaf: leaf[3:], data)
  out = jax.jit(lm.task.loss)(variables, as_step(rows), KEY)
  excess = out.value.sum() / out.weight.sum() - 1.0
  found = info["unlearn"]["multiplier"].loss[:, 0]
  # It is 0, then rate * excess, then twice that; what is descended is minus it.
  wanted = -0.5 * excess**2 * jnp.arange(3.0)
  np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
  _, info = served(language.pdu(lm, fit, bound=100.0, dual_rate=0.5))
  np.testing.assert_array_equal(info["unlearn"]["multiplier"].loss, 0)
  refused("every to divide num_steps=3", language.pdu, lm, fit, every=2)


def test_a_row_without_an_answer_does_not_count():
  lm, _, data = setting()
  empty = data["x"].length.at[1].set(data["x"].prompt[1])
  with_empty = {**data, "x": data["x"]._replace(length=empty)}
  two = MASK.at[1].set(False)
  for make in (language.simnpo, language.flat, language.gradient_ascent):
    options = {} if make is language.flat else {"retain": None}
    method = make(lm, ONE, **options)
    one, _ = served(method, with_empty)
    other, _ = served(method, data, two)
    chex.assert_trees_all_close(one, other, rtol=1e-4, atol=1e-5)


def test_bad_options_are_refused():
  lm, variables, data = setting()
  refused("beta > 0", language.npo, lm, FEW, beta=0.0)
  refused("retain to be one of", language.npo, lm, FEW, retain="all")
  refused("divergence to be one of", language.flat, lm, FEW, divergence="chi")
  with pytest.raises(ValueError, match="'alternative'"):
    language.dpo(lm, FEW)(variables, {"x": data["x"]}, MASK, KEY)
  refused("optimizer", language.npo, lm)
