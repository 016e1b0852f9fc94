"""What text and its models are here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import checks
from jaxunlearn.core.tasks import Model, Task
from jaxunlearn.core.types import Variables
from jaxunlearn.models.decoder import Blocks, DecoderConfig


class Text(NamedTuple):
  """Rows of tokens, padded on the right.

  `data["x"]` holds one. Other columns are "owner", int32 [N], whom a row
  belongs to; "token_weight", float [N, L], how much a token counts;
  "alternative", a `Text` [N, L], what to say instead.

  Attributes:
    tokens: int32 [N, L]; anything from `length` on.
    length: int32 [N], tokens that are there, <= L.
    prompt: int32 [N], where the answer begins: tokens prompt .. length - 1
      count; 1 for a document, of which all but the first do.
  """

  tokens: jax.Array
  length: jax.Array
  prompt: jax.Array


class LanguageModel(NamedTuple):
  """A decoder as pure functions; what every method of the room takes.

  Attributes:
    model: of the core; its outputs are logits [B, L, V], its loss a row's mean.
    config: static.
    embed: `(variables, tokens [B, T]) -> [B, T, D]`, without positions.
    blocks: `(variables, hidden [B, T, D], *, positions=None [B, T], mask=None,
      cache=None, edits=None, adapters=None, layers=None) -> Blocks`. Positions
      are 0, 1, ... by default; mask, bool [B, T], says which of these tokens others may see;
      `layers`, static, runs the first so many blocks only.
    logits: `(variables, hidden [..., D]) -> [..., V]`, float32 or wider.
    task: the exact mean over counted tokens, whatever their batch.
    chunk_size: None, or how many positions at a time the head is put on in losses.
    bind: None, or `(variables, x) -> pytree | None`, what a guard makes of the
      prompts of these rows; see `bound`.
    guide: None, or `variables -> Guide | None`, of bound variables; what the
      model may not say.
  """

  model: Model
  config: DecoderConfig
  embed: Callable[[Variables, jax.Array], jax.Array]
  blocks: Callable[..., Blocks]
  logits: Callable[[Variables, jax.Array], jax.Array]
  task: Task
  chunk_size: int | None = None
  bind: Callable[[Variables, Text], Any] | None = None
  guide: Callable[[Variables], Any] | None = None


class TokenScores(NamedTuple):
  """How a model finds each token, given those before it; float32 [B, L - 1].

  Entry t is of token t + 1. Where `mask` is False, all else is 0.

  Attributes:
    log_prob: log p of the token, nats.
    is_top: 1 where no other token is likelier, else 0; nan where log_prob is,
      or a model without numbers would look like one that forgot.
    mask: bool, whether the token counts.
    expected: the mean of log p under the model itself, minus its entropy.
    spread: the standard deviation of log p under the model itself.
  """

  log_prob: jax.Array
  is_top: jax.Array
  mask: jax.Array
  expected: jax.Array
  spread: jax.Array


class Generated(NamedTuple):
  """What a model says after prompts.

  Attributes:
    tokens: int32 [B, max_new]; 0 from `length` on.
    length: int32 [B], tokens before a stop token, or max_new.
    log_prob: float32 [B], log p of what was said, the stop included, at
      temperature 1.
  """

  tokens: jax.Array
  length: jax.Array
  log_prob: jax.Array


def bound(lm: LanguageModel, variables: Variables, x: Text) -> Variables:
  """Variables for these rows alone, where a guard looks at their prompts.

  What it makes of them is in `model_state["rows"]`, leaves [B, ...], and is made
  once: later tokens of a text are judged by its prompt.

  Example:
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.language.serving import guarded_by, wrapped
    >>> from jaxunlearn.language.types import bound
    >>> problem = toy.decoder()
    >>> bind = lambda variables, state, x: x.tokens[:, 1] == state["token"]
    >>> lm = wrapped(problem.model, "mute", bind)
    >>> guarded = guarded_by(problem.variables, "mute", {"token": 4})
    >>> made = bound(lm, guarded, problem.data["x"])
    >>> made.model_state["rows"]["mute"].tolist()
    [True, False, False, False, False, False, False, False]
  """
  rows = None if lm.bind is None else lm.bind(variables, x)
  if rows is None:
    return variables
  return variables._replace(model_state={**variables.model_state, "rows": rows})


def counted(x: Text) -> jax.Array:
  """Which tokens but the first count, bool [N, L - 1].

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.language.types import Text, counted
    >>> x = Text(jnp.zeros((2, 5), int), jnp.array([5, 3]), jnp.array([3, 1]))
    >>> counted(x).astype(int).tolist()  # Of tokens 1 to 4.
    [[0, 0, 1, 1], [1, 1, 0, 0]]
  """
  place = jnp.arange(1, x.tokens.shape[-1], dtype=jnp.int32)[None]
  return (place >= x.prompt[:, None]) & (place < x.length[:, None])


def check_text(x: Any, config: DecoderConfig | None = None) -> None:
  """Shapes and dtypes of a `Text`, and its values where they can be seen.

  Raises:
    ValueError: no `Text`; shapes or dtypes that do not fit; a row longer than
      L or than the model's context; a prompt < 1; a token that is none.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.language.types import Text, check_text
    >>> x = Text(jnp.zeros((1, 3), int), jnp.array([3]), jnp.array([1]))
    >>> check_text(x)
    >>> check_text(x._replace(length=jnp.array([4])))
    Traceback (most recent call last):
      ...
    ValueError: Expected length in 0 .. 3, got 4 .. 4.
  """
  if not isinstance(x, Text):
    raise ValueError(f"Expected x to be a Text, got {type(x).__name__}.")
  shapes = tuple(np.shape(leaf) for leaf in x)
  if len(shapes[0]) != 2 or shapes[1:] != (shapes[0][:1],) * 2:
    raise ValueError(
      "Expected a Text of tokens [N, L], length [N] and prompt [N], got shapes "
      f"{shapes[0]}, {shapes[1]} and {shapes[2]}."
    )
  for name, leaf in zip(Text._fields, x):
    if not jnp.issubdtype(leaf.dtype, jnp.integer):
      raise ValueError(f"Expected {name} of integer dtype, got {leaf.dtype}.")
  width = shapes[0][1]
  if config is not None and width > config.max_length:
    raise ValueError(
      f"Expected texts of at most max_length={config.max_length} tokens, got "
      f"rows of {width}."
    )
  if not all(checks.is_concrete(leaf) for leaf in x):
    return
  tokens, length, prompt = map(np.asarray, x)
  if length.size and not (length.min() >= 0 and length.max() <= width):
    raise ValueError(
      f"Expected length in 0 .. {width}, got {length.min()} .. {length.max()}."
    )
  if (prompt < np.minimum(length, 1)).any():
    raise ValueError(f"Expected prompt >= 1, got {prompt.min()}.")
  if config is not None:
    there = np.arange(width)[None] < length[:, None]
    checks.labels(np.where(there, tokens, 0), config.vocab_size, "tokens")
