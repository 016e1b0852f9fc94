"""Training, unlearning and measuring, all requests and seeds in one program.

A lane is one request under one seed. Seed s has one key for training, which the
original and the retrained model share, and one for unlearning; both are the same
whatever the request, so that a request gives the same numbers alone or among
others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxunlearn as ju
from experiments import common, methods, relearning
from experiments.data import Dataset
from experiments.requests import Requests
from jaxunlearn import metrics
from jaxunlearn.attacks.anamnesis import Relearned, anamnesis_index
from jaxunlearn.core.reduction import all_finite
from jaxunlearn.core.training import init_variables

NUM_TEACHERS = 8
# Each seed's key is folded with 0 to train and with 1 to unlearn.
_TEACHERS = 2
SVC_ROWS = 500  # Rows of a class that the membership attack is fitted on.
GAP_METRICS = (
  "forget_accuracy",
  "retain_accuracy",
  "test_accuracy",
  "membership_share",
)
# What SalUn's tables (arXiv:2310.12508) average: UA, RA, TA and MIA.
SALUN_METRICS = (
  "unlearning_accuracy",
  "retain_accuracy",
  "kept_test_accuracy",
  "mia_efficacy",
)


class Study(NamedTuple):
  """What does not change from method to method; arrays are on the device.

  Attributes:
    access: model, recipe and counts that methods are built from.
    train: rows {"x", "label"}, N of them.
    test: rows never trained on.
    masks: bool [R, N], the rows to be forgotten when a request is served; in a
      sequence with those of the requests before it.
    added: bool [R, N], the rows that the request itself takes away.
    test_masks: bool [2, R, N_test], test rows of forgotten and of kept classes;
      nowhere True for a request that is no union of classes.
    lane_request: int32 [L], the request of each lane.
    lane_seed: int32 [L], the seed of each lane.
    train_keys: PRNG keys [S].
    unlearn_keys: PRNG keys [S].
    strategy: of `jaxunlearn.map_many`.
    is_sequence: whether each request is served by what the one before it left.
  """

  access: methods.Access
  train: Any
  test: Any
  masks: jax.Array
  added: jax.Array
  test_masks: jax.Array
  lane_request: jax.Array
  lane_seed: jax.Array
  train_keys: jax.Array
  unlearn_keys: jax.Array
  strategy: str | int
  is_sequence: bool

  @property
  def num_lanes(self) -> int:
    return len(self.lane_request)

  @property
  def num_seeds(self) -> int:
    return len(self.train_keys)


class Trained(NamedTuple):
  """Models, and what making them took.

  Attributes:
    variables: leaves with a leading axis [S] (original) or [L].
    traces: name of a phase -> losses [S or L, T].
    seconds_compile: for the program.
    seconds_run: for one model; nan where nothing ran.
    ledger: of the original with amnesiac unlearning, leaves [S, R, ...].
  """

  variables: Any
  traces: Mapping[str, np.ndarray]
  seconds_compile: float
  seconds_run: float
  ledger: Any = None


class Audit(NamedTuple):
  """Numbers of each lane.

  Attributes:
    metrics: name -> float array [L], nan where there is no value.
    confusion: counts [L, C, C] on the test rows.
    relearned: how the models learned again, fields [L, ...].
  """

  metrics: dict[str, np.ndarray]
  confusion: np.ndarray
  relearned: Relearned


def make(
  model: ju.Model,
  dataset: Dataset,
  requests: Requests,
  recipe: methods.Recipe,
  *,
  num_seeds: int,
  strategy: str | int,
) -> Study:
  """Puts everything on the device, once."""
  test_label = dataset.test["label"]
  nowhere = np.zeros(test_label.shape, bool)
  forgotten = [
    nowhere if classes is None else np.isin(test_label, classes)
    for classes in requests.classes
  ]
  kept = [
    nowhere if classes is None else ~np.isin(test_label, classes)
    for classes in requests.classes
  ]
  lanes = np.indices((len(requests.names), num_seeds)).reshape(2, -1)
  keys = jax.vmap(jax.random.key)(jnp.arange(num_seeds))
  access = methods.Access(
    model, recipe, dataset.num_classes, requests.max_classes
  )
  return Study(
    access=access,
    train=jax.tree.map(jnp.asarray, dataset.train),
    test=jax.tree.map(jnp.asarray, dataset.test),
    masks=jnp.asarray(requests.masks),
    added=jnp.asarray(requests.added),
    test_masks=jnp.asarray(np.stack([forgotten, kept])),
    lane_request=jnp.asarray(lanes[0], jnp.int32),
    lane_seed=jnp.asarray(lanes[1], jnp.int32),
    train_keys=jax.vmap(lambda k: jax.random.fold_in(k, 0))(keys),
    unlearn_keys=jax.vmap(lambda k: jax.random.fold_in(k, 1))(keys),
    strategy=strategy,
    is_sequence=requests.is_sequence,
  )


def train_original(study: Study, *, with_ledger: bool) -> Trained:
  """One model a seed, trained on all rows."""
  model, recipe = study.access.model, study.access.recipe.kwargs()

  def program(data, masks, keys):
    def plain(key):
      everything = jnp.ones(masks.shape[1], bool)
      return (*ju.train(model, data, everything, key, **recipe), None)

    def logged(key):
      variables, ledger = ju.train_logged(model, data, masks, key, **recipe)
      return variables, None, ledger

    one = logged if with_ledger else plain
    return ju.map_many(one, keys, strategy=study.strategy)

  done = common.timed(program, study.train, study.masks, study.train_keys)
  variables, info, ledger = done.value
  seconds = done.seconds_run / study.num_seeds
  traces = {} if with_ledger else {"loss": np.asarray(info.loss)}
  return Trained(variables, traces, done.seconds_compile, seconds, ledger)


def given_original(study: Study, variables: ju.Variables) -> Trained:
  """A model that was trained elsewhere, the same for every seed."""
  stacked = jax.tree.map(
    lambda leaf: jnp.broadcast_to(leaf, (study.num_seeds, *leaf.shape)),
    variables,
  )
  return Trained(stacked, {}, float("nan"), float("nan"))


def train_retrained(study: Study) -> Trained:
  """One model a lane, trained on the retain rows with the original's key."""
  model, recipe = study.access.model, study.access.recipe.kwargs()

  def one(data, masks, keys, request, seed):
    return ju.train(model, data, ~masks[request], keys[seed], **recipe)

  return _lane_run(study, one, study.train_keys)


def unlearn(
  study: Study, name: str, settings: methods.Settings, original: Trained
) -> Trained:
  """One method on every lane."""
  method = methods.METHODS[name]
  ledgers = original.ledger if method.needs_ledger else None

  def one(data, masks, keys, request, seed, held_out, variables, ledgers):
    access = study.access._replace(
      held_out=held_out,
      ledger=jax.tree.map(lambda leaf: leaf[seed, request], ledgers),
    )
    transform = method.make(access, settings)
    start = at(variables, seed)
    return transform(start, data, masks[request], keys[seed])

  shared = (study.test, original.variables, ledgers)
  return _lane_run(study, one, study.unlearn_keys, *shared)


def make_audit(study: Study, original: Trained, retrained: Trained):
  """Measures models against the original and the retrained ones.

  Returns:
    A function of variables with leaves [L, ...] that gives an `Audit`. All
    calls share one compiled program.
  """
  model = study.access.model

  def reference(train, retrained):
    keys = jax.random.split(
      jax.random.fold_in(jax.random.key(0), _TEACHERS), NUM_TEACHERS
    )

    def teacher(key):
      untrained = init_variables(model, train, key)
      return jax.nn.softmax(ju.predict(model, untrained, train["x"]))

    logits = lambda variables: ju.predict(model, variables, train["x"])
    return (
      ju.map_many(teacher, keys, strategy="map"),
      ju.map_many(logits, retrained, strategy=study.strategy),
    )

  # In nats, of the training rows: [T, N, C] and [L, N, C].
  teachers, references = jax.jit(reference)(study.train, retrained.variables)
  program = jax.jit(_audit_program, static_argnums=(0, 1))
  examined = relearning.examined(
    np.asarray(study.masks), np.asarray(study.test_masks[0])
  )

  def audit(variables: Any) -> Audit:
    data = (study.train, study.test, study.masks, study.added, study.test_masks)
    values, signals, confusion, relearned = program(
      study.access,
      study.strategy,
      (*data, examined),
      (study.lane_request, study.lane_seed),
      (teachers, references, original.variables),
      variables,
    )
    found = {name: np.asarray(v, np.float64) for name, v in values.items()}
    if not study.is_sequence:
      del found["newest_forget_accuracy"]  # It is the forget accuracy.
    entropies, confidences = jax.tree.map(np.asarray, signals)
    found["membership_share"] = _membership(study, *entropies)
    # The share called non-members, by another feature and, where whole classes
    # are forgotten, against unseen rows of the others, as in SalUn's code.
    found["mia_efficacy"] = 1 - _membership(study, *confidences, kept_only=True)
    return Audit(
      found, np.asarray(confusion), jax.tree.map(np.asarray, relearned)
    )

  return audit


def add_gaps(audits: Mapping[str, Audit], retrained: str) -> None:
  """Adds the gaps to all audits: 0 is to agree with the retrained model.

  `retrained_gap` is the mean over `GAP_METRICS` of the absolute difference to
  the retrained model of the same request and seed, `salun_gap` that over
  `SALUN_METRICS`; nan where one of them is. And `anamnesis_index`, the relearn
  time over that of the retrained model; nan where that one never relearned.
  """
  standard = audits[retrained].metrics
  for audit in audits.values():
    for gap, names in (
      ("retrained_gap", GAP_METRICS),
      ("salun_gap", SALUN_METRICS),
    ):
      differences = [np.abs(audit.metrics[n] - standard[n]) for n in names]
      audit.metrics[gap] = np.mean(differences, axis=0)
    index = anamnesis_index(audit.relearned, audits[retrained].relearned)
    audit.metrics["anamnesis_index"] = np.asarray(index.value, np.float64)
  # By definition; two programs that round differently would show 1e-9.
  for name in ("activation_distance", "js_to_retrained"):
    standard[name] = np.zeros_like(standard[name])


def _audit_program(access, strategy, data, lanes, comparison, variables):
  model = access.model
  train, test, masks, added, test_masks, examined = data
  teachers, references, originals = comparison

  def one(request, seed, reference, variables):
    forget = masks[request]
    # The rows that are left of the classes of which some are to be forgotten.
    touched = jnp.zeros(access.num_classes, bool).at[train["label"]].max(forget)
    siblings = touched[train["label"]] & ~forget
    logits = ju.predict(model, variables, train["x"])
    test_logits = ju.predict(model, variables, test["x"])
    correct = lambda weights: metrics.accuracy(logits, train["label"], weights)
    test_correct = lambda weights: metrics.accuracy(
      test_logits, test["label"], weights
    )
    moved = metrics.weight_distance(variables, at(originals, seed))
    finite = all_finite((variables, logits, test_logits))
    # Forgotten rows against unseen ones of the same classes, where the request
    # is of whole classes; against all unseen ones else.
    unseen = test_masks[0, request]
    unseen = jnp.where(unseen.any(), unseen, True)
    told_apart = metrics.separation_auc(
      -model.loss(logits, train), -model.loss(test_logits, test), forget, unseen
    )
    kept = test_masks[1, request]
    values = {
      "forget_accuracy": correct(forget),
      "newest_forget_accuracy": correct(added[request]),
      "retain_accuracy": correct(~forget),
      "same_class_accuracy": correct(siblings),
      "test_accuracy": test_correct(None),
      "forget_test_accuracy": test_correct(test_masks[0, request]),
      "retain_test_accuracy": test_correct(kept),
      "unlearning_accuracy": 1 - correct(forget),
      "kept_test_accuracy": test_correct(jnp.where(kept.any(), kept, True)),
      "forget_cross_entropy": metrics.mean_cross_entropy(
        logits, train["label"], forget
      ),
      "zrf": metrics.zrf_over_teachers(
        jax.nn.softmax(logits), teachers, forget
      ),
      "activation_distance": metrics.activation_distance(
        logits, reference, forget
      ),
      "js_to_retrained": metrics.mean_js(logits, reference, forget),
      "weight_distance": moved.relative,
      "membership_auc": told_apart,
      "is_finite": finite.astype(jnp.float32),
    }
    relearned = relearning.relearned(
      model,
      access.recipe,
      train,
      test,
      at(examined, request),
      variables,
      at(originals, seed),
    )
    values["relearn_steps"] = relearned.steps
    values["relearn_reached"] = relearned.reached
    both = ((logits, train["label"]), (test_logits, test["label"]))
    signals = (
      tuple(metrics.entropy(outputs) for outputs, _ in both),
      tuple(metrics.confidence(outputs, label) for outputs, label in both),
    )
    confusion = metrics.confusion_matrix(
      test_logits, test["label"], access.num_classes
    )
    return values, signals, confusion, relearned

  return ju.map_many(one, *lanes, references, variables, strategy=strategy)


def _membership(
  study: Study, signal, test_signal, *, kept_only: bool = False
) -> np.ndarray:
  """The attack's share for each lane, by a signal of training and test rows.

  Args:
    signal: float [L, N].
    test_signal: float [L, N_test].
    kept_only: whether test rows of forgotten classes are left out.

  Returns:
    [L], nan for a model that diverged.
  """
  requests = np.asarray(study.lane_request)
  masks = np.asarray(study.masks)[requests]
  gone = np.asarray(study.test_masks[0])[requests]
  seeds = np.asarray(study.lane_seed).tolist()
  shares = np.full(study.num_lanes, np.nan)
  for lane, (forget, seed) in enumerate(zip(masks, seeds)):
    rows, test_rows = signal[lane], test_signal[lane]
    if kept_only:
      test_rows = test_rows[~gone[lane]]
    if np.isfinite(rows).all() and np.isfinite(test_rows).all():
      shares[lane] = metrics.svc_membership(
        rows[~forget], test_rows, rows[forget], max_rows=SVC_ROWS, seed=seed
      )
  return shares


def _lane_run(study: Study, one, keys, *shared) -> Trained:
  """Runs `one(train, masks, keys, request, seed, *shared)` on every lane."""
  phases: list[str] = []

  def program(train, masks, keys, lanes, shared):
    def lane(request, seed):
      variables, info = one(train, masks, keys, request, seed, *shared)
      return variables, losses_of(info, phases)

    return ju.map_many(lane, *lanes, strategy=study.strategy)

  lanes = (study.lane_request, study.lane_seed)
  args = (study.train, study.masks, keys, lanes, shared)
  return as_trained(study, common.timed(program, *args), phases)


def as_trained(
  study: Study, done: common.Timed, phases: Sequence[str]
) -> Trained:
  """What a program of variables and losses, leaves [L, ...], made."""
  variables, losses = done.value
  traces = {
    # Rounds of a repeated phase end to end.
    name: np.asarray(losses[name]).reshape(study.num_lanes, -1)
    for name in phases
  }
  seconds = done.seconds_run / study.num_lanes
  return Trained(variables, traces, done.seconds_compile, seconds)


def losses_of(info: Any, phases: list[str]) -> dict[str, jax.Array]:
  """Losses [..., T] by phase; by its path where two have one name.

  Args:
    info: what a method left.
    phases: is given the names in the order in which the phases run, since dicts
      come out of a loop sorted by name.
  """
  found = _walk(info, "loss")
  short = [path.rpartition("/")[2] for path in found]
  losses = {
    name if short.count(name) == 1 else path: loss
    for (path, loss), name in zip(found.items(), short)
  }
  phases[:] = losses
  return losses


def _walk(info: Any, path: str) -> dict[str, jax.Array]:
  if isinstance(info, ju.PhaseInfo):
    return {path: info.loss}
  found: dict[str, jax.Array] = {}
  for name, inner in info.items() if isinstance(info, Mapping) else ():
    found |= _walk(inner, f"{path}/{name}")
  return found


def at(tree: Any, index: Any) -> Any:
  """An entry of every leaf's leading axis."""
  return jax.tree.map(lambda leaf: leaf[index], tree)
