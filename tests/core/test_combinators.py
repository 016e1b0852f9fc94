import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest

from jaxunlearn.core.combinators import chain, masked
from jaxunlearn.core.links import edit, ema, per_row, provide, restore
from jaxunlearn.core.phase import phase, remember, supervised
from jaxunlearn.core.recording import record
from jaxunlearn.core.rounds import alternate, repeat
from jaxunlearn.core.types import ALL, Draw, Request, Slot, Variables

DATA = {"x": jnp.array([1.0, 2.0, 3.0])}
MASK = jnp.array([True, False, False])
KEY = jax.random.key(0)


def descend(steps=1, lr=0.1, name="descend", optimizer=None, **kwargs):
  return phase(
    problems.quadratic(),
    optimizer or optax.sgd(lr),
    steps,
    draw=Draw(retain=ALL),
    name=name,
    **kwargs,
  )


ADD_ONE = edit(
  lambda v, data, mask, key: v._replace(params=v.params + 1.0), name="add"
)


def test_chain_runs_in_order_and_names_its_infos():
  params, info = chain(ADD_ONE, descend(), descend(2))(
    jnp.float32(0), DATA, MASK, KEY
  )
  p = 1.0
  for _ in range(3):
    p -= 0.1 * (p - 2.5)
  chex.assert_trees_all_close(params, p, rtol=1e-6)
  assert {k: v.loss.shape for k, v in info.items()} == {
    "descend": (1,),
    "descend_2": (2,),
  }


def test_an_empty_chain_is_the_identity():
  params, info = chain()(jnp.float32(0.3), DATA, MASK, KEY)
  assert params == jnp.float32(0.3) and info == {}


def test_repeat_equals_the_chain_of_copies():
  many, info = repeat(chain(ADD_ONE, descend()), 3)(
    jnp.float32(0), DATA, MASK, KEY
  )
  copies, _ = chain(*[ADD_ONE, descend()] * 3)(jnp.float32(0), DATA, MASK, KEY)
  chex.assert_trees_all_close(many, copies, rtol=1e-6)
  assert info["descend"].loss.shape == (3, 1)
  same, _ = repeat(ADD_ONE, 0)(jnp.float32(0), DATA, MASK, KEY)
  assert same == 0


def test_repeat_draws_anew_each_round():
  noise = edit(
    lambda v, data, mask, key: v._replace(params=jax.random.normal(key))
  )
  once, _ = repeat(noise, 1)(jnp.float32(0), DATA, MASK, KEY)
  twice, _ = repeat(noise, 2)(jnp.float32(0), DATA, MASK, KEY)
  assert once != twice


def test_repeat_can_go_back_to_the_best_round():
  def nearest_to_three(stack, data, request, key):
    return jnp.abs(stack.params - 3.2).argmin()

  back, _ = jax.jit(repeat(ADD_ONE, 6, choose=nearest_to_three))(
    jnp.float32(0), DATA, MASK, KEY
  )
  assert back == 3.0
  never = lambda stack, data, request, key: jnp.int32(0)
  start, _ = repeat(ADD_ONE, 6, choose=never)(jnp.float32(0), DATA, MASK, KEY)
  assert start == 0.0


def test_what_a_round_provides_stays_in_the_round():
  inner = chain(
    provide(Slot("seen"), lambda carry, *_: carry.variables.params), ADD_ONE
  )
  outer = chain(
    provide(Slot("kept"), lambda *_: jnp.float32(7)), repeat(inner, 2)
  )
  params, _ = outer(jnp.float32(0), DATA, MASK, KEY)
  assert params == 2.0


def test_a_phase_among_alternating_links_goes_on_where_it_was():
  # One key for both: the first of one link is that of the whole.
  optimizer = optax.adam(0.1)
  draw = Draw(retain=2)
  part = lambda n: phase(problems.quadratic(), optimizer, n, draw=draw)
  going_on, info = alternate(part(2), rounds=3)(jnp.float32(0), DATA, MASK, KEY)
  whole, wanted = part(6)(
    jnp.float32(0), DATA, MASK, jax.random.split(KEY, 1)[0]
  )
  assert going_on == whole
  chex.assert_trees_all_equal(info["phase"].loss.ravel(), wanted.loss)
  afresh, _ = repeat(part(2), 3)(jnp.float32(0), DATA, MASK, KEY)
  assert abs(afresh - whole) > 1e-3


def test_small_steps_of_half_precision_add_up_across_rounds():
  # As in one phase: each step is far below half a unit in the last place of 1.
  start = {"w": jnp.full(4, 1.0, jnp.bfloat16), "b": jnp.ones(2)}
  loss = lambda v, step, key: v.params["w"].astype(jnp.float32)
  part = lambda n, on="": phase(loss, optax.sgd(1e-3), n, on=on)
  whole, _ = part(400)(start, DATA, MASK, KEY)
  assert whole["w"].dtype == jnp.bfloat16 and whole["w"][0] < 0.95
  on_leaf = phase(
    lambda v, step, key: v.params["w"].astype(jnp.float32),
    optax.sgd(1e-3),
    1,
    on="w",
  )
  for rounds in (
    alternate(part(2), rounds=200),
    alternate(part(1), part(1), rounds=200),
    alternate(on_leaf, rounds=400),
    alternate(part(1), edit(lambda v, *_: v, reads="nothing"), rounds=400),
  ):
    found, _ = jax.jit(rounds)(start, DATA, MASK, KEY)
    chex.assert_trees_all_equal(found, whole)
  # What others have moved in between stays so.
  back = edit(lambda v, *_: v._replace(params=start), reads="nothing")
  found, _ = alternate(part(2), back, rounds=3)(start, DATA, MASK, KEY)
  chex.assert_trees_all_equal(found, start)


def test_a_chain_among_alternating_links_starts_afresh():
  part = descend(2, optimizer=optax.adam(0.1))
  fresh, _ = repeat(part, 3)(jnp.float32(0), DATA, MASK, KEY)
  same, _ = alternate(chain(part), rounds=3)(jnp.float32(0), DATA, MASK, KEY)
  chex.assert_trees_all_close(same, fresh, rtol=1e-6)


def test_phases_can_share_an_optimiser():
  adam: Slot = Slot("adam")
  part = lambda n: remember(descend(n, optimizer=optax.adam(0.1)), adam)
  whole, _ = descend(6, optimizer=optax.adam(0.1))(
    jnp.float32(0), DATA, MASK, KEY
  )
  for shared in (
    chain(part(1), alternate(part(2), part(1), rounds=1), part(2)),
    alternate(part(1), part(2), rounds=2),
    chain(part(4), repeat(part(1), 2)),
  ):
    found, _ = shared(jnp.float32(0), DATA, MASK, KEY)
    chex.assert_trees_all_close(found, whole, rtol=1e-6)
  with pytest.raises(ValueError, match="a phase to remember, got 'chain'"):
    remember(chain(), adam)


def test_rows_are_drawn_without_replacement_across_rounds():
  seen: Slot[jax.Array] = Slot("seen")
  data = {"x": jnp.arange(12.0)}

  def loss(params, step, key):
    return params * step.rows["x"]

  note = lambda n: alternate(
    phase(loss, optax.sgd(1.0), 1, draw=Draw(retain=4), on=seen), rounds=n
  )
  method = chain(
    provide(seen, lambda *_: jnp.float32(0)),
    note(3),
    record("sum", lambda carry: carry[seen]),
  )
  nothing = jnp.zeros(12, bool)
  _, info = method(jnp.float32(0), data, nothing, KEY)
  # Three rounds of four rows are one pass over all twelve.
  np.testing.assert_allclose(info["sum"], -np.arange(12).sum() / 4)


def test_two_networks_learn_from_each_other_in_turn():
  other: Slot[jax.Array] = Slot("other")
  chase = phase(
    lambda v, step, key: (v.params - step[other] - 1) ** 2 * jnp.ones(1),
    optax.sgd(0.5),
    1,
    name="chase",
  )
  flee = phase(
    lambda z, step, key: (z - step.variables.params - 1) ** 2 * jnp.ones(1),
    optax.sgd(0.5),
    1,
    on=other,
    name="flee",
  )
  method = chain(
    provide(other, lambda *_: jnp.float32(0)), alternate(chase, flee, rounds=3)
  )
  params, info = jax.jit(method)(jnp.float32(0), DATA, MASK, KEY)
  assert params == 5 and info["alternate"]["flee"].loss.shape == (3, 1)


def test_a_link_may_have_a_turn_in_the_first_rounds_only():
  far, near = descend(2, 0.3, name="far"), descend(name="near")
  some = alternate(far, near, rounds=3, turns=(1, 3))
  found, info = jax.jit(some)(jnp.float32(0), DATA, MASK, KEY)
  wanted, _ = chain(far, near, near, near)(jnp.float32(0), DATA, MASK, KEY)
  chex.assert_trees_all_close(found, wanted, rtol=1e-6)
  shapes = {name: link.loss.shape for name, link in info.items()}
  assert shapes == {"far": (1, 2), "near": (3, 1)}
  assert info["far"].is_finite.all()
  assert some.num_steps == 5 and len(some.expand(KEY)) == 4
  for turns in ((1,), (1, 4), (-1, 3)):
    with pytest.raises(ValueError, match="turns of 2 links, each in 0"):
      alternate(far, near, rounds=3, turns=turns)


def test_a_row_by_row_result_of_the_original_is_there_for_every_row():
  double: Slot[jax.Array] = Slot("double")
  read = phase(
    lambda v, step, key: v.params * step[double][step.row_id],
    optax.sgd(1.0),
    1,
    draw=Draw(retain=ALL),
  )
  method = chain(
    ADD_ONE, per_row(double, lambda v, rows: rows["x"] * 2 + v.params), read
  )
  # Of the original, 0, and not of what the first link made of it.
  params, _ = method(jnp.float32(0), DATA, MASK, KEY)
  assert params == 1 - 5 and method.needs.mixed == ALL


def test_an_average_follows_the_params_and_the_original_comes_back():
  mean: Slot[jax.Array] = Slot("mean")
  start = provide(mean, lambda carry, *_: carry.variables.params)
  method = chain(
    start,
    alternate(ADD_ONE, ema(mean, 0.5), rounds=2),
    restore(),
    record("mean", lambda carry: carry[mean]),
  )
  params, info = method(jnp.float32(0), DATA, MASK, KEY)
  assert params == 0 and info["mean"] == 0.5 * 0.5 + 0.5 * 2


def test_frozen_values_are_read_and_come_back_as_they_were():
  start = Variables(jnp.float32(0), {}, {"base": jnp.float32(2)})
  loss = lambda v, step, key: (v.params - v.frozen["base"]) ** 2 * jnp.ones(1)
  lose = edit(lambda v, *_: v._replace(frozen={}))
  method = chain(phase(loss, optax.sgd(0.5), 3), lose)
  after, _ = method(start, DATA, MASK, KEY)
  assert after.params == 2 and after.frozen == start.frozen


def test_a_method_that_reads_no_rows_takes_a_concept_alone():
  move = edit(
    lambda v, data, request, key: v._replace(
      params=v.params + request.concept["by"]
    ),
    reads="nothing",
  )
  by = jnp.arange(3.0)
  run = jax.jit(jax.vmap(lambda c: move(jnp.float32(0), None, c, KEY)[0]))
  assert (run(Request(concept={"by": by})) == by).all()
  with pytest.raises(ValueError, match="data for 'add'"):
    ADD_ONE(jnp.float32(0), None, Request(concept={"by": by}), KEY)


def test_the_original_is_that_of_the_whole_chain():
  keep = phase(
    lambda v, batch, key: 0.5 * (v.params - batch.original.params) ** 2,
    optax.sgd(1.0),
    1,
  )
  params, _ = chain(ADD_ONE, keep)(jnp.float32(5), DATA, MASK, KEY)
  assert params == 5.0


MASKED = {
  "hidden": {"kernel": True, "bias": False},
  "output": {"kernel": jnp.arange(32).reshape(8, 4) % 3 == 0, "bias": True},
}


@pytest.mark.parametrize("jit", [False, True])
def test_a_weight_outside_the_mask_keeps_its_bits_under_momentum_and_decay(jit):
  model, data, variables = problems.trained()
  fit = phase(
    supervised(model),
    optax.adamw(0.05, weight_decay=0.1),
    5,
    draw=Draw(retain=8),
  )
  shake = edit(
    lambda v, data, mask, key: v._replace(
      params=jax.tree.map(lambda p: p * 1.5 + 1, v.params)
    )
  )
  frozen = masked(chain(shake, fit), MASKED)
  frozen = jax.jit(frozen) if jit else frozen
  after, _ = frozen(variables, data, data["label"] == 0, KEY)
  old, new = variables.params, after.params
  mask = np.asarray(MASKED["output"]["kernel"])
  np.testing.assert_array_equal(
    old["output"]["kernel"][~mask], new["output"]["kernel"][~mask]
  )
  np.testing.assert_array_equal(old["hidden"]["bias"], new["hidden"]["bias"])
  assert (old["output"]["kernel"][mask] != new["output"]["kernel"][mask]).all()
  assert (old["hidden"]["kernel"] != new["hidden"]["kernel"]).all()


def test_a_mask_of_ones_changes_nothing_and_one_of_zeros_everything():
  model, data, variables = problems.trained()
  fit = phase(supervised(model), optax.adam(0.05), 5, draw=Draw(retain=8))
  request = data["label"] == 0
  plain, _ = fit(variables, data, request, KEY)
  ones, _ = masked(fit, True)(variables, data, request, KEY)
  zeros, _ = masked(fit, False)(variables, data, request, KEY)
  chex.assert_trees_all_equal(plain, ones)
  chex.assert_trees_all_equal(zeros, variables)


def test_masks_multiply():
  half = masked(masked(descend(), 0.5), 0.5)
  params, _ = half(jnp.float32(0), DATA, MASK, KEY)
  chex.assert_trees_all_close(params, 0.25 * 0.25, rtol=1e-6)


def test_a_mask_can_be_computed_from_the_original_model_and_the_request():
  def where_large(variables, data, request, key):
    return jnp.abs(variables.params) > request.forget.sum()

  shift = chain(
    edit(lambda v, *_: v._replace(params=v.params * 0)), name="shift"
  )
  params, _ = masked(shift, where_large)(jnp.array([0.5, 3.0]), DATA, MASK, KEY)
  assert params.tolist() == [0.5, 0.0]


def test_needs_is_the_largest_draw_of_any_link():
  both = chain(
    phase(problems.quadratic(), optax.sgd(0.1), 2, draw=Draw(forget=3)),
    repeat(
      phase(problems.quadratic(), optax.sgd(0.1), 5, draw=Draw(retain=ALL)), 4
    ),
  )
  assert both.needs.sizes == (3, ALL, 0) and both.num_steps == 22
  assert chain(ADD_ONE).needs.sizes == (0, 0, 0)


def test_an_edit_may_return_its_info():
  noted = edit(lambda v, *_: (v, {"norm": jnp.abs(v.params)}), name="noted")
  _, info = chain(noted)(jnp.float32(-2), DATA, MASK, KEY)
  assert info["noted"]["norm"] == 2


def test_variables_come_back_as_they_went_in():
  bare, _ = ADD_ONE(jnp.float32(0), DATA, MASK, KEY)
  whole, _ = ADD_ONE(Variables(jnp.float32(0)), DATA, MASK, KEY)
  assert not isinstance(bare, Variables) and isinstance(whole, Variables)


def test_names_that_come_again_get_the_next_free_number():
  link = lambda name: edit(lambda v, *_: (v, {"is": jnp.float32(1)}), name=name)
  names = lambda *given: set(
    chain(*map(link, given))(jnp.float32(0), DATA, MASK, KEY)[1]
  )
  assert names("a_2", "a", "a") == {"a_2", "a", "a_3"}
  assert names("fit_head", "fit") == {"fit_head", "fit"}


def test_an_edit_must_return_variables():
  with pytest.raises(ValueError, match="'bad' to return Variables, got dict"):
    edit(lambda v, *_: {"a": 1}, name="bad")(jnp.float32(0), DATA, MASK, KEY)


@pytest.mark.parametrize(
  ("mask", "message"),
  [
    ({"hidden": True}, "prefix of the params"),
    (
      {"hidden": {"kernel": jnp.ones((5, 8)), "bias": True}, "output": True},
      r"weight_mask\['hidden'\]\['kernel'\] of shape \(6, 8\) or",
    ),
  ],
)
def test_a_weight_mask_that_does_not_fit_is_rejected(mask, message):
  model, data, variables = problems.trained()
  fit = phase(supervised(model), optax.sgd(0.1), 1, draw=Draw(retain=4))
  with pytest.raises(ValueError, match=message):
    masked(fit, mask)(variables, data, data["label"] == 0, KEY)


def test_a_computed_mask_is_independent_of_what_it_masks():
  normal = lambda key: jax.random.normal(key, (500,))
  noise = chain(
    edit(lambda v, d, m, key: v._replace(params=normal(key))), name="noise"
  )
  positive = lambda v, d, m, key: normal(key) > 0
  params, _ = masked(noise, positive)(jnp.zeros(500), DATA, MASK, KEY)
  through = params[params != 0]
  # A mask of the same draw would let positive numbers through only.
  assert abs(float(through.mean())) < 5 / len(through) ** 0.5


def test_links_that_read_rows_refuse_rows_spread_over_devices():
  whole = provide(Slot("count"), lambda carry, data, request, key: request)
  call = lambda x, mask: chain(whole)(
    jnp.float32(0), {"x": x}, mask, KEY, axis_name="i", sharded_rows=True
  )[0]
  with pytest.raises(ValueError, match="all rows on every device"):
    jax.vmap(call, axis_name="i")(jnp.zeros((2, 3)), jnp.zeros((2, 3), bool))


def test_numpy_data_is_as_good_as_any():
  fit = phase(
    problems.quadratic(), optax.sgd(0.1), 2, draw=Draw(retain=2, forget=1)
  )
  host = jax.tree.map(np.asarray, DATA)
  one, _ = fit(jnp.float32(0), host, np.asarray(MASK), KEY)
  two, _ = fit(jnp.float32(0), DATA, MASK, KEY)
  assert one == two
