"""Rows of the methods for any model, and of relearning."""

import jax
import numpy as np
import optax
import problems
from conformance import worlds
from conformance.case import row
from conformance.worlds import ADAM

import jaxunlearn as ju
from jaxunlearn import attacks
from jaxunlearn.methods.influence_unlearning import influence_released
from jaxunlearn.methods.unsir import unsir_released
from jaxunlearn.models.vae import vae

FIT = ju.Fit(ADAM, 5, 8)
FEW = ju.Fit(ADAM, 4, 16)
SHARED = ju.Fit(ADAM, 5, 40)  # Eight devices share 8 and 32 rows.
STEPS = FIT._asdict()
SALUN = {
  "num_classes": 4,
  "num_epochs": 2,
  "forget_steps": 1,
  "fit": ju.Fit(ADAM, 2, 8),
}
SCRUB = {
  "fit": ju.Fit(ADAM, 3, 16),
  "num_epochs": 3,
  "max_epochs": 2,
  "max_steps": 2,
  "forget_batch_size": 8,
}
NOISE = {"noise": ju.Fit(optax.adam(0.1), 4, 8), "impair": FEW, "repair": FEW}
# What a row adds to another row's outputs, of any size.
ATTRIBUTION = 0.1 * np.random.default_rng(0).normal(size=(60, 60, 4))


def ledger():
  return jax.tree.map(lambda p: 0.1 * p, problems.trained()[2].params)


def jittered(keys, rows):
  """An augmentation of vectors."""
  noise = jax.vmap(lambda k, x: jax.random.normal(k, x.shape))(keys, rows["x"])
  return {**rows, "x": rows["x"] + 0.1 * noise.astype(rows["x"].dtype)}


def _classes(factory, build, variant="", **flags):
  return row(worlds.classes, factory, build, variant, **flags)


CLASSIFIERS = [
  _classes(
    ju.methods.retrain, lambda m: ju.methods.retrain(m, **STEPS), reads="retain"
  ),
  _classes(
    ju.methods.finetune,
    lambda m: ju.methods.finetune(m, **STEPS),
    reads="retain",
  ),
  _classes(
    ju.methods.finetune,
    lambda m: ju.methods.finetune(m, FIT._replace(augment_rows=jittered)),
    "augmented",
    reads="retain",
  ),
  _classes(
    ju.methods.gradient_ascent,
    lambda m: ju.methods.gradient_ascent(m, loss_ceiling=5.0, **STEPS),
    reads="forget",
  ),
  _classes(
    ju.methods.neggrad_plus,
    lambda m: ju.methods.neggrad_plus(m, FIT, retain_batch_size=16),
  ),
  _classes(
    ju.methods.random_label,
    lambda m: ju.methods.random_label(m, num_classes=4, **STEPS),
    soft_request=False,
  ),
  _classes(
    ju.methods.concept_poison,
    lambda m: ju.methods.concept_poison(m, FIT, num_classes=4),
    soft_request=False,
  ),
  _classes(
    ju.methods.concept_poison,
    lambda m: ju.methods.concept_poison(
      m, FIT, num_classes=4, target=2, share=0.6
    ),
    "targeted",
    soft_request=False,
    slow=True,
  ),
  _classes(
    ju.methods.random_label,
    lambda m: ju.methods.random_label(
      m, num_classes=4, redraw="batch", exclude_true=False, **STEPS
    ),
    "batch",
    soft_request=False,
    slow=True,
  ),
  _classes(
    ju.methods.random_label,
    lambda m: ju.methods.random_label(
      m,
      num_classes=4,
      order="sequential",
      num_epochs=2,
      forget_steps=2,
      redraw="epoch",
      **STEPS,
    ),
    "sequential",
    slow=True,
  ),
  _classes(
    ju.methods.l1_sparse,
    lambda m: ju.methods.l1_sparse(m, penalty=1e-3, plain_steps=1, **STEPS),
    reads="retain",
  ),
  _classes(
    ju.methods.salun,
    lambda m: ju.methods.salun(m, **SALUN),
    slow=True,
  ),
  _classes(
    ju.methods.salun,
    lambda m: ju.methods.salun(m, schedule="mixed", **SALUN),
    "mixed",
    soft_request=False,
    slow=True,
  ),
  _classes(
    ju.methods.ssd,
    lambda m: ju.methods.ssd(m, alpha=1.0, dampening=0.5, batch_size=8),
    keyless=True,
  ),
  _classes(
    ju.methods.ssd_adaptive,
    lambda m: ju.methods.ssd_adaptive(
      m, selection=10.0, estimator="example", batch_size=8
    ),
    keyless=True,
    slow=True,
  ),
  _classes(
    ju.methods.boundary_shrink,
    lambda m: ju.methods.boundary_shrink(
      m, radius=0.5, exclude_true=True, **STEPS
    ),
    reads="forget",
  ),
  _classes(
    ju.methods.boundary_expand,
    lambda m: ju.methods.boundary_expand(m, **STEPS),
    reads="forget",
  ),
  _classes(
    ju.methods.influence_unlearning,
    lambda m: ju.methods.influence_unlearning(
      m, damping=0.1, max_iterations=8, chunk_size=16
    ),
    keyless=True,
  ),
  _classes(
    influence_released,
    lambda m: influence_released(m, num_samples=20, chunk_size=16),
  ),
  _classes(
    ju.methods.iau, lambda m: ju.methods.iau(m, chunk_size=16), keyless=True
  ),
  _classes(
    ju.methods.amnesiac,
    lambda m: ju.methods.amnesiac(m, ledger(), **STEPS),
    reads="retain",
    low_precision=False,  # The ledger is that of the float32 training.
  ),
  _classes(
    ju.methods.cf_k,
    lambda m: ju.methods.cf_k(m, num_layers=1, **STEPS),
    reads="retain",
  ),
  _classes(
    ju.methods.eu_k,
    lambda m: ju.methods.eu_k(m, num_layers=1, **STEPS),
    reads="retain",
  ),
  _classes(
    ju.methods.fisher_forgetting,
    lambda m: ju.methods.fisher_forgetting(
      m, num_classes=4, noise_scale=1e-4, chunk_size=16
    ),
    devices=False,  # Noise that is scaled by a small number's root.
  ),
  _classes(ju.methods.scrub, lambda m: ju.methods.scrub(m, **SCRUB), slow=True),
  _classes(
    ju.methods.scrub,
    lambda m: ju.methods.scrub(
      m, rewind_data=problems.blobs(20, seed=1), **SCRUB
    ),
    "rewind",
    slow=True,
  ),
  _classes(
    ju.methods.unsir,
    lambda m: ju.methods.unsir(
      m, 4, max_classes=2, copies=3.0, retain_per_class=10, **NOISE
    ),
    reads="retain",
    soft_request=False,
    slow=True,
  ),
  _classes(
    unsir_released,
    lambda m: unsir_released(m, 4, max_classes=2),
    reads="retain",
    soft_request=False,
    slow=True,
  ),
  _classes(
    ju.methods.zero_shot_noise,
    lambda m: ju.methods.zero_shot_noise(m, 4, **NOISE),
    reads="nothing",
    soft_request=False,
    slow=True,
  ),
  _classes(
    ju.methods.gkt,
    lambda m: ju.methods.gkt(
      m,
      4,
      cycles=3,
      learn=ju.Fit(ADAM, 2, 16),
      gate=0.3,
      options=ju.methods.GktOptions(z_dim=4),
    ),
    reads="nothing",
    soft_request=False,
    slow=True,
  ),
  _classes(
    ju.methods.bad_teacher,
    lambda m: ju.methods.bad_teacher(m, num_steps=5, batch_size=16),
    soft_request=False,
  ),
  _classes(
    ju.methods.laf,
    lambda m: ju.methods.laf(
      m._replace(features=lambda v, x: {"features": m.predict(v, x)}),
      FIT,
      align=ADAM,
      autoencoder=vae((8,), 2),
      autoencoder_fit=ju.Fit(ADAM, 3, 8),
    ),
    soft_request=False,
    devices=False,  # A device compares the forget rows of its own share.
    slow=True,
  ),
  _classes(
    ju.methods.dmm,
    lambda m: ju.methods.dmm(m, ATTRIBUTION, SHARED),
    soft_request=False,
    low_precision=False,  # Outputs are matched in float32.
  ),
  _classes(
    ju.methods.oracle_matching,
    lambda m: ju.methods.oracle_matching(m, ATTRIBUTION[0], SHARED),
    soft_request=False,
    low_precision=False,
    slow=True,
  ),
  row(
    worlds.targets,
    ju.methods.blindspot,
    lambda m: ju.methods.blindspot(
      m, FIT, blind_fit=ju.Fit(ADAM, 3, 8), attention=0.0
    ),
    soft_request=False,
  ),
  row(
    worlds.targets,
    ju.methods.gaussian_amnesiac,
    lambda m: ju.methods.gaussian_amnesiac(m, num_steps=5, batch_size=8),
    soft_request=False,
  ),
  _classes(
    attacks.relearning,
    lambda m: attacks.relearning(m, optimizer=ADAM, num_steps=5, batch_size=8),
    reads="forget",
    slow=True,
  ),
]
