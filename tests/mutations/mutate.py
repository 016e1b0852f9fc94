"""Plants one mistake after another in a copy of the package and runs tests.

    python tests/mutations/mutate.py            # All of them.
    python tests/mutations/mutate.py sign epoch  # Those of these names.

A mistake that no test sees is a hole in the suite: exit status 1.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Mutation(NamedTuple):
  """A mistake and the tests that must see it.

  Attributes:
    name: short, for the command line.
    what: the mistake in words.
    path: the file, below the package.
    right: text that occurs once in it.
    wrong: what stands in its place.
    tests: arguments of pytest, without the slow mark unless they name it.
  """

  name: str
  what: str
  path: str
  right: str
  wrong: str
  tests: tuple[str, ...]


GOLDEN = "tests/golden/test_golden.py"
BATTERY = "tests/conformance/test_battery.py"

MUTATIONS = [
  Mutation(
    "sign",
    "the divergence from a teacher has the other sign",
    "losses/distillation.py",
    "log_teacher - log_student)",
    "log_student - log_teacher)",
    (GOLDEN, "-k", "kl_to_a_teacher"),
  ),
  Mutation(
    "reduction",
    "a sum over classes where a mean is asked for, and the other way about",
    "losses/distillation.py",
    "terms.mean(axis=-1) if per_class_mean else terms.sum(axis=-1)",
    "terms.sum(axis=-1) if per_class_mean else terms.mean(axis=-1)",
    (GOLDEN, "-k", "kl_to_a_teacher"),
  ),
  Mutation(
    "mask",
    "a phase does not mask its updates",
    "core/reduction.py",
    "jnp.where(mask != 0, u * jnp.asarray(mask, u.dtype), 0)",
    "u",
    (BATTERY, "-k", "weights_outside and methods.finetune"),
  ),
  Mutation(
    "teacher",
    "forget rows imitate the competent teacher, retain rows the other",
    "methods/bad_teacher.py",
    ", untrained, competent)",
    ", competent, untrained)",
    ("tests/methods/test_bad_teacher.py",),
  ),
  Mutation(
    "epoch",
    "an epoch begins a row too early",
    "core/sampling.py",
    "epoch, x = position // count, position % count",
    "epoch, x = (position + 1) // count, position % count",
    ("tests/core/test_sampling.py",),
  ),
  Mutation(
    "key",
    "every step of a phase has the same key",
    "core/phase.py",
    "jax.random.fold_in(jax.random.fold_in(key, 1), state.step)",
    "jax.random.fold_in(key, 1)",
    ("tests/conformance/test_keys.py",),
  ),
  Mutation(
    "leaves",
    "the noise of all weights is drawn with one key",
    "methods/fisher.py",
    "keys = jax.random.split(key, len(leaves))",
    "keys = [key] * len(leaves)",
    ("tests/conformance/test_keys.py",),
  ),
  Mutation(
    "retain",
    "gradient ascent draws the rows to keep",
    "methods/baselines.py",
    "draw=Draw(forget=fit.batch_size),\n    forget_weight=-1.0",
    "draw=Draw(retain=fit.batch_size),\n    retain_weight=-1.0",
    (BATTERY, "-k", "may_hold_nan and methods.gradient_ascent"),
  ),
  Mutation(
    "momentum",
    "the published SGD has no momentum",
    "methods/salun.py",
    "optax.sgd(learning_rate, momentum=momentum)",
    "optax.sgd(learning_rate)",
    ("tests/methods/test_salun.py", "-k", "random_labels"),
  ),
  Mutation(
    "noise",
    "error-maximising noise minimises the error",
    "losses/noise.py",
    "norm) - losses",
    "norm) + losses ",
    (GOLDEN, "-k", "error_maximising"),
  ),
  Mutation(
    "forgotten",
    "forgotten interactions are trained on as retained ones",
    "recsys/objectives.py",
    "jnp.where(step.forget, forget_loss(positive, negative), forward)",
    "forward",
    ("tests/recsys/test_mmrecun.py", "-k", "forgets_users and sequential"),
  ),
]


def run(mutation: Mutation, folder: pathlib.Path) -> bool:
  """Whether the tests see the mistake, planted in a copy below `folder`.

  Raises:
    ValueError: the text to change does not occur exactly once, or the tests
      end in something else than a failure of theirs.
  """
  copy = folder / mutation.name
  for name in ("jaxunlearn", "tests"):
    shutil.copytree(
      ROOT / name,
      copy / name,
      ignore=shutil.ignore_patterns("__pycache__"),
    )
  for name in ("pyproject.toml", "README.md"):
    shutil.copy(ROOT / name, copy)
  path = copy / "jaxunlearn" / mutation.path
  text = path.read_text()
  if text.count(mutation.right) != 1:
    raise ValueError(
      f"Expected {mutation.path} to hold {mutation.right!r} once, got "
      f"{text.count(mutation.right)} places."
    )
  path.write_text(text.replace(mutation.right, mutation.wrong))
  command = [sys.executable, "-m", "pytest", "-q", "-x", *mutation.tests]
  cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", ROOT / ".cache/jax")
  found = subprocess.run(
    [*command, "-m", "not slow"],
    cwd=copy,
    env={
      **os.environ,
      "PYTHONPATH": str(copy),
      "JAX_COMPILATION_CACHE_DIR": str(cache),
    },
    capture_output=True,
    text=True,
    check=False,
  )
  shutil.rmtree(copy)
  if found.returncode not in (0, 1):
    raise ValueError(
      f"Expected tests to run for {mutation.name!r}, got exit status "
      f"{found.returncode}:\n{found.stdout[-2000:]}{found.stderr[-2000:]}"
    )
  return found.returncode == 1


def main(argv: list[str] | None = None) -> int:
  parser = argparse.ArgumentParser(description=__doc__)
  names = [mutation.name for mutation in MUTATIONS]
  parser.add_argument("names", nargs="*", help=", ".join(names))
  wanted = parser.parse_args(argv).names or names
  if unknown := sorted(set(wanted) - set(names)):
    parser.error(f"Expected names among {', '.join(names)}, got {unknown}.")
  survived = 0
  with tempfile.TemporaryDirectory() as folder:
    for mutation in MUTATIONS:
      if mutation.name in wanted:
        caught = run(mutation, pathlib.Path(folder))
        survived += not caught
        verdict = "caught  " if caught else "SURVIVED"
        print(f"{verdict} {mutation.name}: {mutation.what}", flush=True)
  return int(survived > 0)


if __name__ == "__main__":
  sys.exit(main())
