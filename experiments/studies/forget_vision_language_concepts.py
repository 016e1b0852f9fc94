"""MMUBench: one concept by one image, on views that nobody saw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn import report, vision_language
from jaxunlearn.core import keys
from jaxunlearn.metrics import answers
from jaxunlearn.report.verdict import DAMAGE, TRACE

from .. import bench
from ..beds import pictures
from ..beds.text_measures import say
from ..bench import Case, Evidence, Measure, Plan, Rule
from ..datasets.vqa import DESCRIBED, NEW_NAME, SHOWN
from .forget_vision_language_answers import (
  column,
  marked,
  seeds_mean,
)

_VIEWS = 8
_SHIFT = 2


def concept(text: str, known: pictures.Known) -> tuple[np.ndarray, Any]:
  """The rows on one person's image; texts about it stay."""
  of = [_owner(text, pictures.owners(known))]
  rows_of = lambda *kinds: np.flatnonzero(
    pictures.rows_of(known, *kinds, of=of)
  )
  name = rows_of("name")
  if not len(name):
    raise ValueError(f"Expected a row that names {text}, got none.")
  name = name[:1]
  images = pictures.rows_of(known, "name", "attribute", "unsafe", of=of)
  others = np.flatnonzero(pictures.rows_of(known, "name") & ~images)
  captions = np.flatnonzero(pictures.rows_of(known, "caption"))
  facts = rows_of("fact")
  if not len(facts):
    raise ValueError(f"Expected a text about {text}, got none.")
  targets, new = _targets(known, name[0], facts, others, captions)
  looked = {
    "name": name,
    "others": others[: known.sample],
    "captions": captions[: known.sample],
    "attributes": rows_of("attribute", "unsafe"),
    "facts": facts,
  }
  more = {"targets": targets, "new": new, "looked": looked}
  return marked(known, images, images & ~rows_mask(name, images), **more)


def _owner(text: str, there: Sequence[str]) -> str:
  """One of the owners; "first" is the first.

  Raises:
    ValueError: another name.
  """
  if text == "first":
    return there[0]
  if text not in there:
    raise ValueError(
      f"Expected one of {len(there)} owners such as {there[0]!r}, got {text!r}."
    )
  return text


def rows_mask(rows: np.ndarray, like: np.ndarray) -> np.ndarray:
  """Rows as a mask, bool [N]."""
  return np.isin(np.arange(len(like)), rows)


def _targets(
  known: pictures.Known,
  name: int,
  facts: np.ndarray,
  others: np.ndarray,
  captions: np.ndarray,
) -> tuple[vision_language.Targets, np.ndarray]:
  """SIU's rows of one image, and the new name's tokens [1, W]."""
  rows = known.rows
  image = int(rows.image[name])

  def spelled(questions: Any, said: Any, image: Any) -> Any:
    where = np.broadcast_to(image, len(questions))
    return known.spell(list(questions), list(said), where)

  asked = [rows.questions[name], *rows.rephrased[name]]
  again = lambda picked: spelled(
    [rows.questions[i] for i in picked],
    [rows.answers[i] for i in picked],
    [int(rows.image[i]) for i in picked],
  )
  fact = facts[0]
  told = [rows.questions[fact], *rows.rephrased[fact]][:2]
  new, true = known.words(NEW_NAME), known.words(rows.answers[name])
  made = vision_language.four_targets(
    spelled(asked, [NEW_NAME] * len(asked), image),
    spelled(SHOWN, DESCRIBED, image),
    spelled(told, [rows.answers[fact]] * len(told), -1),
    again([*others[:2], *captions[:2]]),
    new_name=np.array([new]),
    true_name=np.array(true),
    vocab_size=known.vocab_size,
  )
  return jax.tree.map(np.asarray, made), np.array([new])


def measures(plan: Plan) -> list[Measure]:
  """What is said of the concept on unseen views, and of all else."""
  del plan
  views = f"Of {_VIEWS} views of its image that no model was trained on."
  metrics = (
    column("true_name", "True name", f"Share of answers with it. {views}"),
    column("new_name", "New name", f"Share of answers with it. {views}"),
    column(
      "fact",
      "Text fact",
      "What is told of the concept without its image.",
      direction=report.HIGHER,
    ),
    column(
      "others",
      "Other names",
      "Share of other people who are named, on unseen views.",
      direction=report.HIGHER,
    ),
    column(
      "captions",
      "Captions",
      "Share of other images that are called what they are.",
      direction=report.HIGHER,
    ),
    column(
      "attributes",
      "Its other attributes",
      "Share that is still said on its own image; what goes with the name.",
    ),
  )
  rules = (
    Rule("true_name", 0.1, TRACE, ""),
    *(
      Rule(name, 0.1, above="", below=DAMAGE, reference="original")
      for name in ("fact", "captions", "others")
    ),
  )
  return [
    Measure(metrics, _measure, rules=rules),
    bench.table.gap(("true_name", "fact", "captions", "others"), unit="%"),
  ]


def _measure(case: Case) -> dict[str, Any]:
  bed, model = case.bed, case.bed.extra["model"]
  images, looked = bed.extra["images"], case.marks["looked"]

  def rates(case: Case, kinds: Sequence[str]) -> dict[str, jax.Array]:
    """By kind the share that is said; and that of the new name."""
    rows = pictures.take(
      bed.data, jnp.concatenate([looked[kind] for kind in kinds])
    )
    said = say(case, rows["x"])
    hits = answers.keyword_match(said.tokens, said.length, rows["keywords"])
    new = jnp.broadcast_to(
      case.marks["new"][None], (len(hits), *case.marks["new"].shape)
    )
    again = answers.keyword_match(said.tokens, said.length, new)
    ends = np.cumsum([len(looked[kind]) for kind in kinds])
    found = {"new_name": again[: ends[0]].mean()}
    for kind, end in zip(kinds, ends):
      found[kind] = hits[end - len(looked[kind]) : end].mean()
    return found

  def on_view(key: jax.Array) -> dict[str, jax.Array]:
    turned = jax.vmap(pictures.moved(_SHIFT))(
      jax.random.split(key, len(images)), images
    )
    view = case._replace(bed=bed._replace(model=model.over(turned)))
    return rates(view, ("name", "others"))

  view_keys = jax.random.split(keys.derive(case.key, "views"), _VIEWS)
  unseen = {k: v.mean() for k, v in jax.lax.map(on_view, view_keys).items()}
  seen = rates(case, ("facts", "captions", "attributes"))
  return {
    "true_name": unseen["name"],
    "new_name": unseen["new_name"],
    "others": unseen["others"],
    "fact": seen["facts"],
    "captions": seen["captions"],
    "attributes": seen["attributes"],
  }


def findings(evidence: Evidence) -> list[str]:
  """What each divergence does."""
  of = lambda method, name: seeds_mean(evidence, method, name)
  share = lambda of: "none asked" if np.isnan(of) else f"{of:.0%}"
  known = [
    c for c in ("captions", "fact") if not np.isnan(of(bench.ORIGINAL, c))
  ]
  words = []
  for name in evidence.plan.methods:
    lost = of(name, "true_name") <= 0.1
    # False where a method's own figure is nan: it diverged.
    kept = all(of(name, c) >= 0.9 * of(bench.ORIGINAL, c) for c in known)
    words.append(
      f"{name} {'loses' if lost else 'does not lose'} the true name "
      f"({share(of(name, 'true_name'))} on unseen views, new name "
      f"{share(of(name, 'new_name'))}) and {'keeps' if kept else 'does not keep'} "
      f"nine tenths of captions ({share(of(name, 'captions'))}) and of the fact told "
      f"in texts ({share(of(name, 'fact'))}); of the person's other attributes "
      f"{share(of(name, 'attributes'))} are left of "
      f"{share(of(bench.ORIGINAL, 'attributes'))}."
    )
  return words
