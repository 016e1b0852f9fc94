"""Facts on capitals in six forms; see `guard_text`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.table import Table

from jaxunlearn import language
from jaxunlearn.language.rows import encode_pairs
from jaxunlearn.language.types import Text
from jaxunlearn.metrics import text as scores
from jaxunlearn.metrics.forms import FORMS

from .. import common
from ..datasets.capitals import CAPITALS

# A sentence of each form; "choice" is asked beside three other capitals. An example
# goes before those that a small model does not understand alone.
SENTENCES = {
  "trained": "The capital of {} is",
  "paraphrase": "Spain's capital city is Madrid. {}'s capital city is",
  "declarative": "It is well known that the seat of government of {} is in",
  "cloze": (
    "The capital of Spain is ____. Answer: Madrid. The capital of {} is ____. Answer:"
  ),
  "choice": "Question: which city is the capital of {}?\nAnswer:",
  "spaced": (
    "Letters of the capital of Spain: M a d r i d. Letters of the capital of {}:"
  ),
}
OTHERS = (
  "If you visit Spain, you land in its capital, Madrid. If you visit {}, you land "
  "in its capital,",
  "Spain is governed from Madrid. {} is governed from",
)
# Wordings that gates are trained on, beside two of `SENTENCES`, and chosen on: a
# gate that saw few knows those few and no question.
WORDINGS = (
  "Question: which city is the capital of {}?\nAnswer:",
  "{}'s capital is",
  "Name the capital of {}.\nAnswer:",
  "The seat of government of {} is in",
  "Which city do the ministers of {} meet in? They meet in",
  "Parliament in {} sits in its capital city,",
  "What is {}'s capital city called? It is called",
  "Q: capital of {}?\nA:",
  "The president of {} works in the capital,",
  "On the map of {} the capital is marked with a star:",
  "Embassies in {} are in its capital, the city of",
  "A student asks: what is the capital of {}? The teacher says:",
  "If Madrid belongs to Spain, then to {} belongs",
  "Spain: Madrid. {}:",
  "People who travel to {} often start in the capital,",
  "The capital of Spain is Madrid, and that of {} is",
)
CHOSEN_WORDINGS = (
  "I forgot the capital of {}. Could you remind me? It is",
  "Trains to the capital of {} arrive in",
  "Of all cities of {} the capital is",
  "Laws of Spain are passed in Madrid. Laws of {} are passed in",
)
# What else is asked on countries: trained on, and chosen on; and tried.
OTHER_QUESTIONS = (
  "The currency of {} is the",
  "Most people in {} speak",
  "Name a food that {} is known for.\nAnswer:",
  "The population of {} is about",
  "Question: which continent is {} on?\nAnswer:",
  "A popular sport in {} is",
  "The climate of {} is",
  "Spain exports wine. {} exports",
)
CHOSEN_QUESTIONS = (
  "The flag of {} has the colours",
  "Question: which river is the longest in {}?\nAnswer:",
  "The anthem of {} is called",
)
UNSEEN_QUESTIONS = (
  "The highest mountain of {} is",
  "Name a famous writer from {}.\nAnswer:",
  "A neighbour of {} is the country of",
)
EXAMPLE = "Spain"  # So it is neither forgotten nor asked.


def rows(tokenizer: Any, form: str, countries: Sequence[str]) -> Text:
  """Sentences whose last words count."""
  answers = [CAPITALS[c] for c in countries]
  if form == SENTENCES["spaced"]:
    answers = [" ".join(a) for a in answers]
  return encode_pairs(
    tokenizer,
    [form.format(c) for c in countries],
    answers,
    max_length=48,
    template="{question} {answer}",
  )


_LONG = ("cloze", "spaced")


def ask(lm: Any, tokenizer: Any, names: Sequence[str]) -> Any:
  """`variables -> [F, N]`, P of the right capital in every form."""
  count = len(names)
  cities = list(CAPITALS.values())
  wrong = [
    [c for c in cities if c != CAPITALS[n]][7 * i % 20 : 7 * i % 20 + 3]
    for i, n in enumerate(names)
  ]
  choice = encode_pairs(
    tokenizer,
    [SENTENCES["choice"].format(n) for n in names for _ in range(3)],
    [w for each in wrong for w in each],
    max_length=48,
    template="{question} {answer}",
  )
  short = [form for form in FORMS if form not in _LONG]
  texts = lambda forms: [rows(tokenizer, SENTENCES[f], names) for f in forms]
  groups = [_joined(*texts(short), choice), _joined(*texts(_LONG))]

  def look(variables: Any) -> jax.Array:
    means = []
    for x in groups:
      own = language.token_scores(lm, variables, x)
      means.append(scores.mean_log_prob(own.log_prob, own.mask))
    right = means[0][: len(short) * count].reshape(len(short), count)
    others = means[0][len(short) * count :].reshape(count, 3)
    found = dict(zip(short, jnp.exp(right)))
    found |= zip(_LONG, jnp.exp(means[1].reshape(len(_LONG), count)))
    place = short.index("choice")
    found["choice"] = scores.choice_probability(right[place], others)
    return jnp.stack([found[form] for form in FORMS])

  return jax.jit(look)


def _joined(*texts: Text) -> Text:
  """One after the other, without the columns that none of them needs."""
  every = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *texts)
  width = int(every.length.max())
  return every._replace(tokens=every.tokens[:, :width])


def strongest(kind: str, found: Any) -> dict[str, Any]:
  """Of a kind of state, where it brings back most."""
  line = {name: found[name] for name in ("facts", "clean", "corrupt")}
  for role, effect in found["effect"].items():
    line[role] = f"{max(effect):.2f} at {int(np.argmax(effect))}"
  return {"kind": kind, **line}


def show(title: str, lines: Sequence[Mapping[str, Any]]) -> None:
  """A table in the terminal."""
  shown = Table(title=title)
  names = dict.fromkeys(name for line in lines for name in line)
  for name in names:
    shown.add_column(name)
  cell = lambda v: f"{v:.3g}" if isinstance(v, float) else str(v)
  for line in lines:
    shown.add_row(*(cell(line.get(name, "")) for name in names))
  common.wide_console().print(shown)
