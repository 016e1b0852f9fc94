"""Methods that cannot be had with these data, and models from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping

from .study import Plan

# Why a method with `Method.keeps` cannot serve a model that was given.
NOTHING_KEPT = "beside --checkpoint, since it needs {} kept while training"


def leave_out(plan: Plan, lacks: Mapping[str, str]) -> Plan:
  """The plan without some methods; notes say why.

  Args:
    plan: see `Plan`.
    lacks: by method what it is not for, "for inputs that are integers".

  Raises:
    ValueError: such a method was asked for by name, or none is left.
  """
  asked = plan.options.methods
  # The default of a study is no wish for each of its methods.
  groups = ("all", "usual", type(plan.options).methods, *plan.study.groups)
  left_out = [name for name in plan.methods if name in lacks]
  methods = tuple(name for name in plan.methods if name not in lacks)
  if left_out and (asked not in groups or not methods):
    name = left_out[0]
    raise ValueError(
      f"Expected --methods without {name} {lacks[name]}, got {asked!r}."
    )
  notes = [f"{name} is left out: not {lacks[name]}." for name in left_out]
  return plan._replace(
    methods=methods,
    settings={name: plan.settings[name] for name in methods},
    notes=(*plan.notes, *notes),
  )


def of_given(plan: Plan) -> tuple[str, ...]:
  """What the reader must know of an original model that was given."""
  if plan.beds.given is None:
    return ()
  return (
    "The original model was trained elsewhere, so it has no time, and the "
    "retrained model is trained by the recipe in the configuration, which may "
    "differ.",
  )


def origin(plan: Plan, rows: str) -> str:
  """How the original model came about, for the head of a report.

  Args:
    plan: see `Plan`.
    rows: what it was trained on, in words.
  """
  if plan.beds.given is None:
    return f"trained on {rows}"
  return f"loaded from {plan.options.checkpoint} (data: {rows})"
