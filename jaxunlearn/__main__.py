"""`jaxunlearn STUDY ...`: the studies, from an install or a checkout."""

from __future__ import annotations

import importlib
import importlib.util
import sys

STUDIES = {
  "forget": "forget rows or classes of a classifier, by every method",
  "forget_exact": "delete to the bit, by shards and slices (SISA, S3T)",
  "forget_corpus": "forget documents of a language model, looked at in six ways",
  "forget_text": "forget questions and answers of a language model",
  "forget_vision_language": "forget people, concepts and answers about images",
  "forget_fact": "forget a fact that SmolLM2 knows",
  "forget_entity": "forget an entity of which there is no corpus (RWKU)",
  "probe_prompts": "ask for forgotten facts from all sides (Sleek)",
  "reintroduce": "tell forgotten facts in the prompt (UnUnlearning)",
  "guard_text": "guards and edits of SmolLM2: trace, redirect, filter",
  "forget_table": "forget rows of a small table",
  "forget_regression": "forget rows of a regression",
  "forget_graph": "forget edges or nodes of a graph",
  "forget_recommendations": "forget users or items of a recommender",
  "forget_identity": "forget a person in a representation of faces",
  "search_architecture": "search a network without some rows, and compare",
  "forget_corrupted": "forget bad rows of which only some are known",
  "zero_shot": "forget classes without any data",
  "continual": "learn and forget in a stream of tasks",
  "compare": "set any two models side by side, in one page",
  "forget_gan": "forget a class of a GAN, by samples or by a prompt",
  "audit": "attack what was forgotten, with shadow models",
  "audit_diffusion": "attack forgotten concepts of diffusion models",
  "match_oracles": "compare with many retrained models (KLoM)",
  "locate_concepts": "where SmolLM2 keeps a concept, and unlearning gets to",
  "restore_facts": "forget false statements; is what was right known again?",
  "synthetic_tables": "tables made instead of real rows, and their worth",
  "value_data": "what rows and clusters of rows are worth",
}


def _usage() -> str:
  width = max(map(len, STUDIES))
  lines = [f"  {name:<{width}}  {says}" for name, says in STUDIES.items()]
  return "\n".join(
    [
      "usage: jaxunlearn STUDY [options]",
      "",
      *lines,
      "",
      "jaxunlearn STUDY --help lists the options of a study.",
    ]
  )


def main(argv: list[str] | None = None) -> None:
  """The program; an unknown study ends it with one line and exit status 2."""
  arguments = sys.argv[1:] if argv is None else argv
  if not arguments or arguments[0] in ("-h", "--help"):
    print(_usage())
    return
  name, *rest = arguments
  name = name.replace("-", "_")
  if name not in STUDIES:
    _fail(f"Expected a study, one of {', '.join(STUDIES)}, got {name!r}.")
  # In a wheel they are part of the package, in a checkout beside it.
  home = importlib.util.find_spec("jaxunlearn.experiments")
  folder = "jaxunlearn.experiments" if home else "experiments"
  try:
    importlib.import_module(f"{folder}.{name}").main(rest)
  except ModuleNotFoundError as error:
    _fail(
      f"Expected the package {error.name!r}, which is not installed; pip "
      "install 'jaxunlearn[experiments]' brings what the studies need."
    )


def _fail(message: str) -> None:
  print(f"error: {message}", file=sys.stderr)
  raise SystemExit(2)


if __name__ == "__main__":
  main()
