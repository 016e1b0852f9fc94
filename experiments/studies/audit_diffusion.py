"""Unlearned or concealed? Diffusion models, audited by partial diffusion.

Question: a text-to-image model was made to forget a concept. Does it lack the
concept, or only the way to it from the prompt? The attack of arXiv 2409.05668
lets the original model begin an image and the unlearned one finish it. Any model
finishes a nearly clean image, also one retrained without the concept; only what
exceeds that one is called concealment here.

    python -m experiments.audit_diffusion --preset quick --out out/diffusion

trains a model of digits in six styles, retrains it without the digit three,
erases the digit with each method and writes results.json, curves.json, table.md,
plots/ (generations before, after and under attack; curves over the share of the
original's steps), params/ and report.html. Training and retraining take two to
three minutes on two CPU cores, the rest as much again; a later run that is given
these models,

    python -m experiments.audit_diffusion --load out/diffusion

is spared the first part. All methods take five minutes. A run that is stopped
kept every model that it had made and what it had measured, and the same command
goes on from there. For
another concept, which needs another retrained model:

    python -m experiments.audit_diffusion --concept style:ember
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any

import jax
import numpy as np
import tyro

from .. import bench, flags
from ..beds import diffusion as beds
from ..beds.diffusion_methods import METHODS, USUAL
from ..bench.kept import Kept
from ..files import checked_path
from ..flags import described
from . import audit_diffusion_measures as measured
from . import audit_diffusion_models as models
from . import audit_diffusion_view as view


@dataclasses.dataclass(frozen=True)
class Options(bench.CommonOptions):
  """Erase a concept from a diffusion model; look for what is left of it."""

  # What is asked for is a concept, and what shares the device is told by it.
  request: Annotated[str | None, tyro.conf.Suppress] = None

  concept: Annotated[
    str,
    described(
      "What to forget: object:NAME, style:NAME or pair:OBJECT,STYLE, by word or "
      "number, as in object:three, object:3, style:ember, pair:three,ember."
    ),
  ] = "object:3"

  methods: Annotated[
    str,
    described(
      "Methods: usual, all, or names with commas as in esd,uce. Of "
      + ", ".join(METHODS)
      + "."
    ),
  ] = "usual"

  load: Annotated[
    str | None,
    described(
      "Folder of an earlier run, whose original and retrained model and "
      "classifier are taken instead of training them.",
      "DIR",
    ),
  ] = None

  attacked: Annotated[
    int | None,
    described(
      "Prompts attacked by adversarial tokens (UnlearnDiffAtk), beside as many "
      "random ones; 0 leaves it out, the preset's number by default.",
      "INT",
    ),
  ] = None

  twins: Annotated[
    int | None,
    described(
      "Models retrained without the concept; seeds take them in turn. The "
      "preset's number by default.",
      "INT",
    ),
  ] = None

  first_seed: flags.FirstSeed = 100

  out: flags.Out = "out/diffusion"


def make_beds(options: Options, seeds: Sequence[int], part: str, asks: Any):
  """Images and models; the same for all seeds.

  Raises:
    ValueError: one line that names the option, what was found and wanted.
  """
  del part, asks
  size = beds.SIZES[options.preset]
  for name in ("attacked", "twins"):
    value = getattr(options, name)
    if value is not None and value < (name == "twins"):
      wanted = ">= 0" if name == "attacked" else "> 0"
      raise ValueError(f"Expected --{name} {wanted}, got {value}.")
    if value is not None:
      size = size._replace(**{name: value})
  size = size._replace(seeds=len(seeds))
  if options.preset != "paper":
    # Before the data are read, and with their own words.
    beds.parse_concept(options.concept, beds.DIGITS)
  images = beds.load(options.preset, options.data_dir, size.judge_steps)
  concept = beds.parse_concept(options.concept, images.names)
  # All seeds at once where models are small and there is a GPU.
  is_small = options.preset != "paper" and jax.default_backend() != "cpu"
  strategy = "vmap" if is_small else "map"
  run = {"preset": options.preset, "concept": concept.name}
  kept = Kept(checked_path(options.out, "--out"), run)
  this = models.Setup(
    images, size, concept, np.array(seeds), strategy, kept, None
  )
  if options.load is not None:
    folder = checked_path(options.load, "--load")
    loaded, count = models.load(folder, this, options.preset)
    if options.twins not in (None, count):
      raise ValueError(
        f"Expected --twins {count}, as many as in --load, got {options.twins}."
      )
    size = size._replace(twins=count)
    this = dataclasses.replace(this, size=size, loaded=loaded)
  of_seed = np.array(seeds), np.arange(len(seeds))
  return bench.Beds(
    None,
    of_seed,
    lambda shared, own: bench.Bed(images.model, None, extra=own),
    [None] * len(seeds),
    {
      "concept": concept.name,
      "size": size._asdict(),
      "reads": {name: method.reads for name, method in METHODS.items()},
      "guidance": beds.GUIDANCE,
      "psis": measured.PSIS,
    },
    dataset=this,
    model=images.model,
    kept=kept,
  )


def requests(
  options: Options, seeds: Sequence[int], beds: bench.Beds, text: str
) -> bench.Requests:
  """The rows that show the concept."""
  del options, text
  forget = np.broadcast_to(
    beds.dataset.forget, (1, len(seeds), len(beds.dataset.forget))
  )
  return bench.Requests((beds.dataset.concept.name,), forget, forget, None)


def fit(plan: bench.Plan) -> bench.Plan:
  """Says in the options what a later run is to find there."""
  twins = plan.dataset.size.twins
  options = dataclasses.replace(plan.options, twins=twins)
  strategy = plan.dataset.strategy
  if plan.options.strategy is not None:
    strategy = plan.strategy
    beds = dataclasses.replace(plan.dataset, strategy=strategy)
    plan = plan._replace(beds=plan.beds._replace(dataset=beds))
  return plan._replace(options=options, strategy=strategy)


STUDY = bench.Study(
  name="audit_diffusion",
  options=Options,
  beds=make_beds,
  request=lambda options: options.concept,
  requests=requests,
  serve=models.serve,
  saved=lambda painter: models.Variables(painter.params),
  methods={
    name: bench.Method(
      lambda bed, setting, method=method: method.make(setting["task"]),
      access=method.reads,
    )
    for name, method in METHODS.items()
  },
  groups={"usual": USUAL},
  smoke=("esd_x", "uce"),
  settings=lambda options: {},
  fit=fit,
  unanswered=(
    "This page cannot say: attacks show how much of a concept comes back, and "
    "where little does, a stronger one may find more."
  ),
  measures=measured.measures,
  seeds=lambda options: beds.SIZES[options.preset].seeds,
  files=lambda evidence: {
    "curves.json": view.curves(evidence),
    **models.to_keep(evidence.plan),
  },
  title=lambda plan: f"Unlearned or concealed? {plan.dataset.concept.name}",
  lead=view.lead,
  columns=lambda plan: view.SHOWN,
  notes=view.notes,
  panels=(view.figures,),
  findings=view.findings,
)
