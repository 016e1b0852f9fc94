"""How a model is told training from evaluation, whatever the flag is called."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

# What people call the argument, or field, that tells training from evaluation.
_TRAIN_NAMES = (
  *("train", "training", "is_training", "is_train", "in_training"),
  *("train_mode", "training_mode", "enable_dropout"),
)
_EVAL_NAMES = (
  *("deterministic", "use_running_average", "eval", "is_eval", "eval_mode"),
  *("evaluation", "inference", "is_inference", "inference_mode"),
  *("test", "is_test", "testing", "test_mode"),
)
FLAG_SIGNS = {
  **dict.fromkeys(_TRAIN_NAMES, True),
  **dict.fromkeys(_EVAL_NAMES, False),
}
# Of arguments with such names a bool is no sign of training.
_OTHER_NAMES = ("return", "output", "capture")


class Flags(NamedTuple):
  """How a module is told training from evaluation.

  Attributes:
    of_call: arguments of `__call__`, by name: True in training (or False).
    of_module: fields of the module, likewise.
    guessed: whether nobody said that there is no flag, and none was found.
  """

  of_call: Mapping[str, bool]
  of_module: Mapping[str, bool]
  guessed: bool

  def arguments(self, train: bool) -> dict[str, Any]:
    return {n: train == sign for n, sign in self.of_call.items()}

  def fields(self, train: bool) -> dict[str, Any]:
    return {n: train == sign for n, sign in self.of_module.items()}


def find_flags(
  call: Callable[..., Any],
  train_argument: str | None,
  name: str,
  fields: Collection[str],
) -> Flags:
  """Finds the flag among the arguments of `call` and the module's fields.

  Raises:
    ValueError: there is none of that name; one argument more is required, or
      has a bool as default, and might be the flag.

  Example:
    >>> from jaxunlearn.adapters import flags
    >>> class Net:
    ...   def __call__(self, x, deterministic=True):
    ...     return x
    >>> found = flags.find_flags(Net.__call__, "auto", "Net", ())
    >>> found.arguments(train=True)
    {'deterministic': False}
  """
  parameters = inspect.signature(call).parameters
  if train_argument in (None, "auto"):
    known = FLAG_SIGNS if train_argument else {}
    # By name only: a module that passes **kwargs on may reject the flag.
    of_call = {n: sign for n, sign in known.items() if n in parameters}
    of_module = {n: known[n] for n in fields if n in known and not of_call}
  else:
    word = str(train_argument).removeprefix("not ")
    sign = word == train_argument and FLAG_SIGNS.get(word, True)
    in_call = keywords(call, (word,))
    if not in_call and word not in fields:
      raise ValueError(
        f"Expected train_argument to be an argument of {name}.__call__ or a "
        f"field, got {train_argument!r}."
      )
    of_call, of_module = ({word: sign}, {}) if in_call else ({}, {word: sign})
  guessed = train_argument == "auto" and not (of_call or of_module)
  # The first two are the module and the inputs.
  for n, p in list(parameters.items())[2:]:
    is_open = n not in of_call and p.kind not in (
      p.VAR_KEYWORD,
      p.VAR_POSITIONAL,
    )
    is_flag = isinstance(p.default, bool) and not n.startswith(_OTHER_NAMES)
    if is_open and (p.default is p.empty or (guessed and is_flag)):
      raise ValueError(
        f"Expected train_argument to say what {n!r} of {name}.__call__ is: "
        f"train_argument={n!r} if it is True in training, 'not {n}' if it is "
        "False in training, None if it tells neither and has a default."
      )
  return Flags(of_call, of_module, guessed)


def asleep(name: str, layers: Iterable[str]) -> str:
  """The error where layers that matter in training did nothing in it.

  Example:
    >>> from jaxunlearn.adapters import flags
    >>> flags.asleep("Net", ["Dropout"]).split(",")[-1]
    ' and with train=True its Dropout did nothing. None says that it shall be so.'
  """
  found = " and ".join(sorted(set(layers)))
  return (
    f"Expected train_argument to name the argument of {name} that is True in "
    f"training: none is known, and with train=True its {found} did nothing. "
    "None says that it shall be so."
  )


def keywords(function: Callable[..., Any], names: tuple[str, ...]) -> list[str]:
  """The names among `names` that `function` takes as keyword arguments.

  A `**kwargs` counts as taking all of them; a function without a readable
  signature takes none.

  Example:
    >>> from jaxunlearn.adapters import flags
    >>> flags.keywords(lambda x, train: x, ("train", "key"))
    ['train']
    >>> flags.keywords(lambda x, **options: x, ("train", "key"))
    ['train', 'key']
  """
  try:
    parameters = inspect.signature(function).parameters.values()
  except (TypeError, ValueError):
    return []
  if any(p.kind is p.VAR_KEYWORD for p in parameters):
    return list(names)
  by_name = {p.name for p in parameters if p.kind is not p.POSITIONAL_ONLY}
  return [name for name in names if name in by_name]
