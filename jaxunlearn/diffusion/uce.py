"""UCE, unified concept editing: keys and values of concepts, in closed form.

Source: Gandikota et al. (2024), arXiv:2308.14761, and the released code.
Class: heuristic. Data access: none. Cost: the text encoder on the prompts, one
[D, D] solve for all matrices. Model state: there is none.
Differences from the released code: the change of W is solved for instead of W
itself (the same solution, exactly W where there is nothing to erase), and no
matrix is inverted; debiasing, which repeats the edit until measured shares
agree, is left to the caller: guides that mix concepts are not offered.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.links import edit
from jaxunlearn.core.shaped import shaped
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import PyTree
from jaxunlearn.diffusion import requests
from jaxunlearn.diffusion.requests import Concept
from jaxunlearn.diffusion.splicing import prompt_lengths
from jaxunlearn.diffusion.types import Diffusion, parameter_group

_NAMES = Concept("erase_tokens", "guide_tokens", "preserve_tokens", "marks")
_SPANS = ("last", "tail")
_EXACT = jax.lax.Precision.HIGHEST  # Some devices would multiply in less.


class UCEInfo(NamedTuple):
  """What the edit leaves behind.

  Attributes:
    erase_error: float32 [], the squared distance of the concepts' keys and
      values to their targets, as a share of that before: 1 nothing happened, 0
      the concepts are their guides. 0 if they were so before; nan where params
      are.
    is_finite: bool [], whether every edited matrix is finite.
  """

  erase_error: jax.Array
  is_finite: jax.Array


class Rows(NamedTuple):
  """Encoded tokens, the columns of the normal equations.

  Attributes:
    values: float [E, S, D].
    is_valid: bool [E, S]; the others count for nothing.
  """

  values: jax.Array
  is_valid: jax.Array


class Positions(NamedTuple):
  """The token of each prompt that counts; None says by default.

  Attributes:
    erase: None, or int [E]; by default the last that the request marks, or the
      last before the padding (the last token of the empty prompt); the first of
      a prompt of nothing else. Where another token marks the end of a prompt
      than fills it, say which.
    guide: None, or int [E].
    preserve: None, or int [P].
  """

  erase: Any = None
  guide: Any = None
  preserve: Any = None


POSITIONS = Positions()


def uce(
  diffusion: Diffusion,
  erase_tokens: jax.Array | None = None,
  guide_tokens: jax.Array | None = None,
  *,
  preserve_tokens: jax.Array | None = None,
  positions: Positions = POSITIONS,
  span: str = "last",
  identity_weight: float | jax.Array = 0.5,
  erase_weight: float | jax.Array = 1.0,
  preserve_weight: float | jax.Array = 1.0,
  is_orthogonal: bool = False,
) -> Transform:
  """Edits cross-attention so that concepts look like their guides.

  Every key and value matrix W of the cross-attention becomes the one that
  minimises, with c_e, c_g, c_p the encoded tokens of concepts, of their guides
  and of what is preserved,

      alpha sum |W' c_e - W c_g|^2 + beta sum |W' c_p - W c_p|^2
        + lambda |W' - W|^2

      edited, info = uce(model)(variables, None, requests.concept(model, ...), key)

  Args:
    diffusion: its params hold cross-attention under "attn2", with "to_k" and
      "to_v" kernels [D, out].
    erase_tokens: int [E, L], prompts that name the concept, E > 0, none of them
      empty; may be traced, as all prompts. None takes the request's prompts,
      and of its anchors and prompts to retain what is not given here.
    guide_tokens: None, the empty prompt for all (moderation); or int [E, L],
      what each of them shall look like.
    preserve_tokens: None, or int [P, L], prompts to leave as they are.
    positions: which tokens count; may be traced.
    span: "last", that token alone, as in the current script; "tail", it and all
      that follow, padding too, as in the older one: in a causal encoder they
      know of the concept as well. Concept and guide are then aligned from their
      tokens on.
    identity_weight: lambda > 0; may be traced, as the other weights.
    erase_weight: alpha >= 0; 0 returns the params as they are.
    preserve_weight: beta >= 0.
    is_orthogonal: static; the older script's "tensor": the target is W c_g
      without its part along W c_e.

  Returns:
    A `Transform` of no steps, whose info is a `UCEInfo`. It reads no data.

  Raises:
    ValueError: no prompts to erase, the empty one among them, other than E
      guides, prompts or positions that do not fit the model, a weight out of
      range, an unknown span; from the call, params without such kernels.

  Example:
    >>> from jaxunlearn import diffusion, toy
    >>> problem = toy.diffusion()
    >>> edited, info = diffusion.uce(problem.model)(*problem.arguments)
    >>> round(float(info.erase_error), 3), bool(info.is_finite)
    (0.023, True)
  """
  checks.one_of(_SPANS, span=span)
  checks.positive(identity_weight=identity_weight)
  checks.non_negative(
    erase_weight=erase_weight, preserve_weight=preserve_weight
  )
  told = Concept(erase_tokens, guide_tokens, preserve_tokens)
  read = requests.reader(diffusion, told, "prompts", names=_NAMES)

  def rows(params, tokens, given, kind, marks=None):
    where = _positions(diffusion, tokens, given, kind, marks)
    return take_span(diffusion.encode(params, tokens), where, span)

  def fn(variables, data, request, key):
    del data, key  # Nothing is drawn.
    concept, params = read(request), variables.params
    guide, preserve = concept.anchors, concept.retain
    if guide is None:
      guide = jnp.broadcast_to(diffusion.null_tokens, concept.prompts.shape)
    if preserve is None:
      preserve = jnp.zeros((0, diffusion.length), jnp.int32)
    edited, info = edit_kernels(
      _kernels(params),
      rows(params, concept.prompts, positions.erase, "erase", concept.marks),
      rows(params, guide, positions.guide, "guide"),
      rows(params, preserve, positions.preserve, "preserve"),
      identity_weight=identity_weight,
      erase_weight=erase_weight,
      preserve_weight=preserve_weight,
      is_orthogonal=is_orthogonal,
    )
    return variables._replace(params=_with_kernels(params, edited)), info

  return edit(fn, reads="nothing", name="uce")


def edit_kernels(
  kernels: list[jax.Array],
  erase: Rows,
  guide: Rows,
  preserve: Rows,
  *,
  identity_weight: float | jax.Array,
  erase_weight: float | jax.Array,
  preserve_weight: float | jax.Array,
  is_orthogonal: bool = False,
) -> tuple[list[jax.Array], UCEInfo]:
  """The edit of given kernels [D, out] by encoded tokens; see `uce`.

  `erase` may be empty, and nothing changes then.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.diffusion.uce import Rows, edit_kernels
    >>> row = lambda *v: Rows(jnp.array([[v]]), jnp.array([[True]]))
    >>> kernels, info = edit_kernels(
    ...   [jnp.eye(2)],
    ...   erase=row(1.0, 0.0),
    ...   guide=row(0.0, 1.0),
    ...   preserve=row(0.0, 1.0),
    ...   identity_weight=1.0,
    ...   erase_weight=1.0,
    ...   preserve_weight=1.0,
    ... )
    >>> [[round(v, 3) for v in row] for row in kernels[0].tolist()]
    [[0.5, 0.5], [0.0, 1.0]]
  """
  valid = erase.is_valid & guide.is_valid
  from_rows = _blank(erase.values, valid)
  to_rows = _blank(guide.values, valid)
  kept_rows = _blank(preserve.values, preserve.is_valid)
  gram = lambda a: jnp.einsum("esd,esf->df", a, a, precision=_EXACT)
  normal = (
    identity_weight * jnp.eye(from_rows.shape[-1], dtype=from_rows.dtype)
    + erase_weight * gram(from_rows)
    + preserve_weight * gram(kept_rows)
  )
  factor = jax.scipy.linalg.cho_factor(normal)

  def change(kernel):
    kernel = kernel.astype(normal.dtype)
    of = lambda rows: jnp.einsum("esd,do->eso", rows, kernel, precision=_EXACT)
    before, wanted = of(from_rows), of(to_rows)
    if is_orthogonal:
      wanted = _without(wanted, before)
    pull = jnp.einsum(
      "esd,eso->do", from_rows, wanted - before, precision=_EXACT
    )
    moved = kernel + jax.scipy.linalg.cho_solve(factor, erase_weight * pull)
    left = jnp.einsum("esd,do->eso", from_rows, moved, precision=_EXACT)
    return moved, jnp.sum((wanted - before) ** 2), jnp.sum((wanted - left) ** 2)

  moved, before, after = zip(*map(change, kernels), strict=True)
  distance = jnp.stack(before).sum()
  info = UCEInfo(
    _over(jnp.stack(after).sum(), distance),
    jnp.stack([jnp.isfinite(k).all() for k in moved]).all(),
  )
  return [m.astype(k.dtype) for m, k in zip(moved, kernels)], info


def take_span(context: jax.Array, positions: jax.Array, span: str) -> Rows:
  """Of encoded prompts [E, L, D] the token at each position, or it and the rest.

  Args:
    context: [E, L, D].
    positions: int [E].
    span: "last" or "tail"; see `uce`.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.diffusion.uce import take_span
    >>> context = jnp.arange(3.0).reshape(1, 3, 1)
    >>> rows = take_span(context, jnp.array([1]), "tail")
    >>> rows.values.ravel().tolist(), rows.is_valid.tolist()
    ([1.0, 2.0, 2.0], [[True, True, False]])
  """
  length = context.shape[1]
  offsets = jnp.arange(1 if span == "last" else length)
  index = positions[:, None] + offsets[None]
  values = jnp.take_along_axis(
    context, jnp.minimum(index, length - 1)[..., None], axis=1
  )
  return Rows(values, index < length)


def _positions(
  diffusion: Diffusion, tokens: jax.Array, given: Any, kind: str, marks: Any
) -> jax.Array:
  """Of each prompt [E, L] the token that counts; int [E]."""
  if given is None and marks is not None:
    return diffusion.length - 1 - jnp.argmax(jnp.flip(marks, 1), axis=1)
  if given is None:
    return jnp.maximum(prompt_lengths(diffusion, tokens) - 1, 0)
  name = f"positions.{kind}"
  shaped(f"{name} [{len(tokens)}]", given)
  checks.labels(given, diffusion.length, name)
  return jnp.asarray(given)


def _is_kernel(leaf: jax.Array, is_marked: bool) -> bool:
  # A bias adds the same to concept and target.
  return is_marked and leaf.ndim == 2


def _kernels(params: PyTree) -> list[jax.Array]:
  """The key and value kernels of the cross-attention.

  Raises:
    ValueError: there are none.
  """
  marks = jax.tree.leaves(parameter_group(params, "xattn-kv"))
  leaves = jax.tree.leaves(params)
  found = [k for k, m in zip(leaves, marks, strict=True) if _is_kernel(k, m)]
  if not found:
    raise ValueError(
      "Expected kernels [D, out] of keys and values in cross-attention, got "
      "none."
    )
  return found


def _with_kernels(params: PyTree, kernels: list[jax.Array]) -> PyTree:
  """The params with those kernels in their places."""
  marks = jax.tree.leaves(parameter_group(params, "xattn-kv"))
  leaves, tree = jax.tree.flatten(params)
  rest = iter(kernels)
  return jax.tree.unflatten(
    tree,
    [
      next(rest) if _is_kernel(k, m) else k
      for k, m in zip(leaves, marks, strict=True)
    ],
  )


def _blank(values: jax.Array, is_valid: jax.Array) -> jax.Array:
  wide = values.astype(jnp.promote_types(jnp.float32, values.dtype))
  return jnp.where(is_valid[..., None], wide, 0)


def _without(values: jax.Array, direction: jax.Array) -> jax.Array:
  """Values [E, S, out] less their part along a direction, pair by pair."""
  square = jnp.square(direction).sum(axis=(1, 2), keepdims=True)
  along = (values * direction).sum(axis=(1, 2), keepdims=True)
  return values - _over(along, square) * direction


def _over(part: jax.Array, whole: jax.Array) -> jax.Array:
  """part / whole, 0 where whole is 0; nan stays nan."""
  return jnp.where(whole == 0, 0.0, part / jnp.where(whole == 0, 1.0, whole))
