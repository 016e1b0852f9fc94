"""Shadow models: balanced masks, statistics under each, memory and keys."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import blobs, mlp
from refusals import refused

from jaxunlearn import metrics
from jaxunlearn.attacks import shadow
from jaxunlearn.core.training import train

RECIPE = {"optimizer": optax.adam(0.02), "num_steps": 12, "batch_size": 8}
MODEL, DATA = mlp(), blobs(20)


def keys(count, seed=0):
  return jax.random.split(jax.random.key(seed), count)


def test_every_row_is_a_member_of_exactly_its_share_of_the_models():
  for share, wanted in ((0.5, 6), (0.25, 3)):
    masks = np.asarray(shadow.shadow_masks(jax.random.key(1), 12, 50, share))
    assert masks.shape == (12, 50) and masks.dtype == bool
    assert (masks.sum(axis=0) == wanted).all()
    assert len(np.unique(masks, axis=0)) == 12
    assert len(np.unique(masks, axis=1).T) > 20


def test_membership_of_two_rows_is_independent_enough():
  masks = shadow.shadow_masks(jax.random.key(2), 8, 4000)
  first, second = np.asarray(masks[:, :2000]), np.asarray(masks[:, 2000:])
  # Of 8 models each pair shares 8 / 4 on average, variance 4 * 4 * 4 * 4 /
  # (8 * 8 * 7) = 0.571; four standard errors of 2,000 pairs.
  shared = (first & second).sum(axis=0)
  assert abs(shared.mean() - 2) < 4 * (0.571 / 2000) ** 0.5


def test_fixed_rows_are_in_every_mask_or_in_none():
  fixed = jnp.zeros(30, int).at[3].set(1).at[7].set(-1)
  masks = shadow.shadow_masks(jax.random.key(1), 6, 30, fixed=fixed)
  free = shadow.shadow_masks(jax.random.key(1), 6, 30)
  assert bool(masks[:, 3].all()) and not bool(masks[:, 7].any())
  others = np.delete(np.arange(30), [3, 7])
  assert (masks[:, others] == free[:, others]).all()
  traced = jax.jit(
    lambda f: shadow.shadow_masks(jax.random.key(1), 6, 30, 0.5, f)
  )
  assert (traced(fixed) == masks).all()
  closed_over = jax.jit(lambda key: shadow.shadow_masks(key, 6, 30, 0.5, fixed))
  assert (closed_over(jax.random.key(1)) == masks).all()


@pytest.mark.parametrize(
  "arguments, message",
  [
    ((1, 10), "num_models >= 2, got 1"),
    ((5, 10), "whole number, got 5 \\* 0.5"),
    ((4, 0), "num_rows > 0"),
    ((4, 10, 0.0), "both sides, got 0 of 4"),
    ((4, 10, 1.0), "both sides, got 4 of 4"),
    ((4, 10, 0.5, jnp.zeros(9, int)), "fixed int \\[10\\]"),
    ((4, 10, 0.5, jnp.zeros(10, bool)), "fixed int \\[10\\], got bool"),
    ((4, 10, 0.5, jnp.full(10, 2)), "got values in 2 .. 2"),
  ],
)
def test_bad_masks_are_refused(arguments, message):
  refused(message, shadow.shadow_masks, jax.random.key(0), *arguments)


def test_target_rows_are_kept_left_out_and_forgotten_by_thirds():
  targets = jnp.arange(40) % 4 == 0
  members, forget = shadow.u_lira_masks(jax.random.key(3), 12, targets)
  members, forget, on = map(np.asarray, (members, forget, targets))
  assert not (forget & ~members).any() and not forget[:, ~on].any()
  assert (forget[:, on].sum(axis=0) == 4).all()
  assert ((members & ~forget)[:, on].sum(axis=0) == 4).all()
  assert (members[:, ~on].sum(axis=0) == 6).all()
  everyone, _ = shadow.u_lira_masks(jax.random.key(3), 3, targets, share=1)
  assert bool(everyone[:, ~on].all())


def test_rows_of_a_group_are_forgotten_together():
  targets = DATA["label"] < 2
  members, forget = shadow.u_lira_masks(
    jax.random.key(3), 6, targets, groups=DATA["label"]
  )
  for label in (0, 1):
    rows = np.asarray(DATA["label"] == label)
    for masks in (members, forget):
      assert (np.ptp(np.asarray(masks)[:, rows].astype(int), axis=1) == 0).all()
  assert (np.asarray(forget)[:, targets].sum(axis=0) == 2).all()


@pytest.mark.parametrize(
  "count, targets, options, message",
  [
    (4, jnp.ones(6, bool), {}, "multiple of 3, got 4"),
    (0, jnp.ones(6, bool), {}, "num_models > 0"),
    (6, jnp.ones(6, int), {}, "targets bool \\[N\\]"),
    (3, jnp.ones(6, bool), {}, "whole number, got 3 \\* 0.5"),
    (6, jnp.ones(6, bool), {"groups": jnp.zeros(5, int)}, "groups \\[6\\]"),
    (6, jnp.ones(6, bool), {"groups": jnp.full(6, 6)}, "groups in 0 .. 5"),
  ],
)
def test_bad_thirds_are_refused(count, targets, options, message):
  with pytest.raises(ValueError, match=message):
    shadow.u_lira_masks(jax.random.key(0), count, targets, **options)


@pytest.mark.slow
def test_a_shadow_is_the_model_trained_alone_under_its_mask():
  masks = shadow.shadow_masks(jax.random.key(0), 4, 20)
  run = jax.jit(lambda m, k: shadow.train_shadows(MODEL, DATA, m, k, **RECIPE))
  found = run(masks, keys(4))
  assert found.shape == (4, 20, 1) and found.dtype == jnp.float32
  assert (found == run(masks, keys(4))).all()
  for model in (0, 3):
    alone, _ = train(MODEL, DATA, masks[model], keys(4)[model], **RECIPE)
    wanted = metrics.logit_confidence(
      MODEL.predict(alone, DATA["x"]), DATA["label"]
    )
    np.testing.assert_allclose(found[model, :, 0], wanted, atol=1e-4)


def test_rows_left_out_have_no_influence_at_all():
  masks = shadow.shadow_masks(jax.random.key(0), 2, 20)
  run = jax.jit(
    lambda d: shadow.train_shadows(MODEL, d, masks, keys(2), DATA, **RECIPE)
  )
  left_out = ~masks[0]
  spoilt = {
    "x": jnp.where(left_out[:, None], 1e6, DATA["x"]),
    "label": jnp.where(left_out, 0, DATA["label"]),
  }
  clean, other = run(DATA), run(spoilt)
  assert (clean[0] == other[0]).all() and (clean[1] != other[1]).any()


@pytest.mark.slow
def test_chunks_and_strategies_change_nothing():
  masks = shadow.shadow_masks(jax.random.key(0), 4, 20)
  wanted = shadow.train_shadows(MODEL, DATA, masks, keys(4), **RECIPE)
  for strategy in ("map", 2):
    found = shadow.train_shadows(
      MODEL,
      DATA,
      masks,
      keys(4),
      strategy=strategy,
      queries=shadow.RowQueries(chunk_size=7),
      **RECIPE,
    )
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def shifted(key, inputs):
  return inputs + jax.random.normal(key, inputs.shape[1:])[None]


@pytest.mark.slow
def test_all_models_are_asked_the_same_augmented_queries():
  key = jax.random.key(9)
  masks = jnp.ones((2, 20), bool)
  same = jnp.stack([jax.random.key(0)] * 2)
  queries = shadow.RowQueries(shifted, 3, key, metrics.confidence)
  found = shadow.train_shadows(
    MODEL, DATA, masks, same, queries=queries, **RECIPE
  )
  assert found.shape == (2, 20, 3)
  assert (found[0] == found[1]).all()
  variables, _ = train(MODEL, DATA, masks[0], same[0], **RECIPE)
  for query, query_key in enumerate(jax.random.split(key, 3)):
    logits = MODEL.predict(variables, shifted(query_key, DATA["x"]))
    wanted = metrics.confidence(logits, DATA["label"])
    np.testing.assert_allclose(found[0, :, query], wanted, atol=1e-4)


def test_bad_queries_are_refused():
  variables = MODEL.init(jax.random.key(0), DATA["x"][:1])

  def ask(**options):
    shadow.query_statistics(MODEL, variables, DATA, **options)

  refused("num_queries=1 without augment, got 2", ask, num_queries=2)
  refused("a key for the augmented", ask, augment=shifted)
  refused("num_queries > 0", ask, num_queries=0)
  refused("chunk_size > 0", ask, chunk_size=0)
  with pytest.raises(ValueError, match="one number a row, got \\(20, 4\\)"):
    ask(statistic=lambda outputs, labels: outputs)
  with pytest.raises(ValueError, match="of one length"):
    shadow.train_shadows(
      MODEL, DATA, jnp.ones((3, 20), bool), keys(2), **RECIPE
    )
