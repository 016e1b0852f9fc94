"""Attacks on a language model's weights: relearning and rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import small_text

from jaxunlearn import attacks
from jaxunlearn.language._objectives import answer_score

KEY = jax.random.key(0)


def setting():
  lm, variables = small_text.small("llama")
  return lm, variables, {"x": small_text.texts(8, 8, 19, seed=1)}


def test_relearning_brings_texts_back():
  lm, variables, data = setting()
  rows = jnp.arange(8) < 3

  def evaluate(now):
    out = answer_score(lm, now, data)
    return out.value[:3].sum() / out.weight[:3].sum()

  def run(rate):
    return attacks.relearn(
      lm,
      variables,
      data,
      rows,
      KEY,
      evaluate=evaluate,
      target=-1.5,
      num_steps=8,
      optimizer=optax.adam(rate),
      batch_size=3,
    )

  still, found = (
    jax.tree.map(
      lambda leaf, i=i: leaf[i], jax.jit(jax.vmap(run))(jnp.array([0.0, 0.05]))
    )
    for i in range(2)
  )
  np.testing.assert_allclose(still.curve, still.curve[0], rtol=1e-6)
  assert found.curve[-1] > found.curve[0] + 0.5
  # The phase's loss is the exact mean over tokens that is evaluated.
  np.testing.assert_allclose(-found.loss, found.curve[:-1], rtol=1e-4)


def test_layers_are_rounded_each_by_itself():
  _, variables, _ = setting()
  out = attacks.quantize_stacked(variables, 4)
  blocks, before = out.params["blocks"], variables.params["blocks"]
  kernel = before["mlp"]["up"]["kernel"]
  for layer in range(3):
    np.testing.assert_allclose(
      blocks["mlp"]["up"]["kernel"][layer],
      attacks.quantize({"w": kernel[layer]}, 4)["w"],
      rtol=1e-6,
    )
  assert (blocks["mlp"]["up"]["kernel"] != kernel).any()
  np.testing.assert_array_equal(
    blocks["norm_1"]["scale"], before["norm_1"]["scale"]
  )
  np.testing.assert_array_equal(
    out.params["embed"]["embedding"], variables.params["embed"]["embedding"]
  )
