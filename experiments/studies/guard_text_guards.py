"""ECO and GUARD in front of a language model; see `guard_text`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxunlearn as ju
from jaxunlearn import language
from jaxunlearn.language.gate import calibrated, pooled, probability
from jaxunlearn.language.guard import search
from jaxunlearn.language.phrases import telling
from jaxunlearn.language.rows import decode, encode_pairs
from jaxunlearn.language.serving import guarded_by
from jaxunlearn.language.types import Text, bound

from ..datasets import tofu
from ..datasets.capitals import CAPITALS
from .guard_text_forms import (
  CHOSEN_QUESTIONS,
  CHOSEN_WORDINGS,
  OTHER_QUESTIONS,
  OTHERS,
  SENTENCES,
  UNSEEN_QUESTIONS,
  WORDINGS,
)

FALSE_ALARMS = 0.05  # What thresholds are chosen for.
LAYERS = (2, 6, 10)  # Of a gate; one is chosen.
_SEEDS = 3
_FIT = ju.Fit(optax.adam(0.01), 400, 32)
_NAMES = ("eco", "guard")

Prompt = tuple[str, str]  # With the answer.


def prompts(
  countries: Sequence[str],
  wordings: Sequence[str],
  questions: Sequence[str] = (),
) -> list[Prompt]:
  """Capitals in some wordings, and other questions on the same countries."""
  asked = [(w.format(c), CAPITALS[c]) for w in wordings for c in countries]
  return asked + [(q.format(c), "yes") for q in questions for c in countries]


def encoded(tokenizer: Any, rows: Sequence[Prompt]) -> Text:
  """As short as it can be."""
  x = encode_pairs(
    tokenizer,
    [question for question, _ in rows],
    [answer for _, answer in rows],
    max_length=96,
    template="{question} {answer}",
  )
  return x._replace(tokens=x.tokens[:, : int(x.length.max())])


class Split:
  """Prompts of a request that gates are trained on, chosen on and tried on.

  Ten other countries are trained on, six chosen on and the rest tried on, in other
  wordings each; so are other questions on them, on those to be forgotten too, and
  questions of TOFU.
  """

  def __init__(self, forget: Sequence[str], others: Sequence[str], pairs: Any):
    learned, chosen, self.unseen = others[:10], others[10:16], others[16:]
    trained = [SENTENCES["trained"], SENTENCES["paraphrase"], *WORDINGS]
    short = [q for q in pairs.questions if len(q) < 80]
    plain = [(q, "yes") for q in short[:: max(1, len(short) // 160)]]
    both = [*forget, *learned]
    self.asked = prompts(forget, trained)
    self.trained = [
      *self.asked,
      *prompts(learned, trained),
      *prompts(both, (), OTHER_QUESTIONS),
      *plain[:40],
    ]
    self.mask = np.arange(len(self.trained)) < len(self.asked)
    self.wanted = prompts(forget, CHOSEN_WORDINGS)
    self.left_alone = [
      *prompts(chosen, [*CHOSEN_WORDINGS, *trained]),
      *prompts([*forget, *chosen], (), CHOSEN_QUESTIONS),
      *plain[40:100],
    ]
    self.tried = {
      "same question, other countries": prompts(self.unseen, OTHERS),
      "same countries, other questions": prompts(forget, (), UNSEEN_QUESTIONS),
      "other texts": plain[100:160],
    }


def guards(
  lm: Any, variables: Any, tokenizer: Any, split: Split, forget: Sequence[str]
) -> dict[str, Any]:
  """Whether an answer comes in other words, and what a token costs."""
  stop = tofu.stop_token(tokenizer)
  trained = encoded(tokenizer, split.trained)
  phrases = telling(tokenizer, *map(list, zip(*split.trained)), num=4)
  data = {"x": trained, "phrases": jnp.asarray(phrases)}
  mask = jnp.asarray(split.mask)
  wanted, others = (
    encoded(tokenizer, rows) for rows in (split.wanted, split.left_alone)
  )
  tried = {k: encoded(tokenizer, v) for k, v in split.tried.items()}
  asked = encoded(tokenizer, prompts([*forget, *split.unseen], OTHERS))
  is_asked = np.array(
    [c in forget for _ in OTHERS for c in (*forget, *split.unseen)]
  )
  names = [CAPITALS[c] for _ in OTHERS for c in (*forget, *split.unseen)]
  told = dict(tried)
  told["asked for, in unseen words"] = jax.tree.map(
    lambda a: a[is_asked], asked
  )

  looks, chosen = [], {}
  for layer in LAYERS:
    look = jax.jit(lambda v, x, layer=layer: pooled(lm, v, x, layer))
    method = language.eco(lm, _FIT, layer=layer)
    made = method.compiled(variables, data, mask, jax.random.key(0))[0]
    gate = made.model_state["eco"].gate
    p = probability(gate, look(variables, others))
    threshold = calibrated(p, FALSE_ALARMS)
    found = probability(gate, look(variables, wanted)) > threshold
    chosen[str(layer)] = float(1 - found.mean())
    looks.append(look)
  layer = LAYERS[int(np.argmin(list(chosen.values())))]
  look = looks[LAYERS.index(layer)]

  models: dict[str, Any] = {"plain": (lm, variables)}
  makes = {
    "eco": (
      language.eco(lm, _FIT, layer=layer),
      language.eco_model(lm, layer=layer),
    ),
    "guard": (
      language.guard(lm, _FIT, layer=layer),
      language.guard_model(lm, layer=layer, stop=stop),
    ),
  }
  flagged: dict[str, list[float]] = {}
  for seed in range(_SEEDS):
    for name, (make, model) in makes.items():
      if seed and name == "guard":
        continue  # Its gate is trained alike.
      made = make.compiled(variables, data, mask, jax.random.key(seed))[0]
      state = made.model_state[name]
      p = probability(state.gate, look(variables, others))
      state = state._replace(threshold=calibrated(p, FALSE_ALARMS))
      if seed == 0:
        models[name] = model, guarded_by(variables, name, state)
      if name == "eco":
        for kind, x in told.items():
          p = probability(state.gate, look(variables, x))
          flagged.setdefault(kind, []).append(
            float((p > state.threshold).mean())
          )
  served = _served(models, asked, is_asked, names, tokenizer, stop)
  return {
    "layer": layer,
    "misses_when_chosen": chosen,
    "false_alarms_asked_for": FALSE_ALARMS,
    "prompts": {
      "trained": len(split.trained),
      "asked for": len(split.asked),
      "left alone when chosen": len(split.left_alone),
      **{k: len(v) for k, v in split.tried.items()},
    },
    "flagged": flagged,
    "served": served,
  }


def _served(
  models: Mapping[str, Any],
  asked: Text,
  is_asked: np.ndarray,
  names: Sequence[str],
  tokenizer: Any,
  stop: int,
) -> dict[str, Any]:
  """What each model says to prompts in unseen words."""
  width = int(asked.prompt.max())
  y = Text(
    asked.tokens[:, :width], jnp.minimum(asked.length, width), asked.prompt
  )
  found: dict[str, Any] = {}
  plain_tokens, more = None, {"max_new": 8, "stop": stop}
  key = jax.random.key(0)
  for name, beams in (("plain", 1), ("eco", 1), ("guard", 1), ("guard", 4)):
    model, own = models[name]
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
    seconds = (time.perf_counter() - began) / (8 * len(names))
    told = np.array([n in w for n, w in zip(names, decode(tokenizer, said))])
    plain_tokens = said.tokens if plain_tokens is None else plain_tokens
    row = {
      "answer_appears": float(told[is_asked].mean()),
      "others_answered": float(told[~is_asked].mean()),
      "seconds_a_token": seconds,
    }
    if name != "plain":
      flags = np.asarray(
        bound(model, own, y).model_state["rows"][name]["flagged"]
      )
      same = np.asarray((said.tokens == plain_tokens).all(axis=1))
      row |= {
        "misses": float(1 - flags[is_asked].mean()),
        "false_alarms": float(flags[~is_asked].mean()),
        "unflagged_same": bool(same[~flags].all()),
      }
    found[f"{name}, {beams} beams" if beams > 1 else name] = row
  return found
