"""The objectives of the papers against closed forms and plain loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused

from jaxunlearn.identity import cion, disenbooth, dlif, infinite_id, wsc_swap
from jaxunlearn.identity.vectors import cosine, unit

KEY = jax.random.key(0)


def draw(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def softmax(x):
  e = np.exp(x - x.max(axis=-1, keepdims=True))
  return e / e.sum(axis=-1, keepdims=True)


# DisenBooth.


def denoise(noisy, time, told):
  return noisy * 0.5 + told.mean(axis=1) * time[:, None]


def booth(shared, own, **weights):
  noisy, noise, time = draw(0, 4, 3), draw(1, 4, 3), jnp.arange(1.0, 5)
  return disenbooth.disenbooth_loss(
    denoise, noisy, noise, time, shared, own, **weights
  )


def test_disenbooth_is_denoising_twice_and_a_cosine():
  shared, own = draw(2, 4, 2, 3), draw(3, 4, 3)
  noisy, noise, time = draw(0, 4, 3), draw(1, 4, 3), np.arange(1.0, 5)
  error = lambda told: np.square(
    noisy * 0.5 + told * time[:, None] - noise
  ).mean(1)
  mean = shared.mean(axis=1)
  both, weak = error(mean + own), error(mean)
  length = lambda x: np.linalg.norm(x, axis=1)
  angle = (mean * own).sum(1) / length(mean) / length(own)
  near = lambda found, wanted: np.testing.assert_allclose(
    found, wanted, rtol=1e-5
  )
  near(booth(shared, own, weak_weight=0.0, contrast_weight=0.0), both)
  near(booth(shared, own), both + 0.01 * weak + 0.001 * angle)
  near(
    booth(shared, own, contrast_weight=2.0, contrast=jnp.abs),
    both + 0.01 * weak + 2 * np.abs(angle),
  )
  assert (np.abs(disenbooth.alignment(shared, own)) <= 1).all()


def test_the_weak_term_does_not_reach_the_adapter_and_a_shut_mask_leaves_bias():
  params = disenbooth.init_adapter(KEY, 3)
  image, shared = draw(4, 4, 3), draw(2, 4, 2, 3)

  def loss(params, weak):
    own = disenbooth.identity_adapter(params, image)
    return booth(shared, own, weak_weight=weak, contrast_weight=0.0).sum()

  slope = jax.grad(loss)(params, 0.0)
  other = jax.grad(loss)(params, 5.0)
  jax.tree.map(np.testing.assert_array_equal, slope, other)
  shut = {**params, "mask": jnp.full(3, -jnp.inf)}
  bias = jnp.array([1.0, 2.0, 3.0])
  shut["outer"] = {**shut["outer"], "bias": bias}
  own = disenbooth.identity_adapter(shut, image)
  np.testing.assert_allclose(own, np.tile(bias, (4, 1)))


# Infinite-ID.


def test_without_identity_mixed_and_merged_attention_are_those_of_the_text():
  query, text = draw(0, 2, 3, 1, 4), (draw(1, 2, 5, 1, 4), draw(2, 2, 5, 1, 4))
  ids = draw(3, 2, 6, 1, 4), draw(4, 2, 6, 1, 4)
  plain = jax.nn.dot_product_attention(query, *text)
  gone = ids[0] * jnp.nan, ids[1] * jnp.nan
  near = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6)
  for attend in (infinite_id.mixed_attention, infinite_id.merged_attention):
    near(attend(query, ids, text, 0.0), plain)
    found = attend(query, ids, text, jnp.array([1.0, 0.0]))
    near(found[1], plain[1])
    assert np.abs(found[0] - plain[0]).max() > 0.01
    order = np.array([2, 0, 1, 5, 4, 3])
    moved = tuple(part[:, order] for part in ids)
    np.testing.assert_allclose(attend(query, moved, text), attend(query, ids, text), atol=1e-6)  # fmt: skip
  masked = infinite_id.mixed_attention(query, gone, text, 0.0)
  near(masked, plain)
  # Rows of the attention sum to 1: values of ones come out as ones.
  ones = jnp.ones_like(ids[1]), jnp.ones_like(text[1])
  found = infinite_id.mixed_attention(
    query, (ids[0], ones[0]), (text[0], ones[1]), 0.3
  )
  np.testing.assert_allclose(found, 1, rtol=1e-5)


def test_adain_takes_the_mean_of_one_and_the_variance_of_the_other():
  x, y = draw(0, 2, 7, 3), 2 + draw(1, 2, 5, 3)
  found = infinite_id.adain_mean(x, y)
  np.testing.assert_allclose(found.mean(1), y.mean(1), atol=1e-5)
  np.testing.assert_allclose(found.var(1), x.var(1), rtol=1e-4)
  np.testing.assert_allclose(infinite_id.adain_mean(x, x), x, atol=1e-6)


def test_partners_are_of_the_same_identity_and_never_oneself():
  ids = np.array([0, 1, 0, 2, 1, 0])
  keys = jax.random.split(KEY, 64)
  partner = jax.vmap(lambda k: infinite_id.same_identity(ids, k))(keys)
  assert (ids[partner] == ids[None]).all()
  own = np.asarray(partner) == np.arange(6)
  assert (own.all(axis=0) == (ids == 2)).all() and not own[:, ids < 2].any()
  assert set(np.asarray(partner)[:, 0]) == {2, 5}


# WSC-swap.


def test_removal_is_none_for_a_uniform_classifier_and_attributes_are_kept():
  logits = draw(0, 5, 4)
  wanted = (np.log(1 / 4) - np.log(softmax(logits))).mean(axis=1)
  np.testing.assert_allclose(wsc_swap.removal(logits), wanted, rtol=1e-4)
  image, code, lost = draw(1, 5, 6), draw(2, 5, 3), jnp.ones((5, 4))
  same = jnp.array([True, False, True, True, True])
  swap = lambda attributes, made, logits: wsc_swap.swap_loss(
    made, image, (code, 3 * code), attributes, logits, same
  )
  none = swap((code, code), jnp.asarray(image), lost)
  np.testing.assert_allclose(none, 0, atol=1e-6)
  worse = swap((code, code + 1), jnp.asarray(image) + 2, logits)
  np.testing.assert_allclose(worse, 1 + wanted + 2 * same, rtol=1e-4)
  codes = draw(3, 4, 3)
  pairs = [cosine(a, b) for i, a in enumerate(codes) for b in codes[:i]]
  np.testing.assert_allclose(
    wsc_swap.consistency(codes), np.mean(pairs), rtol=1e-4
  )


# CION.


def by_blocks(student, teacher, count):
  """The released form: blocks of `count` images an identity; float64."""
  p = softmax(np.float64(teacher) / 0.04)
  q = np.log(softmax(np.float64(student) / 0.1))
  total = []
  for a in range(len(teacher)):
    for v in range(len(student)):
      if v == a:
        continue
      h = -(p[a][:, None] * q[v][None]).sum(-1)
      pairs = np.diag(h).mean()
      for i in range(count):
        for j in range(count):
          if i != j:
            pairs += h[i::count, j::count].diagonal().mean()
      total.append(pairs / (count * (count - 1) + 1))
  return np.mean(total)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_distillation_by_identities_is_that_by_blocks(count):
  student, teacher = draw(0, 4, 6, 5), 0.1 * draw(1, 2, 6, 5)
  ids = np.arange(6) // count
  found = cion.identity_distillation(student, teacher, ids, jnp.zeros(5))
  np.testing.assert_allclose(
    found.mean(), by_blocks(student, teacher, count), rtol=1e-4
  )
  order = np.array([3, 1, 5, 0, 2, 4])
  moved = cion.identity_distillation(
    student[:, order], teacher[:, order], ids[order], jnp.zeros(5)
  )
  np.testing.assert_allclose(moved, found[order], rtol=1e-4)


def test_distillation_of_uniform_outputs_and_of_forgotten_rows():
  ids, zero = jnp.array([0, 0, 1, 1]), jnp.zeros(5)
  flat = cion.identity_distillation(
    jnp.ones((3, 4, 5)), jnp.ones((2, 4, 5)), ids, zero
  )
  np.testing.assert_allclose(flat, np.log(5), rtol=1e-5)
  student, teacher = draw(0, 3, 4, 5), draw(1, 2, 4, 5)
  forget = ids == 1
  distil = lambda teacher: cion.identity_distillation(
    student, teacher, ids, zero, forget=forget
  )
  uniform = -np.log(softmax(student / 0.1)).mean(axis=-1)
  pairs = [uniform[v] for q in range(2) for v in range(3) if v != q]
  found = distil(teacher)
  np.testing.assert_allclose(found[2:], np.mean(pairs, axis=0)[2:], rtol=1e-4)
  # The teacher's view of forgotten rows reaches nobody.
  other = np.array(teacher)
  other[:, 2:] += 3
  np.testing.assert_array_equal(distil(other), found)
  centre = cion.moved_centre(jnp.ones(5), jnp.full((2, 4, 5), 3.0))
  np.testing.assert_allclose(centre, 1.2, rtol=1e-6)


def crowd(swapped):
  """6 people in 4 videos, two tracklets of each there; some rows mislabelled."""
  rng = np.random.default_rng(0)
  tracklet = np.repeat(np.arange(48), 10)
  video, person = tracklet // 12, tracklet % 6
  faces = np.linalg.qr(rng.normal(size=(16, 6)))[0].T
  z = unit(faces[person] + 0.05 * rng.normal(size=(480, 16)))
  wrong = rng.random(480) < swapped
  within = video * 12 + rng.integers(0, 12, 480)
  return z, video, np.where(wrong, within, tracklet), person


def rand_index(a, b):
  """Adjusted for chance, of two partitions."""
  table = np.array(
    [[((a == i) & (b == j)).sum() for j in set(b)] for i in set(a)]
  )
  pairs = lambda n: (n * (n - 1) / 2).sum()
  rows, columns = pairs(table.sum(1)), pairs(table.sum(0))
  chance = rows * columns / pairs(np.array(len(a)))
  return (pairs(table) - chance) / ((rows + columns) / 2 - chance)


def test_identities_are_found_among_swapped_labels():
  z, video, tracklet, person = crowd(0.1)
  find = jax.jit(
    lambda *s: cion.find_identities(
      z, video, tracklet, num_tracklets=48, thresholds=s, window=24, stride=12
    )
  )
  found = np.asarray(find(0.5, 0.7, 0.7))
  assert (found >= 0).mean() > 0.99
  assert rand_index(found[found >= 0], person[found >= 0]) >= 0.95
  assert rand_index(tracklet, person) < 0.5
  assert (np.asarray(find(-1.0, 2.0, 2.0)) == tracklet).all()
  assert (np.asarray(find(1.1, 0.7, 0.7)) == -1).all()


# DLIF.


def test_orthogonality_of_orthonormal_and_of_equal_vectors():
  eye = jnp.eye(6)
  assert float(dlif.batch_orthogonality(eye[:3], eye[3:]).max()) == 0
  same = jnp.broadcast_to(unit(jnp.ones(6)), (4, 6))
  np.testing.assert_allclose(dlif.batch_orthogonality(same, same), 1, rtol=1e-6)
  u, v = unit(draw(0, 4, 6)), unit(draw(1, 3, 6))
  left_out = jnp.array([1.0, 0.0, 1.0])
  wanted = np.square(np.asarray(u) @ np.asarray(v)[[0, 2]].T).mean(1)
  found = dlif.batch_orthogonality(u, v.at[1].set(jnp.nan), left_out)
  np.testing.assert_allclose(found, wanted, rtol=1e-5)
  assert (
    jax.grad(lambda v: dlif.batch_orthogonality(u, v).sum())(v) == 0
  ).all()


def test_margins_of_zero_are_a_plain_softmax_and_others_its_formula():
  scores, label = np.tanh(draw(0, 5, 2)), np.arange(5) % 2
  scaled = 30 * np.float64(scores)
  plain = -np.log(softmax(scaled))[np.arange(5), label]
  found = dlif.am_softmax(scores, label, (0.0, 0.0))
  np.testing.assert_allclose(found, plain, rtol=1e-4, atol=1e-5)
  margin = np.array([0.1, 0.4])[label]
  scaled[np.arange(5), label] -= 30 * margin
  wanted = -np.log(softmax(scaled))[np.arange(5), label]
  np.testing.assert_allclose(
    dlif.am_softmax(scores, label), wanted, rtol=1e-4, atol=1e-5
  )
  assert float(dlif.ambiguity(jnp.full((1, 4), 0.25))[0]) == 0
  assert float(dlif.ambiguity(jnp.array([[0.25, 0.25, 0.25, 0.3]]))[0]) > 0


def test_style_crosses_to_the_partner_and_not_to_oneself():
  x = draw(0, 3, 4, 4, 2) * np.array([1, 3.0]) + np.arange(3).reshape(
    3, 1, 1, 1
  )
  own = dlif.style_cross(x, jnp.arange(3))
  np.testing.assert_allclose(own, x, atol=1e-4)
  crossed = np.asarray(dlif.style_cross(x, jnp.array([1, 2, 0])))
  moments = lambda a: (a.mean((1, 2)), a.std((1, 2)))
  for found, wanted in zip(moments(crossed), moments(x[[1, 2, 0]])):
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)


def test_contrast_is_for_live_rows_and_dlif_sums_what_it_should():
  z, ids = unit(draw(0, 6, 4)), jnp.arange(6) % 3
  live = jnp.array([True, False] * 3)
  nothing = jnp.zeros_like(z)
  spoof = dlif.asymmetric_contrast(z, z, jnp.zeros(6, bool), jnp.zeros(6))
  assert (np.asarray(spoof) == 0).all()
  compact = jnp.where(live[:, None], z[:1], z)
  less, more = (
    dlif.asymmetric_contrast(a, a, live)[::2].mean() for a in (compact, z)
  )
  assert float(less) < float(more)
  kernels = jnp.asarray(draw(1, 4, 2)), jnp.asarray(draw(2, 4, 3))
  branches = dlif.Branches(z, unit(draw(3, 6, 4)), z, z, *kernels)
  full = dlif.dlif_losses(branches, live, ids)
  none = dlif.dlif_losses(branches, live, ids, orthogonality=0.0, ambiguous=0.0)
  added = dlif.batch_orthogonality(z, branches.v)
  added += dlif.ambiguity(dlif.cosine_scores(z, kernels[1]))
  np.testing.assert_allclose(full[0] - none[0], added, atol=1e-4)
  assert np.isfinite(dlif.cosine_scores(nothing, kernels[0])).all()


BAD = (
  (
    "weak_weight",
    lambda: booth(draw(2, 4, 2, 3), draw(3, 4, 3), weak_weight=-1.0),
  ),
  (r"own \[B, D\]", lambda: booth(draw(2, 4, 2, 3), draw(3, 4, 2))),
  ("teacher", lambda: distilled(draw(0, 2, 3, 5))),
  ("student", lambda: distilled(draw(0, 2, 3, 4), temperatures=(1.0, 0.0))),
  ("margins", lambda: dlif.am_softmax(draw(0, 3, 4), np.arange(3))),
  ("results", lambda: wsc_swap.consistency(draw(0, 1, 3))),
)


def distilled(teacher, **options):
  student, ids = draw(0, 2, 3, 4), np.arange(3)
  return cion.identity_distillation(
    student, teacher, ids, jnp.zeros(4), **options
  )


@pytest.mark.parametrize("words, call", BAD, ids=[words for words, _ in BAD])
def test_bad_input(words, call):
  refused(words, call)
