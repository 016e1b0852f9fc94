"""Concepts as requests: prompts that say what is to be forgotten.

    request = requests.concept(model, prompts, anchors=instead, retain=others)
    edited, info = ju.unlearn(diffusion.uce(model), variables, None, request, key)

Shapes are fixed and values are not, so one compiled program serves every concept
of as many prompts, and concepts stacked along a leading axis are a batch of
requests for `unlearn_many`. For a method that reads rows too, say which:
`request._replace(forget=mask, retain=~mask)`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import checks
from jaxunlearn.core.combinators import largest_draw
from jaxunlearn.core.links import provide
from jaxunlearn.core.shaped import shaped
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import PyTree, Request, Slot
from jaxunlearn.diffusion.types import Diffusion, check_tokens


class Concept(NamedTuple):
  """What is to be forgotten, in prompts.

  Attributes:
    prompts: int [M, L], what names the concept; none is the empty prompt.
    anchors: None, or int [M, L], what each prompt shall mean instead.
    retain: None, or int [R, L], prompts that are to stay.
    marks: None, or bool [M, L], which tokens of the prompts are the concept's
      words: `word_positions`.
  """

  prompts: Any = None
  anchors: Any = None
  retain: Any = None
  marks: Any = None


NAMES = Concept(*Concept._fields)


def concept(
  diffusion: Diffusion,
  prompts: jax.Array,
  anchors: jax.Array | None = None,
  retain: jax.Array | None = None,
  marks: jax.Array | None = None,
) -> Request:
  """The request to forget a concept; arguments are the fields of `Concept`.

  Args:
    diffusion: the model whose prompts they are.
    prompts: int [M, L].
    anchors: None, or int [M, L]; which methods want them, these say.
    retain: None, or int [R, L].
    marks: None, or bool [M, L].

  Returns:
    A `Request` without rows.

  Raises:
    ValueError: no prompts, the empty one among them, tokens that do not fit the
      model, other than M anchors, marks of another shape or of nothing.

  Example:
    >>> from jaxunlearn import diffusion, toy
    >>> model = toy.diffusion().model
    >>> request = diffusion.requests.concept(
    ...   model, [[1, 2, 0, 0, 0]], anchors=[[1, 4, 0, 0, 0]]
    ... )
    >>> request.concept.anchors.tolist(), request.forget
    ([[1, 4, 0, 0, 0]], None)
  """
  return Request(
    concept=checked(diffusion, Concept(prompts, anchors, retain, marks))
  )


def checked(
  diffusion: Diffusion, given: Concept, names: Concept = NAMES
) -> Concept:
  """The fields that are there as arrays; `names` is how messages call them.

  Raises:
    ValueError: see `concept`.

  Example:
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.diffusion import requests
    >>> given = requests.Concept([[1, 2, 0, 0, 0]], anchors=[[1, 0, 0, 0, 0]])
    >>> found = requests.checked(toy.diffusion().model, given)
    >>> found.prompts.shape, found.retain
    ((1, 5), None)
  """

  def tokens(field: str, **options: Any) -> jax.Array | None:
    value = getattr(given, field)
    if value is None:
      return None
    return check_prompts(diffusion, value, getattr(names, field), **options)

  prompts = tokens("prompts")
  anchors = tokens("anchors", may_be_empty=True)
  retain = tokens("retain", may_be_empty=True)
  if anchors is not None and prompts is not None:
    _check_shape(anchors, prompts, names.anchors)
  marks = given.marks
  if marks is not None:
    marks = jnp.asarray(marks)
    _check_marks(marks, prompts, names.marks)
  return Concept(prompts, anchors, retain, marks)


def reader(
  diffusion: Diffusion,
  given: Concept,
  *needs: str,
  names: Concept = NAMES,
) -> Callable[[Request], Concept]:
  """How a method finds its concept: as its factory was told, or in the request.

  Args:
    diffusion: the model.
    given: what the factory was told; if all it needs, requests are not read.
    *needs: the fields that there must be; "prompts" at least.
    names: what the factory calls them.

  Returns:
    `request -> Concept`, which raises a ValueError where something is missing.

  Example:
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.diffusion import requests
    >>> problem = toy.diffusion()
    >>> given = requests.Concept(retain=[[1, 7, 0, 0, 0]])
    >>> read = requests.reader(problem.model, given, "prompts", "retain")
    >>> found = read(problem.request)
    >>> found.prompts.shape, found.retain.tolist()  # That told is first.
    ((2, 5), [[1, 7, 0, 0, 0]])
  """
  given = checked(diffusion, given, names)

  def read(request: Request) -> Concept:
    if all(getattr(given, field) is not None for field in needs):
      return given
    asked = request.concept
    if isinstance(asked, Mapping):
      asked = Concept(**asked)
    if not isinstance(asked, Concept):
      raise ValueError(
        f"Expected {' and '.join(needs)}, told to the method or in a request of "
        f"a concept (diffusion.requests), got {type(asked).__name__}."
      )
    found = Concept(*(a if g is None else g for g, a in zip(given, asked)))
    missing = [field for field in needs if getattr(found, field) is None]
    if missing:
      raise ValueError(f"Expected a concept with {missing}, got None.")
    return checked(diffusion, found)

  return read


def telling(
  slot: Slot, fn: Callable[[Request], PyTree], link: Transform
) -> Transform:
  """A transform whose links find something of the request in a slot.

  Its info and its name stay those of `link`.

  Example:
    >>> import jax.numpy as jnp
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.diffusion import requests
    >>> problem, slot = toy.diffusion(), ju.Slot("prompts")
    >>> link = ju.edit(lambda variables, *rest: (variables, "edited"))
    >>> found = requests.telling(slot, lambda request: request.concept, link)
    >>> found(*problem.arguments)[1], found.name
    ('edited', 'edit')
  """
  first = provide(
    slot, lambda carry, data, request, key: fn(request), reads="nothing"
  )

  def run(carry, data, request, key, env):
    carry, _ = first.run(carry, data, request, key, env)
    return link.run(carry, data, request, key, env)

  return Transform(
    link.name,
    run,
    link.num_steps,
    largest_draw([link.needs]),
    lambda key: [(first, key), *link.expand(key)],
  )


def check_prompts(
  diffusion: Diffusion, tokens: Any, name: str, *, may_be_empty: bool = False
) -> jax.Array:
  """Prompts, int [M, L] with M > 0.

  Args:
    diffusion: the model.
    tokens: what is checked.
    name: how messages call it.
    may_be_empty: allows the empty prompt, as what comes in a concept's place.

  Raises:
    ValueError: they are not.

  Example:
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.diffusion import requests
    >>> model = toy.diffusion().model
    >>> requests.check_prompts(model, [[1, 2, 0, 0, 0]], "prompts").shape
    (1, 5)
    >>> requests.check_prompts(model, [[1, 0, 0, 0, 0]], "prompts")
    Traceback (most recent call last):
      ...
    ValueError: Expected prompts to name a concept, got the empty prompt at 0.
  """
  check_tokens(diffusion, tokens, name)
  if len(tokens) == 0:
    raise ValueError(f"Expected {name} to hold prompts, got none.")
  null = diffusion.null_tokens
  known = checks.is_concrete(tokens) and checks.is_concrete(null)
  if known and not may_be_empty:
    empty = (np.asarray(tokens) == np.asarray(null)).all(axis=1)
    if empty.any():
      raise ValueError(
        f"Expected {name} to name a concept, got the empty prompt at "
        f"{int(empty.argmax())}."
      )
  return jnp.asarray(tokens)


def check_apart(asked: Any, kept: Any, name: str) -> None:
  """No prompt of a concept [M, L] is among others [R, L], where both are known.

  Raises:
    ValueError: one is.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.diffusion import requests
    >>> asked, kept = jnp.array([[1, 2, 0]]), jnp.array([[1, 4, 0], [1, 2, 0]])
    >>> requests.check_apart(asked, kept, "retain")
    Traceback (most recent call last):
      ...
    ValueError: Expected retain without prompts of the concept, got one at 1.
  """
  if not (_is_known(asked) and _is_known(kept)):
    return
  same = np.asarray(asked)[:, None] == np.asarray(kept)[None]
  shared = same.all(axis=2).any(axis=0)
  if shared.any():
    raise ValueError(
      f"Expected {name} without prompts of the concept, got one at "
      f"{int(shared.argmax())}."
    )


def check_differ(asked: Any, told: Any, name: str) -> None:
  """No prompt [M, L] is its own anchor, where both are known.

  Raises:
    ValueError: one is.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.diffusion import requests
    >>> asked, told = jnp.array([[1, 2], [1, 3]]), jnp.array([[1, 4], [1, 3]])
    >>> requests.check_differ(asked, told, "anchors")
    Traceback (most recent call last):
      ...
    ValueError: Expected anchors other than the concept's prompts, got the
    same at 1.
  """
  if not (_is_known(asked) and _is_known(told)):
    return
  same = (np.asarray(asked) == np.asarray(told)).all(axis=1)
  if same.any():
    raise ValueError(
      f"Expected {name} other than the concept's prompts, got the same at "
      f"{int(same.argmax())}."
    )


def _check_shape(tokens: jax.Array, prompts: jax.Array, name: str) -> None:
  shaped(f"{name} {list(prompts.shape)}", tokens)


def _is_known(tokens: Any) -> bool:
  return tokens is not None and checks.is_concrete(tokens)


def _check_marks(marks: Any, prompts: jax.Array | None, name: str) -> None:
  wanted = np.shape(marks) if prompts is None else prompts.shape
  shaped(f"{name} bool {list(wanted)}", marks)
  if checks.is_concrete(marks) and not np.asarray(marks).any(axis=-1).all():
    raise ValueError(f"Expected {name} to mark the concept, got none.")
