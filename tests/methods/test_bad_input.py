"""Mistakes of the caller: one line each, and before any model is run."""

import importlib

import jax
import jax.numpy as jnp
import optax
import problems
import pytest
from refusals import refused

import jaxunlearn as ju
from jaxunlearn.losses.regression import on_targets
from jaxunlearn.methods.blindspot import blindspot_loss
from jaxunlearn.methods.fisher import diagonal_fisher
from jaxunlearn.methods.gaussian_amnesiac import target_moments
from jaxunlearn.methods.influence_unlearning import influence_released

salun = importlib.import_module("jaxunlearn.methods.salun")
ssd = importlib.import_module("jaxunlearn.methods.ssd")
unsir = importlib.import_module("jaxunlearn.methods.unsir")

KEY = jax.random.key(0)
FIT = ju.Fit(optax.sgd(0.1), 3, 8)
NONE, NEGATIVE = FIT._replace(batch_size=0), FIT._replace(num_steps=-1)
IDLE = FIT._replace(num_steps=0)
GKT = ju.methods.GktOptions
K = {"num_classes": 4}
REWIND = {"num_epochs": 2, "max_epochs": 2, "rewind_data": {}}
ONE = jnp.ones(2)
WHOLE = dict.fromkeys(["noise", "impair", "repair"], FIT) | K
GATED = {"generate": FIT, "learn": FIT} | K

FACTORIES = [
  (ju.methods.finetune, {}, "Expected a Fit, or num_steps and optimizer"),
  (ju.methods.finetune, {"fit": NONE}, "batch_size to be a whole number >= 1"),
  (
    ju.methods.finetune,
    {"fit": NEGATIVE},
    "num_steps to be a whole number >= 0",
  ),
  (ju.methods.finetune, {"fit": optax.sgd(0.1)}, "fit to be a Fit"),
  (ju.methods.retrain, {"fit": FIT, "optimizer": 0.1}, "an optax optimizer"),
  (ju.methods.l1_sparse, {"fit": FIT, "penalty": -1.0}, "penalty >= 0"),
  (
    ju.methods.l1_sparse,
    {"fit": FIT, "plain_steps": 5},
    r"plain_steps in 0 \.\. 3",
  ),
  (
    ju.methods.neggrad_plus,
    {"fit": FIT, "retain_share": 2.0},
    r"share in \[0, 1\]",
  ),
  (ju.methods.boundary_shrink, {"fit": FIT, "radius": -0.1}, "radius >= 0"),
  (ju.methods.bad_teacher, {"temperature": 0.0}, "temperature > 0"),
  (
    ju.methods.bad_teacher,
    {"retain_fraction": 1.5},
    r"retain_fraction in \[0, 1\]",
  ),
  (
    ju.methods.bad_teacher,
    {"reduction": "sum"},
    "reduction to be one of 'batchmean'",
  ),
  (
    ju.methods.random_label,
    {"fit": FIT, "num_classes": 1},
    "num_classes .* >= 2",
  ),
  (
    ju.methods.random_label,
    {"fit": FIT, "redraw": "x"} | K,
    "redraw to be one of",
  ),
  (
    ju.methods.random_label,
    {"fit": FIT, "order": "both"} | K,
    "order to be one of",
  ),
  (
    ju.methods.random_label,
    {"fit": FIT, "num_epochs": 2} | K,
    "'sequential' only",
  ),
  (
    ju.methods.random_label,
    {"fit": FIT, "order": "sequential", "forget_steps": 4} | K,
    r"forget_steps in 0 \.\. 3",
  ),
  (ju.methods.salun, {"schedule": "both"} | K, "schedule to be one of"),
  (ju.methods.salun, {"keep": 1.5} | K, r"keep in \[0, 1\]"),
  (ju.methods.salun, {"num_classes": 1}, "num_classes .* >= 2"),
  (ju.methods.salun, {"num_epochs": -1} | K, "num_epochs .* >= 0"),
  (ju.methods.salun, {"retain_weight": -1.0} | K, "retain_weight >= 0"),
  (ju.methods.saliency_mask, {"chunk_size": 0}, "chunk_size .* >= 1"),
  (
    ju.methods.scrub,
    {"num_epochs": 2, "max_epochs": 3},
    "<= num_epochs, got 3 > 2",
  ),
  (ju.methods.scrub, REWIND, "no epoch to choose: 2 of 2"),
  (ju.methods.scrub, {"temperature": 0.0}, "temperature > 0"),
  (ju.methods.ssd, {"alpha": -1.0}, "alpha >= 0"),
  (ju.methods.ssd, {"dampening": -1.0}, "dampening >= 0"),
  (ju.methods.ssd, {"exponent": -1.0}, "exponent >= 0"),
  (ju.methods.ssd, {"estimator": "row"}, "estimator to be one of"),
  (ju.methods.ssd, {"batch_size": 0}, "batch_size .* >= 1"),
  (ju.methods.ssd_adaptive, {"selection": -1.0}, "selection >= 0"),
  (ju.methods.influence_unlearning, {"damping": -1.0}, "damping >= 0"),
  (
    ju.methods.influence_unlearning,
    {"max_iterations": 0},
    "max_iterations .* >= 1",
  ),
  (ju.methods.influence_unlearning, {"tolerance": 0.0}, "tolerance > 0"),
  (ju.methods.influence_unlearning, {"chunk_size": 0}, "chunk_size .* >= 1"),
  (influence_released, {"num_samples": 0}, "num_samples .* >= 1"),
  (influence_released, {"chunk_size": 0}, "chunk_size .* >= 1"),
  (ju.methods.fisher_forgetting, {"noise_scale": -1.0} | K, "noise_scale >= 0"),
  (ju.methods.unsir, {"max_classes": 5} | K, r"max_classes in 1 \.\. 4, got 5"),
  (ju.methods.unsir, {"noise_penalty": -1.0} | K, "noise_penalty >= 0"),
  (ju.methods.unsir, {"copies": -1.0} | K, "copies >= 0"),
  (unsir.unsir_released, {"shown": 0} | K, "shown .* >= 1"),
  (
    ju.methods.zero_shot_noise,
    {"forget_penalty": -1.0} | K,
    "forget_penalty >= 0",
  ),
  (
    ju.methods.zero_shot_noise,
    {"retain_penalty": -1.0} | K,
    "retain_penalty >= 0",
  ),
  (ju.methods.zero_shot_noise, {"copies": -1.0} | K, "copies >= 0"),
  (ju.methods.zero_shot_noise, WHOLE | {"noise": NONE}, "batch_size .* >= 1"),
  (ju.methods.zero_shot_noise, WHOLE | {"impair": NONE}, "batch_size .* >= 1"),
  (
    ju.methods.zero_shot_noise,
    WHOLE | {"noise": NEGATIVE},
    "num_steps .* >= 0",
  ),
  (ju.methods.gkt, {"gate": -0.1} | K, r"gate in \[0, 1\]"),
  (ju.methods.gkt, {"gate": 1.5} | K, r"gate in \[0, 1\]"),
  (ju.methods.gkt, GATED | {"learn": IDLE}, "student_steps .* >= 1"),
  (ju.methods.gkt, GATED | {"generate": IDLE}, "generator_steps .* >= 1"),
  (ju.methods.gkt, GATED | {"learn": NONE}, "batch_size .* >= 1"),
  (ju.methods.gkt, {"options": GKT(z_dim=0)} | K, "z_dim .* >= 1"),
  (ju.methods.gkt, {"cycles": -1} | K, "cycles .* >= 0"),
  (ju.methods.gkt, {"options": GKT(temperature=0.0)} | K, "temperature > 0"),
  (ju.methods.gkt, {"options": GKT(clip=0.0)} | K, "clip > 0"),
  (ju.methods.gkt, {"options": GKT(attention=-1.0)} | K, "attention >= 0"),
  (
    ju.methods.gkt,
    {"options": GKT(attention=1.0)} | K,
    r"model\.features, .* got None",
  ),
  (
    ju.methods.gkt,
    {"options": GKT(reduction="mean")} | K,
    "reduction to be one of 'paper'",
  ),
  (
    ju.methods.gkt,
    {"evaluate": len, "options": GKT(evaluate_every=0)} | K,
    "every .* >= 1",
  ),
  (ju.methods.gkt, {"num_classes": 0}, "num_classes .* >= 1"),
  (ju.methods.blindspot, {}, "model with features for attention"),
  (ju.methods.blindspot, {"output_loss": "huber"}, "to be one of 'l1', 'l2'"),
  (ju.methods.blindspot, {"attention": -1.0}, "attention >= 0"),
  (ju.methods.blindspot, {"blind_fit": IDLE}, "blind_steps .* >= 1"),
  (ju.methods.blindspot, {"fit": NONE}, "batch_size .* >= 1"),
  (ju.methods.gaussian_amnesiac, {"fit": NONE}, "batch_size .* >= 1"),
  (ju.methods.gaussian_amnesiac, {"mean": 0.0}, "both mean and std or neither"),
  (ju.methods.gaussian_amnesiac, {"mean": 0.0, "std": -1.0}, "std >= 0"),
]


@pytest.mark.parametrize(("factory", "arguments", "message"), FACTORIES)
def test_options_out_of_range_are_refused(factory, arguments, message):
  model, traces = problems.counting(problems.mlp())
  refused(message, factory, model, **arguments)
  assert not traces


def half(x):
  return x * 0.9


def column(data):
  return {**data, "label": data["label"][:, None]}


def later(data):
  return {**data, "label": data["label"] + 1}


def integers(data):
  return {**data, "x": data["x"].astype(jnp.int32)}


def targets(data):
  return {**data, "label": data["label"].astype(jnp.float32)}


def infinite(data):
  return {**data, "label": targets(data)["label"].at[0].set(jnp.inf)}


def of_targets(factory, **options):
  return lambda m: factory(m._replace(loss=on_targets("l1")), **options)


READ_LABELS = {
  "unsir": lambda m: ju.methods.unsir(m, 4, max_classes=1),
  "zero_shot_noise": lambda m: ju.methods.zero_shot_noise(m, 4),
  "gkt": lambda m: ju.methods.gkt(m, 4),
  "random_label": lambda m: ju.methods.random_label(m, FIT, num_classes=4),
  "fisher_forgetting": lambda m: ju.methods.fisher_forgetting(m, num_classes=4),
}
LEARN_INPUTS = ("unsir", "zero_shot_noise", "gkt")
GIVEN = ju.Variables({"a": jnp.ones(1)})
BLIND = of_targets(ju.methods.blindspot, attention=0.0)
AMNESIAC = of_targets(ju.methods.gaussian_amnesiac)
same = lambda x: x

CALLS = [
  *((m, column, same, r"label.*\(60,\).*\(60, 1\)") for m in READ_LABELS),
  *(
    (m, later, same, r"label.* in 0 \.\. 3, got 1 \.\. 4") for m in READ_LABELS
  ),
  *((m, same, half, "dtype bool for this method") for m in LEARN_INPUTS),
  *((m, integers, same, "float dtype, since inputs are") for m in LEARN_INPUTS),
  *(
    (m, lambda d: {"label": d["label"]}, same, "Expected input_shape, or data")
    for m in LEARN_INPUTS
  ),
  *(
    (m, same, change, f"1 .. 3 classes of 4, got {count}")
    for m in ("zero_shot_noise", "gkt")
    for change, count in ((lambda u: u & ~u, 0), (lambda u: u | ~u, 4))
  ),
  ("unsir", same, lambda u: u | ~u, "at most max_classes=1 classes, got 4"),
  (ju.methods.bad_teacher, same, half, "dtype bool for this method"),
  (
    lambda m: ju.methods.finetune(m, FIT),
    same,
    lambda u: u | ~u,
    "request.retain to select rows, got none of 60",
  ),
  (
    lambda m: ju.methods.boundary_shrink(m, FIT),
    integers,
    same,
    "float dtype, since inputs are moved",
  ),
  (
    lambda m: ju.methods.boundary_shrink(m, FIT),
    column,
    same,
    r"label.*\(8, 1\)",
  ),
  (
    lambda m: ju.methods.ssd(m, importance_full={"a": 1.0}),
    same,
    same,
    "importance_full.* got nothing",
  ),
  (
    lambda m: ju.methods.amnesiac(m, {"a": 1.0}, FIT),
    same,
    same,
    "ledger.* got nothing",
  ),
  *((m, same, same, "real targets, got int32") for m in (BLIND, AMNESIAC)),
  *((m, targets, half, "dtype bool for this") for m in (BLIND, AMNESIAC)),
  *((m, infinite, same, "to be finite, got 1") for m in (BLIND, AMNESIAC)),
  (
    of_targets(ju.methods.gaussian_amnesiac, mean=0.0, std=1.0),
    infinite,
    same,
    "to be finite, got 1",
  ),
  (
    of_targets(ju.methods.blindspot, attention=0.0, blind=GIVEN),
    targets,
    same,
    r"Expected blind\.params",
  ),
  (
    lambda m: ju.methods.influence_unlearning(m.task),
    same,
    same,
    "a Model, whose loss is a function of its outputs",
  ),
]


@pytest.mark.parametrize(("make", "change", "ask", "message"), CALLS)
def test_data_and_requests_that_do_not_fit_are_refused(
  make, change, ask, message
):
  _, data, variables = problems.trained()
  model, traces = problems.counting(problems.mlp())
  mask = ask(data["label"] == 1)
  with pytest.raises(ValueError, match=message):
    method = READ_LABELS.get(make, make)(model)
    method(variables, change(data), mask, KEY)
  # A phase looks at its rows, once, to trace its loss.
  assert len(traces) <= 2


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: salun.soft_threshold(2.0, 5), r"ratio in \[0, 1\]"),
    (lambda: salun.soft_threshold(0.5, 0), "num_steps > 0"),
    (
      lambda: ssd.dampen({"a": 1.0}, {"b": 1.0}, {"a": 1.0}, alpha=1.0),
      "importance_forget",
    ),
    (
      lambda: ssd.importance(
        problems.mlp(), None, problems.blobs(), jnp.ones(5, bool)
      ),
      r"weights of shape \(60,\)",
    ),
    *(
      (
        lambda wrong=wrong: ssd.importance(
          problems.mlp(), None, problems.blobs(), jnp.ones(60, bool), **wrong
        ),
        message,
      )
      for wrong, message in (
        ({"estimator": "row"}, "estimator to be one of"),
        ({"batch_size": 0}, "batch_size .* >= 1"),
      )
    ),
    (
      lambda: diagonal_fisher(
        ju.Task(None, None), None, problems.blobs(), jnp.ones(60, bool)
      ),
      "a Task that predicts",
    ),
    (lambda: target_moments(jnp.zeros(0)), "targets of some rows, got 0"),
    (
      lambda: blindspot_loss(
        ONE, ONE, ONE, ONE > 0, {"a": ONE}, {}, attention=1.0
      ),
      r"blind_maps of the layers \['a'\]",
    ),
    (
      lambda: ju.methods.train_logged(
        problems.mlp(), problems.blobs(), jnp.zeros(60, bool), KEY, FIT
      ),
      r"requests bool \[R, N\]",
    ),
  ],
)
def test_parts_refuse_what_does_not_fit(call, message):
  refused(message, call)
