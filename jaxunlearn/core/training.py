"""Training under a mask, one model or many: the primitive of the library.

Retraining, shadow models, leave-one-out, Shapley utilities and shards are all
the same function of a mask, mapped over a stack of masks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import checks, devices, given
from jaxunlearn.core.combinators import chain
from jaxunlearn.core.phase import phase, supervised
from jaxunlearn.core.sharding import placed
from jaxunlearn.core.tasks import Fit, FitFields, Task, as_fit, as_task
from jaxunlearn.core.transform import Carry, PhaseInfo, Transform
from jaxunlearn.core.types import Draw, Info, PyTree, Request, Variables

# Variables to begin from, or a function of the key that makes them.
Start = Variables | Callable[[jax.Array], Variables]


def train(
  task: Task | Any,
  data: PyTree,
  weights: jax.Array,
  key: jax.Array,
  fit: Fit | None = None,
  *,
  start: Start | None = None,
  train_mode: bool = True,
  axis_name: str | None = None,
  sharded_rows: bool = False,
  **fields: Unpack[FitFields],
) -> tuple[Variables, PhaseInfo]:
  """Trains a model on the rows that a mask selects.

      variables, info = train(model, data, mask, key, Fit(optax.adam(1e-3), 300))

  Args:
    task: what to train: a `Task`, or a model of any room.
    data: pytree of arrays [N, ...]; of a `Model` with the inputs under "x".
    weights: bool [N], True = train on the row; or float weights in [0, 1].
    key: decides the initial params and the order of rows. The same key and an
      all-True mask give the same bits whatever the request was.
    fit: the recipe. Its number of steps is the same for every mask, so a model
      of fewer rows sees each of them more often.
    start: what to begin from, so that "retrained" can mean fine-tuned again
      from the same pretrained weights; fresh params by default.
    train_mode: static; dropout active and BatchNorm's statistics moving.
    axis_name: devices that share the batch; see `Transform`.
    sharded_rows: see `Env`.
    **fields: the fields of `Fit` by keyword, instead of one or to change it.

  Returns:
    The trained variables and the `PhaseInfo` of the run.

  Raises:
    ValueError: weights of a wrong shape, dtype or value, or of no row; a count
      that is not positive; labels that the model has no output for.

  Example:
    >>> import jax, jax.numpy as jnp, optax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import toy
    >>> problem = toy.classifier()
    >>> recipe = ju.Fit(optax.adam(0.05), num_steps=40, batch_size=16)
    >>> retrained, info = ju.train(
    ...   problem.model, problem.data, ~problem.request, problem.key, recipe)
    >>> info.loss.shape, toy.accuracies(problem, retrained)
    ((40,), (0.0, 1.0))
  """
  task, fit = as_task(task), as_fit(fit, fields)
  checks.typed_key(key)
  checks.request(data, weights, name="weights")
  checks.weights(weights)
  given.numbers(data)
  init_key, fit_key = jax.random.split(key)
  if isinstance(start, Variables):
    variables = start
  else:
    checks.functions(start=task.init if start is None else start)
    variables = task.init(init_key, data) if start is None else start(init_key)
  check_labels(task, variables, data, weights)
  given.rows(data)  # Of labels there was more to say.
  data = jax.tree.map(jnp.asarray, data)
  weights = jnp.asarray(weights)
  left_out = ~weights if weights.dtype == jnp.bool_ else 1 - weights
  variables, info = fitting(task, fit, train_mode=train_mode)(
    variables,
    data,
    Request(left_out, weights),
    fit_key,
    axis_name=axis_name,
    sharded_rows=sharded_rows,
  )
  return variables, info if isinstance(info, PhaseInfo) else info["fit"]


def fitting(
  task: Task | Any,
  fit: Fit,
  *,
  train_mode: bool = True,
  select: Callable[..., jax.Array] | None = None,
  name: str = "fit",
) -> Transform:
  """Fits the task's loss on the retain rows (see `Draw`).

  Raises:
    ValueError: from the call, (concrete) no row to retain.
  """
  task = as_task(task)
  fitted = phase(
    supervised(task, train=train_mode),
    fit,
    draw=Draw(retain=fit.batch_size, select=select),
    name=name,
  )
  if select is not None:
    return prepared(task, fitted)

  def run(carry: Carry, data: PyTree, request: Request, *rest: Any) -> Any:
    # Of no row there is no gradient, and a model that was not trained looks fine.
    checks.weights(request.retain, "request.retain")
    return fitted.run(carry, data, request, *rest)

  return prepared(task, dataclasses.replace(fitted, run=run))


def prepared(task: Task, link: Transform, *, after: bool = False) -> Transform:
  """The link, and what the task has to do to a model under a request.

  Args:
    task: what is fitted.
    link: how.
    after: the task comes last, for an edit that looks at the model as it was.
  """
  if task.prepare is None:
    return link
  links = (link, task.prepare) if after else (task.prepare, link)
  return chain(*links, name=link.name)


def init_variables(
  task: Task | Any, data: PyTree, key: jax.Array, like: Variables | None = None
) -> Variables:
  """Fresh variables, of the dtypes of `like`; of the data only shapes are used.

  What is frozen in `like` stays as it is; state that its model has grown since
  it was made (deletion operators) is not in the fresh one.
  """
  fresh = placed(as_task(task).init(key, data))
  if like is None:
    return fresh
  cast = lambda new, old: new.astype(old.dtype)
  params, state = jax.tree.map(cast, fresh.params, like.params), fresh[1]
  made: Any = jax.tree.structure(state)
  if made == jax.tree.structure(like.model_state):
    state = jax.tree.map(cast, state, like.model_state)
  return Variables(params, state, like.frozen)


def check_labels(
  task: Task, variables: Variables, data: PyTree, seen: jax.Array
) -> None:
  """Integer labels of a classifier are [N] and have an output each.

  Other labels are targets of a regression, which are left alone, as are tasks
  that predict nothing or have no "label".

  Args:
    task: whose outputs are counted.
    variables: its variables; shapes suffice.
    data: the rows [N, ...], not yet narrowed to 32 bits.
    seen: [N], positive for the rows whose labels matter.

  Raises:
    ValueError: they are not.
  """
  if task.predict is None or not isinstance(data, dict) or "x" not in data:
    return
  label = data.get("label")
  if label is None or not jnp.issubdtype(jnp.result_type(label), jnp.integer):
    return
  row = jax.tree.map(lambda x: jnp.asarray(x[:1]), data["x"])
  outputs = jax.eval_shape(task.predict, variables, row)
  if getattr(outputs, "ndim", 0) != 2 or outputs.shape[-1] < 2:
    return
  checks.labels(label, None, "data['label']", length=checks.num_rows(data))
  if checks.is_concrete(label) and checks.is_concrete(seen):
    rows = np.asarray(label)[np.asarray(seen) > 0]
    checks.labels(rows, outputs.shape[-1], "data['label']")


def map_many(
  fn: Callable[..., Any],
  *stacked: PyTree,
  strategy: str | int = "vmap",
  mesh: jax.sharding.Mesh | None = None,
  batch_axis: str | None = None,
) -> Any:
  """Maps a pure function over the leading axis of its arguments.

  Args:
    fn: what to map, of one slice of each argument (a lane).
    *stacked: pytrees, leaves [M, ...].
    strategy: "vmap", all M at once; "map", one after the other; an int k, in
      chunks of k, which bounds memory (`lanes_for_budget` finds k). The results
      are the same. On a mesh it says how each device takes its own lanes.
    mesh: devices to spread the M over, along all axes but `batch_axis`; M must
      be a multiple of their number. Lanes do not talk to each other. Whatever
      `fn` closes over is copied to every device.
    batch_axis: None, or the axis of the mesh whose devices share each lane; `fn`
      has to know it (`axis_name=batch_axis` in `train` or a transform) and to
      return the same on all of them.

  Returns:
    What `fn` returns, leaves [M, ...].

  Raises:
    ValueError: an unknown strategy or axis, a batch axis without a mesh, or an
      M that the devices do not divide.

  Example:
    >>> map_many(lambda x: x + 1, jnp.arange(3), strategy=2).tolist()
    [1, 2, 3]
  """
  checks.functions(fn=fn)
  many = checks.num_rows(stacked, name="stacked arguments")

  def mapped(*args: PyTree) -> Any:
    if strategy == "vmap":
      return jax.vmap(fn)(*args)
    size = None if strategy == "map" else int(strategy)
    return jax.lax.map(lambda a: fn(*a), args, batch_size=size)

  if isinstance(strategy, int) and not isinstance(strategy, bool):
    checks.positive(strategy=strategy)
  else:
    checks.one_of(("vmap", "map"), strategy=strategy)
  return devices.spread(mapped, many, mesh, batch_axis)(*stacked)


def train_many(
  task: Task | Any,
  data: PyTree,
  weights: jax.Array,
  keys: jax.Array,
  fit: Fit | None = None,
  *,
  strategy: str | int = "vmap",
  mesh: jax.sharding.Mesh | None = None,
  batch_axis: str | None = None,
  **options: Any,
) -> tuple[Variables, PhaseInfo]:
  """Trains a model for every mask of a stack, in one program.

  With a mesh of two axes the models are spread over one and each model's
  batches over the other, where the devices average their gradients at every
  step; nothing else is exchanged but a batch's number of rows, the loss and the
  float entries of the model state. The models are those of one device, up to
  rounding; only BatchNorm in training mode differs, as each device normalises
  its share of a batch by itself.

      mesh = make_mesh(models=4, batch=2)
      train_many(model, data, masks, keys, mesh=mesh, batch_axis="batch", ...)

  Args:
    task: what to train.
    data: pytree of arrays [N, ...], shared by all; every device holds it.
    weights: bool or float [M, N], a mask per model.
    keys: PRNG keys [M]; equal keys give models that differ by their mask only.
    fit: the recipe, see `train`.
    strategy: see `map_many`.
    mesh: see `map_many`.
    batch_axis: see `map_many`; its devices have to divide `batch_size`.
    **options: the other keyword arguments of `train`.

  Returns:
    Variables and infos with a leading axis [M].

  Raises:
    ValueError: as `map_many` and `train`; a batch that the devices of
      `batch_axis` do not divide.

  Example:
    >>> import jax, jax.numpy as jnp, optax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import toy
    >>> problem = toy.classifier()
    >>> forget = ju.requests.each_class(problem.data["label"], 4)
    >>> same_key = jnp.stack([problem.key] * 4)
    >>> models, _ = jax.jit(lambda masks: ju.train_many(
    ...   problem.model, problem.data, masks, same_key,
    ...   ju.Fit(optax.adam(0.05), num_steps=5, batch_size=16)))(~forget)
    >>> models.params["output"]["bias"].shape  # A model a class left out.
    (4, 4)
  """
  if batch_axis is not None:
    options["axis_name"] = batch_axis
  # Each model's own weights are traced; together they can be looked at.
  task = as_task(task)
  if checks.is_concrete(weights) and np.ndim(weights) == 2:
    each = np.asarray(weights)
    checks.request(data, each[0], "each of weights")
    if not ((each >= 0) & (each <= 1)).all():  # Also catches nan.
      raise ValueError("Expected weights in [0, 1], got values outside.")
    given.numbers(data)
    like = jax.eval_shape(task.init, jax.random.key(0), data)
    check_labels(task, like, data, np.asarray(weights).max(axis=0, initial=0))
  return map_many(
    lambda mask, key: train(task, data, mask, key, fit, **options),
    weights,
    keys,
    strategy=strategy,
    mesh=mesh,
    batch_axis=batch_axis,
  )


def unlearn_many(
  transform: Transform,
  variables: Variables,
  data: PyTree,
  requests: Request | jax.Array,
  keys: jax.Array,
  *,
  is_stacked: bool = False,
  strategy: str | int = "vmap",
  mesh: jax.sharding.Mesh | None = None,
  batch_axis: str | None = None,
) -> tuple[Variables, Info]:
  """Serves a stack of requests in one program: a transform mapped over masks.

  With `fitting` for a transform and stacked variables it goes on training many
  models. To let the results take the place of the originals in memory, donate
  them: `jax.jit(..., donate_argnums=...)`.

  Args:
    transform: the method.
    variables: the original model, for all requests; or with `is_stacked` a
      model a request, leaves [M, ...].
    data: pytree of arrays [N, ...], shared by all; None where none is read.
    requests: bool or float [M, N], a mask per request; or a `Request` with
      leaves [M, ...].
    keys: PRNG keys [M].
    is_stacked: static; whether the variables have a leading axis [M].
    strategy: see `map_many`.
    mesh: see `map_many`.
    batch_axis: see `map_many`; its devices have to divide what a step draws.

  Returns:
    Unlearned variables and infos with a leading axis [M].

  Raises:
    ValueError: as `map_many` and the transform.

  Example:
    >>> import jax, optax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import toy
    >>> model, variables, data, _, key = toy.classifier()
    >>> finetune = ju.methods.finetune(model, ju.Fit(optax.sgd(0.1), 3, 16))
    >>> requests = ju.requests.each_class(data["label"], 4)
    >>> made, info = ju.unlearn_many(
    ...   finetune, variables, data, requests, jax.random.split(key, 4))
    >>> made.params["output"]["bias"].shape, info.loss.shape
    ((4, 4), (4, 3))
  """

  checks.functions(transform=transform)

  def one(request: Any, key: jax.Array, *own: Variables) -> Any:
    original = own[0] if own else variables
    return transform(original, data, request, key, axis_name=batch_axis)

  originals = (variables,) if is_stacked else ()
  return map_many(
    one,
    requests,
    keys,
    *originals,
    strategy=strategy,
    mesh=mesh,
    batch_axis=batch_axis,
  )


def lanes_for_budget(
  fn: Callable[..., Any],
  *stacked: PyTree,
  budget_bytes: int,
  mesh: jax.sharding.Mesh | None = None,
  batch_axis: str | None = None,
) -> int:
  """The chunk with which `map_many` fills a budget of memory and stays in it.

  The program is compiled for chunks of one and of two lanes, a line drawn
  through what they take, and the chunk that it gives compiled and made smaller
  until it fits; nothing is run.

      k = lanes_for_budget(retrain, masks, keys, budget_bytes=8 * 2**30)
      map_many(retrain, masks, keys, strategy=k)

  Args:
    fn: see `map_many`.
    *stacked: see `map_many`; `jax.ShapeDtypeStruct`s will do.
    budget_bytes: for the program's temporaries and the results of all M lanes,
      on each device; its arguments are not counted.
    mesh: see `map_many`.
    batch_axis: see `map_many`.

  Returns:
    A chunk size, at most the number of lanes on a device.

  Raises:
    ValueError: a budget that one lane at a time exceeds; as `map_many`.

  Example:
    >>> import jax.numpy as jnp
    >>> import jaxunlearn as ju
    >>> square = lambda x: x @ x  # Of 100 x 100 float32, 40,000 bytes each.
    >>> matrices = jnp.ones((32, 100, 100))
    >>> k = ju.core.lanes_for_budget(
    ...   square, matrices, budget_bytes=8_000_000)
    >>> ju.map_many(square, matrices, strategy=k).shape
    (32, 100, 100)
  """
  many = checks.num_rows(stacked, name="stacked arguments")
  lanes = many
  if mesh is not None:
    shared = 1 if batch_axis is None else mesh.shape.get(batch_axis, 1)
    lanes = max(many * shared // mesh.size, 1)

  def measure(chunk: int) -> int:
    run = lambda *args: map_many(
      fn, *args, strategy=chunk, mesh=mesh, batch_axis=batch_axis
    )
    return devices.program_bytes(run, *stacked)

  return devices.largest_within(measure, lanes, budget_bytes, "lanes")
