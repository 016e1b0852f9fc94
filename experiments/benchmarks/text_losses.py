"""Are the losses for language models those of plain PyTorch, and what is a step?

Question: on the same weights and rows, does each method have the loss and the
gradient of its formula written in PyTorch, and how long does a step of AdamW take
on both sides?

  python -m experiments.benchmarks.text_losses [--preset smoke] [--out FILE]

needs torch, of the extra `benchmarks`. Losses are compared along three steps of
plain descent, so that references and weights have moved, and the gradients by
where those end. Time is that of the fastest of `--repeats` runs of ten steps, in
turn and without compiling, which is told apart; `ratio` is PyTorch's over ours.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Annotated, Any, Literal

import jax
import numpy as np
import optax
import tyro
from rich.progress import Progress

import jaxunlearn as ju
from jaxunlearn import language
from jaxunlearn.language.types import Text

from .. import common

_STEPS, _TIMED = 3, 10
_ROWS = 10  # Of each kind, and all of them in every step, as on the other side.
METHODS = {
  "grad_diff": lambda lm, fit: language.gradient_ascent(lm, fit, retain="nll"),
  "npo": language.npo,
  "simnpo": language.simnpo,
  "dpo": language.dpo,
  "idk": language.idk,
  "wga": language.wga,
  "satimp": lambda lm, fit: language.satimp(lm, fit, forget_weight=1.0),
  "undial": lambda lm, fit: language.undial(lm, fit, retain="nll"),
  "ceu": lambda lm, fit: language.ceu(lm, fit, skip=0, retain="nll"),
}


@dataclasses.dataclass(frozen=True)
class Options:
  """Compares losses, gradients and steps with PyTorch's."""

  preset: Annotated[
    Literal["smoke", "quick"],
    tyro.conf.arg(help="smoke has a tiny decoder; quick that of forget_text."),
  ] = "quick"
  methods: Annotated[
    tuple[str, ...], tyro.conf.arg(help="Which; all by default.")
  ] = tuple(METHODS)
  repeats: Annotated[int, tyro.conf.arg(help="The fastest run counts.")] = 3
  threads: Annotated[int, tyro.conf.arg(help="PyTorch's.")] = 1
  out: Annotated[str | None, tyro.conf.arg(help="File for the figures.")] = None


def problem(preset: str) -> tuple[Any, Any, dict[str, Text], np.ndarray]:
  """A decoder, weights, rows with refusals, and which are to be forgotten."""
  small = preset == "smoke"
  vocab, width, length = (64, 16, 12) if small else (2048, 128, 96)
  config = language.DecoderConfig(
    vocab_size=vocab,
    width=width,
    num_layers=2,
    num_heads=max(2, width // 32),
    mlp_width=width * 5 // 2,
    max_length=length,
    embedding_std=0.05,
  )
  lm, draw = language.language_model(config), np.random.default_rng(0)

  def rows() -> Text:
    tokens = draw.integers(0, vocab, (2 * _ROWS, length)).astype(np.int32)
    lengths = draw.integers(length * 3 // 4, length + 1, 2 * _ROWS).astype(
      np.int32
    )
    return Text(tokens, lengths, np.full(len(lengths), length // 4, np.int32))

  data = {"x": rows(), "alternative": rows()}
  variables = lm.model.init(jax.random.key(0), data["x"])
  return lm, variables, data, np.arange(2 * _ROWS) < _ROWS


def compare(options: Options, name: str) -> dict[str, Any]:
  """One method on both sides."""
  import torch

  from . import text_torch as other

  torch.set_num_threads(options.threads)
  lm, variables, data, mask = problem(options.preset)
  cut = lambda x, rows: other.rows_of(Text(*(leaf[rows] for leaf in x)))
  case = other.Case(
    lm.config,
    cut(data["x"], mask),
    cut(data["x"], ~mask),
    cut(data["alternative"], mask),
  )

  def ours(optimizer: Any, count: int) -> Any:
    fit = ju.Fit(optimizer, count, batch_size=_ROWS)
    method = jax.jit(METHODS[name](lm, fit))
    return method.lower(variables, data, mask, jax.random.key(1)).compile()

  def run(compiled: Any) -> tuple[Any, Any]:
    return jax.block_until_ready(
      compiled(variables, data, mask, jax.random.key(1))
    )

  made, info = run(ours(optax.sgd(0.1), _STEPS))
  params = other.params_of(variables.params)
  sgd = lambda tensors: torch.optim.SGD(tensors, lr=0.1)
  theirs = np.array(other.steps(case, params, name, sgd, _STEPS))
  found = np.asarray(info["unlearn"].loss)
  moved = [
    (np.asarray(a) - np.asarray(b), c.detach().numpy() - np.asarray(b))
    for a, b, c in zip(
      jax.tree.leaves(made.params),
      jax.tree.leaves(variables.params),
      other.leaves(params),
    )
  ]
  apart = max(abs(a - b).max() for a, b in moved)
  size = max(abs(b).max() for _, b in moved)
  began = time.perf_counter()
  compiled = ours(optax.adamw(1e-4), _TIMED)
  seconds_compile = time.perf_counter() - began
  run(compiled)
  mine, yours = [], []
  for _ in range(options.repeats):
    began = time.perf_counter()
    run(compiled)
    mine.append(time.perf_counter() - began)
    params = other.params_of(variables.params)
    adamw = lambda tensors: torch.optim.AdamW(tensors, lr=1e-4)
    began = time.perf_counter()
    other.steps(case, params, name, adamw, _TIMED)
    yours.append(time.perf_counter() - began)
  return {
    "method": name,
    "loss_apart": float((abs(found - theirs) / abs(theirs)).max()),
    "gradient_apart": float(apart / size),
    "step_ms": 1e3 * min(mine) / _TIMED,
    "torch_step_ms": 1e3 * min(yours) / _TIMED,
    "ratio": min(yours) / min(mine),
    "compile_s": seconds_compile,
  }


def main(options: Options) -> list[dict[str, Any]]:
  with common.failing_on_bad_input():
    unknown = [name for name in options.methods if name not in METHODS]
    if unknown:
      raise ValueError(
        f"Expected --methods among {tuple(METHODS)}, got {unknown[0]!r}."
      )
    if options.repeats < 1 or options.threads < 1:
      raise ValueError(
        "Expected --repeats and --threads > 0, got "
        f"{min(options.repeats, options.threads)}."
      )
  rows = []
  with Progress(transient=True) as progress:
    bar = progress.add_task("comparing", total=len(options.methods))
    for name in options.methods:
      progress.update(bar, description=name)
      rows.append(compare(options, name))
      progress.advance(bar)
  columns = {
    "method": "{method}",
    "loss apart": "{loss_apart:.1e}",
    "gradient apart": "{gradient_apart:.1e}",
    "ms a step": "{step_ms:.1f}",
    "PyTorch": "{torch_step_ms:.1f}",
    "ratio": "{ratio:.2f}",
    "s to compile": "{compile_s:.1f}",
  }
  return common.show_rows("text_losses", columns, rows, options.out)


if __name__ == "__main__":
  main(tyro.cli(Options, prog="python -m experiments.benchmarks.text_losses"))
