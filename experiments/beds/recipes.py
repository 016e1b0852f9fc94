"""How classifiers are trained, by model and preset, and as papers say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import optax

import jaxunlearn as ju
from jaxunlearn.core import augment


class Paper(NamedTuple):
  """What a paper says of training beside steps, rate and batch: SGD, momentum 0.9.

  Attributes:
    source: its number on arXiv.
    falls: shares of the steps, and by what the rate is multiplied there.
    warmup: the share of the steps over which the rate rises from 0; after it the
      rate falls in a line that would end at 0 a quarter after the last step. 0
      has none of both.
    weight_decay: of every step.
    moved: whether images are cropped at random.
    mirrored: whether they are mirrored at random.
    departs: what the paper does otherwise, for the report.
  """

  source: str
  falls: tuple[tuple[float, float], ...] = ()
  warmup: float = 0.0
  weight_decay: float = 5e-4
  moved: bool = False
  mirrored: bool = False
  departs: str = ""

  def schedule(self, rate: float, num_steps: int) -> optax.Schedule:
    """The rate of each step."""
    if not self.warmup:
      falls = {int(share * num_steps): by for share, by in self.falls}
      return optax.piecewise_constant_schedule(rate, falls)
    rise = max(1, round(self.warmup * num_steps))
    return optax.join_schedules(
      [
        optax.linear_schedule(0.0, rate, rise),
        optax.linear_schedule(rate, 0.0, max(1, 5 * num_steps // 4 - rise)),
      ],
      [rise],
    )


SALUN = Paper(
  "2310.12508",
  falls=((0.5, 0.1), (0.75, 0.1)),
  moved=True,
  mirrored=True,
  departs="Methods crop and mirror images as it does. Not its are three things: "
  "all 50,000 rows are trained on, where it sets 5,000 aside; a crop brings in the "
  "mean colour, since images are normalised before; and the retrained model takes "
  "as many steps as the original, not as many epochs. Of the methods unsir, "
  "bad_teacher and salun_sgd have published rates and steps, the others this "
  "study's own.",
)
COMPARATOR = Paper(
  "2508.12730",
  falls=((0.4, 0.2), (0.6, 0.2)),
  departs="What it does to images is not known; here nothing is done to them.",
)
CORRECTIVE = Paper(
  "2402.14015",
  warmup=0.01,
  departs="It trains a ResNet-9, here it is a ResNet-18; it crops images before it "
  "damages them, here nothing is done to them.",
)
MUFAC = Paper(
  "2311.02240",
  falls=((1 / 3, 0.1), (2 / 3, 0.1)),
  weight_decay=0.0,
  mirrored=True,
  departs="Images are mirrored as there, but not sheared, scaled or recoloured.",
)


class Recipe(NamedTuple):
  """How the original and the retrained model are trained.

  Attributes:
    num_steps: of training.
    learning_rate: at its beginning.
    batch_size: rows a step, of methods too.
    paper: what else a paper does; None trains by Adam on the images as they are.
  """

  num_steps: int
  learning_rate: float
  batch_size: int
  paper: Paper | None = None

  @property
  def fit(self) -> ju.Fit:
    return ju.Fit(
      self._optimizer,
      self.num_steps,
      self.batch_size,
      augment_rows=self.augment,
    )

  @property
  def _optimizer(self) -> optax.GradientTransformation:
    if self.paper is None:
      return optax.adam(self.learning_rate)
    rate = self.paper.schedule(self.learning_rate, self.num_steps)
    decay = optax.add_decayed_weights(self.paper.weight_decay)
    return optax.chain(decay, optax.sgd(rate, momentum=0.9))

  @property
  def augment(self) -> augment.Augment | None:
    """What methods do to the images that they train on, too."""
    if self.paper is None or not (self.paper.moved or self.paper.mirrored):
      return None
    crops = [augment.crops(4)] if self.paper.moved else []
    flips = [augment.flips()] if self.paper.mirrored else []
    return augment.chain(*crops, *flips)

  @property
  def notes(self) -> list[str]:
    """What a report says of it."""
    if self.paper is None:
      return []
    return [
      "Original and retrained model are trained by the recipe of "
      f"arXiv:{self.paper.source}. {self.paper.departs}"
    ]


# By model and preset. Own models take the row "mlp" if their inputs are vectors,
# else the row "cnn".
RECIPES: Mapping[str, Mapping[str, Recipe]] = {
  "mlp": {
    "smoke": Recipe(120, 2e-3, 64),
    "quick": Recipe(600, 1e-3, 128),
    "paper": Recipe(3000, 1e-3, 128),
  },
  "cnn": {
    "smoke": Recipe(20, 2e-3, 32),
    "quick": Recipe(300, 1.5e-3, 64),
    "paper": Recipe(12000, 1e-3, 256),
  },
  "resnet": {
    "smoke": Recipe(10, 2e-3, 32),
    "quick": Recipe(150, 2e-3, 64),
    "paper": Recipe(12000, 1e-3, 256),
  },
  "vit": {
    "smoke": Recipe(20, 2e-3, 32),
    "quick": Recipe(300, 1e-3, 64),
    "paper": Recipe(20000, 5e-4, 256),
  },
}

Published = Mapping[tuple[str, str, str], Recipe]
# By data, model and preset. Of CIFAR-10 182 epochs of 196 steps, of MUFAC 30 of
# 157.
PUBLISHED: Published = {
  ("cifar10", "resnet", "paper"): Recipe(182 * 196, 0.1, 256, SALUN),
  ("mufac", "resnet", "paper"): Recipe(30 * 157, 0.01, 64, MUFAC),
}
# Of studies whose paper has another: 200 epochs of 391 steps, and 4,000 steps of a
# smaller network, whose images no crop may rob of the patch in their corner.
OF_COMPARATOR: Published = {
  ("cifar10", "resnet", "paper"): Recipe(200 * 391, 0.1, 128, COMPARATOR)
}
OF_CORRECTIVE: Published = {
  ("cifar10", "resnet", "paper"): Recipe(4000, 0.025, 512, CORRECTIVE)
}
