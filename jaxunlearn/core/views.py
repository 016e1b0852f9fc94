"""A part of a model's params in the place of all of them: adapters, windows.

A view splits variables into a part, which becomes the params, and the rest, which
is `frozen`: what a method then differentiates, averages over devices, masks and
keeps an optimiser's state of is the part alone. The rest is the same array in
every lane of a `vmap`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax

from jaxunlearn.core import checks, keys
from jaxunlearn.core.combinators import largest_draw
from jaxunlearn.core.reduction import mask_change
from jaxunlearn.core.tasks import Model, Task
from jaxunlearn.core.transform import Carry, Transform
from jaxunlearn.core.types import Draw, PyTree, Request, Variables

T = TypeVar("T")


class View(NamedTuple):
  """How params are split and put together again.

  Attributes:
    split: `(variables, data, request, key) -> (part, rest)`, pytrees of arrays.
      Joined they are the params, up to rounding.
    join: `(part, rest) -> params`.
    needs: the data that `split` reads.
  """

  split: Callable[
    [Variables, PyTree, Request | None, jax.Array], tuple[PyTree, PyTree]
  ]
  join: Callable[[PyTree, PyTree], PyTree]
  needs: Draw = Draw()

  def apart(
    self,
    variables: Variables,
    key: jax.Array,
    data: PyTree = None,
    request: Request | None = None,
  ) -> Variables:
    """The part as params, and the rest with what was frozen before as frozen.

    Args:
      variables: the whole model's.
      key: PRNG key, of a part that begins at random.
      data: pytree of arrays [N, ...], for a view that reads it.
      request: a `Request` over it, likewise.
    """
    part, rest = self.split(variables, data, request, key)
    frozen = {"rest": rest, "frozen": variables.frozen}
    return Variables(part, variables.model_state, frozen)

  def whole(self, variables: Variables) -> Variables:
    """The model's variables again, merged."""
    rest, frozen = variables.frozen["rest"], variables.frozen["frozen"]
    params = self.join(variables.params, rest)
    return Variables(params, variables.model_state, frozen)

  def of(self, model: T) -> T:
    """The model as a function of variables that are `apart`.

    Args:
      model: a `Model`, a `Task`, or a NamedTuple of such and of functions whose
        first argument is the variables; what is neither stays.

    Raises:
      ValueError: it is no NamedTuple.
    """
    if not hasattr(model, "_replace"):
      raise ValueError(
        f"Expected a model to be a NamedTuple, got {type(model).__name__}."
      )
    made: Any = model
    functions = {name: getattr(made, name) for name in made._fields}
    fields: dict[str, Any] = {}
    if isinstance(model, Model | Task):
      fields["init"] = self._init(functions["init"])
      # The loss of a `Model` is of outputs, and links read no variables alone.
      others = {"init", "prepare"} | (
        {"loss"} if isinstance(model, Model) else set()
      )
      functions = {n: f for n, f in functions.items() if n not in others}
    for name, value in functions.items():
      if isinstance(value, Model | Task):
        fields[name] = self.of(value)
      elif callable(value):
        fields[name] = self._seen(value)
    return made._replace(**fields)

  def _seen(self, fn: Callable[..., Any]) -> Callable[..., Any]:
    def seen(variables: Variables, *args: Any, **kwargs: Any) -> Any:
      return fn(self.whole(variables), *args, **kwargs)

    return seen

  def _init(self, init: Callable[..., Variables]) -> Callable[..., Variables]:
    def fresh(key: jax.Array, inputs: PyTree) -> Variables:
      made = init(keys.derive(key, "whole"), inputs)
      return self.apart(made, keys.derive(key, "part"))

    return fresh


def through(
  view: View, make: Callable[[Any], Transform], model: Any
) -> Transform:
  """A method that changes the part of a view only.

      through(lora(rank=8), lambda lm: ju.language.npo(lm, fit), lm)

  Args:
    view: what is changed, and how it is split off.
    make: `model -> Transform`, the method, called on the model of the part.
    model: see `View.of`.

  Returns:
    A `Transform` of the whole model's variables; the rest keeps its bits,
    unless `join` changes them. The method's reference is the model as split. A
    mask around it is put on the merged change; one of the part goes inside.

  Example:
    >>> import jax, optax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import toy
    >>> problem = toy.classifier()
    >>> output_alone = ju.View(
    ...   split=lambda v, *_: (v.params["output"], v.params["hidden"]),
    ...   join=lambda part, rest: {"output": part, "hidden": rest})
    >>> ascent = lambda m: ju.methods.gradient_ascent(
    ...   m, ju.Fit(optax.sgd(0.1), 5, 16))
    >>> method = ju.through(output_alone, ascent, problem.model)
    >>> made, _ = jax.jit(method)(*problem.arguments)
    >>> change = jax.tree.map(
    ...   lambda a, b: float(abs(a - b).max()), made, problem.variables)
    >>> change.params["hidden"], change.params["output"]["kernel"] > 0.01
    ({'bias': 0.0, 'kernel': 0.0}, True)
  """
  checks.functions(make=make)
  inner = make(view.of(model))
  checks.transforms((inner,))

  def run(carry, data, request, key, env):
    split = lambda variables: view.apart(
      variables, keys.derive(key, "part"), data, request
    )
    now = split(carry.variables)
    is_first = carry.variables is carry.original
    original = now if is_first else split(carry.original)
    # Masks are of the whole model's params; a part has other leaves.
    end, info = inner.run(
      Carry(now, original, carry.slots),
      data,
      request,
      keys.derive(key, "method"),
      env._replace(weight_masks=()),
    )
    made = view.whole(end.variables._replace(frozen=now.frozen))
    params = made.params
    for weight_mask in env.weight_masks:
      params = mask_change(carry.variables.params, params, weight_mask)
    made = made._replace(params=params)
    return Carry(made, carry.original, end.slots), info

  def expand(key):
    raise ValueError(
      "Expected a host loop over the part's own variables: split them with "
      "view.apart, stream the method of view.of(model), join with view.whole."
    )

  return Transform(
    inner.name,
    run,
    inner.num_steps,
    largest_draw((inner.needs, view.needs)),
    expand,
  )
