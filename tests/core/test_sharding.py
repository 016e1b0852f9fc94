"""Weights over eight simulated devices: one device's numbers, a share each."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxunlearn as ju
from jaxunlearn import language
from jaxunlearn.adapters.flax import from_linen
from jaxunlearn.core.devices import make_mesh
from jaxunlearn.core.sharding import FSDP, LAYERS, laid_out, sharded, shardings
from jaxunlearn.core.training import init_variables
from jaxunlearn.core.transform import Carry, Env
from jaxunlearn.core.types import as_request
from jaxunlearn.language.sharding import RULES as OF_DECODERS
from jaxunlearn.methods.ssd import importance
from jaxunlearn.models import MLP

MODEL = from_linen(MLP(4, hidden=(64, 64)))
KEY = jax.random.key(0)
# Rounding only: sums over devices are in another order.
SAME = {"rtol": 1e-4, "atol": 2e-5}
LAYOUTS = {
  "batch": ({"fsdp": 4, "batch": 2}, FSDP, 4),
  "tensor": ({"tensor": 2, "fsdp": 4}, LAYERS, 8),
}


@functools.cache
def problem():
  """Rows and a model whose every matrix eight devices divide."""
  rng = np.random.default_rng(0)
  data = {
    "x": jnp.asarray(rng.normal(size=(32, 8)), jnp.float32),
    "label": jnp.asarray(np.arange(32) % 4, jnp.int32),
  }
  return data, jax.jit(MODEL.init)(jax.random.key(1), data["x"][:1])


def share(tree):
  """The part of a pytree's bytes that the fullest device holds."""
  held = {}
  for leaf in jax.tree.leaves(tree):
    for shard in leaf.addressable_shards:
      held[shard.device] = held.get(shard.device, 0) + shard.data.nbytes
  return max(held.values()) / sum(x.nbytes for x in jax.tree.leaves(tree))


@functools.cache
def texts():
  """Rows of prompts and answers, and a decoder that eight devices divide."""
  sizes = {"width": 32, "num_layers": 1, "num_heads": 2, "mlp_width": 64}
  lm = language.language_model(
    language.DecoderConfig(32, max_length=8, **sizes)
  )
  tokens = np.random.default_rng(4).integers(0, 32, (32, 8))
  made = tokens, np.full(32, 8), np.full(32, 4)
  data = {"x": language.Text(*(jnp.asarray(a, jnp.int32) for a in made))}
  return lm, data, jax.jit(lm.model.init)(jax.random.key(1), data["x"])


# Away from the noise of rounding that Adam makes whole steps of.
FIT = ju.Fit(optax.adam(1e-2, eps=1e-2), 2, 8)
METHODS = {
  "unsir": lambda: ju.methods.unsir(
    MODEL, 4, max_classes=1, noise=FIT, impair=FIT, repair=FIT
  ),
  "bad_teacher": lambda: ju.methods.bad_teacher(MODEL, FIT),
  "scrub": lambda: ju.methods.scrub(
    MODEL, FIT, num_epochs=2, max_epochs=1, max_steps=2
  ),
  "ssd": lambda: ju.methods.ssd(MODEL, alpha=1.0, batch_size=8),
  "npo": lambda: language.npo(texts()[0], FIT),
}


def walk(method, variables, data, mask):
  """A method link by link: its end, and what lies on the devices on the way."""
  request, held = as_request(mask, data), []
  carry = Carry(variables, variables, {})
  programs = {}  # Links come again, round after round.
  for link, key in method.expand(KEY):
    if link not in programs:
      walk = lambda carry, key, link=link: link.walk(
        link.init(carry, key, Env()), data, request, key, Env()
      )[0]
      edit = lambda carry, key, link=link: link.run(
        carry, data, request, key, Env()
      )[0]
      programs[link] = jax.jit(walk if link.is_phase else edit)
    found = programs[link](carry, key)
    if link.is_phase:
      held.append((found.trained, found.opt_state, carry.original.params))
      found = link.finish(found)
    carry = found._replace(original=variables)
    networks = [s for s in carry.slots.values() if isinstance(s, ju.Variables)]
    held.append((carry.variables.params, [n.params for n in networks]))
  return carry.variables, held


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", METHODS)
def test_methods_give_one_devices_result_and_hold_a_share_throughout(
  name, layout
):
  axes, rules, devices = LAYOUTS[layout]
  data, variables = problem()
  if name == "npo":
    (_, data, variables), rules = texts(), OF_DECODERS
  mesh, mask = make_mesh(**axes), jnp.arange(32) % 4 == 1
  spread = jax.device_put(variables, shardings(mesh, variables, rules))
  method = METHODS[name]()
  with laid_out(mesh, rules):
    found, held = walk(method, spread, data, mask)
  wanted, _ = jax.jit(method)(variables, data, mask, KEY)
  chex.assert_trees_all_close(found, wanted, **SAME)
  moved = jax.tree.map(lambda a, b: np.any(a != b), wanted, variables)
  assert any(jax.tree.leaves(moved))
  assert max(map(share, held)) <= 1.1 / devices


def placed(layout):
  axes, rules, devices = LAYOUTS[layout]
  mesh, (_, variables) = make_mesh(**axes), problem()
  lie = shardings(mesh, variables, rules)
  return mesh, rules, devices, jax.device_put(variables, lie)


def test_eight_devices_give_the_result_of_one():
  mesh, rules, devices, spread = placed("tensor")
  data, variables = problem()
  mask = data["label"] == 1
  method = ju.methods.ssd(MODEL, alpha=1.0, batch_size=8)
  run = sharded(method, mesh, variables, rules)
  found, _ = run(spread, data, mask, KEY)
  wanted, _ = jax.jit(method)(variables, data, mask, KEY)
  chex.assert_trees_all_close(found, wanted, **SAME)
  moved = jax.tree.map(lambda a, b: np.any(a != b), wanted, variables)
  assert any(jax.tree.leaves(moved))
  # The original and the result.
  assert share((spread.params, found.params)) <= 1.1 / devices


@pytest.mark.parametrize("layout", LAYOUTS)
def test_importances_saliency_and_fresh_networks_lie_as_the_params_do(layout):
  mesh, rules, devices, spread = placed(layout)
  data, _ = problem()
  asked = as_request(data["label"] == 1, data)
  with laid_out(mesh, rules):
    made = jax.jit(
      lambda v: (
        importance(MODEL, v, data, jnp.ones(32, bool), batch_size=8),
        init_variables(MODEL, data, KEY, v),
        ju.methods.saliency_mask(MODEL)(v, data, asked, KEY),
      )
    )(spread)
  for tree in made:
    assert share(tree) <= 1.1 / devices


@pytest.mark.parametrize("layout", LAYOUTS)
def test_params_and_moments_are_held_in_shares_between_steps(layout):
  _, _, devices, spread = placed(layout)
  data, _ = problem()
  link = ju.phase(
    ju.supervised(MODEL), optax.adam(1e-3), 2, draw=ju.Draw(retain=8)
  )
  state = jax.jit(lambda v: link.init(Carry(v, v, {}), KEY, Env()))(spread)
  batch = ju.core.host_batch(
    jax.tree.map(lambda leaf: leaf[:8], data), np.zeros(8, bool)
  )
  carry = state.carry._replace(variables=spread, original=spread)
  moving, _ = link.compiled_step(
    jax.tree.map(jnp.copy, state.moving()), state.begin, carry, batch, KEY
  )
  trained, _, (adam, _), _ = moving
  for tree in (trained, adam.mu, adam.nu):
    assert share(tree) <= 1.1 / devices
