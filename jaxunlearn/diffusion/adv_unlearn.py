"""AdvUnlearn: erasing a concept under prompts that an adversary chooses.

In turns, an adversary looks for K embeddings in front of the concept's prompt
under which the model still predicts what the original does for the concept, and
the model learns to predict, under that very prompt, away from the concept; on
prompts to retain it goes on predicting what the original does. By default the
text encoder is what learns.

Source: Zhang et al. (2024), "Defensive Unlearning with Adversarial Training for
Robust Concept Erasure in Diffusion Models", arXiv:2405.15234, and its released
code (OPTML-Group/AdvUnlearn).
Class: heuristic. Data access: none; prompts only.
Cost: 2 num_images generations; then for every step of the model as many gradients
of a batch as the attack has steps, and 2.
Differences from the released code: noisy images come from a bank of the original
model's unfinished samples, made once, instead of anew at each step; their time
is the sampler's own; each attack step sees its own gradient, there the sum of
all so far; the last update of the attack counts; one adversary is sought for all
prompts of the concept, there for the one drawn; prompts to retain are drawn with
replacement; embeddings are put in by counting tokens, not words. Its attack "pgd" has no projection either: it is
Adam; its "fast_at" is `optax.chain(optax.scale_by_sign(), optax.adam(1e-3))`.
The empty prompt is encoded by the trained encoder wherever the result is used.
"""

from __future__ import annotations

from typing import NamedTuple, Unpack

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.core import checks
from jaxunlearn.core.combinators import chain
from jaxunlearn.core.links import provide
from jaxunlearn.core.phase import Objective, phase, remember
from jaxunlearn.core.rounds import alternate, repeat
from jaxunlearn.core.tasks import Fit, FitFields, as_fit
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import Draw, PyTree, Slot
from jaxunlearn.diffusion import requests, splicing, steps
from jaxunlearn.diffusion.guidance import both_eps
from jaxunlearn.diffusion.requests import Concept
from jaxunlearn.diffusion.steps import Sampling
from jaxunlearn.diffusion.training import check_time_weights, noise_error
from jaxunlearn.diffusion.types import Diffusion

MODEL = Fit(optax.adam(1e-5), num_steps=1000, batch_size=1)
SAMPLING = Sampling(num_images=64)
_STARTS = ("random", "latest")
_NAMES = requests.NAMES._replace(retain="retain_prompts")


class Adversary(NamedTuple):
  """Whom `adv_unlearn` defends against.

  Attributes:
    fit: of the embeddings before each step of the model, from a fresh
      optimiser; Adam of 1e-3, 30 steps of one image as released.
    num_tokens: static; K, its embeddings. It takes as many as the attacker will
      use.
    insertion: static; where they go, see `splicing.insertion_points`.
    start: static; embeddings of "random" words, or the "latest" ones.
    warm_up: static; steps of the model before it comes.
  """

  fit: Fit = Fit(optax.adam(1e-3), num_steps=30, batch_size=1)
  num_tokens: int = 1
  insertion: str = "prefix"
  start: str = "random"
  warm_up: int = 200


class Retention(NamedTuple):
  """How `adv_unlearn` keeps what is to stay.

  Attributes:
    weight: gamma >= 0; read if `steps` is 0. May be traced.
    batch_size: static; images of retain prompts per step.
    steps: static; 0 adds both losses; otherwise each step is one on the first
      and so many on the second, with one optimiser.
  """

  weight: float | jax.Array = 1.0
  batch_size: int = 5
  steps: int = 0


ADVERSARY, RETENTION = Adversary(), Retention()


def adv_unlearn(
  diffusion: Diffusion,
  prompts: jax.Array | None = None,
  retain_prompts: jax.Array | None = None,
  fit: Fit = MODEL,
  *,
  adversary: Adversary = ADVERSARY,
  retention: Retention = RETENTION,
  group: str = "text-layers",
  eta: float | jax.Array = 1.0,
  sampling: Sampling = SAMPLING,
  time_weights: jax.Array | None = None,
  **fields: Unpack[FitFields],
) -> Transform:
  """Trains against prompts that are attacked anew before every step.

  With eps_0 the original model, c the concept's prompt, c' the same with the
  adversary's embeddings, r a prompt to retain, all at unfinished samples x_t of
  the original model:

      adversary:  min  ||eps(x_t, c') - eps_0(x_t, c)||^2      over embeddings
      model:      min  ||eps(x_t, c') - eps_0(x_t, null)
                         + eta (eps_0(x_t, c) - eps_0(x_t, null))||^2
                       + gamma ||eps(x_r, r) - eps_0(x_r, r)||^2

  The first steps have no adversary. Nothing is differentiated through the
  attack.

  Args:
    diffusion: the model; needs `embed` and `encode_embeddings`.
    prompts: int [M, L], what names the concept, and nothing that is to stay;
      None takes those of the request. May be traced.
    retain_prompts: int [R, L], prompts to retain; None takes the request's. May
      be traced.
    fit: of the model, the warm-up included; Adam of 1e-5, 1000 steps of one
      image of the concept by default.
    adversary: its recipe, its place in the prompts and when it comes.
    retention: weight and rows of the second loss.
    group: static; which parameters learn, of `parameter_groups`: "text-layers",
      or "xattn".
    eta: how far away from the concept. May be traced.
    sampling: of the unfinished samples, num_images of the concept and as many of
      the retain prompts.
    time_weights: None, or float [T] that multiply all errors at each time.
    **fields: the fields of `fit` by keyword.

  Returns:
    A `Transform` with infos "warm_up" and "rounds", in which "defend" (or with
    steps of retention "erase" and "retain") has losses [rounds, steps], and
    "attack" those of each attack. It reads no data.

  Raises:
    ValueError: prompts that do not fit or without room for the embeddings, a
      concept's prompt among those to retain, a count or coefficient out of
      range, an unknown word, a model that takes no embeddings.

  Example:
    >>> import jaxunlearn as ju
    >>> import optax
    >>> from jaxunlearn import diffusion, toy
    >>> from jaxunlearn.diffusion.adv_unlearn import Adversary
    >>> problem, sgd = toy.diffusion(), optax.sgd(0.1)
    >>> method = diffusion.adv_unlearn(
    ...   problem.model,
    ...   optimizer=sgd,
    ...   num_steps=3,
    ...   adversary=Adversary(ju.Fit(sgd, 2, 1), warm_up=1),
    ...   sampling=diffusion.Sampling(num_steps=2, num_images=2),
    ... )
    >>> edited, info = method.compiled(*problem.arguments)
    >>> info["warm_up"]["defend"].loss.shape
    (1, 1)
    >>> info["rounds"]["attack"].loss.shape
    (2, 2)
  """
  fit = steps.confined(as_fit(fit, fields), group)
  attack_fit = as_fit(adversary.fit, {})
  splicing.embedders(diffusion)
  checks.count(0, warm_up=adversary.warm_up, steps=retention.steps)
  checks.counts(batch_size=retention.batch_size)
  checks.non_negative(weight=retention.weight)
  checks.one_of(_STARTS, start=adversary.start)
  checks.one_of(splicing.INSERTIONS, insertion=adversary.insertion)
  steps.check_sampling(diffusion, sampling)
  check_time_weights(diffusion, time_weights)
  if fit.num_steps < adversary.warm_up:
    raise ValueError(
      f"Expected num_steps >= {adversary.warm_up}, the warm-up, got "
      f"{fit.num_steps}."
    )
  read = requests.reader(
    diffusion,
    Concept(prompts, retain=retain_prompts),
    *("prompts", "retain"),
    names=_NAMES,
  )
  requests.check_apart(prompts, retain_prompts, "retain_prompts")
  if prompts is not None:
    splicing.check_room(diffusion, prompts, adversary.num_tokens, "prompts")
  concept: Slot[Concept] = Slot("concept")
  concept_bank: Slot[dict[str, jax.Array]] = Slot("concept_bank")
  retain_bank: Slot[dict[str, jax.Array]] = Slot("retain_bank")
  words: Slot[jax.Array] = Slot("adversary")

  def bank(slot, field):
    def make(carry, data, request, key):
      tokens = getattr(carry[concept], field)
      return unfinished_images(
        diffusion, carry.original.params, tokens, key, sampling
      )

    return provide(slot, make, reads="nothing")

  def random_words(carry, data, request, key):
    table = splicing.embedding_table(diffusion, carry.original.params)
    size = (adversary.num_tokens,)
    return table[jax.random.randint(key, size, 0, table.shape[0])]

  losses = Objectives(diffusion, adversary.insertion, eta, time_weights)
  retain = losses.retention()

  def both(erase):
    def objective(variables, step, key):
      row_key, retain_key = jax.random.split(key)
      rows = steps.some_rows(step[retain_bank], row_key, retention.batch_size)
      kept = retain(variables, step._replace(rows=rows), retain_key)
      # On every row alike, so that the mean over rows leaves it as it is.
      return erase(variables, step, key) + retention.weight * kept.mean()

    return objective

  memory: Slot[PyTree] = Slot("optimizer")
  counts: tuple[Slot, Slot] = Slot("steps"), Slot("retain steps")

  def learn(objective, num_steps, size, source, name):
    draw = Draw(retain=size, source=source)
    one = fit._replace(num_steps=num_steps)
    link = phase(objective, one, draw=draw, name=name)
    return remember(link, memory, counts[source is retain_bank])

  def defence(erase):
    size = fit.batch_size
    if not retention.steps:
      return [learn(both(erase), 1, size, concept_bank, "defend")]
    kept = (retention.steps, retention.batch_size, retain_bank, "retain")
    return [learn(erase, 1, size, concept_bank, "erase"), learn(retain, *kept)]

  start = provide(words, random_words, reads="nothing")
  attack = phase(
    losses.imitation(),
    attack_fit,
    draw=Draw(retain=attack_fit.batch_size, source=concept_bank),
    on=words,
    name="attack",
  )
  fresh = [start] if adversary.start == "random" else []
  attacked = chain(*fresh, attack, *defence(losses.erasure(words)))
  links = chain(
    bank(concept_bank, "prompts"),
    bank(retain_bank, "retain"),
    start,
    alternate(
      *defence(losses.erasure(None)), rounds=adversary.warm_up, name="warm_up"
    ),
    repeat(attacked, fit.num_steps - adversary.warm_up, name="rounds"),
    name="adv_unlearn",
  )
  return requests.telling(concept, read, links)


class Objectives(NamedTuple):
  """The three losses, on rows of `unfinished_images`.

  Attributes:
    diffusion: the model.
    insertion: where the adversary's embeddings go.
    eta: see `adv_unlearn`.
    time_weights: None, or float [T].
  """

  diffusion: Diffusion
  insertion: str
  eta: float | jax.Array
  time_weights: jax.Array | None

  def erasure(self, words: Slot[jax.Array] | None) -> Objective:
    """ESD's loss under the concept's prompts, or under the adversary's."""

    def objective(variables, step, key):
      del key
      diffusion, rows = self.diffusion, step.rows
      original = jax.lax.stop_gradient(step.original.params)
      known = diffusion.encode(original, rows["tokens"])
      null, prompted = both_eps(
        diffusion, original, rows["x"], rows["time"], known
      )
      embeddings = None if words is None else step[words]
      given = self._context(variables.params, rows, embeddings)
      wanted = null - self.eta * (prompted - null)
      return self._error(variables.params, rows, given, wanted)

    return objective

  def retention(self) -> Objective:
    """How far the model is from the original under prompts to retain."""

    def objective(variables, step, key):
      del key
      given = self._context(variables.params, step.rows, None)
      wanted = self._original(step)
      return self._error(variables.params, step.rows, given, wanted)

    return objective

  def imitation(self) -> Objective:
    """The adversary's loss: the model predicts what the original did."""

    def objective(embeddings, step, key):
      del key
      params = step.variables.params
      given = self._context(params, step.rows, embeddings)
      return self._error(params, step.rows, given, self._original(step))

    return objective

  def _original(self, step) -> jax.Array:
    rows, params = step.rows, step.original.params
    context = self.diffusion.encode(params, rows["tokens"])
    return self.diffusion.eps(params, rows["x"], rows["time"], context)

  def _context(self, params, rows, embeddings) -> jax.Array:
    """The context [B, L, D] of prompts, with the adversary's embeddings [K, E]."""
    tokens = rows["tokens"]
    if embeddings is None:
      return self.diffusion.encode(params, tokens)
    many = jnp.broadcast_to(embeddings, (len(tokens), *embeddings.shape))
    points = splicing.insertion_points(self.diffusion, tokens, self.insertion)
    return splicing.encode_with(self.diffusion, params, tokens, many, points)

  def _error(self, params, rows, context, wanted) -> jax.Array:
    x, t = rows["x"], rows["time"]
    predicted = self.diffusion.eps(params, x, t, context)
    wanted = jax.lax.stop_gradient(wanted)
    return noise_error(predicted, wanted, t, self.time_weights)


def unfinished_images(
  diffusion: Diffusion,
  params: PyTree,
  tokens: jax.Array,
  key: jax.Array,
  sampling: Sampling,
) -> dict[str, jax.Array]:
  """A bank of samples as they are before every one of a sampler's S steps.

  Returns:
    {"x": float [N * S, H, W, C], "tokens": int [N * S, L], "time": int32}.

  Example:
    >>> from jaxunlearn import diffusion, toy
    >>> from jaxunlearn.diffusion.adv_unlearn import unfinished_images
    >>> model, (params, *_), data, _, key = toy.diffusion()
    >>> sampling = diffusion.Sampling(num_steps=2, num_images=3, chunk_size=3)
    >>> tokens = data["tokens"][:2]
    >>> bank = unfinished_images(model, params, tokens, key, sampling)
    >>> bank["x"].shape, bank["time"].tolist()
    ((6, 2, 2, 1), [19, 9, 19, 9, 19, 9])
  """
  made = steps.made_images(
    diffusion, params, tokens, key, sampling, is_unfinished=True
  )
  return {
    "x": made["x"],
    "tokens": tokens[made["prompt"]],
    "time": made["time"],
  }
