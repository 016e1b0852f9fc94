"""Training, unlearning and measuring of regression models, lane by lane.

A lane is a request and a seed; each program serves all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxunlearn as ju
from experiments import common
from experiments.regression_data import Requests, Table
from jaxunlearn import metrics
from jaxunlearn.attacks import anamnesis
from jaxunlearn.attacks.regression import regression_attack
from jaxunlearn.losses.regression import on_targets
from jaxunlearn.methods.blindspot import blindspot
from jaxunlearn.methods.gaussian_amnesiac import gaussian_amnesiac
from jaxunlearn.metrics import regression

METHODS = (
  "finetune",
  "finetune_long",
  "gradient_ascent",
  "gaussian_amnesiac",
  "blindspot",
)
# What the gap to retraining is a mean over.
ERRORS = ("forget_mae", "forget_test_mae", "retain_mae", "retain_test_mae")
MARGIN = 0.05  # Of the relearn target, as in the source.


class Recipe(NamedTuple):
  """Steps and rates; all optimisers are Adam, all batches of one size.

  Attributes:
    rate: of training and retraining at their start; falls to 0 with a cosine.
    steps: of training and retraining.
    batch_size: rows a step of everything.
    tune_rate: of the methods' own steps; constant. A tenth of `rate`, as in the
      source, where there are rows enough.
    tune_steps: of fine-tuning, Gaussian amnesiac and blindspot's student.
    ascent_rate: of gradient ascent.
    ascent_steps: of it.
    blind_steps: of the blindspot model, trained like the original one. As many
      and `tune_steps` more are what `finetune_long` has, at `rate` too.
    attention: beta, for targets in standard deviations.
    relearn_steps: limit of the relearning attack, at `rate` as in the source.
    relearn_rows: held-out forget rows that it is watched on, at most.
  """

  rate: float
  steps: int
  batch_size: int
  tune_rate: float
  tune_steps: int
  ascent_rate: float
  ascent_steps: int
  blind_steps: int
  attention: float
  relearn_steps: int
  relearn_rows: int


class Study(NamedTuple):
  """What all programs share.

  Attributes:
    model: the network with its loss.
    features: names of the layers whose attention blindspot compares.
    loss: "l1" or "l2".
    recipe: see `Recipe`.
    table: the data.
    requests: what is to be forgotten.
    seeds: int [S].
    strategy: how lanes are mapped.
  """

  model: ju.Model
  features: tuple[str, ...]
  loss: str
  recipe: Recipe
  table: Table
  requests: Requests
  seeds: np.ndarray
  strategy: str

  @property
  def lanes(self) -> tuple[np.ndarray, np.ndarray]:
    """Request and place of the seed of each lane, int [R * S] each."""
    requests, seeds = len(self.requests.names), len(self.seeds)
    grid = np.divmod(np.arange(requests * seeds), seeds)
    return grid[0], grid[1]

  @property
  def train_keys(self) -> jax.Array:
    return jnp.stack([jax.random.key(int(s)) for s in self.seeds])

  @property
  def unlearn_keys(self) -> jax.Array:
    return jax.vmap(lambda k: jax.random.fold_in(k, 1))(self.train_keys)


def train(study: Study) -> common.Timed:
  """The original models, leaves [S, ...]."""
  data = study.table.train

  def program(data, keys):
    everything = jnp.ones(data["label"].shape, bool)
    one = lambda key: ju.train(
      study.model, data, everything, key, **_training(study)
    )[0]
    return ju.map_many(one, keys, strategy=study.strategy)

  return common.timed(program, data, study.train_keys)


def retrain(study: Study) -> common.Timed:
  """The retrained models of every lane, from the original's keys."""

  def one(data, masks, keys, request, seed):
    kept = ~masks[request]
    return ju.train(study.model, data, kept, keys[seed], **_training(study))[0]

  return _on_lanes(study, one, study.train_keys)


def unlearn(study: Study, name: str, originals: Any) -> common.Timed:
  """A method's models of every lane; the originals are leaves [S, ...]."""
  method = make_method(study, name)

  def one(data, masks, keys, request, seed, originals):
    start = jax.tree.map(lambda leaf: leaf[seed], originals)
    return method(start, data, masks[request], keys[seed])[0]

  return _on_lanes(study, one, study.unlearn_keys, originals)


def make_method(study: Study, name: str) -> ju.Transform:
  """One of `METHODS` under the study's recipe."""
  recipe, model = study.recipe, study.model
  steps = {
    "optimizer": optax.adam(recipe.tune_rate),
    "num_steps": recipe.tune_steps,
    "batch_size": recipe.batch_size,
  }
  makers: Mapping[str, Callable[[], ju.Transform]] = {
    "finetune": lambda: ju.finetune(model, **steps),
    "finetune_long": lambda: ju.finetune(
      model,
      optimizer=optax.adam(recipe.rate),
      num_steps=recipe.blind_steps + recipe.tune_steps,
      batch_size=recipe.batch_size,
    ),
    "gradient_ascent": lambda: ju.gradient_ascent(
      model,
      optimizer=optax.adam(recipe.ascent_rate),
      num_steps=recipe.ascent_steps,
      batch_size=recipe.batch_size,
    ),
    "gaussian_amnesiac": lambda: gaussian_amnesiac(model, **steps),
    "blindspot": lambda: blindspot(
      model,
      output_loss=study.loss,
      attention=recipe.attention,
      attention_features=study.features,
      blind_optimizer=_falling(recipe.rate, recipe.blind_steps),
      blind_steps=recipe.blind_steps,
      **steps,
    ),
  }
  return makers[name]()


def model_of(study_loss: str, module: Any) -> ju.Model:
  """A Flax module with a regression loss."""
  from jaxunlearn.adapters.flax import from_module

  return from_module(module, loss=on_targets(study_loss))


class Measured(NamedTuple):
  """Numbers of every lane, [R * S], and predictions on all training rows."""

  metrics: dict[str, np.ndarray]
  outputs: np.ndarray


def make_measure(study: Study, originals: Any, retrained: Any):
  """A function `variables -> Measured` of models of every lane.

  Args:
    study: see `Study`.
    originals: leaves [S, ...]; the relearn target comes from them.
    retrained: leaves [R * S, ...], what all are compared with.
  """
  table, requests = study.table, study.requests
  watched, counted = _watched_rows(study)
  rows = (table.train, table.test, requests.masks, requests.test_masks)
  lanes = tuple(map(jnp.asarray, study.lanes))
  program = jax.jit(lambda *args: _measure_lanes(study, *args))
  # Compiled for the retrained model, and then run for all the others.
  reference = None
  shared = (rows, (watched, counted), originals, lanes)
  reference = program(retrained, retrained, *shared)

  def measure(variables: Any) -> Measured:
    found, errors, outputs = program(variables, retrained, *shared)
    values = {k: np.asarray(v, np.float64) for k, v in found.items()}
    steps = [
      anamnesis.Relearned(
        *(part["relearn_steps"], part["relearn_reached"], None),
        *(part["relearn_target"], None, None),
      )
      for part in (found, reference[0])
    ]
    index = anamnesis.anamnesis_index(*steps)
    values["anamnesis_index"] = np.asarray(index.value, np.float64)
    values.pop("relearn_target")
    values["membership_share"] = _attack(study, errors)
    values["retrained_gap"] = np.mean(
      [
        np.abs(values[name] / np.asarray(reference[0][name], np.float64) - 1)
        for name in ERRORS
      ],
      axis=0,
    )
    return Measured(values, np.asarray(outputs))

  return measure


def seed_noise(study: Study, outputs: np.ndarray) -> np.ndarray:
  """Distances between retrained models of other seeds: what chance alone is.

  Args:
    study: see `Study`.
    outputs: [R * S, N], the retrained models' predictions.

  Returns:
    float64 [R]: of each request the mean W1 of neighbouring seeds' predictions
    on the forget set, in the targets' unit; nan with one seed.
  """
  of_request, _ = study.lanes
  found = []
  for i, mask in enumerate(study.requests.masks):
    own = outputs[of_request == i][:, mask]
    pairs = zip(own, np.roll(own, 1, axis=0)) if len(own) > 1 else ()
    values = [float(regression.wasserstein1(a, b)) for a, b in pairs]
    found.append(np.mean(values) if values else np.nan)
  return np.array(found)


def _training(study: Study) -> dict[str, Any]:
  recipe = study.recipe
  return {
    "optimizer": _falling(recipe.rate, recipe.steps),
    "num_steps": recipe.steps,
    "batch_size": recipe.batch_size,
  }


def _falling(rate: float, steps: int) -> optax.GradientTransformation:
  # At a constant rate two retrained models differ more by where they stopped
  # than a method differs from them.
  return optax.adam(optax.cosine_decay_schedule(rate, steps))


def _on_lanes(study: Study, one, keys: jax.Array, *shared: Any) -> common.Timed:
  def program(data, masks, keys, lanes, shared):
    return ju.map_many(
      lambda request, seed: one(data, masks, keys, request, seed, *shared),
      *lanes,
      strategy=study.strategy,
    )

  lanes = tuple(map(jnp.asarray, study.lanes))
  return common.timed(
    program, study.table.train, study.requests.masks, keys, lanes, shared
  )


def _measure_lanes(
  study, variables, retrained, rows, watched, originals, lanes
):
  """Numbers, absolute errors and predictions of each lane."""
  model, recipe, scale = study.model, study.recipe, study.table.scale
  train, test, masks, test_masks = rows
  unit = lambda outputs: (outputs * scale + study.table.shift).astype(
    jnp.float32
  )

  def one(variables, retrained, request, seed):
    predict = lambda v, part: ju.predict(model, v, part["x"])[:, 0]
    outputs, test_outputs = predict(variables, train), predict(variables, test)
    other = predict(retrained, train)
    forget, forget_test = masks[request], test_masks[request]
    y, test_y = train["label"], test["label"]
    found = {}
    for name, part, mask in (
      ("forget", (outputs, y), forget),
      ("retain", (outputs, y), ~forget),
      ("forget_test", (test_outputs, test_y), forget_test),
      ("retain_test", (test_outputs, test_y), ~forget_test),
      ("test", (test_outputs, test_y), jnp.ones_like(forget_test)),
    ):
      found[f"{name}_mae"] = scale * regression.mean_absolute_error(*part, mask)
      found[f"{name}_mse"] = scale**2 * regression.mean_squared_error(
        *part, mask
      )
    found["wasserstein"] = scale * regression.wasserstein1(
      outputs, other, forget, forget
    )
    relative = regression.relative_difference(
      unit(outputs), unit(other), unit(y)
    )
    found["relative_difference"] = jnp.nanmedian(
      jnp.where(forget, relative, jnp.nan)
    )
    errors = jnp.abs(outputs - y)
    test_errors = jnp.abs(test_outputs - test_y)
    found["membership_auc"] = metrics.separation_auc(
      -errors, -test_errors, forget, forget_test
    )
    start = jax.tree.map(lambda leaf: leaf[seed], originals)
    indices, weights = (part[request] for part in watched)
    few = jax.tree.map(lambda leaf: leaf[indices], test)

    def evaluate(v):
      losses = model.loss(model.predict(v, few["x"]), few)
      return (weights * losses).sum() / weights.sum()

    again = anamnesis.relearn(
      model,
      variables,
      train,
      jnp.ones_like(forget),
      jax.random.fold_in(study.unlearn_keys[seed], 2),
      evaluate=evaluate,
      target=anamnesis.relearn_target(
        evaluate(start), MARGIN, direction="lower"
      ),
      num_steps=recipe.relearn_steps,
      optimizer=optax.adam(recipe.rate),
      batch_size=recipe.batch_size,
      direction="lower",
      count_from_zero=False,
    )
    found["relearn_steps"] = again.steps
    found["relearn_reached"] = again.reached
    found["relearn_target"] = again.target
    return found, (errors, test_errors), unit(outputs)

  return ju.map_many(one, variables, retrained, *lanes, strategy=study.strategy)


def _watched_rows(study: Study) -> tuple[jax.Array, jax.Array]:
  """Held-out forget rows of each request, padded: indices and weights [R, K]."""
  limit = study.recipe.relearn_rows
  masks = study.requests.test_masks
  width = min(limit, int(masks.sum(axis=1).max()))
  indices = np.zeros((len(masks), width), np.int32)
  weights = np.zeros((len(masks), width), np.float32)
  for i, mask in enumerate(masks):
    rows = np.random.default_rng(0).permutation(np.flatnonzero(mask))[:width]
    indices[i, : len(rows)] = rows
    weights[i, : len(rows)] = 1
  return jnp.asarray(indices), jnp.asarray(weights)


def _attack(study: Study, errors: Any) -> np.ndarray:
  """Shares of forget rows that the attack takes for members, by lane."""
  of_request, of_seed = study.lanes
  train, test = map(np.asarray, errors)
  shares = []
  for lane, (request, seed) in enumerate(zip(of_request, of_seed)):
    if not np.isfinite([train[lane].sum(), test[lane].sum()]).all():
      shares.append(np.nan)  # A model that diverged.
      continue
    mask = study.requests.masks[request]
    found = regression_attack(
      train[lane], test[lane], train[lane][mask], seed=int(seed)
    )
    shares.append(found.forget)
  return np.array(shares)
