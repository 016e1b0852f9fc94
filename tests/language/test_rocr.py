"""ROCR's edits against the general solve, and how forms are compared."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_text
from refusals import refused

import jaxunlearn as ju
from jaxunlearn import language
from jaxunlearn.language.rocr import edit_direction
from jaxunlearn.metrics.forms import form_independence

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def asked():
  lm, variables = small_text.small("llama")
  rng = np.random.default_rng(0)
  draw = lambda *shape: rng.integers(0, 19, shape).astype(np.int32)
  subjects = language.Subjects(
    draw(2, 4, 6), rng.integers(2, 6, (2, 4)), draw(6), np.int32(3)
  )
  moments = jax.jit(lambda v, x: language.key_moments(lm, v, x, (1, 2)))(
    variables, small_text.texts(9, 8, 19)
  )
  return lm, variables, subjects, moments


def run(lm, variables, subjects, projectors, layers=(1, 2), **more):
  method = language.rocr(lm, projectors, layers, **more)
  return method.compiled(variables, None, ju.Request(concept=subjects), KEY)


def test_a_projector_is_one_and_keeps_what_ordinary_text_uses(asked):
  moment = np.asarray(asked[3], np.float64)
  for rank in (0, 5, 12):
    found = np.asarray(language.null_projector(asked[3], rank=rank))
    np.testing.assert_allclose(found, found.swapaxes(1, 2), atol=1e-6)
    np.testing.assert_allclose(found @ found, found, atol=1e-5)
    np.testing.assert_allclose(
      np.trace(found, axis1=1, axis2=2), rank, atol=1e-4
    )
    values, vectors = np.linalg.eigh(moment)
    np.testing.assert_allclose(found @ vectors[..., rank:], 0, atol=1e-4)
  level = float((values[0, 3] + values[0, 4]) / 2)
  found = language.null_projector(asked[3][0], threshold=level)
  np.testing.assert_allclose(np.trace(found), 4, atol=1e-4)
  refused("threshold or rank", language.null_projector, moment)
  every = language.null_projector(asked[3], threshold=jnp.inf)
  np.testing.assert_allclose(
    every, np.broadcast_to(np.eye(12), (2, 12, 12)), atol=1e-5
  )
  assert (language.null_projector(asked[3], threshold=0.0) == 0).all()


def test_soft_directions_count_by_how_little_they_are_used(asked):
  """The inverse of I + M / threshold: of an edit without ridge, ROME's."""
  moment = np.asarray(asked[3], np.float64)
  found = language.null_projector(asked[3], threshold=0.3, soft=True)
  wanted = np.linalg.inv(np.eye(12) + moment / 0.3)
  np.testing.assert_allclose(found, wanted, atol=1e-4)
  direction, _ = edit_direction(
    found[0], jnp.ones(12), jnp.zeros((1, 12)), 1e-6
  )
  rome = wanted[0] @ np.ones(12)
  np.testing.assert_allclose(direction, rome / rome.sum(), rtol=1e-3)
  refused(
    "threshold with soft", language.null_projector, moment, rank=3, soft=True
  )


def test_moments_are_of_the_tokens_that_are_there(asked):
  lm, variables, _, moments = asked
  x = small_text.texts(9, 8, 19)
  inner = lm.blocks(variables, lm.embed(variables, x.tokens)).states.inner
  there = np.arange(8)[None] < np.asarray(x.length)[:, None]
  rows = np.asarray(inner, np.float64)[1:, there]
  wanted = np.einsum("ntm,ntk->nmk", rows, rows) / there.sum()
  np.testing.assert_allclose(moments, wanted, rtol=1e-4, atol=1e-6)


def test_an_edit_is_the_general_solve_and_goes_its_share_of_the_way():
  rng = np.random.default_rng(1)
  u = np.linalg.qr(rng.standard_normal((9, 9)))[0][:, :6]
  projector, own, past = (
    u @ u.T,
    rng.standard_normal(9),
    rng.standard_normal((2, 9)),
  )
  r = rng.standard_normal(4)
  for earlier in (np.zeros((2, 9)), past):
    direction, share = edit_direction(
      *(jnp.asarray(a, jnp.float32) for a in (projector, own, earlier)), 0.7
    )
    gram = np.outer(own, own) + earlier.T @ earlier
    wanted = np.linalg.solve(
      projector @ gram + 0.7 * np.eye(9), np.outer(projector @ own, r)
    )
    np.testing.assert_allclose(np.outer(direction, r), wanted, atol=1e-5)
  reached = own @ projector @ own
  np.testing.assert_allclose(share, reached / (reached + 0.7), rtol=1e-5)
  # Earlier subjects move less where their keys are minded.
  alone, _ = edit_direction(
    *(jnp.asarray(a, jnp.float32) for a in (projector, own, 0 * past)), 0.7
  )
  moved = lambda d: np.abs(past @ np.asarray(d)).sum()
  assert moved(direction) < 0.5 * moved(alone)


def test_two_layers_lead_to_the_target_and_change_nothing_else(asked):
  lm, variables, subjects, _ = asked
  one = jax.tree.map(lambda leaf: leaf[:1], subjects[:2])
  one = language.Subjects(*one, *subjects[2:])
  # The bare name is the only template: the key is that of what is measured.
  one = one._replace(tokens=one.tokens[:, [0, 0]], last=one.last[:, [0, 0]])
  everything = jnp.broadcast_to(jnp.eye(12), (2, 12, 12))
  made, shares = run(lm, variables, one, everything, ridge=1e-6)
  assert shares.shape == (1, 2) and (shares > 0.99).all()
  state = lambda v, tokens, at: lm.blocks(
    v, lm.embed(v, jnp.asarray(tokens)[None])
  ).states.residual[2, 0, at]
  goal = state(variables, one.target, one.target_last)
  found = state(made, one.tokens[0, 0], one.last[0, 0])
  chex.assert_trees_all_close(found, goal, rtol=1e-3, atol=1e-3)
  change = jax.tree.map(
    lambda a, b: np.asarray(b - a), variables.params, made.params
  )
  down = change["blocks"]["mlp"]["down"].pop("kernel")
  assert all((leaf == 0).all() for leaf in jax.tree.leaves(change))
  assert (down[0] == 0).all()
  for layer in (1, 2):
    assert np.linalg.matrix_rank(down[layer], tol=1e-5) == 1
  stayed, _ = run(lm, variables, one, 0 * everything)
  chex.assert_trees_all_equal(stayed, variables)
  far, _ = run(lm, variables, one, everything, ridge=1e9)
  chex.assert_trees_all_close(far, variables, atol=1e-6)
  itself = one._replace(target=one.tokens[0, 0], target_last=one.last[0, 0])
  same, _ = run(lm, variables, itself, everything)
  chex.assert_trees_all_close(same, variables, atol=1e-5)


def test_subjects_in_turn_are_a_loop_that_minds_their_keys(asked):
  """Ordinary directions stay; the second edit begins where the first ended."""
  lm, variables, subjects, moments = asked
  projectors = language.null_projector(moments, rank=8)
  both, shares = run(lm, variables, subjects, projectors)
  assert shares.shape == (2, 2)
  first = language.Subjects(
    *jax.tree.map(lambda leaf: leaf[:1], subjects[:2]), *subjects[2:]
  )
  alone, share = run(lm, variables, first, projectors)
  chex.assert_trees_all_close(share[0], shares[0], rtol=1e-4)
  old, new, two = (
    np.asarray(v.params["blocks"]["mlp"]["down"]["kernel"])
    for v in (variables, alone, both)
  )
  assert np.abs(two - new).max() > 1e-4
  _, vectors = np.linalg.eigh(np.asarray(moments, np.float64))
  used = vectors[..., 8:]
  change = np.einsum("nmk,nmd->nkd", used, (two - old)[1:])
  assert np.abs(change).max() < 1e-4 * np.abs(two - old).max() + 1e-5


def test_forms_are_compared_by_what_is_kept_of_them():
  before = jnp.array([[0.8, 0.4], [0.5, 0.5], [0.0, 0.0]])
  after = jnp.array([[0.2, 0.1], [0.5, 0.4], [0.0, 0.0]])
  found = form_independence(after, before)
  np.testing.assert_allclose(found.kept, [0.25, 0.9, np.nan], rtol=1e-6)
  np.testing.assert_allclose(found.change, [-75, -10, np.nan], rtol=1e-5)
  np.testing.assert_allclose(found.gap, 0.65, rtol=1e-6)
  same = form_independence(before[:2], before[:2])
  np.testing.assert_array_equal(same.change, [0, 0])
  counts = jnp.array([[True, False], [True, True], [True, True]])
  found = form_independence(after, before, counts)
  np.testing.assert_allclose(found.before[0], 0.8)
  broken = form_independence(after.at[0, 0].set(jnp.nan), before)
  assert jnp.isnan(broken.gap) and jnp.isnan(broken.kept[0])
  refused(r"before \[F, N\], got", form_independence, after, before[:2])
  refused("counts", form_independence, after, before, counts[:2])


def test_names_are_found_by_their_letters():
  pytest.importorskip("tokenizers")
  from jaxunlearn.language.rows import train_bpe

  tokenizer = train_bpe(["Tell me about Ann Lee", "Bo"], 280)
  made = language.subjects(tokenizer, ["Ann Lee", "Bo"], "Me", max_length=40)
  assert made.tokens.shape == (2, 7, 40)
  for row, name in enumerate(("Ann Lee", "Bo")):
    for text, last in zip(made.tokens[row], made.last[row]):
      assert tokenizer.decode(text[: last + 1].tolist()).endswith(name)
  refused("list of names", language.subjects, tokenizer, "Ann", "Me")
  refused(
    "max_length=3", language.subjects, tokenizer, ["Ann"], "Me", max_length=3
  )
  refused(
    "templates", language.subjects, tokenizer, ["A"], "B", templates=["x"]
  )


def test_what_cannot_be_is_refused(asked):
  lm, variables, _, _ = asked
  eye = jnp.broadcast_to(jnp.eye(12), (2, 12, 12))
  refused("without a gap", language.rocr, lm, eye, (0, 2))
  refused("layers < 3", language.rocr, lm, eye, (2, 3))
  refused("projectors ", language.rocr, lm, eye[:1], (1, 2))
  refused("ridge > 0", language.rocr, lm, eye, (1, 2), ridge=0.0)
  method = language.rocr(lm, eye, (1, 2))
  refused("Subjects as the concept", method, variables, None, ju.Request(), KEY)
