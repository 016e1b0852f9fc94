"""CION and DLIF against closed forms and plain loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused

from jaxunlearn.identity import cion, dlif
from jaxunlearn.identity.vectors import unit


def draw(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def softmax(x):
  e = np.exp(x - x.max(axis=-1, keepdims=True))
  return e / e.sum(axis=-1, keepdims=True)


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
  ("teacher", lambda: distilled(draw(0, 2, 3, 5))),
  ("student", lambda: distilled(draw(0, 2, 3, 4), temperatures=(1.0, 0.0))),
  ("margins", lambda: dlif.am_softmax(draw(0, 3, 4), np.arange(3))),
)


def distilled(teacher, **options):
  student, ids = draw(0, 2, 3, 4), np.arange(3)
  return cion.identity_distillation(
    student, teacher, ids, jnp.zeros(4), **options
  )


@pytest.mark.parametrize("words, call", BAD, ids=[words for words, _ in BAD])
def test_bad_input(words, call):
  refused(words, call)
