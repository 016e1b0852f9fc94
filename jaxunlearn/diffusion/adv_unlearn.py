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
Cost: 2 num_images generations of sampler_steps each; then for every step of the
model attack_steps + 2 gradients of batch_size rows.
Differences from the released code: noisy images come from a bank of the original
model's unfinished samples, made once, instead of anew at each step; their time
is the sampler's own; each attack step sees its own gradient, there the sum of
all so far; the last update of the attack counts; one adversary is sought for all
prompts of the concept, there for the one drawn; embeddings are put in by
counting tokens, not words. Its attack "pgd" has no projection either: it is
Adam; its "fast_at" is `optax.chain(optax.scale_by_sign(), optax.adam(1e-3))`.
The empty prompt is encoded by the trained encoder wherever the result is used.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxunlearn.core import checks
from jaxunlearn.core.combinators import chain, provide, repeat
from jaxunlearn.core.phase import Objective, phase
from jaxunlearn.core.types import PyTree, Transform
from jaxunlearn.diffusion import samplers, schedules, splicing, steps
from jaxunlearn.diffusion.guidance import both_eps, classifier_free
from jaxunlearn.diffusion.training import check_time_weights, noise_error
from jaxunlearn.diffusion.types import Diffusion

_STARTS = ("random", "latest")


class Task(NamedTuple):
  """What the losses have in common.

  Attributes:
    diffusion: the model.
    concept: int [M, L].
    retain: int [R, L].
    points: int [M], where embeddings are put into the concept's prompts.
    time_weights: None, or float [T].
  """

  diffusion: Diffusion
  concept: jax.Array
  retain: jax.Array
  points: jax.Array
  time_weights: jax.Array | None


def adv_unlearn(
  diffusion: Diffusion,
  prompts: jax.Array,
  retain_prompts: jax.Array,
  *,
  group: str = "text-layers",
  optimizer: optax.GradientTransformation | None = None,
  num_steps: int = 1000,
  warm_up: int = 200,
  batch_size: int = 1,
  retain_batch_size: int = 5,
  eta: float | jax.Array = 1.0,
  retain_weight: float | jax.Array = 1.0,
  retain_steps: int = 0,
  num_tokens: int = 1,
  insertion: str = "prefix",
  attack_optimizer: optax.GradientTransformation | None = None,
  attack_steps: int = 30,
  attack_start: str = "random",
  num_images: int = 64,
  sampler_steps: int = 50,
  guidance: float | jax.Array = 3.0,
  time_weights: jax.Array | None = None,
  chunk_size: int = 64,
) -> Transform:
  """Trains against prompts that are attacked anew before every step.

  With eps_0 the original model, c the concept's prompt, c' the same with the
  adversary's embeddings, r a prompt to retain, all at unfinished samples x_t of
  the original model:

      adversary:  min  ||eps(x_t, c') - eps_0(x_t, c)||^2      over embeddings
      model:      min  ||eps(x_t, c') - eps_0(x_t, null)
                         + eta (eps_0(x_t, c) - eps_0(x_t, null))||^2
                       + retain_weight ||eps(x_r, r) - eps_0(x_r, r)||^2

  The first `warm_up` steps have no adversary. Nothing is differentiated through
  the attack.

  Args:
    diffusion: the model; needs `embed` and `encode_embeddings`.
    prompts: int [M, L], what names the concept, and nothing that is to stay.
      May be traced.
    retain_prompts: int [R, L], prompts to retain, R >= retain_batch_size. May be
      traced.
    group: static; which parameters learn, of `parameter_groups`: "text-layers",
      or "xattn".
    optimizer: of the model; Adam of 1e-5 by default.
    num_steps: static; steps of the model, the warm-up included.
    warm_up: static; steps without an adversary.
    batch_size: static; images of the concept a step.
    retain_batch_size: static; different images of retain prompts a step.
    eta: how far away from the concept. May be traced.
    retain_weight: gamma; read if retain_steps is 0. May be traced.
    retain_steps: static; 0 adds both losses; otherwise each step is one on the
      first and so many on the second, with one optimiser.
    num_tokens: static; K, the adversary's embeddings. It takes as many as the
      attacker will use.
    insertion: static; where they go, see `splicing.insertion_points`.
    attack_optimizer: of the adversary, fresh at every step; Adam of 1e-3 by
      default.
    attack_steps: static.
    attack_start: static; embeddings of "random" words, or the "latest" ones.
    num_images: static; N, of the concept in its bank, N sampler_steps images in
      all, and of the retain prompts in theirs; one a prompt if these are more.
      At least a batch.
    sampler_steps: static; of the sampler that makes them.
    guidance: of that sampler. May be traced.
    time_weights: None, or float [T] that multiply all errors at each time.
    chunk_size: static; images made at a time.

  Returns:
    A `Transform` with infos "warm_up" and "rounds": "attack", losses [rounds,
    attack_steps], and "defend", losses [rounds, 1]; with `retain_steps` the
    first and the last hold "erase" and "retain". Data and request are not read.

  Raises:
    ValueError: prompts that do not fit or without room for the embeddings, a
      concept's prompt among those to retain, fewer of these than a batch, a
      count or coefficient out of range, an unknown word, a model that takes no
      embeddings.
  """
  concept, retain = _check_prompts(
    diffusion, prompts, retain_prompts, retain_batch_size
  )
  splicing.embedders(diffusion)
  splicing.check_room(diffusion, prompts, num_tokens, "prompts")
  checks.positive(
    batch_size=batch_size,
    retain_batch_size=retain_batch_size,
    chunk_size=chunk_size,
  )
  steps.check_sampler_steps(diffusion, sampler_steps)
  checks.non_negative(
    warm_up=warm_up,
    attack_steps=attack_steps,
    retain_steps=retain_steps,
    retain_weight=retain_weight,
  )
  check_time_weights(diffusion, time_weights)
  checks.one_of(_STARTS, attack_start=attack_start)
  checks.one_of(splicing.INSERTIONS, insertion=insertion)
  if num_steps < warm_up:
    raise ValueError(f"Expected num_steps >= {warm_up}, got {num_steps}.")
  if num_images < max(batch_size, retain_batch_size):
    raise ValueError(
      f"Expected num_images >= {max(batch_size, retain_batch_size)}, a batch, "
      f"got {num_images}."
    )
  adversary = attack_optimizer or optax.adam(1e-3)
  learner = steps.restricted(optimizer or optax.adam(1e-5), group)
  points = splicing.insertion_points(diffusion, concept, insertion)

  def bank(tokens):
    def make(carry, data, forget_mask, key):
      return unfinished_images(
        diffusion,
        carry.original.params,
        tokens,
        key,
        num_images=max(num_images, len(tokens)),
        num_steps=sampler_steps,
        guidance=guidance,
        chunk_size=chunk_size,
      )

    return make

  def random_words(carry, data, forget_mask, key):
    table = splicing.embedding_table(diffusion, carry.original.params)
    return table[jax.random.randint(key, (num_tokens,), 0, table.shape[0])]

  task = Task(diffusion, concept, retain, points, time_weights)
  forget = {on: erasure(task, batch_size, eta, on) for on in (False, True)}
  remember = retention(task, retain_batch_size)

  def learn(objective, count, name):
    return phase(objective, learner, count, shared_state="optimizer", name=name)

  def defence(count, name, attacked):
    erase = forget[attacked]
    if retain_steps:
      turn = chain(
        learn(erase, 1, "erase"), learn(remember, retain_steps, "retain")
      )
      return repeat(turn, count, name=name)

    def both(variables, batch, key):
      first, second = jax.random.split(key)
      kept = remember(variables, batch, second)
      return erase(variables, batch, first) + retain_weight * kept

    return learn(both, count, name)

  start = provide("adversary", random_words, reads="nothing")
  attack = phase(
    imitation(task, batch_size),
    adversary,
    attack_steps,
    target="adversary",
    name="attack",
  )
  fresh = (start,) if attack_start == "random" else ()
  return chain(
    provide("concept_bank", bank(concept), reads="nothing"),
    provide("retain_bank", bank(retain), reads="nothing"),
    provide(
      "optimizer",
      lambda carry, *_: learner.init(carry.variables.params),
      reads="nothing",
    ),
    start,
    defence(warm_up, "warm_up", False),
    repeat(
      chain(*fresh, attack, defence(1, "defend", True), name="rounds"),
      num_steps - warm_up,
    ),
    name="adv_unlearn",
  )


def erasure(
  task: Task, batch_size: int, eta: Any, is_attacked: bool
) -> Objective:
  """ESD's loss under the concept's prompts, or under the adversary's."""

  def objective(variables, batch, key):
    diffusion, context, params = task.diffusion, batch.context, variables.params
    bank = context.extra["concept_bank"]
    x_t, t, which = draw_unfinished(bank, key, batch_size)
    original = jax.lax.stop_gradient(context.original.params)
    known = diffusion.encode(original, task.concept[which])
    null, prompted = both_eps(diffusion, original, x_t, t, known)
    if is_attacked:
      given = _attacked(task, params, which, context.extra["adversary"])
    else:
      given = diffusion.encode(params, task.concept[which])
    wanted = null - eta * (prompted - null)
    return _error(task, diffusion.eps(params, x_t, t, given), wanted, t)

  return objective


def retention(task: Task, batch_size: int) -> Objective:
  """How far the model is from the original under prompts to retain."""

  def objective(variables, batch, key):
    diffusion, context, params = task.diffusion, batch.context, variables.params
    bank = context.extra["retain_bank"]
    x_t, t, which = draw_unfinished(bank, key, batch_size)
    original = jax.lax.stop_gradient(context.original.params)
    tokens = task.retain[which]
    predict = lambda p: diffusion.eps(p, x_t, t, diffusion.encode(p, tokens))
    return _error(task, predict(params), predict(original), t)

  return objective


def imitation(task: Task, batch_size: int) -> Objective:
  """The adversary's loss: the model predicts what the original did."""

  def objective(adversary, batch, key):
    diffusion, context = task.diffusion, batch.context
    bank = context.extra["concept_bank"]
    x_t, t, which = draw_unfinished(bank, key, batch_size)
    params, original = context.variables.params, context.original.params
    known = diffusion.encode(original, task.concept[which])
    given = _attacked(task, params, which, adversary)
    wanted = diffusion.eps(original, x_t, t, known)
    return _error(task, diffusion.eps(params, x_t, t, given), wanted, t)

  return objective


def unfinished_images(
  diffusion: Diffusion,
  params: PyTree,
  tokens: jax.Array,
  key: jax.Array,
  *,
  num_images: int,
  num_steps: int,
  guidance: float | jax.Array = 3.0,
  chunk_size: int = 64,
) -> dict[str, jax.Array]:
  """A bank of samples as they are before every step of the sampler.

  Args:
    diffusion: the model.
    params: its params.
    tokens: int [M, L], taken in turn.
    key: PRNG key.
    num_images: static; N.
    num_steps: static; S.
    guidance: of the sampler; may be traced.
    chunk_size: static; images at a time.

  Returns:
    {"x": float [N, S, H, W, C], "prompt": int32 [N], "time": int32 [S]}.

  Raises:
    ValueError: a count that is not positive; as `sample`.
  """
  checks.positive(num_images=num_images, chunk_size=chunk_size)
  which = jnp.arange(num_images, dtype=jnp.int32) % tokens.shape[0]

  def make(row):
    number, image_key = row
    keys = image_key[None]
    predictor = classifier_free(
      diffusion, params, tokens[number][None], guidance
    )
    start = samplers.start_noise(diffusion, keys)
    return samplers.trajectory(
      diffusion, predictor, start, keys, num_steps=num_steps
    )[:-1, 0]

  rows = (which, jax.random.split(key, num_images))
  images = jax.lax.map(make, rows, batch_size=chunk_size)
  times = schedules.sampling_times(diffusion.num_train_steps, num_steps)
  return {"x": images, "prompt": which, "time": times}


def draw_unfinished(
  bank: dict[str, jax.Array], key: jax.Array, batch_size: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Different images of a bank, each at a random step.

  Returns:
    x_t [B, H, W, C], t int32 [B], the prompts' numbers int32 [B].
  """
  count, num_steps = bank["x"].shape[:2]
  row_key, step_key = jax.random.split(key)
  rows = jax.random.permutation(row_key, count)[:batch_size]
  step = jax.random.randint(step_key, (batch_size,), 0, num_steps)
  return bank["x"][rows, step], bank["time"][step], bank["prompt"][rows]


def _attacked(
  task: Task, params: PyTree, which: jax.Array, adversary: jax.Array
) -> jax.Array:
  """The context [B, L, D] of prompts with the adversary's embeddings [K, E]."""
  many = jnp.broadcast_to(adversary, (which.size, *adversary.shape))
  return splicing.encode_with(
    task.diffusion, params, task.concept[which], many, task.points[which]
  )


def _error(
  task: Task, predicted: jax.Array, wanted: jax.Array, t: jax.Array
) -> jax.Array:
  """The mean squared error as the one loss of a phase, [1]."""
  wanted = jax.lax.stop_gradient(wanted)
  return noise_error(predicted, wanted, t, task.time_weights).mean()[None]


def _check_prompts(
  diffusion: Diffusion, concept: Any, retain: Any, batch_size: int
) -> tuple[jax.Array, jax.Array]:
  concept = steps.check_prompts(diffusion, concept, "prompts")
  retain = steps.check_prompts(diffusion, retain, "retain_prompts")
  if retain.shape[0] < batch_size:
    raise ValueError(
      f"Expected retain_prompts to fill a batch of {batch_size}, got "
      f"{retain.shape[0]} prompts."
    )
  if checks.is_concrete(concept) and checks.is_concrete(retain):
    asked, kept = np.asarray(concept), np.asarray(retain)
    same = (asked[:, None] == kept[None]).all(axis=2).any(axis=0)
    if same.any():
      raise ValueError(
        "Expected retain_prompts without prompts of the concept, got one at "
        f"{int(same.argmax())}."
      )
  return concept, retain
