"""CION: identities found across videos, and distillation guided by them.

Source: Zuo et al. (2024), arXiv:2409.18569; the distillation from its released
code. How identities are found is described there in words only, and no code is
released: `find_identities` is our reading of it.
Class: objectives. Model state: the centre of the teacher's outputs; see
`moved_centre`.
Departures: any identities instead of blocks of equal size, and a loss per row.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks

TEACHER, STUDENT = 0.04, 0.1  # Temperatures.


def identity_distillation(
  student: jax.Array,
  teacher: jax.Array,
  ids: jax.Array,
  centre: jax.Array,
  *,
  forget: jax.Array | None = None,
  weight: jax.Array | None = None,
  temperatures: tuple[float, float] = (TEACHER, STUDENT),
) -> jax.Array:
  """Every view of a row shall say what the teacher says of its identity's rows.

  With H the cross entropy of teacher and student and n_b the rows of b's
  identity, a row has

      (H_bb + n_b sum over other rows a of the identity of H_ab)
        / (n_b (n_b - 1) + 1)

  averaged over pairs of a teacher's view and another view. For identities of
  equal size the mean over rows is the paper's; with n_b = 1 it is DINO.

  Args:
    student: float [V, B, O], outputs of V >= 2 views, the teacher's first.
    teacher: float [Q, B, O], of Q <= V global views; no gradient.
    ids: int [B].
    centre: float [O].
    forget: bool [B], rows whose target is uniform, that are no positives of
      others and have none. None: none.
    weight: [B], rows of weight 0 are nobody's positives.
    temperatures: > 0, of teacher and student.

  Returns:
    [B], nats.

  Raises:
    ValueError: shapes do not match, a temperature <= 0.
  """
  views, rows, outputs = student.shape
  if teacher.shape[1:] != (rows, outputs) or len(teacher) > views or views < 2:
    raise ValueError(
      "Expected student [V, B, O] and teacher [Q, B, O], Q <= V and V >= 2, got "
      f"{student.shape} and {teacher.shape}."
    )
  for name, value in zip(("teacher", "student"), temperatures):
    checks.positive(**{f"temperature of the {name}": value})
  said = jax.nn.softmax((teacher - centre[None, None]) / temperatures[0])
  share = _shares(ids, forget, weight)
  target = jnp.einsum("ba,qao->qbo", share, said)
  if forget is not None:
    target = jnp.where(forget[None, :, None], 1 / outputs, target)
  answer = jax.nn.log_softmax(student / temperatures[1])
  pairs = -jnp.einsum("qbo,vbo->qvb", jax.lax.stop_gradient(target), answer)
  other = jnp.arange(len(teacher))[:, None] != jnp.arange(views)[None]
  return jnp.where(other[..., None], pairs, 0).sum(axis=(0, 1)) / other.sum()


def _shares(ids, forget, weight):
  """What each row's target takes of every row's, [B, B]; rows sum to 1."""
  alone = jnp.zeros(len(ids), bool) if forget is None else forget
  free = ~alone
  if weight is not None:
    free &= jnp.asarray(weight) > 0
  own = jnp.eye(len(ids), dtype=bool)
  same = (ids[:, None] == ids[None]) & free[:, None] & free[None] & ~own
  count = 1.0 + same.sum(axis=1, keepdims=True)
  return (own + count * same) / (count * (count - 1) + 1)


def moved_centre(
  centre: jax.Array,
  teacher: jax.Array,
  decay: float | jax.Array = 0.9,
  weight: jax.Array | None = None,
) -> jax.Array:
  """The running mean [O] of the teacher's outputs [Q, B, O] under weights [B]."""
  weight = jnp.ones(teacher.shape[1]) if weight is None else weight
  total = jnp.einsum("b,qbo->o", weight, jax.lax.stop_gradient(teacher))
  mean = total / (len(teacher) * jnp.maximum(weight.sum(), 1))
  return decay * centre + (1 - decay) * mean


def find_identities(
  z: jax.Array,
  video: jax.Array,
  tracklet: jax.Array,
  *,
  num_tracklets: int,
  thresholds: tuple[float | jax.Array, ...] = (0.5, 0.7, 0.7),
  window: int = 8,
  stride: int = 4,
  rounds: int = 3,
) -> jax.Array:
  """Identities from tracklets: drop, merge within a video, link across videos.

  1. In rounds, rows whose cosine to their tracklet's centroid is below s1 are
     dropped. 2. Tracklets of a video whose centroids agree by more than s2 are
     one; a dropped row goes to the nearest of its video's, if nearer than s1.
  3. A window slides over the tracklets; within it those of different videos that
     are each other's nearest, by more than s3, are one.

  Args:
    z: float [N, D], rows of length 1.
    video: int [N].
    tracklet: int [N], 0 .. num_tracklets - 1 in the order of time, each of one
      video.
    num_tracklets: static.
    thresholds: s1, s2, s3, cosines; may be traced.
    window: static; tracklets that are seen together.
    stride: static; by how many it slides.
    rounds: static; of dropping.

  Returns:
    int32 [N]: the number of the first tracklet of the row's identity; -1 for a
    row that is noise.
  """
  checks.count(1, num_tracklets=num_tracklets, window=window, stride=stride)
  s1, s2, s3 = thresholds
  every = jnp.arange(num_tracklets)
  place = jax.ops.segment_max(video, tracklet, num_tracklets)
  apart = place[:, None] != place[None]

  def drop(kept, _):
    centroid = _centroids(z, tracklet, kept, num_tracklets)
    near = (z * centroid[tracklet]).sum(axis=1) >= s1
    return kept & near, None

  kept, _ = jax.lax.scan(drop, jnp.ones(len(z), bool), length=rounds)
  centroid = _centroids(z, tracklet, kept, num_tracklets)
  alike = centroid @ centroid.T
  merged = _components((alike > s2) & ~apart)
  # Back in: to the tracklet of the video that is nearest.
  to = jnp.where(place[None] == video[:, None], z @ centroid.T, -jnp.inf)
  back = ~kept & (to.max(axis=1) > s1)
  own = jnp.where(kept, tracklet, to.argmax(axis=1))
  kept |= back
  label = merged[own]
  centroid = _centroids(z, label, kept, num_tracklets)
  there = jax.ops.segment_max(kept.astype(jnp.int32), label, num_tracklets) > 0
  alike = centroid @ centroid.T

  def link(start):
    inside = (every >= start) & (every < start + window) & there
    allowed = inside[:, None] & inside[None] & apart
    best = jnp.where(allowed, alike, -jnp.inf).argmax(axis=1)
    first = jax.nn.one_hot(best, num_tracklets, dtype=bool) & allowed
    return first & first.T & (alike > s3)

  starts = jnp.arange(0, max(num_tracklets - window, 0) + stride, stride)
  found = _components(jax.vmap(link)(starts).any(axis=0))
  return jnp.where(kept, found[label], -1).astype(jnp.int32)


def _centroids(z, label, kept, count):
  """Unit centroids [count, D] of the kept rows; zeros of a label without any."""
  total = jax.ops.segment_sum(jnp.where(kept[:, None], z, 0), label, count)
  length = jnp.linalg.norm(total, axis=1, keepdims=True)
  return total / jnp.where(length > 0, length, 1.0)


def _components(linked):
  """The least number of each node's component, of an adjacency [C, C]."""
  linked = linked | linked.T | jnp.eye(len(linked), dtype=bool)

  def spread(label, _):
    return jnp.where(linked, label[None], len(linked)).min(axis=1), None

  start = jnp.arange(len(linked))
  return jax.lax.scan(spread, start, length=len(linked))[0]
