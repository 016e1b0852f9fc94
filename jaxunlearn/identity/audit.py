"""Is an identity gone from a representation? Judged by what never saw it.

Class: heuristic; that nothing is found proves nothing to be gone.
Data access: held-out images of known people, the forgotten one among them.

A gallery of images is known by name, and queries are asked for. A probe is
trained afresh on the gallery's embeddings: what an unlearned model's own head or
own loss says of itself is no part of it, since an embedding that is orthogonal
to everything by that loss may still tell people apart. Nor is chance the aim:
a model that never saw somebody tells her from others by what it has learned of
faces. So the same numbers of models retrained without her are the standard.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.attacks.probe import linear_probe
from jaxunlearn.core import checks
from jaxunlearn.core.shaped import shaped
from jaxunlearn.core.tasks import Fit, Task
from jaxunlearn.core.training import train
from jaxunlearn.core.types import ALL, Losses, Variables
from jaxunlearn.identity.vectors import retrieval
from jaxunlearn.losses import cross_entropy
from jaxunlearn.metrics import accuracy
from jaxunlearn.models import MLP

MLP_FIT = Fit(optax.adam(0.02), 100, ALL)


class IdentityAudit(NamedTuple):
  """What is still known of one identity; of each, higher is more.

  Attributes:
    linear: share of its queries that a fresh ridge probe names, [].
    mlp: the same of a fresh network.
    gap: mean cosine of its queries to its gallery, minus that to others'.
    rank_1: share of its queries whose nearest gallery image is of it.
    mean_ap: mean average precision of its queries.
    relearned: None, or how well it is relearned (`attacks.relearn_area`).
  """

  linear: jax.Array
  mlp: jax.Array
  gap: jax.Array
  rank_1: jax.Array
  mean_ap: jax.Array
  relearned: jax.Array | None = None


class Decision(NamedTuple):
  """What an audit comes to.

  Attributes:
    is_gone: bool [], whether no number is above the bound.
    is_concealed: bool [], whether only the method's own report says so.
    bound: `IdentityAudit`, the most that passes.
  """

  is_gone: jax.Array
  is_concealed: jax.Array
  bound: IdentityAudit


def audit_identity(
  gallery: jax.Array,
  gallery_ids: jax.Array,
  queries: jax.Array,
  query_ids: jax.Array,
  who: jax.Array,
  key: jax.Array,
  *,
  num_ids: int,
  fit: Fit = MLP_FIT,
) -> IdentityAudit:
  """Asks for one identity; `vmap` over `who`, and over models.

  Args:
    gallery: float [G, D], embeddings of images that are known by name.
    gallery_ids: int [G], 0 .. num_ids - 1.
    queries: float [Q, D], embeddings of other images.
    query_ids: int [Q].
    who: int [], whose queries are judged; may be traced.
    key: PRNG key of the network.
    num_ids: static.
    fit: of the network, on standardised embeddings.

  Returns:
    nan without queries of that identity, or where an embedding is not finite.

  Raises:
    ValueError: shapes do not match, identities out of range.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> import jaxunlearn as ju
    >>> centres = 3.0 * jnp.eye(4)  # Embeddings of four persons, far apart.
    >>> ids, other = jnp.arange(40) % 4, jnp.arange(20) % 4
    >>> noise = jax.random.normal(jax.random.key(0), (60, 4))
    >>> found = jax.jit(lambda who: ju.identity.audit_identity(
    ...   centres[ids] + 0.3 * noise[:40], ids,
    ...   centres[other] + 0.3 * noise[40:], other,
    ...   who, jax.random.key(1), num_ids=4))(1)
    >>> float(found.linear), float(found.mlp), float(found.rank_1)
    (1.0, 1.0, 1.0)
  """
  _check("gallery", gallery, gallery_ids, num_ids)
  _check("queries", queries, query_ids, num_ids)
  asked = query_ids == who
  mean, spread = gallery.mean(axis=0)[None], gallery.std(axis=0)[None]
  # Of a dimension that tells nothing, rounding must not become a signal.
  spread += 1e-6 * gallery.std() + 1e-12
  z = (jnp.concatenate([gallery, queries]) - mean) / spread
  ids = jnp.concatenate([gallery_ids, query_ids])
  known = jnp.arange(len(ids)) < len(gallery)
  judged = jnp.concatenate([jnp.zeros(len(gallery), bool), asked])
  linear = linear_probe(z, ids, known, judged, num_classes=num_ids)
  network = MLP(num_ids, hidden=(32,))
  named = lambda params, x: jnp.asarray(network.apply({"params": params}, x))
  probe = Task(
    lambda key, rows: Variables(network.init(key, rows["x"][:1])["params"]),
    lambda variables, step, key, *, train=False: Losses(
      cross_entropy(named(variables.params, step.rows["x"]), step.rows["label"])
    ),
  )
  fitted, _ = train(probe, {"x": z, "label": ids}, known, key, fit)
  rank_1, ap, gap = retrieval(gallery, gallery_ids, queries, query_ids)
  over = lambda values: jnp.where(asked, values, 0).sum() / asked.sum()
  # Comparisons make numbers of nan.
  sound = jnp.where(jnp.isfinite(z).all(), 0.0, jnp.nan)
  return IdentityAudit(
    linear.accuracy,
    accuracy(named(fitted.params, z), ids, judged),
    over(gap),
    over(rank_1) + sound,
    over(ap) + sound,
  )


def decide(
  found: IdentityAudit,
  standard: IdentityAudit,
  *,
  says_gone: bool | jax.Array = True,
  margin: float = 0.05,
  level: float = 0.975,
) -> Decision:
  """Whether an audit is within the spread of models that never saw the identity.

  The bound of each number is mean + t s sqrt(1 + 1 / R), the one-sided prediction
  bound of R such models, or the margin above their mean where that is more.

  Args:
    found: numbers [].
    standard: the same of R >= 2 retrained models, [R].
    says_gone: what the method reports by its own loss or head.
    margin: >= 0, a difference of no interest.
    level: of the bound; static.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> import jaxunlearn as ju
    >>> retrained = ju.identity.IdentityAudit(
    ...   *(jnp.array([low, low + 0.02]) for low in (0.1, 0.1, 0.0, 0.1, 0.2)))
    >>> found = ju.identity.IdentityAudit(
    ...   *map(jnp.float32, (0.12, 0.9, 0.0, 0.1, 0.2)))  # A network names it.
    >>> decision = ju.identity.decide(found, retrained)
    >>> bool(decision.is_gone), bool(decision.is_concealed)
    (False, True)
  """
  from scipy.special import stdtrit

  checks.non_negative(margin=margin)
  models = len(standard.linear)
  checks.count(2, **{"models that never saw the identity": models})
  wide = float(stdtrit(models - 1, level)) * (1 + 1 / models) ** 0.5

  def most(values: jax.Array) -> jax.Array:
    return values.mean() + jnp.maximum(margin, wide * values.std(ddof=1))

  bound = jax.tree.map(most, standard)
  # nan is within nothing.
  each = jax.tree.leaves(jax.tree.map(lambda a, b: a <= b, found, bound))
  is_gone = jnp.stack(each).all()
  return Decision(is_gone, jnp.asarray(says_gone) & ~is_gone, bound)


def _check(name: str, z: jax.Array, ids: jax.Array, num_ids: int) -> None:
  shaped(f"{name} [N, D] and identities [N]", z, ids)
  checks.labels(ids, num_ids, f"identities of {name}")
