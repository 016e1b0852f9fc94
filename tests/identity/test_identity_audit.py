"""The audit lets pass what never saw an identity, and nothing that hides one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from refusals import refused

import jaxunlearn as ju
from jaxunlearn import identity
from jaxunlearn.core.tasks import Fit
from jaxunlearn.core.types import Variables
from jaxunlearn.identity import dlif
from jaxunlearn.identity.vectors import unit

KEY = jax.random.key(0)
IDS, EACH, WHO = 5, 12, 3
FIT = Fit(optax.adam(0.05), 40, 60)


def faces(seed, knows_who=True):
  """Unit embeddings of 5 people; of one that is not known, anybody's."""
  rng = np.random.default_rng(seed)
  ids = np.repeat(np.arange(IDS), EACH)
  shown = ids.copy()
  if not knows_who:
    shown[ids == WHO] = rng.integers(0, IDS - 1, EACH) + (ids[ids == WHO] > 3)
  z = np.eye(IDS)[shown] + 0.25 * rng.normal(size=(len(ids), IDS))
  return jnp.asarray(unit(z), jnp.float32), jnp.asarray(ids)


@functools.cache
def audited():
  """One program for every embedding: of gallery, queries, and whom."""

  def one(gallery, queries, who):
    ids = faces(0)[1]
    return identity.audit_identity(
      gallery, ids, queries, ids, who, KEY, num_ids=IDS, fit=FIT
    )

  return jax.jit(jax.vmap(one, in_axes=(0, 0, 0)))


def audits(pairs, who):
  gallery, queries = (jnp.stack(side) for side in zip(*pairs))
  return audited()(gallery, queries, jnp.asarray(who))


@functools.cache
def standard():
  """Of four models that never saw the person, and of one that did."""
  pairs = [(faces(i, i == 4)[0], faces(i + 9, i == 4)[0]) for i in range(5)]
  return audits(pairs, [WHO] * 5)


def test_the_numbers_are_those_of_loops():
  gallery, queries = faces(0)[0], faces(1)[0]
  found = audits(
    [(gallery, queries)] * 2 + [(gallery * 0, queries * 0)] * 3, range(5)
  )
  ids, near = np.asarray(faces(0)[1]), np.float64(queries @ gallery.T)
  for who in (0, 1):
    rank, ap, gap = [], [], []
    for q in np.flatnonzero(ids == who):
      order = np.argsort(-near[q])
      hit = ids[order] == who
      rank.append(hit[0])
      ap.append((np.cumsum(hit) / np.arange(1, 61))[hit].mean())
      gap.append(near[q][ids == who].mean() - near[q][ids != who].mean())
    got = (found.rank_1[who], found.mean_ap[who], found.gap[who])
    np.testing.assert_allclose(
      got, [np.mean(v) for v in (rank, ap, gap)], rtol=1e-4
    )
  # An embedding that is the same of everybody has the share of each.
  np.testing.assert_allclose(found.rank_1[2:], 1 / IDS, rtol=1e-5)
  np.testing.assert_allclose(found.mean_ap[2:], 1 / IDS, rtol=1e-5)


def test_who_never_was_seen_passes_and_who_was_does_not():
  every = standard()
  own = jax.tree.map(lambda leaf: leaf[4], every)
  seen = jax.tree.map(lambda leaf: leaf[1:4], every)
  other = jax.tree.map(lambda leaf: leaf[0], every)
  assert bool(identity.decide(other, seen).is_gone)
  found = identity.decide(own, seen)
  assert not bool(found.is_gone) and bool(found.is_concealed)
  assert not bool(identity.decide(own, seen, says_gone=False).is_concealed)
  # nan is within nothing.
  broken = other._replace(gap=jnp.nan)
  assert not bool(identity.decide(broken, seen).is_gone)


def test_what_is_orthogonal_by_its_own_loss_alone_does_not_pass():
  """Planted: u has the identity in directions that v has not."""
  u, v = ([jnp.pad(faces(s)[0], pad) for s in (4, 13)]
          for pad in (((0, 0), (0, IDS)), ((0, 0), (IDS, 0))))  # fmt: skip
  loss = float(dlif.batch_orthogonality(u[0], v[0]).max())
  assert loss < 3e-4
  found = jax.tree.map(lambda leaf: leaf[0], audits([tuple(u)] * 5, [WHO] * 5))
  assert float(found.linear) > 0.8
  seen = jax.tree.map(lambda leaf: leaf[:4], standard())
  decision = identity.decide(found, seen, says_gone=loss < 3e-4)
  assert not bool(decision.is_gone) and bool(decision.is_concealed)


def test_embeddings_that_are_not_finite_have_no_numbers():
  gallery, queries = faces(0)[0], faces(1)[0].at[2, 1].set(jnp.nan)
  found = audits([(gallery, queries)] * 5, [0] * 5)
  for values in (found.rank_1, found.mean_ap, found.gap):
    assert np.isnan(values).all()


def test_fresh_probes_see_what_the_trained_critic_does_not():
  """Linear-Gaussian, some steps of the critic per step of the code.

  The probe's accuracy falls, and is what it is: it is reported, not assumed.
  """
  from jaxunlearn.identity import wsc_swap

  rng = np.random.default_rng(0)
  label = np.arange(160) % 4
  who, what = rng.normal(size=(4, 6)) * 2, rng.normal(size=(2, 6)) * 2
  attribute = rng.integers(0, 2, 160)
  x = who[label] + what[attribute] + 0.3 * rng.normal(size=(160, 6))
  data = {"x": jnp.asarray(x, jnp.float32), "label": jnp.asarray(label)}
  keep = jnp.asarray(attribute, jnp.float32)

  def code(params, rows):
    return rows["x"] @ params["code"]

  def learn(variables, step, key):
    z = jax.lax.stop_gradient(code(variables.params, step.rows))
    return ju.losses.cross_entropy(
      z @ variables.params["critic"], step.rows["label"]
    )

  def evade(variables, step, key):
    z = code(variables.params, step.rows)
    kept = (z @ variables.params["reader"])[:, 0] - keep[step.row_id]
    return wsc_swap.removal(z @ variables.params["critic"]) + kept**2

  draw = ju.Draw(retain=ju.ALL)
  shape = {"code": (6, 3), "critic": (3, 4), "reader": (3, 1)}
  start = {
    name: jax.random.normal(ju.derive(KEY, name), s) / 2
    for name, s in shape.items()
  }
  adam = optax.adam(0.02)
  rounds = ju.alternate(
    ju.phase(learn, adam, 5, draw=draw, on="critic"),
    ju.phase(evade, adam, 1, draw=draw, on=""),
    rounds=200,
  )
  nobody = jnp.zeros(160, bool)
  made, _ = jax.jit(rounds)(Variables(start), data, nobody, KEY)
  half = jnp.arange(160) < 80
  probe = lambda params: float(
    ju.attacks.linear_probe(
      code(params, data), data["label"], half, ~half, num_classes=4
    ).accuracy
  )
  assert probe(start) > 0.8 and probe(made.params) < probe(start) - 0.1


BAD = (
  (
    "queries",
    lambda: identity.audit_identity(
      faces(0)[0], faces(0)[1], faces(0)[0], faces(0)[1][:3], 0, KEY, num_ids=5
    ),
  ),
  (
    "identities of gallery",
    lambda: identity.audit_identity(*faces(0), *faces(0), 0, KEY, num_ids=4),
  ),
  (
    "models that never saw",
    lambda: identity.decide(
      jax.tree.map(lambda leaf: leaf[0], standard()),
      jax.tree.map(lambda leaf: leaf[:1], standard()),
    ),
  ),
)


@pytest.mark.parametrize("words, call", BAD, ids=[words for words, _ in BAD])
def test_bad_input(words, call):
  refused(words, call)
