"""UCE against its normal equations in float64, and its limits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn.core.types import Request
from jaxunlearn.diffusion import requests, schedules
from jaxunlearn.diffusion.splicing import prompt_lengths
from jaxunlearn.diffusion.types import Diffusion
from jaxunlearn.diffusion.uce import (
  Positions,
  Rows,
  edit_kernels,
  take_span,
  uce,
)

SHAPE, LENGTH, VOCAB = (2, 2, 3), 5, 9
NULL = (1, 0, 0, 0, 0)
LEVELS = schedules.linear(20, 1e-3, 0.3)
ERASE = jnp.array([[1, 2, 3, 0, 0], [1, 3, 0, 0, 0]])
GUIDE = jnp.array([[1, 4, 0, 0, 0], [1, 5, 4, 0, 0]])
KEEP = jnp.array([[1, 6, 0, 0, 0], [1, 2, 7, 0, 0], [1, 0, 0, 0, 0]])
KEY = jax.random.key(0)


def causal(params, tokens):
  """A context in which every token knows of those before it."""
  text = params["text_encoder"]
  heard = jnp.cumsum(text["embedding"][tokens], axis=1) + text["position"]
  return jnp.tanh(heard)


@functools.cache
def model():
  return Diffusion(
    init=lambda key: params(),
    eps=lambda p, x, t, c: x,
    encode=causal,
    null_tokens=jnp.array(NULL),
    alphas_bar=LEVELS,
    image_shape=SHAPE,
    vocab_size=VOCAB,
  )


@functools.cache
def params(seed=0):
  rng = np.random.default_rng(seed)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  attention = lambda: {
    name: {"kernel": draw(size, 8), "bias": draw(8)}
    for name, size in (("to_q", 8), ("to_k", 6), ("to_v", 6), ("to_out", 8))
  }
  return {
    "text_encoder": {
      "embedding": draw(VOCAB, 6),
      "position": draw(1, LENGTH, 6) / 2,
    },
    "denoiser": {
      f"block_{i}": {"attn2": attention(), "mlp": {"kernel": draw(8, 8)}}
      for i in range(2)
    },
  }


NO_ROWS = Request()


def run(transform, q=None):
  q = params() if q is None else q
  return jax.jit(transform)(q, None, NO_ROWS, KEY)


def kernels(q):
  blocks = [q["denoiser"][f"block_{i}"]["attn2"] for i in range(2)]
  return {
    f"{i}/{n}": np.asarray(b[n]["kernel"], np.float64)
    for i, b in enumerate(blocks)
    for n in ("to_k", "to_v")
  }


def columns(tokens, positions, tail=False):
  """Encoded tokens in float64, [(S, D)] for each prompt."""
  context = np.asarray(model().encode(params(), tokens), np.float64)
  return [
    c[p : LENGTH if tail else p + 1]
    for c, p in zip(context, positions, strict=True)
  ]


def wanted(kernel, erase, guide, keep, lam, alpha, beta, orthogonal=False):
  """W' of the normal equations, with W = kernel transposed."""
  w = kernel.T
  right, left = lam * w, lam * np.eye(w.shape[1])
  for c_e, c_g in zip(erase, guide, strict=True):
    size = min(len(c_e), len(c_g))
    c_e, c_g = c_e[:size], c_g[:size]
    target = c_g @ w.T
    if orthogonal:
      u = c_e @ w.T
      u = u / np.linalg.norm(u)
      target = target - (u * target).sum() * u
    right = right + alpha * target.T @ c_e
    left = left + alpha * c_e.T @ c_e
  for c_p in keep:
    right = right + beta * w @ c_p.T @ c_p
    left = left + beta * c_p.T @ c_p
  return (right @ np.linalg.inv(left)).T


@pytest.mark.parametrize("span", ["last", "tail"])
@pytest.mark.parametrize("orthogonal", [False, True])
def test_the_edit_solves_its_normal_equations(span, orthogonal):
  lam, alpha, beta = 0.4, 1.3, 0.7
  edited, info = run(
    uce(
      model(),
      ERASE,
      GUIDE,
      preserve_tokens=KEEP,
      span=span,
      identity_weight=lam,
      erase_weight=alpha,
      preserve_weight=beta,
      is_orthogonal=orthogonal,
    )
  )
  tail = span == "tail"
  erase = columns(ERASE, [2, 1], tail)
  guide = columns(GUIDE, [1, 2], tail)
  keep = columns(KEEP, [1, 2, 0], tail)
  before = kernels(params())
  for name, found in kernels(edited).items():
    expected = wanted(
      before[name], erase, guide, keep, lam, alpha, beta, orthogonal
    )
    assert abs(expected - before[name]).max() > 1e-2
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
  assert bool(info.is_finite) and 0 < float(info.erase_error) < 1


def encoded(tokens, span="last"):
  context = model().encode(params(), tokens)
  last = prompt_lengths(model(), tokens) - 1
  return take_span(context, last, span)


def edited_by(erase, guide, keep, **weights):
  old = [jnp.asarray(k, jnp.float32) for k in kernels(params()).values()]
  new, info = edit_kernels(old, erase, guide, keep, **weights)
  return old, new, info


def test_nothing_to_erase_changes_nothing():
  none = Rows(jnp.zeros((0, 1, 6)), jnp.zeros((0, 1), bool))
  weights = {
    "identity_weight": 0.5,
    "erase_weight": 1.0,
    "preserve_weight": 1.0,
  }
  old, new, info = edited_by(none, none, encoded(KEEP), **weights)
  for a, b in zip(old, new):
    np.testing.assert_array_equal(a, b)
  assert float(info.erase_error) == 0 and bool(info.is_finite)
  for options in ({"erase_weight": 0.0}, {}):
    guide = GUIDE if options else ERASE
    same, _ = run(uce(model(), ERASE, guide, preserve_tokens=KEEP, **options))
    jax.tree.map(np.testing.assert_array_equal, same, params())


def test_the_error_is_a_share_whatever_the_size_and_nan_where_kernels_are():
  weights = {
    "identity_weight": 0.5,
    "erase_weight": 1.0,
    "preserve_weight": 1.0,
  }
  rng = np.random.default_rng(0)
  of = lambda: Rows(
    jnp.asarray(rng.normal(size=(2, 1, 6)), jnp.float32), jnp.ones((2, 1), bool)
  )
  prompts = of(), of(), of()
  kernel = jnp.ones((6, 4))
  errors = [
    edit_kernels([scale * kernel], *prompts, **weights)[1].erase_error
    for scale in (1.0, 1e-17)
  ]
  assert 0 < float(errors[0]) < 1
  np.testing.assert_allclose(errors[1], errors[0], rtol=1e-3)
  _, info = edit_kernels([jnp.nan * kernel], *prompts, **weights)
  assert np.isnan(info.erase_error) and not bool(info.is_finite)


def test_the_default_guide_is_the_empty_prompt_and_positions_can_be_given():
  null = jnp.broadcast_to(jnp.array(NULL), (2, LENGTH))
  default, _ = run(uce(model(), ERASE))
  named, _ = run(
    uce(
      model(),
      ERASE,
      null,
      positions=Positions(jnp.array([2, 1]), jnp.array([0, 0])),
    )
  )
  jax.tree.map(np.testing.assert_array_equal, default, named)
  marked = jnp.array([[0, 1, 0, 0, 0], [1, 1, 0, 0, 0]], bool)
  request = requests.concept(model(), ERASE, null, marks=marked)
  other, _ = jax.jit(uce(model()))(params(), None, request, KEY)
  placed, _ = run(
    uce(model(), ERASE, null, positions=Positions(jnp.array([1, 1])))
  )
  for a, b in zip(kernels(other).values(), kernels(placed).values()):
    np.testing.assert_allclose(a, b, atol=1e-5)
  assert any(
    (a != b).any()
    for a, b in zip(kernels(default).values(), kernels(other).values())
  )
  # A prompt of padding alone has no last word: its first token counts.
  blank = jnp.zeros((1, LENGTH), jnp.int32)
  kept = [
    run(uce(model(), ERASE, preserve_tokens=blank, positions=p))[0]
    for p in (Positions(), Positions(preserve=jnp.array([0])))
  ]
  jax.tree.map(np.testing.assert_array_equal, *kept)


def test_half_precision_params_stay_so_and_are_solved_for_in_float32():
  half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params())
  edited, _ = run(uce(model(), ERASE, GUIDE, preserve_tokens=KEEP), half)
  assert {leaf.dtype for leaf in jax.tree.leaves(edited)} == {
    jnp.dtype(jnp.bfloat16)
  }
  wide, _ = run(
    uce(model(), ERASE, GUIDE, preserve_tokens=KEEP),
    jax.tree.map(lambda p: p.astype(jnp.float32), half),
  )
  for a, b in zip(kernels(edited).values(), kernels(wide).values()):
    np.testing.assert_allclose(a, b, atol=0.03)
