"""Can a vision-language model forget what it was told of some images?

Question: on four benchmarks' terms (FIUBench, arXiv:2411.03554; MMUBench with SIU,
arXiv:2405.12523; SafeEraser, arXiv:2502.12520; UnLOK-VQA, arXiv:2505.01456), what
is left of people, of one concept, of unsafe answers and of single facts, and what
else went with them?

    python -m experiments.forget_vision_language --benchmark safeeraser

trains a small tower and decoder on CIFAR-10 images that stand for people
(--data-dir; generated images without it). A benchmark's own JSON file, as it is
published, in the folder of its images:

    python -m experiments.forget_vision_language --benchmark fiubench --data DIR
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from .. import bench, flags
from ..beds import pictures
from ..data import data_folder
from ..datasets import vqa, vqa_layouts
from ..flags import described
from . import forget_vision_language_answers as answers
from . import forget_vision_language_concepts as concepts
from . import forget_vision_language_facts as facts
from .forget_vision_language_methods import DEFAULTS, METHODS, settings


@dataclasses.dataclass(frozen=True)
class Options(bench.CommonOptions):
  """Forget what a vision-language model was told of images."""

  benchmark: Annotated[
    Literal["fiubench", "mmubench", "safeeraser", "unlok"],
    described(
      "Whose terms: what is forgotten, by what, and how it is measured."
    ),
  ] = "fiubench"

  data: Annotated[
    str | None,
    described(
      "The benchmark's own folder, a JSON file and its images, or the file; "
      "people made up of CIFAR-10 without it.",
      "FOLDER|FILE.json",
    ),
  ] = None

  methods: Annotated[
    str, described("Methods: default, all, or names with commas between.")
  ] = "default"

  out: flags.Out = "out/vision_language"

  def __post_init__(self) -> None:
    if self.methods == "default":
      few = ",".join(DEFAULTS[self.benchmark][:2])
      chosen = few if self.preset == "smoke" else self.benchmark
      object.__setattr__(self, "methods", chosen)


_SMOKE = pictures.Recipe(steps=12, width=32, sample=8)
_PAPER = pictures.Recipe(steps=3000, width=256, layers=6, sample=200)
_REQUESTS = {
  "fiubench": "people:6",
  "mmubench": "concept:first",
  "safeeraser": "unsafe:0.5",
  "unlok": "facts:8",
}
# Steps until all rows are memorised.
_STEPS = {"fiubench": 400, "mmubench": 400, "safeeraser": 260, "unlok": 200}
_TUNE = {
  "fiubench": "people:5",
  "mmubench": "concept:person9",
  "safeeraser": "unsafe:0.3",
  "unlok": "facts:4",
}


def recipe_of(options: Options) -> pictures.Recipe:
  """The preset's, with what a benchmark needs besides."""
  small = {"smoke": _SMOKE, "paper": _PAPER}
  steps = _STEPS[options.benchmark]
  recipe = small.get(options.preset, pictures.Recipe(steps=steps))
  if options.benchmark == "mmubench":
    # Names are to be known on views that were never seen.
    return recipe._replace(shift=2)
  if options.benchmark == "unlok":
    return recipe._replace(layers=max(3, recipe.layers))
  return recipe


def beds(
  options: Options, seeds: Sequence[int], part: str, asks: Sequence[Any]
) -> bench.Beds:
  """The rows, anew for each seed where they are made up.

  Settings are chosen on other images than those that are reported.
  """
  del asks
  recipe = recipe_of(options)
  if options.data is not None:
    found = vqa_layouts.load(options.benchmark, options.data)
    rows = [found for _ in seeds]
    return pictures.beds(rows, found.images, False, recipe._replace(max_new=32))
  sizes = vqa.SMOKE if options.preset == "smoke" else vqa.QUICK
  size = sizes.images
  images, shows = vqa.pictures(data_folder(options.data_dir), 2 * size)
  own = slice(size, None) if part == bench.SELECT else slice(size)
  images, shows = images[own], shows[own]
  rows = [vqa.people(images, shows, sizes, seed) for seed in seeds]
  return pictures.beds(rows, images, True, recipe)


def measures(plan: bench.Plan) -> list[bench.Measure]:
  """Those of the benchmark."""
  makers = {
    "fiubench": answers.fiubench,
    "mmubench": concepts.measures,
    "safeeraser": answers.safeeraser,
    "unlok": facts.measures,
  }
  return makers[plan.options.benchmark](plan)


def _notes(plan: bench.Plan) -> list[str]:
  found = plan.beds.facts
  return [
    "{train_rows} rows on {images} images; {words} words, {parameters:,} "
    "parameters.".format(**found),
    *([found["note"]] if found["note"] else []),
    *(
      []
      if plan.options.data or data_folder(plan.options.data_dir)
      else ["The images are generated: --data-dir has CIFAR-10's."]
    ),
  ]


def _lead(plan: bench.Plan) -> str:
  return (
    f"A model of images and texts was trained on {plan.beds.facts['train_rows']} "
    f"questions; each method is to forget {', '.join(plan.requests.names)}. Rates "
    "of attacks stand beside what a guess would have."
  )


def _findings(evidence: bench.Evidence) -> list[str]:
  makers = {
    "fiubench": answers.of_people,
    "mmubench": concepts.findings,
    "safeeraser": answers.of_refusals,
    "unlok": facts.findings,
  }
  return makers[evidence.plan.options.benchmark](evidence)


_LABELS = {"fiubench": "FIUBench", "mmubench": "MMUBench", "unlok": "UnLOK-VQA"}
STUDY = bench.Study(
  name="forget_vision_language",
  options=Options,
  beds=beds,
  kinds={
    "people": bench.Kind("people:COUNT", answers.people),
    "unsafe": bench.Kind("unsafe:SHARE", answers.unsafe),
    "concept": bench.Kind("concept:OWNER", concepts.concept),
    "facts": bench.Kind("facts:COUNT", facts.facts),
  },
  request=lambda options: _REQUESTS[options.benchmark],
  train=pictures.train,
  methods=METHODS,
  settings=settings,
  chosen=Path(__file__).with_name("forget_vision_language_settings.json"),
  measures=measures,
  groups=DEFAULTS,
  fit=lambda plan: _checked(plan),
  seeds=lambda options: {"smoke": 2, "quick": 5, "paper": 10}[options.preset],
  tune_request=lambda options: _TUNE[options.benchmark],
  title=lambda plan: (
    "Forgetting in a vision-language model, as "
    f"{_LABELS.get(plan.options.benchmark, 'SafeEraser')} asks"
  ),
  lead=_lead,
  notes=_notes,
  findings=_findings,
)


def _checked(plan: bench.Plan) -> bench.Plan:
  """Requests and methods are of the benchmark's kind.

  Raises:
    ValueError: one is of another's.
  """
  benchmark = plan.options.benchmark
  wanted = _REQUESTS[benchmark].partition(":")[0]
  for name in plan.requests.names:
    if name.partition(":")[0] != wanted:
      raise ValueError(
        f"Expected --request {wanted}:... for {benchmark}, got {name!r}."
      )
  for name in plan.methods:
    if name not in DEFAULTS[benchmark]:
      raise ValueError(
        f"Expected --methods of {benchmark}, {', '.join(DEFAULTS[benchmark])}, "
        f"got {name!r}."
      )
  if benchmark in ("safeeraser", "unlok"):
    # They know no retrained model: what is said of a row that was never trained
    # on is a guess, and an attack finds half of those.
    study = dataclasses.replace(plan.study, gap=answers.AIM, is_gap=False)
    return plan._replace(study=study)
  return plan
