"""Exact unlearning in service: deletions one after the other, and what is left.

Question: what do accuracy, time and the days until a rebuild look like where
forgetting needs no statistics, since no model ever mixed what had to be parted?
Methods: SISA (arXiv:1912.03817) trains what a deletion touches again, S3T
(arXiv:2406.16257) turns adapters off and trains nothing until none is left.

    python -m experiments.forget --exact --preset quick --out out/exact

fits both on scikit-learn's digits, serves 50 deletions in a row with five seeds
and writes results.json, table.md, plots/, params/ and report.html. It takes about
two minutes on one CPU core. --data and --model take your own, and

    python -m experiments.forget --exact --request index:rows.txt

deletes the rows of a file.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxunlearn as ju
from jaxunlearn import exact, metrics, report
from jaxunlearn.core.keys import derive
from jaxunlearn.report import LOWER

from .. import bench, common, flags
from ..beds import classifiers
from ..bench import Case, Evidence, Measure, Method, cautions, lanes, table
from ..datasets import classes
from ..flags import described
from ..requests import about, read

SEEDS = {"smoke": 2, "quick": 5, "paper": 10}
MOMENTS = 5  # At which systems are held against retraining.
PUBLIC = 0.12  # Of the rows, for backbone and scales; never deleted.
RATE = 5e-3  # Adam's, for adapters.
_COLUMNS = ("forget_accuracy", "retain_accuracy", "test_accuracy")


@dataclasses.dataclass(frozen=True)
class Options(classifiers.Options):
  """Serve deletions one by one, exactly, until a system has to be rebuilt."""

  request: Annotated[
    str | None,
    described(
      "The rows to delete one by one, in a random order: index:FILE, class:3, "
      "random:0.1 or group:COLUMN=VALUE; by default any rows.",
      "TEXT",
    ),
  ] = None

  deletions: Annotated[int, described("How many at most.", "INT")] = 50

  shards: Annotated[int, described("Models that share the rows.", "INT")] = 3

  slices: Annotated[int, described("Slices of a shard.", "INT")] = 4

  sequences: Annotated[
    int, described("Orders of the slices that S3T learns in.", "INT")
  ] = 4

  rank: Annotated[int, described("Rank of the adapters.", "INT")] = 4

  methods: Annotated[
    str,
    described("usual (sisa, s3t_1, s3t), all, or names with commas between."),
  ] = "usual"

  checkpoint: Annotated[
    str | None,
    described(
      "Orbax checkpoint of your model, the backbone of S3T; it must not have "
      "seen rows that may be deleted. Without it a backbone is trained here on "
      f"{PUBLIC:.0%} of the rows, which are then never deleted.",
      "DIR",
    ),
  ] = None

  out: flags.Out = "out/forget_exact"


def settings_of(options: Options) -> dict[str, bench.Setting]:
  """Orders by method.

  Raises:
    ValueError: a flag that counts nothing.
  """
  for name in ("deletions", "shards", "slices", "sequences", "rank"):
    if getattr(options, name) < 1:
      raise ValueError(f"Expected --{name} > 0, got {getattr(options, name)}.")
  s3t = {"how": "cyclic", "rank": options.rank, "rate": RATE}
  budget = min(options.sequences, options.slices)
  many = {**s3t, "sequences": options.sequences}
  return {
    "sisa": {},
    "s3t_1": {**s3t, "sequences": 1},
    "s3t": many,
    "s3t_sampled": {**many, "how": "sampled"},
    "s3t_budgeted": {**many, "how": "budgeted", "sequences": budget},
  }


def requests(
  options: Options, seeds: Sequence[int], beds: bench.Beds, text: str
) -> bench.Requests:
  """The order of deletions of each seed, at `MOMENTS` of it.

  Marks are the rows in the order in which they go, the public ones, and how many
  of these were asked for.
  """
  orders, publics, stay = [], [], []
  for seed, split in zip(seeds, beds.sources):
    rng = np.random.default_rng((seed, 17))
    rows = len(split.row_id)
    asked = np.ones(rows, bool)
    if text:
      (ask,) = _one(
        read(text, classes.FORMS, ", ".join(classes.FORMS.values()))
      )
      with about(ask):
        asked = classes.mask(ask.kind, ask.value, split)[0]
    left = rng.permutation(np.flatnonzero(asked & ~split.public))
    orders.append(left[: options.deletions])
    publics.append(split.public)
    stay.append((asked & split.public).sum() if text else 0)
  count = min(map(len, orders))
  if count == 0:
    raise ValueError(
      "Expected --request to name rows that may be deleted, got none beside "
      f"{max(stay)} public ones, which stay."
    )
  if count == len(publics[0]):
    raise ValueError(f"Expected --request to leave rows, got all {count}.")
  ends = np.unique(np.linspace(0, count, MOMENTS + 1).round().astype(int))[1:]
  order = np.stack([own[:count] for own in orders])
  turn = np.full((len(seeds), len(publics[0])), count)
  np.put_along_axis(turn, order, np.arange(count)[None], axis=1)
  so_far = np.stack([turn < end for end in ends])
  added = so_far.copy()
  added[1:] &= ~so_far[:-1]
  again = lambda x: np.broadcast_to(x, (len(ends), *x.shape))
  names = [f"{end} deletion{'s' if end > 1 else ''}" for end in ends]
  marks = {
    "order": again(order),
    "public": again(np.stack(publics)),
    "stay": again(np.stack(stay)),
  }
  return bench.Requests(tuple(names), so_far, added, marks, True)


def _one(asks: Sequence[Any]) -> Sequence[Any]:
  if len(asks) > 1:
    raise ValueError(f"Expected one --request, got {len(asks)}.")
  return asks


def fit(plan: bench.Plan) -> bench.Plan:
  """Refuses sizes that these rows do not have, before anything is trained."""
  rows, options = plan.requests.forget.shape[-1], plan.options
  try:
    exact.layout(rows, options.shards, options.slices, jax.random.key(0))
  except ValueError as error:
    raise ValueError(f"--shards, --slices: {error}") from error
  for name in plan.methods:
    _orders(plan, name)
  notes = list(classifiers.setup_of(options).dataset.notes)
  stay = plan.requests.marks["stay"]
  if most := stay.max():
    notes.append(
      f"{'Up to ' if most > stay.min() else ''}{most} of the rows asked for are public, which cannot be deleted "
      "exactly: they stay."
    )
  copies, _ = cautions.find_copies(
    plan.beds.sources[0], plan.requests.forget[-1:, 0]
  )[0]
  if never := int((copies & plan.requests.marks["public"][0, 0]).sum()):
    notes.append(
      f"{never} copies of deleted rows are public rows, which cannot be deleted: "
      "systems go on learning from them."
    )
  return plan._replace(notes=tuple(notes))


def serve(
  plan: bench.Plan, name: str, traced: Any = None
) -> Mapping[str, lanes.Made]:
  """The systems at every moment, or models trained in one piece."""
  del traced
  made = _monoliths if name in bench.REFERENCES else _stream
  return {name: made(plan, name)}


def _beds(plan: bench.Plan) -> list[bench.Bed]:
  shared, own = jax.tree.map(jnp.asarray, (plan.beds.shared, plan.beds.of_seed))
  return [
    plan.beds.make(shared, lanes.at(own, s)) for s in range(len(plan.seeds))
  ]


def _answers(model: Any, state: Any, bed: bench.Bed) -> dict[str, Any]:
  return {
    "train": ju.predict(model, state, bed.data["x"]),
    "test": ju.predict(model, state, bed.test["x"]),
  }


def _monoliths(plan: bench.Plan, name: str) -> lanes.Made:
  """Models of all rows; or, one a lane, of those left."""
  of_seed, forget = plan.lanes[1], plan.forget
  everything = name == bench.ORIGINAL
  if everything:
    of_seed, forget = np.arange(len(plan.seeds)), forget[: len(plan.seeds)]
  keys = lanes.keys(plan, name)

  def program(arguments, seeds, weights, keys):
    def one(seed, weight, key):
      bed = plan.beds.make(arguments[0], lanes.at(arguments[1], seed))
      state, _ = classifiers.train(bed, weight, key)
      return {**_answers(bed.model, state, bed), "state": state}

    return ju.map_many(one, seeds, weights, keys, strategy=plan.strategy)

  arrays = jax.tree.map(jnp.asarray, (plan.beds.shared, plan.beds.of_seed))
  weights = jnp.asarray(np.ones_like(forget) if everything else ~forget)
  done = common.timed(program, arrays, jnp.asarray(of_seed), weights, keys)
  value = done.value
  if everything:
    value = lanes.at(value, plan.lanes[1])
  return lanes.Made(value, {}, *done.seconds)


def _orders(plan: bench.Plan, name: str) -> np.ndarray | None:
  setting, slices = plan.settings[name], plan.options.slices
  if "how" not in setting:
    return None
  key = derive(jax.random.key(0), "orders")
  return exact.sequences(slices, setting["sequences"], setting["how"], key=key)


def _maker(plan: bench.Plan, name: str) -> Any:
  """`backbone -> System`; places and orders are drawn here, once."""
  options, setting = plan.options, plan.settings[name]
  rows = plan.requests.forget.shape[-1]
  key = derive(jax.random.key(0), "layout")
  where = exact.layout(rows, options.shards, options.slices, key)
  recipe, model = classifiers.recipe_of(options), plan.model
  orders = _orders(plan, name)
  if orders is None:
    whole = recipe.fit._replace(num_steps=_unit(plan))
    return lambda base: exact.sisa(model, where, whole)
  steps = _stage(plan)
  stage = ju.Fit(optax.adam(setting["rate"]), steps, recipe.batch_size)
  return lambda base: exact.s3t(
    model, base, where, orders, stage, rank=setting["rank"]
  )


def _unit(plan: bench.Plan) -> int:
  """Steps of a shard of SISA: the epochs that a model of all rows has."""
  return -(
    -classifiers.recipe_of(plan.options).num_steps // plan.options.shards
  )


def _stage(plan: bench.Plan) -> int:
  """Steps of a stage of S3T; all stages of a sequence have a model's."""
  steps = classifiers.recipe_of(plan.options).num_steps
  return max(1, steps // plan.options.slices)


def _steps(plan: bench.Plan, name: str) -> tuple[int, int]:
  """Steps that a system is made with, and those of the backbone below it."""
  options, orders = plan.options, _orders(plan, name)
  if orders is None:
    return options.shards * _unit(plan), 0
  stages = options.shards * len(orders) * options.slices
  steps = classifiers.recipe_of(options).num_steps
  return stages * _stage(plan), 0 if plan.beds.given is not None else steps


def _stream(plan: bench.Plan, name: str) -> lanes.Made:
  """Deletions one by one, each timed, and a rebuild where nothing is left."""
  orders, public = (plan.requests.marks[k][0] for k in ("order", "public"))
  given, maker, beds = plan.beds.given, _maker(plan, name), _beds(plan)
  has_backbone = _orders(plan, name) is not None

  def backbone(data, public, key):
    if given is not None or not has_backbone:
      return given
    bed = beds[0]._replace(data=data)
    return classifiers.train(bed, public, derive(key, "backbone"))[0]

  # Shapes alone matter: every state brings its backbone along.
  key = jax.random.key(0)
  blank = jax.eval_shape(
    lambda: backbone(beds[0].data, jnp.asarray(public[0]), key)
  )
  system = maker(blank)
  began = time.perf_counter()
  ground = jax.jit(backbone)
  make = jax.jit(
    lambda base, data, key, kept: maker(base).fit(
      data, derive(key, "fit"), kept
    )
  )
  answer = jax.jit(
    lambda state, data, test: _answers(
      system.model, state, beds[0]._replace(data=data, test=test)
    )
  )
  everything = jnp.ones(public.shape[1], bool)
  keys = lanes.keys(plan, name)
  # Its rows never go, so that a rebuild keeps it.
  bases = [
    ground(bed.data, jnp.asarray(public[s]), keys[s])
    for s, bed in enumerate(beds)
  ]
  states = [
    make(bases[s], bed.data, keys[s], everything) for s, bed in enumerate(beds)
  ]
  row = lambda number: jnp.arange(public.shape[1]) == number
  jax.block_until_ready(
    system.delete.compiled(states[0], beds[0].data, row(0), key)
  )
  compiled = time.perf_counter() - began
  found, traces = [], []
  rebuild = _steps(plan, name)[0] / _unit(plan)
  for s, state in enumerate(states):
    bed, own = beds[s], []
    answered = answer(state, bed.data, bed.test)
    start, built = answered, (keys[s], everything)
    moments = plan.requests.added[:, s].sum(axis=-1).cumsum()
    for number, which in enumerate(orders[s], start=1):
      began = time.perf_counter()
      state, cost = system.delete.compiled(state, bed.data, row(which), key)
      jax.block_until_ready(state)
      seconds, share = time.perf_counter() - began, float(cost.share)
      left = float(system.left(state))
      rebuilt = left == 0
      if rebuilt:
        present = state.model_state["present"]
        again = jax.random.fold_in(derive(keys[s], "rebuild"), number)
        built = (again, present)
        state = make(bases[s], bed.data, *built)
        share += rebuild
        left = float(system.left(state))
      answered = answer(state, bed.data, bed.test)
      right = _accuracy(answered["test"], bed.test["label"])
      own.append((right, left, seconds, share, rebuilt))
      if number in moments:
        found.append({**answered, "state": state})
    curve = np.array(own).T
    begun = _accuracy(start["test"], bed.test["label"])
    other, gone = _disturbed(bed, orders[s])
    base = ground(other, jnp.asarray(public[s]), keys[s])
    twin = make(base, other, *built)
    twin, _ = system.delete.compiled(twin, other, gone, key)
    pairs = zip(
      jax.tree.leaves(answer(twin, bed.data, bed.test)),
      jax.tree.leaves(answered),
    )
    same = all(np.array_equal(a, b) for a, b in pairs)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state.params))
    traces.append((curve, begun, bool(same), size))
  seeds = len(beds)
  # By request and then by seed.
  moments = len(plan.requests.names)
  order = np.arange(seeds * moments).reshape(seeds, moments).T.ravel()
  value = jax.tree.map(
    lambda *leaves: jnp.stack([leaves[i] for i in order]), *found
  )
  curves = np.stack([t[0] for t in traces])[plan.lanes[1]]
  names = ("accuracy", "left", "seconds", "cost", "rebuilt")
  losses = {n: curves[:, i] for i, n in enumerate(names)}
  for i, n in enumerate(("begun", "same", "size"), start=1):
    column = np.array([float(t[i]) for t in traces])
    losses[n] = column[plan.lanes[1]][:, None]
  run = float(curves[:seeds, 2].sum()) * moments
  return lanes.Made(value, losses, compiled, run)


def _disturbed(bed: bench.Bed, order: np.ndarray) -> tuple[Any, jax.Array]:
  """The data with other labels and nan in the rows that go, and these rows.

  A system of them has to answer, to the bit, as the one that was served does.
  """
  data = bed.data
  gone = jnp.isin(jnp.arange(len(data["label"])), jnp.asarray(order))
  value = jnp.nan if jnp.issubdtype(data["x"].dtype, jnp.floating) else 0
  at = gone.reshape(-1, *[1] * (data["x"].ndim - 1))
  label = (data["label"] + 1) % bed.extra.num_classes
  other = {
    "x": jnp.where(at, value, data["x"]),
    "label": jnp.where(gone, label, data["label"]),
  }
  return {**data, **other}, gone


def _accuracy(logits: Any, label: Any) -> float:
  return float((jnp.argmax(logits, -1) == label).mean())


METRICS = (
  report.Metric(
    "start_steps",
    "Steps at the start",
    "Steps of training before the first deletion, of all models of a system and "
    "of the backbone that is trained here.",
    "",
    0,
    LOWER,
    headline=True,
  ),
  report.Metric(
    "start_accuracy",
    "Test accuracy before",
    "Test accuracy before the first deletion.",
    "%",
    1,
  ),
  report.Metric(
    "deletion_cost",
    "Training per deletion",
    "Steps of training that a deletion took on average so far, in trainings of a "
    "shard by SISA; for a random row that needs (2R + 1) / 3R of R slices. S3T "
    "needs none until a rebuild, which counts with the steps of every stage of "
    "every sequence of every shard; the backbone is kept. A step counts as one, "
    "whether it moves adapters or all weights.",
    "trainings",
    3,
    LOWER,
    headline=True,
  ),
  report.Metric(
    "seconds_deletion",
    "Time per deletion",
    "Mean time of a deletion so far, compilation and rebuilds apart.",
    "s",
    4,
    LOWER,
    headline=True,
  ),
  report.Metric(
    "deletions_left",
    "Deletions left",
    "Deletions of a random row that the system can serve on average until it has "
    "to be rebuilt; SISA never has to.",
    "",
    1,
    report.HIGHER,
    headline=True,
  ),
  report.Metric(
    "rebuilds", "Rebuilds", "Trainings of everything so far.", "", 1, LOWER
  ),
  report.Metric(
    "system_kilobytes",
    "Kept",
    "Checkpoints and adapters; the backbone is not counted.",
    "kB",
    0,
    LOWER,
  ),
)


def measures(plan: bench.Plan) -> list[Measure]:
  """Accuracies, and what the service took."""

  def run(case: Case) -> dict[str, Any]:
    bed, forget = case.bed, case.forget
    logits, outputs = case.variables["train"], case.variables["test"]
    right = lambda rows: metrics.accuracy(logits, bed.data["label"], rows)
    return {
      "forget_accuracy": right(forget),
      "retain_accuracy": right(~forget),
      "test_accuracy": metrics.accuracy(outputs, bed.test["label"]),
    }

  def after(evidence: Evidence, method: str) -> dict[str, Any]:
    traces, lane = evidence.found[method].traces, range(len(plan.lanes[0]))
    if not traces:
      steps = float(classifiers.recipe_of(plan.options).num_steps)
      missing = {m.name: np.full(len(lane), np.nan) for m in METRICS}
      return {**missing, "start_steps": np.full(len(lane), steps)}
    ends = plan.requests.forget.sum(axis=-1).ravel()
    so_far = lambda name, how: np.array(
      [how(traces[name][i][:end]) for i, end in zip(lane, ends)]
    )
    left = so_far("left", lambda x: x[-1])
    return {
      "start_steps": np.full(len(lane), float(sum(_steps(plan, method)))),
      "start_accuracy": traces["begun"][:, 0],
      "deletion_cost": so_far("cost", np.mean),
      "seconds_deletion": so_far("seconds", np.mean),
      "deletions_left": np.where(np.isinf(left), np.nan, left),
      "rebuilds": so_far("rebuilt", np.sum),
      "system_kilobytes": traces["size"][:, 0] / 1000,
    }

  shown = (*map(table.shared, _COLUMNS), *METRICS)
  return [
    Measure(shown, run, after=after),
    table.gap(
      _COLUMNS,
      "Mean absolute difference to the model trained anew in one piece, over the "
      "accuracies. It is no measure of forgetting here: the systems are other "
      "models than that one, and the findings say whether they are exact.",
    ),
  ]


def curves(evidence: Evidence) -> dict[str, tuple[Any, str]]:
  """Accuracy and deletions left, deletion by deletion."""
  seeds = len(evidence.plan.seeds)
  of = {
    name: found.traces for name, found in evidence.found.items() if found.traces
  }
  panels = {
    "Test accuracy (%)": {n: 100 * t["accuracy"][:seeds] for n, t in of.items()}
  }
  finite = {
    n: t["left"][:seeds] for n, t in of.items() if np.isfinite(t["left"]).all()
  }
  if finite:
    panels["Deletions left"] = finite
  if not of:
    return {}
  at = np.arange(1, evidence.plan.requests.marks["order"].shape[-1] + 1)
  return {
    "service": (
      report.curve_panels(at, panels, x_label="deletions served"),
      "Deletion by deletion; lines are means over seeds, bands go from the lowest "
      "to the highest. Right, how many more the system can serve on average "
      "before it has to be rebuilt; a jump up is a rebuild.",
    )
  }


def findings(evidence: Evidence) -> list[str]:
  """What was promised, and what came of it."""
  plan, said = evidence.plan, list(evidence.plan.notes)
  options = plan.options
  for name in plan.methods:
    traces = evidence.found[name].traces
    seeds = len(plan.seeds)
    orders = _orders(plan, name)
    checked = traces["same"][:seeds, 0]
    said.append(
      f"What {name} holds after its deletions is what a system would hold that "
      "never saw these rows: one whose deleted rows held nan and other labels "
      "answers alike to the bit, with every seed. No attack and no test is "
      "needed to say so."
      if checked.all()
      else f"{name} is NOT EXACT HERE: a system whose deleted rows held nan and "
      f"other labels answers alike with {int(checked.sum())} of {seeds} seeds "
      "only."
    )
    right, best = (
      evidence.found[m].values["test_accuracy"][-seeds:].mean()
      for m in (name, bench.RETRAINED)
    )
    begun, below = _steps(plan, name)
    one = classifiers.recipe_of(options).num_steps
    said.append(
      f"After the last deletion {name} tests {100 * right:.1f} % right, a model "
      f"trained anew in one piece {100 * best:.1f} %. "
      f"{name} began with {begun + below} steps of training"
      f"{f', {below} of them of the backbone' if below else ''}, one model has "
      f"{one}."
    )
    if traces["rebuilt"].any():
      said.append(
        f"{name} was rebuilt {traces['rebuilt'][:seeds].sum():.0f} "
        f"times in {seeds} streams."
      )
    if orders is None:
      cost = traces["cost"][:seeds].mean()
      wanted = exact.expected_cost(options.slices)
      said.append(
        f"A deletion took {name} {cost:.3f} trainings of a shard on average; "
        f"for random rows {wanted:.3f} are expected."
      )
    else:
      whole = exact.expected_deletions(
        options.shards, options.slices, len(orders)
      )
      said.append(
        f"From the start {name} serves {whole:.1f} deletions of random rows on "
        "average, if its orders are rotations."
      )
  return said


def _none(bed: bench.Bed, setting: bench.Setting):
  del bed, setting
  raise AssertionError("The study serves its methods itself, see `serve`.")


STUDY = bench.Study(
  name="forget_exact",
  options=Options,
  beds=lambda options, seeds, part, asks: classifiers.beds(
    options, seeds, part, _named(options), public=_public(options)
  ),
  requests=requests,
  request=lambda options: options.request or "",
  serve=serve,
  saved=lambda value: value["state"],
  methods={
    "sisa": Method(_none, access="rows left of the touched shards"),
    **{
      name: Method(_none, access="none to delete")
      for name in ("s3t_1", "s3t", "s3t_sampled", "s3t_budgeted")
    },
  },
  groups={"usual": ("sisa", "s3t_1", "s3t")},
  settings=settings_of,
  fit=fit,
  measures=measures,
  unanswered=(
    "It is by construction: what is served was never trained on the rows, which "
    "the findings check to the bit. No test could say more."
  ),
  seeds=lambda options: SEEDS[options.preset],
  title=lambda plan: f"Exact deletions from {plan.options.data}",
  lead=lambda plan: (
    f"Systems of {plan.options.shards} shards of {plan.options.slices} slices "
    f"each ({plan.options.model}) were fitted to "
    f"{plan.requests.forget.shape[-1]} rows of {plan.options.data} and served "
    f"{plan.requests.marks['order'].shape[-1]} deletions one after the other, "
    f"with {len(plan.seeds)} seeds. What is left after each should be, to the "
    "bit, what a system would hold that never saw the row's values; the findings "
    "say whether it was, by a system whose deleted rows held others. What it costs "
    "is accuracy against a model trained in one piece, the rows original and "
    "retrained, and steps of training: budgets are not equal, and the steps at "
    "the start are a column of the tables."
  ),
  notes=lambda plan: (
    "The place of a row among those that train, the orders of slices, the public "
    "rows and all random keys are drawn before any deletion is known and depend "
    "on no row's values. Rows that an index request names are trained on.",
    "Which columns, words and classes the data have counts as public, even where "
    "a deleted row alone had one; numbers are standardised by public rows alone.",
    "The backbone of S3T is that of --checkpoint; that it saw no row that may be "
    "deleted cannot be checked here."
    if plan.beds.given is not None
    else f"The backbone of S3T is trained on {PUBLIC:.0%} of the rows, the public "
    "ones, which are never deleted, and kept when the rest is rebuilt; all "
    "systems train on them as well.",
    "s3t_1 has one order of slices, s3t as many rotations as --sequences says, "
    "s3t_sampled random orders and s3t_budgeted orders grown by matching.",
  ),
  panels=(curves,),
  findings=findings,
)


def _public(options: Options) -> float:
  """The share of rows that never go: none where nothing is learned of them."""
  if options.checkpoint is None:
    return PUBLIC
  pool = classifiers.setup_of(options).dataset.pool
  return PUBLIC if pool is not None and pool.scaled else 0.0


def _named(options: Options) -> Sequence[Any]:
  """What has to be trained on, since it is named row by row."""
  if not options.request:
    return ()
  return _one(
    read(options.request, classes.FORMS, ", ".join(classes.FORMS.values()))
  )
