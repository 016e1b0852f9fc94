"""People as entities: rows, probes and a model that knows them."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxunlearn import language
from jaxunlearn.language.types import Text

from .. import bench
from ..datasets import entities, tofu
from ..datasets.splits import SELECT
from . import texts

_PEOPLE = {"smoke": 11, "quick": 13, "paper": 40}
_ASIDE = 2  # Entities that nobody is trained on, in a report and while tuning.
_NEAR = 2
_TUNE = 2  # The request that settings are chosen on begins there.


class Known(NamedTuple):
  """What the host knows.

  Attributes:
    rows: those that are trained on, then those of the entities aside.
    names: of the entities.
    train: how many rows are trained on.
    near: int [E, _NEAR], see `neighbours`.
    aside: entities that nobody is trained on.
    sample: probes of a kind that are asked.
    pretrained: what training began from, or None.
  """

  rows: list[entities.Row]
  names: list[str]
  train: int
  near: np.ndarray
  aside: np.ndarray
  sample: int
  pretrained: Any


def recipe_of(options: Any) -> texts.Recipe:
  recipe = texts.recipe_for(options.preset, options.weights)
  if options.preset == "paper":
    return recipe._replace(max_new=64)
  if options.preset == "smoke":
    return recipe._replace(max_new=8, sample=12, steps=20, vocab=600)
  return recipe._replace(
    steps=240,
    batch_size=20,
    width=96,
    vocab=1024,
    max_new=12,
    unlearn_steps=20,
    sample=24,
  )


def _pairs(options: Any) -> tofu.Pairs:
  if options.data is None and options.benchmark == "people":
    return tofu.people(_PEOPLE[options.preset])
  return tofu.load(options.benchmark, options.data_dir, options.data)


def beds(
  options: Any, seeds: Sequence[int], part: str, asks: Sequence[Any]
) -> bench.Beds:
  """The same rows for all seeds; models differ by their keys."""
  recipe, pairs = recipe_of(options), _pairs(options)
  number, names = entities.names_of(pairs)
  named = {name.strip() for ask in asks for name in ask.value.split(",")}
  named |= set(names[: 2 * _TUNE])  # The same are aside in both parts.
  free = [i for i, name in enumerate(names) if name not in named]
  if len(free) < 2 * _ASIDE + _NEAR:
    raise ValueError(
      f"Expected {2 * _ASIDE + _NEAR} entities besides those of --request and "
      f"the first {2 * _TUNE}, got {len(free)}."
    )
  order = np.random.default_rng(0).permutation(free)
  select, own = order[:_ASIDE], order[_ASIDE : 2 * _ASIDE]
  aside = select if part == SELECT else own
  told = entities.translations(options.translations, pairs.questions)
  made = entities.rows_of(pairs, number, names, told)
  out = lambda row, who: row.owner in who.tolist()
  train = [row for row in made if not out(row, np.append(select, own))]
  # Nobody is trained on another language; it is asked in it all the same.
  foreign = entities.FORMS.index("cross_lingual")
  train.sort(key=lambda row: row.form == foreign)
  rows = [*train, *(row for row in made if out(row, aside))]
  count = sum(row.form != foreign for row in train)
  near = entities.neighbours(made, len(names), len(names) - 1)
  near = np.array([[j for j in r if j not in order[:4]][:_NEAR] for r in near])
  shared, tokenizer, lm, pretrained = _arrays(
    options, recipe, pairs, rows, names
  )

  def make(shared: Any, own: Any) -> bench.Bed:
    data = {
      "x": jax.tree.map(lambda leaf: leaf[:count], shared["x"]),
      "owner": shared["owner"][:count],
    }
    stop = tofu.stop_token(tokenizer)
    extra = {**shared, "stop": stop}
    return bench.Bed(lm, data, None, recipe, extra)

  known = Known(rows, names, count, near, aside, recipe.sample, pretrained)
  facts = {
    "parameters": texts.num_params(lm, shared["x"]),
    "entities": len(names),
    "rows": count,
    "translated": len(told),
    "recipe": recipe._asdict(),
  }
  of_seed = np.zeros(len(seeds))
  return bench.Beds(
    *(shared, of_seed, make, [known] * len(seeds), facts),
    dataset=known,
    model=lm,
  )


def _arrays(
  options: Any,
  recipe: texts.Recipe,
  pairs: tofu.Pairs,
  rows: list[entities.Row],
  names: list[str],
) -> tuple[dict[str, Any], Any, Any, Any]:
  """All that programs read, the tokenizer, the model and its weights."""
  says = [(row.asked, row.answer) for row in rows]
  about = lambda form: [form.format(name) for name in names]
  extra = [*about(entities.IGNORE), *about(entities.EXPERT), *pairs.refusals]
  begun = texts.begin(
    options.weights, [*(t for pair in says for t in pair), *extra], recipe.vocab
  )
  tokenizer = begun.tokenizer
  spell = lambda asked, said: tofu.encode(tokenizer, asked, said, begun.most)
  x = spell(*map(list, zip(*says)))
  wrong = [[row.answer, *pairs.wrong[row.pair]] for row in rows]
  many = len(wrong[0])
  flat = spell(
    [r.asked for r in rows for _ in range(many)],
    [w for each in wrong for w in each],
  )
  talk, ask = (about(form) for form in (entities.TALK, entities.ASK))
  novice, expert = (
    [f"{t} {a}" for t, a in zip(about(form), talk)]
    for form in (entities.IGNORE, entities.EXPERT)
  )
  said = ["."] * len(names)
  starts = [spell(asked, said) for asked in (talk, ask, novice, expert)]
  nobody = [entities.TALK.format("Zorvin Quell")] * len(names)
  starts.append(spell(nobody, said))
  rest = np.random.default_rng(0).choice(pairs.refusals, len(names)).tolist()
  refusal = spell(talk, rest)
  x, flat, *starts, refusal = texts.cut(x, flat, *starts, refusal)
  config = texts.config_of(begun, recipe, x.tokens.shape[1] + recipe.max_new)
  before, between = _frame(x, starts[0])
  prefix = [tokenizer.encode(text).ids for text in extra[: len(names)]]
  answer, length = _words(tokenizer, rows)
  sizes = [len(zlib.compress(f"{a} {b}".encode())) for a, b in says]
  whole = lambda values: np.asarray(values, np.int32)
  shared = {
    "x": x,
    "owner": whole([row.owner for row in rows]),
    "start": begun.start,
    "texts": (x._replace(prompt=np.ones_like(x.prompt)), whole(sizes)),
    "probes": {
      "x": x,
      "answer": answer,
      "length": length,
      "form": whole([max(row.form, 0) for row in rows]),
    },
    "choices": jax.tree.map(
      lambda leaf: leaf.reshape(len(rows), many, *leaf.shape[1:]), flat
    ),
    **dict(zip(("talk", "ask", "novice", "expert", "nobody"), starts)),
    "refusal": refusal,
    "frame": (before, between),
    "prefix": _left(prefix),
  }
  return shared, tokenizer, texts.model_of(config), begun.pretrained


def _frame(a: Text, b: Text) -> tuple[np.ndarray, np.ndarray]:
  """What all prompts have before a question, and what behind it."""
  rows = [
    np.asarray(x.tokens)[i, : int(x.prompt[i])] for x in (a, b) for i in (0, 1)
  ]
  same = lambda n, step: len(
    {tuple(r[:n] if step > 0 else r[-n:]) for r in rows}
  )
  most = min(map(len, rows))
  first = max((n for n in range(1, most) if same(n, 1) == 1), default=0)
  last = max((n for n in range(1, most) if same(n, -1) == 1), default=0)
  return rows[0][:first], rows[0][len(rows[0]) - last :]


def _left(rows: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
  """Padded on the left, int32 [E, P], and which tokens are there."""
  wide = max(map(len, rows))
  tokens = np.array([[0] * (wide - len(r)) + r for r in rows], np.int32)
  there = np.array([[False] * (wide - len(r)) + [True] * len(r) for r in rows])
  return tokens, there


def _words(
  tokenizer: Any, rows: list[entities.Row]
) -> tuple[np.ndarray, np.ndarray]:
  """The tokens of each row's word as they stand in its answer; -1 without one."""
  found = []
  for row, code in zip(rows, tokenizer.encode_batch([r.answer for r in rows])):
    begin = row.answer.rfind(row.word) if row.word else -1
    end = begin + len(row.word)
    inside = [
      token
      for token, (a, b) in zip(code.ids, code.offsets)
      if begin >= 0 and a < end and b > begin
    ]
    found.append(inside or [-1])
  wide = max(map(len, found))
  tokens = np.array([f + [-1] * (wide - len(f)) for f in found], np.int32)
  return tokens, np.array([*map(len, found)], np.int32)


def mask(value: str, known: Known) -> tuple[np.ndarray, Any]:
  """Rows of some entities, and which probes and texts are looked at."""
  names = [name.strip() for name in value.split(",")]
  unknown = [name for name in names if name not in known.names]
  if unknown or len(set(names)) < len(names):
    raise ValueError(
      f"Expected owner:NAME,... of {', '.join(known.names[:6])}, ..., each once, "
      f"got {value!r}."
    )
  asked = np.array([known.names.index(name) for name in names])
  owner = np.array([row.owner for row in known.rows])
  form = np.array([row.form for row in known.rows])
  about = np.isin(owner, asked)
  place = np.arange(len(owner))
  trained, aside = place < known.train, np.isin(owner, known.aside)
  near = np.isin(owner, known.near[asked].ravel()) & ~about
  rng = np.random.default_rng(2)

  def some(where: np.ndarray, count: int = known.sample) -> Any:
    rows = np.sort(rng.permutation(np.flatnonzero(where))[:count])
    return texts.some(rows, count)

  plain, one = (form == 0) | (form == 1), form == 1
  far = ~about & ~near & ~aside
  marks = {
    "forget": some(about & (form >= 0), 3 * known.sample),
    "near": some(near & plain),
    "far": some(far & plain),
    "texts": some(about & one),
    "kept": some(far & one),
    "held": some(aside & one),
    "entities": texts.some(asked, 4),
  }
  return about[: known.train] & trained[: known.train], marks


KINDS = {"owner": bench.Kind("owner:NAME,...", mask)}


def request(options: Any) -> str:
  return "owner:" + ",".join(entities.names_of(_pairs(options))[1][:_TUNE])


def tune_request(options: Any) -> str:
  names = entities.names_of(_pairs(options))[1]
  return "owner:" + ",".join(names[_TUNE : 2 * _TUNE])


def talk(case: bench.Case, rows: jax.Array, key: jax.Array) -> Any:
  """What is said of the entities of some rows, sampled."""
  extra = case.bed.extra
  starts = jax.tree.map(lambda leaf: leaf[extra["owner"][rows]], extra["talk"])
  return language.generate(
    case.bed.model,
    case.variables,
    starts,
    key,
    max_new=case.bed.recipe.max_new,
    temperature=1.0,
    stop=extra["stop"],
  )


def saved(variables: Any) -> Any:
  """On the host, without a guard, which is no part of the weights."""
  return jax.tree.map(np.asarray, variables._replace(frozen={}))
