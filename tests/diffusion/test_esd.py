"""ESD against its formula on a linear model, its limits, and what it moves."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_diffusion import (
  CONCEPT,
  DATA,
  OTHER,
  REQUEST,
  check_only_group_moved,
  gain_of,
  linear,
  linear_params,
  params,
  small,
)

from jaxunlearn.core.types import Batch, Carry, Env, Variables
from jaxunlearn.diffusion import schedules
from jaxunlearn.diffusion.esd import esd

KEY = jax.random.key(7)
# What the linear model's eps gains by each prompt: the sum of its tokens / 10.
SAID = np.asarray(CONCEPT).sum(axis=1) / 10 - 0.1


def first_loss(prompts, **options):
  """The objective before the first step, of many images."""
  model = linear()
  fit = esd(
    model,
    prompts,
    optimizer=optax.sgd(0.0),
    num_steps=1,
    batch_size=64,
    sampler_steps=4,
    **options,
  )
  _, info = jax.jit(fit)(model.init(KEY), DATA, REQUEST, KEY)
  return float(info.loss[0])


@pytest.mark.parametrize("eta", [-1.0, 0.0, 1.0, 2.5])
def test_the_loss_is_that_of_the_formula(eta):
  """eps(c) - [eps(none) - eta (eps(c) - eps(none))] = (1 + eta) said."""
  wanted = ((1 + eta) * SAID[0]) ** 2
  assert first_loss(CONCEPT[:1], eta=eta) == pytest.approx(wanted, abs=1e-6)
  assert first_loss(CONCEPT[:1], eta=eta + 1, base="cond") == pytest.approx(
    wanted, abs=1e-6
  )


def test_each_prompt_is_drawn():
  low, high = sorted((2 * SAID) ** 2)
  assert low + 0.1 < first_loss(CONCEPT) < high - 0.1


@pytest.mark.parametrize("base", ["null", "cond"])
def test_a_concept_is_erased_from_another_prompt(base):
  """The student is asked for `from`: its own noise, or the empty prompt's."""
  concept, taught = SAID[0], 0.3
  start = taught if base == "cond" else 0.0
  wanted = (taught - (start - 1.5 * concept)) ** 2
  found = first_loss(CONCEPT[:1], eta=1.5, base=base, from_prompts=OTHER[:1])
  assert found == pytest.approx(wanted, rel=1e-5)


def test_the_time_is_the_image_s_or_drawn_within_its_step():
  """Weights of one at the sampler's times count the losses taken there."""
  on_grid = np.zeros(40)
  on_grid[schedules.sampling_times(40, 4)] = 1.0
  whole = first_loss(CONCEPT[:1])
  weighed = functools.partial(first_loss, CONCEPT[:1], time_weights=on_grid)
  assert weighed() == pytest.approx(whole, rel=1e-5)
  # Ten times to a step: 6.4 of 64 in expectation, standard deviation 2.4.
  assert 0 < weighed(times="interval") / whole < 0.26


@jax.jit
def _fitted(original, data, request, key, eta):
  fit = esd(
    small(),
    CONCEPT,
    eta=eta,
    optimizer=optax.adamw(3e-3, weight_decay=0.1),
    num_steps=3,
    batch_size=2,
    sampler_steps=3,
  )
  return fit(original, data, request, key)


def fitted(original, data=DATA, request=REQUEST, eta=1.0):
  """One program for most tests of the small model."""
  return _fitted(original, data, request, KEY, jnp.float32(eta))


@pytest.mark.slow
def test_only_cross_attention_moves():
  moved, info = fitted(params())
  check_only_group_moved(params(), moved, "xattn")
  assert info.loss.shape == (3,) and bool(info.is_finite)


@pytest.mark.slow
def test_esd_u_leaves_cross_attention_times_and_ends_alone():
  fit = esd(
    small(),
    CONCEPT,
    group="noxattn",
    optimizer=optax.adamw(3e-3, weight_decay=0.1),
    num_steps=2,
    sampler_steps=3,
  )
  moved, _ = jax.jit(fit)(params(), DATA, REQUEST, KEY)
  check_only_group_moved(params(), moved, "noxattn")
  before, after = params()["denoiser"], moved["denoiser"]
  for name in ("time_embedding", "norm_out", "conv_out"):
    jax.tree.map(np.testing.assert_array_equal, before[name], after[name])
  kernel = lambda p: p["block_0"]["ff_in"]["kernel"]
  assert (kernel(before) != kernel(after)).any()


def test_the_original_is_where_eta_is_minus_one():
  assert float(fitted(params(), eta=-1.0)[1].loss[0]) < 1e-10
  assert float(fitted(params())[1].loss[0]) > 1e-4


@pytest.mark.slow
def test_with_eta_zero_the_prompt_loses_its_effect():
  """On pure noise, the images before the only step."""
  original = params(2)  # In which it has more than in others.
  fit = esd(
    small(),
    CONCEPT,
    eta=0.0,
    group="full",
    optimizer=optax.adam(1e-2),
    num_steps=400,
    batch_size=16,
    sampler_steps=1,
  )
  moved, info = jax.jit(fit)(original, DATA, REQUEST, KEY)
  model = small()
  x = jax.random.normal(KEY, (32, 2, 2, 3))
  t = jnp.full(32, 39)

  def effect(trained):
    context = model.encode(trained, jnp.tile(CONCEPT, (16, 1)))
    said = model.eps(trained, x, t, context)
    null = model.eps(original, x, t, model.null_context(original, 32))
    return float(jnp.square(said - null).mean())

  assert effect(moved) < 0.2 * effect(original)
  assert float(info.loss[-20:].mean()) < 0.2 * float(info.loss[:5].mean())


def erased(model, prompts, gain, key, **options):
  """The linear model's gain after four steps, and the losses."""
  fit = esd(
    model,
    prompts,
    **{
      "optimizer": optax.sgd(0.05),
      "num_steps": 4,
      "batch_size": 3,
      "sampler_steps": 5,
      **options,
    },
  )
  moved, info = fit(linear_params(gain), DATA, REQUEST, key)
  return gain_of(moved), info.loss


@pytest.mark.slow
def test_many_concepts_equal_a_loop_and_compile_once():
  traces: list = []
  model = linear(traces)
  erase = jax.jit(lambda *args: erased(model, *args))
  prompts, gains = jnp.stack([CONCEPT, OTHER]), jnp.array([0.3, 0.5])
  keys = jax.random.split(KEY, 2)
  many = jax.vmap(erase)(prompts, gains, keys)
  alone = erase(prompts[0], gains[0], keys[0])
  traced = len(traces)
  other = erase(prompts[1], gains[1], keys[1])
  assert len(traces) == traced
  for i, one in enumerate((alone, other)):
    for stacked, single in zip(many, one, strict=True):
      np.testing.assert_allclose(stacked[i], single, rtol=1e-5)
  assert abs(alone[0] - 0.3) > 1e-3 and abs(alone[0] - other[0]) > 1e-3


def test_the_sampler_is_the_current_or_the_original_model():
  """At first they are one; after a step their images differ."""
  current, original = (
    jax.jit(lambda s=s: erased(linear(), CONCEPT, 0.3, KEY, sampler=s)[1])()
    for s in ("current", "original")
  )
  assert float(current[0]) == pytest.approx(float(original[0]), rel=1e-5)
  assert abs(current[1:] - original[1:]).max() > 1e-5


def test_the_result_is_that_without_jit_and_of_its_key():
  run = lambda key: erased(linear(), CONCEPT, jnp.float32(0.3), key)
  found, losses = run(KEY)
  jitted = jax.jit(run)(KEY)
  np.testing.assert_allclose(losses, jitted[1], rtol=1e-5)
  np.testing.assert_allclose(found, jitted[0], rtol=1e-5)
  first, again = fitted(params())[0], fitted(params())[0]
  jax.tree.map(np.testing.assert_array_equal, first, again)
  assert abs(run(jax.random.key(8))[1] - losses).max() > 1e-4


@pytest.mark.slow
def test_a_host_that_steps_itself_does_what_the_call_does():
  """The steps of `expand`, one by one."""
  model = linear()
  fit = esd(
    model, CONCEPT, optimizer=optax.sgd(0.05), num_steps=2, sampler_steps=3
  )
  original = model.init(KEY)
  whole, _ = fit(original, DATA, REQUEST, KEY)
  carry = Carry(Variables(original), Variables(original), {})
  empty = jnp.zeros(0, jnp.int32)
  batch = Batch({}, jnp.zeros(0), empty > 0, empty, empty, empty)
  ((link, key),) = fit.expand(KEY)
  state = link.init(carry, key, Env())
  for _ in range(2):
    state, _ = link.step(state, batch, key, Env())
  stepped = link.finish(state).variables.params
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5)
  jax.tree.map(close, whole, stepped)
  assert gain_of(stepped) != 0.3


def test_devices_of_a_batch_do_what_one_does():
  """Under `shard_map` with its check of what varies, params vary, noise not."""
  mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("batch",))
  model = linear()
  fit = esd(
    model,
    CONCEPT,
    optimizer=optax.sgd(0.05),
    num_steps=2,
    batch_size=2,
    sampler_steps=3,
  )
  every = jax.sharding.PartitionSpec()
  call = lambda original: fit(original, DATA, REQUEST, KEY, axis_name="batch")
  many, infos = jax.jit(
    jax.shard_map(call, mesh=mesh, in_specs=every, out_specs=every)
  )(model.init(KEY))
  one, info = jax.jit(fit)(model.init(KEY), DATA, REQUEST, KEY)
  assert float(gain_of(many)) == pytest.approx(float(gain_of(one)), rel=1e-5)
  np.testing.assert_allclose(infos.loss, info.loss, rtol=1e-5)


@pytest.mark.slow
def test_params_keep_their_dtype():
  half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params())
  moved, info = fitted(half)
  assert all(p.dtype == jnp.bfloat16 for p in jax.tree.leaves(moved))
  assert info.loss.dtype == jnp.float32 and bool(info.is_finite)


@pytest.mark.parametrize(
  "options, message",
  [
    ({"prompts": CONCEPT[:0]}, "prompts to hold prompts, got none"),
    ({"prompts": jnp.array([[1, 0, 0]])}, "got the empty prompt at 0"),
    ({"prompts": jnp.ones((2, 5), int)}, r"prompts of shape \[B, 3\]"),
    ({"prompts": jnp.full((2, 3), 9)}, "prompts in 0 .. 5"),
    ({"prompts": jnp.ones((2, 3))}, "prompts of integer dtype"),
    ({"group": "heads"}, "group to be one of"),
    ({"base": "empty"}, "base to be one of 'null', 'cond'"),
    ({"sampler": "ema"}, "sampler to be one of"),
    ({"times": "any"}, "times to be one of"),
    ({"batch_size": 0}, "batch_size > 0"),
    ({"num_steps": -1}, "num_steps >= 0"),
    ({"sampler_steps": 41}, "sampler_steps in 1 .. 40, got 41"),
    ({"from_prompts": OTHER[:1]}, r"from_prompts of shape \(2, 3\)"),
    ({"time_weights": jnp.ones(3)}, "time_weights of shape"),
    ({"time_weights": -jnp.ones(40)}, "time_weights >= 0"),
  ],
)
def test_mistakes_are_named(options, message):
  with pytest.raises(ValueError, match=message):
    esd(small(), **{"prompts": CONCEPT, "sampler_steps": 3, **options})


def test_a_model_without_the_group_is_refused():
  fit = esd(small(), CONCEPT, group="selfattn", sampler_steps=3)
  with pytest.raises(ValueError, match="'selfattn', got none"):
    fit(params(), DATA, REQUEST, KEY)
