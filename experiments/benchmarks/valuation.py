"""Values of rows: one program, a NumPy loop, and pyDVL, on the same utility.

Question: how much faster are leave-one-out, permutation Shapley, Banzhaf,
Data-OOB and KNN-Shapley values than with a tight loop over NumPy fits, and than
with pyDVL?

    OMP_NUM_THREADS=1 python -m experiments.benchmarks.valuation \
      --pydvl-python /path/to/venv/bin/python

All sides train the same model (logistic regression of breast-cancer, eight
Newton steps from zero, l2 = 1; float32 here, float64 in NumPy) and score it by
its log-likelihood on 200 validation rows. That is checked first, on 200 random
masks. The numbers of evaluations are the same; pyDVL draws its own sets, so its
sampled values agree within standard errors, leave-one-out and KNN-Shapley
exactly. (KNN-Shapley and Data-OOB judge by matches and correct rows, as ever.)

Columns: seconds of the fits alone, in a bare loop over the NumPy model; of
pyDVL, by number of processes; of this library, compiling and running. The bare
loop separates what the batched model gains from what pyDVL's bookkeeping costs.
KNN-Shapley has no fits: its loop is vectorised NumPy. Data-OOB's bags are fitted
by a loop under pyDVL, too, and count as its time; it has no processes of its own.
Best of `repeats`; pyDVL once, what its processes import included. XLA takes all cores whatever OMP_NUM_THREADS says.

pyDVL lives in an environment of its own (`python -m venv V; V/bin/pip install
pydvl`), since its NumPy is another; without `--pydvl-python` it is left out.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from jaxunlearn.valuation import (
  banzhaf,
  closed_form,
  exact,
  knn,
  out_of_bag,
  permutation,
)
from jaxunlearn.valuation.types import Utility, Valuation

from .. import common
from . import valuation_pydvl

VALIDATION_ROWS = 200

Problem = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Options:
  """Times values of rows in one program against loops."""

  rows: Annotated[
    tuple[int, ...], tyro.conf.arg(help="Training rows, 10 to 369; several.")
  ] = (200,)
  samples: Annotated[int, tyro.conf.arg(help="Sets for Banzhaf.")] = 1000
  bags: Annotated[int, tyro.conf.arg(help="Models of Data-OOB.")] = 200
  permutations: Annotated[int, tyro.conf.arg(help="Even.")] = 20
  repeats: Annotated[
    int, tyro.conf.arg(help="Timed runs; the best counts.")
  ] = 3
  jobs: Annotated[
    tuple[int, ...], tyro.conf.arg(help="Numbers of pyDVL processes.")
  ] = (1, 2)
  pydvl_python: Annotated[
    str | None, tyro.conf.arg(help="A Python that has pyDVL.")
  ] = None
  seed: Annotated[int, tyro.conf.arg(help="Of rows and draws.")] = 0
  out: Annotated[str | None, tyro.conf.arg(help="File for the figures.")] = None


class Case(NamedTuple):
  """A method.

  Attributes:
    estimate: ours, of the problem and a key.
    loop: the same work in NumPy: the values where they are exact, and seconds.
  """

  estimate: Callable[[Problem, jax.Array], Valuation]
  loop: Callable[[dict[str, np.ndarray]], tuple[np.ndarray | None, float]]


def load(num_rows: int, seed: int) -> dict[str, np.ndarray]:
  """Standardised breast-cancer rows in float64, without a constant.

  Raises:
    ValueError: more rows than there are, or fewer than ten.
  """
  from sklearn.datasets import load_breast_cancer

  x, y = load_breast_cancer(return_X_y=True)
  most = len(y) - VALIDATION_ROWS
  if not 10 <= num_rows <= most:
    raise ValueError(f"Expected rows in 10 .. {most}, got {num_rows}.")
  x = (x - x.mean(0)) / x.std(0)
  order = np.random.default_rng(seed).permutation(len(y))
  train, rest = order[:num_rows], order[num_rows:][:VALIDATION_ROWS]
  return {
    "x": x[train],
    "y": y[train],
    "validation_x": x[rest],
    "validation_y": y[rest],
  }


def make_cases(num_rows: int, options: Options) -> dict[str, Case]:
  """The methods by name."""
  rng = np.random.default_rng(options.seed)
  orders = np.stack(
    [rng.permutation(num_rows) for _ in range(options.permutations)]
  )
  joined = orders[:, None, :] <= np.arange(num_rows)[None, :, None]
  sets = rng.random((options.samples, num_rows)) < 0.5

  def one_out(problem):
    masks = ~np.eye(num_rows + 1, num_rows, dtype=bool)
    utilities, seconds = valuation_pydvl.bare_loop(problem, masks)
    return utilities[-1] - utilities[:-1], seconds

  def over(masks):
    return lambda problem: (None, valuation_pydvl.bare_loop(problem, masks)[1])

  return {
    "loo": Case(lambda p, key: exact.loo(make_utility(p)), one_out),
    "shapley": Case(
      lambda p, key: permutation.shapley(
        make_utility(p),
        key,
        num_permutations=options.permutations,
        antithetic=False,
      ),
      over(joined.reshape(-1, num_rows)),
    ),
    "banzhaf": Case(
      lambda p, key: banzhaf.banzhaf_msr(
        make_utility(p), key, num_samples=options.samples
      ),
      over(sets),
    ),
    "data_oob": Case(
      lambda p, key: out_of_bag.data_oob(
        out_of_bag.logistic_scores(
          {"x": p["x"], "label": p["y"]}, num_classes=2, **LEARNER
        ),
        num_rows,
        key,
        num_models=options.bags,
      ),
      lambda problem: (
        None,
        valuation_pydvl.bagging_loop(problem, options.bags, options.seed)[1],
      ),
    ),
    "knn_shapley": Case(
      lambda p, key: knn.knn_shapley(
        p["x"],
        p["y"],
        p["validation_x"],
        p["validation_y"],
        num_neighbours=valuation_pydvl.NUM_NEIGHBOURS,
      ),
      valuation_pydvl.knn_loop,
    ),
  }


LEARNER: dict[str, Any] = {
  "l2": valuation_pydvl.L2,
  "num_steps": valuation_pydvl.NUM_STEPS,
  "is_damped": False,
}


def make_utility(problem: Problem) -> Utility:
  return closed_form.logistic_utility(
    {"x": problem["x"], "label": problem["y"]},
    {"x": problem["validation_x"], "label": problem["validation_y"]},
    num_classes=2,
    **LEARNER,
  )


def require_same_utility(
  ours: dict[str, jax.Array], theirs: dict[str, np.ndarray], seed: int
) -> float:
  """The largest difference of utilities over 200 masks.

  Raises:
    ValueError: it is 1e-5 or more, so that the two sides differ.
  """
  rng = np.random.default_rng(seed + 1)
  masks = rng.random((200, len(theirs["y"]))) < rng.random((200, 1))
  many = jax.jit(lambda p, m: make_utility(p).many(m))
  expected, _ = valuation_pydvl.bare_loop(theirs, masks)
  gap = float(np.abs(np.asarray(many(ours, masks)) - expected).max())
  if not gap < 1e-5:
    raise ValueError(f"Expected utilities of both sides alike, got gap {gap}.")
  return gap


def run_pydvl(
  problem: dict[str, np.ndarray], options: Options
) -> list[dict[str, Any]]:
  """pyDVL's rows, from a process of its own; none without its Python.

  Raises:
    ValueError: the process failed.
  """
  if options.pydvl_python is None:
    return []
  script = Path(valuation_pydvl.__file__)
  with tempfile.TemporaryDirectory() as folder:
    given, found = Path(folder) / "problem.npz", Path(folder) / "result.json"
    np.savez(
      given,
      num_permutations=options.permutations,
      num_samples=options.samples,
      num_bags=options.bags,
      jobs=np.array(options.jobs),
      seed=options.seed,
      **problem,  # type: ignore[arg-type]
    )
    done = subprocess.run(
      [options.pydvl_python, str(script), str(given), str(found)],
      capture_output=True,
      text=True,
      check=False,
    )
    if done.returncode:
      lines = done.stderr.strip().splitlines() or ["no message"]
      raise ValueError(f"Expected pyDVL to run, got: {lines[-1]}")
    return json.loads(found.read_text())


def measure(num_rows: int, options: Options) -> list[dict[str, Any]]:
  """A row for each method."""
  problem = load(num_rows, options.seed)
  ours = {
    name: jnp.asarray(leaf, jnp.int32 if name.endswith("y") else jnp.float32)
    for name, leaf in problem.items()
  }
  constant = lambda x: np.concatenate([x, np.ones((len(x), 1))], axis=1)
  theirs = {
    name: leaf if name.endswith("y") else constant(leaf)
    for name, leaf in problem.items()
  }
  gap = require_same_utility(ours, theirs, options.seed)
  peer = run_pydvl(theirs, options)
  rows = []
  for name, case in make_cases(num_rows, options).items():
    key = jax.random.key(options.seed)
    value, compile_seconds, run_seconds = common.timed(
      case.estimate, ours, key
    )[:3]
    compiled = jax.jit(case.estimate).lower(ours, key).compile()
    loop_seconds = []
    for _ in range(options.repeats):
      began = time.perf_counter()
      jax.block_until_ready(compiled(ours, key))
      run_seconds = min(run_seconds, time.perf_counter() - began)
      expected, seconds = case.loop(theirs)
      loop_seconds.append(seconds)
    row = {
      "rows": num_rows,
      "method": name,
      "evaluations": int(value.num_evaluations),
      "utility_gap": gap,
      "seconds_loop": min(loop_seconds),
      "seconds_compile": compile_seconds,
      "seconds_run": run_seconds,
      "loop_over_run": min(loop_seconds) / run_seconds,
    }
    if expected is not None:
      row["gap_to_loop"] = float(np.abs(value.values - expected).max())
    rows.append(row | compared(value, [r for r in peer if r["method"] == name]))
  return rows


def compared(value: Valuation, peer: list[dict[str, Any]]) -> dict[str, Any]:
  """pyDVL's seconds and fits, and how its values agree with ours."""
  row: dict[str, Any] = {}
  ours, error = np.asarray(value.values), np.asarray(value.standard_error)
  for found in peer:
    row[f"seconds_pydvl_{found['jobs']}"] = found["seconds"]
    if found["values"] is None:
      continue
    row["fits_pydvl"] = found["fits"]
    theirs = np.asarray(found["values"])
    gap = np.sqrt(((ours - theirs) ** 2).mean())
    row["gap_to_pydvl"] = float(np.abs(ours - theirs).max())
    row["spearman_pydvl"] = float(
      np.corrcoef(_ranks(ours), _ranks(theirs))[0, 1]
    )
    if error.max() > 0:
      # 1 where both estimate the same: two independent errors of one size.
      row["gap_in_errors"] = float(gap / np.sqrt(2 * (error**2).mean()))
  return row


def _ranks(values: np.ndarray) -> np.ndarray:
  return np.argsort(np.argsort(values, kind="stable"), kind="stable")


def main(options: Options) -> list[dict[str, Any]]:
  with common.failing_on_bad_input():
    rows = [row for n in options.rows for row in measure(n, options)]
  jobs = [j for j in options.jobs if options.pydvl_python is not None]
  shown = []
  for row in rows:
    cells = dict(row)
    for j in jobs:
      seconds = row.get(f"seconds_pydvl_{j}")
      ratio = None if seconds is None else seconds / row["seconds_run"]
      cells[f"pydvl_{j}"] = "–" if seconds is None else f"{seconds:.2f}"
      cells[f"ratio_{j}"] = "–" if ratio is None else f"{ratio:.0f}"
    shown.append(cells)
  columns = {
    "rows": "{rows}",
    "method": "{method}",
    "evaluations": "{evaluations}",
    "loop s": "{seconds_loop:.3f}",
    **{f"pyDVL x{j} s": f"{{pydvl_{j}}}" for j in jobs},
    "compile s": "{seconds_compile:.2f}",
    "run s": "{seconds_run:.4f}",
    "loop/run": "{loop_over_run:.1f}",
    **{f"pyDVL x{j}/run": f"{{ratio_{j}}}" for j in jobs},
  }
  load = os.getloadavg()[0]
  return common.show_rows(
    "valuation", columns, rows, options.out, shown, load=load
  )


if __name__ == "__main__":
  main(tyro.cli(Options))
