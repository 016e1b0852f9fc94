"""The models of an audit as files: written once, loaded by later runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from experiments.diffusion_study import Study, Trained
from jaxunlearn.adapters import orbax
from jaxunlearn.core.types import PyTree, Variables

ORIGINAL, RETRAINED, JUDGE = "original", "retrained", "classifier"


def save_trained(
  folder: Path, study: Study, preset: str, trained: Trained
) -> None:
  """Writes original, retrained models and classifier under a folder."""
  for name, variables in (
    (ORIGINAL, Variables(trained.original)),
    (RETRAINED, Variables(trained.twins)),
    (JUDGE, trained.judge),
  ):
    config = _config(study, preset)
    if name == RETRAINED:
      config |= {"concept": study.concept.name, "twins": study.size.twins}
    orbax.save(folder / name, variables, config=config)


def save_unlearned(
  folder: Path, study: Study, preset: str, params: Mapping[str, PyTree]
) -> None:
  """Writes the first seed's params of each method under a folder."""
  for name, values in params.items():
    config = _config(study, preset)
    config |= {"concept": study.concept.name, "seed": int(study.seeds[0])}
    orbax.save(folder / name, Variables(values), config=config)


def load_trained(study: Study, folder: Path, preset: str) -> Trained:
  """What `save_trained` wrote, in a folder or its subfolder "params".

  Raises:
    ValueError: something is missing or fits another model or concept.
  """
  folder = folder.expanduser().absolute()
  if not (folder / ORIGINAL).exists():
    folder = folder / "params"
  if not (folder / ORIGINAL).exists():
    raise ValueError(
      "Expected --load to be the folder of an earlier run of audit_diffusion, "
      f"got {folder.parent}."
    )
  # Its text says of what kind the models are, before their shapes do.
  saved = orbax.load(folder / RETRAINED)
  found = saved.config or {}
  for name, wanted in (("preset", preset), ("concept", study.concept.name)):
    if found.get(name) != wanted:
      raise ValueError(
        f"Expected --load with models of {name} {wanted}, got "
        f"{found.get(name)}."
      )
  like = jax.eval_shape(study.bed.model.init, jax.random.key(0))
  twins = int(found["twins"])
  many = jax.tree.map(
    lambda s: jax.ShapeDtypeStruct((twins, *s.shape), s.dtype), like
  )
  image = jnp.zeros((1, *study.bed.model.image_shape))
  judge = jax.eval_shape(study.bed.judge.init, jax.random.key(0), image)
  original, retrained, classifier = (
    orbax.load(folder / name, part).variables
    for name, part in (
      (ORIGINAL, Variables(like)),
      (RETRAINED, Variables(many)),
      (JUDGE, judge),
    )
  )
  return Trained(original.params, retrained.params, classifier, (0.0, 0.0))


def _config(study: Study, preset: str) -> dict[str, Any]:
  return {"preset": preset, "training": study.size.recipe._asdict()}
