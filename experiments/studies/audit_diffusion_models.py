"""Models of the audit of diffusion: trained, loaded, made to forget."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxunlearn as ju
from jaxunlearn.adapters import orbax
from jaxunlearn.core.types import PyTree, Variables

from .. import common
from ..beds import diffusion as beds
from ..beds.diffusion_methods import METHODS, Task
from ..bench import AGAIN, ORIGINAL, REFERENCES, RETRAINED, Plan, lanes
from ..bench.kept import Kept

# A stretch of retraining whose time stands for all of it.
_TIMED_SHARE = 20
TWINS, JUDGE = "retrained_all", "classifier"


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Painter:
  """A model, and the name of the method whose way of sampling it needs."""

  params: PyTree
  maker: str | None = dataclasses.field(default=None, metadata={"static": True})


class Trained(NamedTuple):
  """The models that everything starts from.

  Attributes:
    original: params.
    twins: params of models retrained without the concept, leaves [T, ...]; where
      one would do, a second as a control.
    judge: variables of the classifier.
    seconds: of compiling and of running one training.
  """

  original: PyTree
  twins: PyTree
  judge: Variables
  seconds: tuple[float, float]


@dataclasses.dataclass(frozen=True, eq=False)
class Setup:
  """What all methods share; models are trained when they are first asked for.

  Attributes:
    images: see `beds.Images`.
    size: see `beds.Size`.
    concept: see `beds.Concept`.
    seeds: int [S].
    strategy: see `map_many`.
    kept: where models are kept until the run has finished.
    loaded: the models of an earlier run, or None.
    memory: by method MB that making one model holds, filled by `serve`.
  """

  images: beds.Images
  size: beds.Size
  concept: beds.Concept
  seeds: np.ndarray
  strategy: Any
  kept: Kept
  loaded: Trained | None
  memory: dict[str, float] = dataclasses.field(default_factory=dict)

  @property
  def forget(self) -> np.ndarray:
    """The training rows that show the concept, bool [N]."""
    return self.concept.shown_in(self.images.train)

  @property
  def data(self) -> dict[str, jax.Array]:
    """The training rows that a method gets to see."""
    return {k: jnp.asarray(self.images.train[k]) for k in ("x", "tokens")}

  def keys(self, purpose: int) -> jax.Array:
    """A key for each seed, [S]."""
    return jax.vmap(lambda seed: key_of(seed, purpose))(jnp.asarray(self.seeds))

  @functools.cached_property
  def trained(self) -> Trained:
    """The original model and those without the concept in one program."""
    if self.loaded is not None:
      return self.loaded._replace(seconds=(0.0, self._seconds_retraining()))
    images, size = self.images, self.size
    seed = jax.random.key(int(self.seeds[0]))
    made_of = {"data": images.labelled, "key": jax.random.fold_in(seed, 1)}
    judge = self.kept.timed_all("classifier", images.train_judge, [made_of])
    count = max(size.twins, 2)
    gone = jnp.asarray(self.forget)
    masks = jnp.stack([jnp.ones_like(gone), *[~gone] * count])
    # The first twin begins as the original model does and differs by its rows.
    numbers = jnp.array([0, *range(count)])
    keys = jax.vmap(lambda i: jax.random.fold_in(seed, 2 + i))(numbers)
    task, fit = beds.denoising(images.model), size.recipe.fit
    many = lambda data, masks, keys: (
      ju.train_many(task, data, masks, keys, fit, strategy=self.strategy)[
        0
      ].params
    )
    one_by_one = {"rows kept": masks, "key": keys}
    made = self.in_parts("trained", many, {"data": self.data}, one_by_one)
    self.note_memory(RETRAINED, made)
    params = _joined(made)
    seconds = made[0].seconds_compile, _seconds_run(made) / (1 + count)
    return Trained(
      lanes.at(params, 0),
      lanes.at(params, slice(1, None)),
      judge[0].value,
      seconds,
    )

  def in_parts(
    self, name: str, fn: Any, shared: Mapping[str, Any], own: Mapping[str, Any]
  ) -> list[common.Timed]:
    """Makes models, each kept as soon as it is there, or all where all are at once.

    Args:
      name: of what is kept.
      fn: of the values of `shared` and of `own`; returns leaves [K, ...].
      shared: what all models are made of.
      own: what each is made of, leaves [K, ...].
    """
    count = len(next(iter(own.values())))
    step = {"map": 1, "vmap": count}.get(self.strategy, self.strategy)
    part = lambda i: {k: v[i : i + step] for k, v in own.items()}
    parts = [{**shared, **part(i)} for i in range(0, count, step)]
    # A last part of another shape is another program.
    whole = [p for i, p in enumerate(parts) if (i + 1) * step <= count]
    made = self.kept.timed_all(name, fn, whole) if whole else []
    for rest in parts[len(whole) :]:
      made += self.kept.timed_all(f"{name}_rest", fn, [rest])
    return made

  def note_memory(self, name: str, made: Sequence[common.Timed]) -> None:
    """Of one of the models that a program makes at once or in turn."""
    held, returned = made[0].memory
    many = len(jax.tree.leaves(made[0].value)[0])
    at_once = many if self.strategy != "map" else 1
    self.memory[name] = (held / at_once + returned / many) / 1e6

  def _seconds_retraining(self) -> float:
    """Of retraining one model, from a stretch of it, run just now."""
    fit = self.size.recipe.fit
    short = max(fit.num_steps // _TIMED_SHARE, 1)
    task = beds.denoising(self.images.model)
    run = lambda data, mask, key: jax.tree.map(
      lambda leaf: leaf[None],
      ju.train(task, data, mask, key, fit._replace(num_steps=short))[0].params,
    )
    made = common.timed(run, self.data, ~self.forget, jax.random.key(0))
    self.note_memory(RETRAINED, [made])
    return made.seconds_run * fit.num_steps / short


def key_of(seed: Any, purpose: int) -> jax.Array:
  return jax.random.fold_in(jax.random.key(seed), purpose)


def serve(plan: Plan, name: str, traced: Any) -> dict[str, lanes.Made]:
  """A method's models for every seed, leaves [S, ...], in one program."""
  del traced  # Nothing is chosen here.
  this, count = plan.dataset, len(plan.seeds)
  trained = this.trained
  spread = lambda leaf: jnp.broadcast_to(leaf[None], (count, *leaf.shape))
  if name in REFERENCES:
    turn = jnp.arange(count) % this.size.twins + (name == AGAIN)
    params = (
      jax.tree.map(spread, trained.original)
      if name == ORIGINAL
      else lanes.at(trained.twins, turn % max(this.size.twins, 2))
    )
    seconds = trained.seconds[0], trained.seconds[1] * count
    return {name: lanes.Made(Painter(params), {}, *seconds)}
  method, own = METHODS[name], Task(this.images, this.concept, this.size.shrink)
  maker = name if method.maker else None
  if method.make is None:
    same = Painter(jax.tree.map(spread, trained.original), maker)
    return {name: lanes.Made(same, {}, 0.0, 0.0)}
  transform, forget = method.make(own), jnp.asarray(this.forget)
  told = ju.Request() if method.concept is None else method.concept(own)
  request = told._replace(forget=forget, retain=~forget)

  def program(params, data, request, keys):
    one = lambda key: transform(Variables(params), data, request, key)[0].params
    return ju.map_many(one, keys, strategy=this.strategy)

  shared = {"original": trained.original, "data": this.data}
  shared["request"] = request
  made = this.in_parts(name, program, shared, {"key": this.keys(10)})
  this.note_memory(name, made)
  seconds = made[0].seconds_compile, _seconds_run(made)
  return {name: lanes.Made(Painter(_joined(made), maker), {}, *seconds)}


def _joined(made: Sequence[common.Timed]) -> PyTree:
  """Leaves [K, ...] of all parts."""
  together = lambda *leaves: jnp.concatenate(leaves)
  return jax.tree.map(together, *(part.value for part in made))


def _seconds_run(made: Sequence[common.Timed]) -> float:
  return sum(part.seconds_run for part in made)


def to_keep(plan: Plan) -> dict[str, Variables]:
  """What a later run needs, beside the models that the frame writes."""
  trained = plan.dataset.trained
  return {
    f"params/{TWINS}": Variables(trained.twins),
    f"params/{JUDGE}": trained.judge,
  }


def load(folder: Path, this: Setup, preset: str) -> tuple[Trained, int]:
  """The models of an earlier run, and how many were retrained for its seeds.

  Args:
    folder: of the run, or its subfolder "params".
    this: what they must fit.
    preset: likewise.

  Raises:
    ValueError: something is missing or fits another model or concept.
  """
  folder = folder.expanduser().absolute()
  if not (folder / TWINS).exists():
    folder = folder / "params"
  if not (folder / TWINS).exists():
    raise ValueError(
      "Expected --load to be the folder of an earlier run of audit_diffusion, "
      f"got {folder.parent}."
    )
  # Its text says of what kind the models are, before their shapes do.
  config: Mapping[str, Any] = orbax.load(folder / "retrained").config or {}
  given = {**config.get("options", {}), "concept": config.get("request")}
  for name, wanted in (("preset", preset), ("concept", this.concept.name)):
    if given.get(name) != wanted:
      raise ValueError(
        f"Expected --load with models of {name} {wanted}, got "
        f"{given.get(name)}."
      )
  twins = int(given["twins"])
  like = jax.eval_shape(this.images.model.init, jax.random.key(0))
  many = jax.tree.map(
    lambda s: jax.ShapeDtypeStruct((max(twins, 2), *s.shape), s.dtype), like
  )
  image = jnp.zeros((1, *this.images.model.image_shape))
  judge = jax.eval_shape(this.images.judge.init, jax.random.key(0), image)
  original, retrained, classifier = (
    orbax.load(folder / name, part).variables
    for name, part in (
      (ORIGINAL, Variables(like)),
      (TWINS, Variables(many)),
      (JUDGE, judge),
    )
  )
  trained = Trained(original.params, retrained.params, classifier, (0.0, 0.0))
  return trained, twins
