"""What a study is made of, and what it leaves behind.

A study is a value of `Study`: plain functions and tables that the other modules
of this folder put to use. How to write one:

1. A dataclass of flags that extends `options.CommonOptions`, and a table of
   settings per method.
2. `beds(options, seeds, part, asks)`: everything to train and test on. One `Beds` has
   all seeds; `Beds.make` builds, inside a compiled program, the `Bed` of a
   single seed. Rows are split once per seed (`datasets.splits`); `part` is
   "report", or "select" when settings are chosen, whose test rows are others.
3. `kinds`: for each kind of request a function from the text after the colon to
   a mask over the rows of one seed.
4. `train(bed, weights, key)`: the original and the retrained models.
5. `methods`: names and `Method`s. `build` is called inside the program too.
6. `measures(plan)`: what is measured of one model, under `jax.vmap` or one lane
   at a time, and what the host adds (`Measure.after`). A measure declares all of
   its columns; a number without a declaration ends the run with an error. A
   distance to the retrained model needs a `Rule` with its margin: it is then
   shown beside the distance between two retrained models, and tested against it.
7. `fit`: what depends on data and requests together: a setting, a method that
   cannot be had.
8. `lead`, `notes`, `panels`, `findings`: words and figures from the `Evidence`.

The frame adds the rows "original", "retrained" and "retrained_again", the columns
`is_finite`, `seconds_run` and `seconds_compile`, and everything that compares.
A lane is a request and a seed; all lanes of a method are one program. Keys are
derived by name: `lanes.keys` gives each method, request and seed its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxunlearn import report
from jaxunlearn.core.types import Variables
from jaxunlearn.report import cards
from jaxunlearn.report.equivalence import Rule as Rule
from jaxunlearn.report.equivalence import distance as distance
from jaxunlearn.report.results import ORIGINAL as ORIGINAL
from jaxunlearn.report.results import REFERENCES as REFERENCES
from jaxunlearn.report.results import RETRAINED as RETRAINED
from jaxunlearn.report.results import RETRAINED_AGAIN as AGAIN  # noqa: F401
from jaxunlearn.report.taxonomy import Card

from ..datasets.splits import REPORT as REPORT
from ..datasets.splits import SELECT as SELECT
from ..requests import Ask
from .options import CommonOptions

if TYPE_CHECKING:
  import jax

PyTree = Any
Setting = Mapping[str, Any]


class Bed(NamedTuple):
  """What the programs see of one seed; made and used inside them.

  Attributes:
    model: what is trained, such as a `jaxunlearn.Model`.
    data: the rows that can be forgotten, leaves [N, ...].
    test: rows that are never trained on, in a form that the measures know.
    recipe: steps, rates and sizes of training; static.
    extra: whatever else the study's functions need.
    kept: for methods, what training kept for this request; see `Study.keep`.
    marks: for methods, what else is known of this request; see `Kind`. None in a
      sequence.
  """

  model: Any
  data: PyTree
  test: PyTree = None
  recipe: Any = None
  extra: Any = None
  kept: PyTree = None
  marks: PyTree = None


class Beds(NamedTuple):
  """The beds of all seeds; same shapes for all.

  Attributes:
    shared: arrays that the seeds have in common.
    of_seed: leaves [S, ...].
    make: `(shared, of_seed without its leading axis) -> Bed`; traced.
    sources: per seed what the request kinds look at; on the host.
    facts: for the configuration in the report: sizes, names.
    given: the original model where it was trained elsewhere, for all seeds.
    dataset: what was loaded, whatever it is.
    model: what is trained, where all seeds have the same.
    kept: where figures lie until the run has finished, see `bench.kept.Kept`.
  """

  shared: PyTree
  of_seed: PyTree
  make: Callable[[PyTree, PyTree], Bed]
  sources: Sequence[Any]
  facts: Mapping[str, Any]
  given: Variables | None = None
  dataset: Any = None
  model: Any = None
  kept: Any = None


class Kind(NamedTuple):
  """A kind of request.

  Attributes:
    form: how it is written, "lowest:SHARE".
    mask: `(text after the colon, source of a seed) -> (forget, marks)`: bool [N],
      and a pytree of further arrays that measures and methods read, or None.
      Shapes are the same for all requests and seeds. Its ValueErrors are the
      caller's mistakes.
  """

  form: str
  mask: Callable[[str, Any], tuple[np.ndarray, PyTree]]


class Requests(NamedTuple):
  """One or several requests.

  Attributes:
    names: one per request, as the results show it.
    forget: bool [R, S, N]: forgotten when it is served.
    added: bool [R, S, N]: forgotten by it; in a sequence those of the requests
      before it are in `forget` only.
    marks: leaves [R, S, ...]; see `Kind`.
    in_sequence: whether each is served by what the one before it left.
  """

  names: tuple[str, ...]
  forget: np.ndarray
  added: np.ndarray
  marks: PyTree
  in_sequence: bool = False

  @property
  def masks(self) -> np.ndarray:
    """Those of the first seed, bool [R, N]."""
    return self.forget[:, 0]


class Method(NamedTuple):
  """A way to unlearn.

  Attributes:
    build: `(bed, setting) -> transform`; the transform, or any `(variables, data,
      request, key) -> (variables, info)`, is called at once. Traced.
    space: by name of a setting what it may be when it is chosen; None leaves the
      defaults. See `tune.Between` and `tune.Choice`.
    note: for the reader of the report; "" for none.
    access: the data that it must have, in words.
    keeps: whether it needs `Study.keep`.
    blind: whether it sees no rows, and so in a sequence has to be told of all
      requests so far.
    card: what it claims; None takes that of its name in `report.cards`.
    aim: the column that its settings are chosen by, lower is better; "" takes
      `Study.gap`.
  """

  build: Callable[[Bed, Setting], Callable[..., tuple[PyTree, Any]]]
  space: Mapping[str, Any] | None = None
  note: str = ""
  access: str = ""
  keeps: bool = False
  blind: bool = False
  card: Card | None = None
  aim: str = ""

  def card_of(self, name: str) -> Card | None:
    """Its own card, or that of its name, if there is one."""
    return self.card or cards.find(name)


class Case(NamedTuple):
  """One model of one lane, as a measure gets it; traced.

  Attributes:
    bed: see `Bed`.
    forget: bool [N].
    added: bool [N]; see `Requests`.
    marks: see `Kind`.
    variables: the model's.
    retrained: those of the retrained model of this lane.
    original: those of the original model of this seed.
    key: the same for every model of the lane, so that they are compared on the
      same random numbers; derive from it by name.
    fitted: what `Measure.fit` returned for this seed, or `fit_all`.
  """

  bed: Bed
  forget: jax.Array
  added: jax.Array
  marks: PyTree
  variables: Variables
  retrained: Variables
  original: Variables
  key: jax.Array
  fitted: PyTree = None


class Measure(NamedTuple):
  """Columns of the table, and how they come about.

  Attributes:
    metrics: every column of it: name, label, definition, unit, direction.
    run: `case -> numbers by name`, traced; None where the host does it all. An
      entry "is_finite" says whether the outputs are.
    arrays: names of what `run` returns that are no columns but arrays, for
      `after`, panels and findings.
    after: `(evidence, method) -> columns by name, float [L]`; on the host, when
      `run` of all measures is done for this method and for all `REFERENCES`.
    rules: which columns are tested, and how.
    fit: `(bed, key) -> pytree`, what an attack learns once per seed; or None.
    costly: whether it is left out while settings are chosen.
    fit_all: the same of all seeds at once, `(plan, key) -> pytree`; on the host,
      when `REFERENCES` have been made.
  """

  metrics: tuple[report.Metric, ...]
  run: Callable[[Case], Mapping[str, Any]] | None = None
  arrays: tuple[str, ...] = ()
  after: Callable[[Evidence, str], Mapping[str, Any]] | None = None
  rules: tuple[Rule, ...] = ()
  fit: Callable[[Bed, jax.Array], PyTree] | None = None
  fit_all: Callable[[Plan, jax.Array], PyTree] | None = None
  costly: bool = False


Panel = Callable[["Evidence"], Mapping[str, tuple[report.Chart, str]]]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Study:
  """A question, and all that it takes to answer it.

  Attributes:
    name: of the program and the results.
    options: the dataclass of its flags; its docstring heads `--help`.
    beds: `(options, seeds, part, asks) -> Beds`; rows that an ask names one by
      one have to be trained on (`splits.split_rows`, `pinned`).
    kinds: by what stands before the colon of a request.
    request: `options -> text`, what is forgotten where nothing is asked for.
    spell: `(options, text) -> text`, for words that stand for several requests.
    train: `(bed, weights bool [N], key) -> (variables, info)`.
    serve: `(plan, name, traced) -> {row: lanes.Made}`, where a method, or one of
      `REFERENCES`, is more than a transform of the original model and may have
      several rows; `train` has no part then, and `Case.original` is None.
    requests: `(options, seeds, beds, text) -> Requests`, in the place of kinds.
    saved: `variables -> those in params/`.
    keep: `(bed, forget bool [R, N], key) -> (variables, kept)`, the training of
      the original where a method needs something kept, leaves [R, ...].
    methods: by name, in the order of the tables.
    settings: `options -> setting by method`, by hand; the one place that has
      defaults beside those in `chosen`.
    chosen: the file with settings that `--tune` wrote, which are the defaults
      where they are for these data and this model.
    measures: `plan -> measures`.
    fit: `plan -> plan`, before the measures are made.
    before: `plan -> plan`, when the program runs: what all models begin from, and
      is trained once a seed, becomes a part of the beds.
    sweeps: `plan -> {method: {setting: values}}`, numbers that a method is run
      with besides, for a curve; see `Evidence.swept`.
    title: `plan -> heading`.
    lead: `plan -> what was done and why`, in plain words.
    unanswered: why it does not say whether rows are deleted, where no measure
      has a rule for traces.
    seeds: `options -> how many`.
    gap: the column that methods are ranked by; lower is better.
    is_gap: whether it is a distance to the retrained model, which has 0.
    columns: `plan -> the columns that the terminal shows`.
    groups: further words for several methods, beside "all".
    smoke: the methods of that preset where none are asked for; all others are
      built alike, and take as long again. None takes those of other presets.
    notes: `plan -> remarks for the report`.
    panels: each `evidence -> {name: (figure, caption)}`.
    findings: `evidence -> sentences`, after the frame's own.
    comparisons: further tables, `evidence -> tables`.
    files: `evidence -> contents of further files by name`: a text, `Variables`,
      which become a checkpoint, what writes itself given its path, or what is
      written as JSON.
    extra: `evidence -> what else is found out`, for the configuration.
    unranked: methods that are references of their own, shown and not judged.
    traces: `info of a method -> {name: [T]}`, what its run left; None for the
      losses of its phases.
    single: methods of which all seeds have the same model, one that was given.
    time_alone: whether each method is also timed on one request by itself, which
      adds the columns `seconds_alone` and `speedup`.
    tune_request: `options -> text`, the requests that settings are chosen on;
      others than `request`.
    tune_seeds: how many models settings are chosen by, for each request.
  """

  name: str
  options: type[CommonOptions]
  beds: Callable[[Any, Sequence[int], str, Sequence[Ask]], Beds]
  request: Callable[[Any], str]
  methods: Mapping[str, Method]
  settings: Callable[[Any], Mapping[str, Setting]]
  measures: Callable[[Plan], Sequence[Measure]]
  chosen: Path | None = None
  title: Callable[[Plan], str]
  lead: Callable[[Plan], str]
  seeds: Callable[[Any], int]
  kinds: Mapping[str, Kind] = dataclasses.field(default_factory=dict)
  train: Callable[[Bed, Any, Any], tuple[Variables, Any]] | Any = None
  serve: Callable[..., Mapping[str, Any]] | None = None
  requests: Callable[..., Requests] | None = None
  saved: Callable[[PyTree], PyTree] = lambda variables: variables
  spell: Callable[[Any, str], str] = lambda options, text: text
  keep: Callable[[Bed, Any, Any], tuple[Variables, PyTree]] | None = None
  fit: Callable[[Plan], Plan] = lambda plan: plan
  before: Callable[[Plan], Plan] = lambda plan: plan
  sweeps: Callable[[Plan], Mapping[str, Setting]] = lambda plan: {}
  gap: str = "retrained_gap"
  is_gap: bool = True
  columns: Callable[[Plan], Sequence[str]] | None = None
  unanswered: str = ""
  groups: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
  smoke: Sequence[str] | None = None
  notes: Callable[[Plan], Sequence[str]] = lambda plan: ()
  panels: Sequence[Panel] = ()
  findings: Callable[[Evidence], Sequence[str]] = lambda evidence: ()
  comparisons: Callable[[Evidence], Sequence[report.Comparison]] = (
    lambda evidence: ()
  )
  files: Callable[[Evidence], Mapping[str, Any]] = lambda evidence: {}
  extra: Callable[[Evidence], Mapping[str, Any]] = lambda evidence: {}
  unranked: Sequence[str] = ()
  traces: Callable[[Any], Mapping[str, Any]] | None = None
  single: Sequence[str] = ()
  time_alone: bool = False
  tune_request: Callable[[Any], str] | None = None
  tune_seeds: int = 2


class Plan(NamedTuple):
  """Options that were checked, and what they name.

  Attributes:
    study: see `Study`.
    options: as given.
    seeds: one per repetition.
    beds: see `Beds`.
    requests: see `Requests`.
    methods: names of those that were asked for.
    settings: by method.
    measures: see `Measure`.
    strategy: how lanes are mapped; see `jaxunlearn.map_many`.
    notes: what the user should know before anything is trained.
    selection: the plan that settings are chosen on; None for the defaults.
    origins: by method how its default setting was chosen, as `Study.chosen` has
      it; of one that was set by hand there is nothing.
  """

  study: Study
  options: Any
  seeds: tuple[int, ...]
  beds: Beds
  requests: Requests
  methods: tuple[str, ...]
  settings: Mapping[str, Setting]
  measures: tuple[Measure, ...]
  strategy: str | int
  notes: tuple[str, ...] = ()
  selection: Plan | None = None
  origins: Mapping[str, Mapping[str, Any]] = {}

  @property
  def dataset(self) -> Any:
    """What was loaded."""
    return self.beds.dataset

  @property
  def model(self) -> Any:
    """What is trained."""
    return self.beds.model

  @property
  def lanes(self) -> tuple[np.ndarray, np.ndarray]:
    """Request and place of the seed of each lane, int [R * S] each."""
    requests, seeds = len(self.requests.names), len(self.seeds)
    return np.divmod(np.arange(requests * seeds), seeds)

  @property
  def forget(self) -> np.ndarray:
    """The request of each lane, bool [R * S, N]."""
    return self.requests.forget.reshape(-1, self.requests.forget.shape[-1])

  @property
  def shown(self) -> int:
    """The request whose models are saved and drawn: of a sequence the last."""
    return len(self.requests.names) - 1 if self.requests.in_sequence else 0

  @property
  def keeps(self) -> bool:
    """Whether a method needs what is kept while the original is trained."""
    return any(self.study.methods[name].keeps for name in self.methods)

  @property
  def rules(self) -> tuple[Rule, ...]:
    """Those of all measures."""
    return tuple(r for measure in self.measures for r in measure.rules)

  @property
  def metrics(self) -> tuple[report.Metric, ...]:
    """Every column that a measure declares."""
    return tuple(m for measure in self.measures for m in measure.metrics)


class Found(NamedTuple):
  """What was found of one method.

  Attributes:
    values: columns, float64 [R * S], and arrays, [R * S, ...], by name.
    is_finite: bool [R * S]; a lane that is not has no value in any row.
    first: the model of the first seed for the request `Plan.shown`.
    traces: losses [R * S, T] (of the original [S, T]) by phase.
    seconds_compile: of the program that serves all lanes.
    seconds_run: of running it, per lane.
  """

  values: dict[str, np.ndarray]
  is_finite: np.ndarray
  first: PyTree
  traces: Mapping[str, np.ndarray]
  seconds_compile: float
  seconds_run: float


class Evidence(NamedTuple):
  """All that a run found.

  Attributes:
    plan: see `Plan`.
    found: by name of a method, the `REFERENCES` first.
    rows: one per method, request and seed, see `report.Results`; empty while
      measures are still at work.
    alone: by method seconds of one request by itself, float [S]; where timed.
    tuned: by method how its setting was chosen, see `tune.Tuned`; where it was.
    swept: by method what was found with each value of `Study.sweeps`.
    extra: see `Study.extra`.
  """

  plan: Plan
  found: dict[str, Found]
  rows: Sequence[Mapping[str, Any]] = ()
  alone: Mapping[str, np.ndarray] = {}
  tuned: Mapping[str, Any] = {}
  swept: Mapping[str, Sequence[Found]] = {}
  extra: Mapping[str, Any] = {}
