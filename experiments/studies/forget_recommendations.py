"""Can a recommender forget users, items or single interactions?

Question: MMRecUN (arXiv:2405.15328, as reconstructed in
`jaxunlearn.recsys.mmrecun`) ranks what is to be forgotten below items never seen,
and keeps ranking what is kept above them. How near does it come to a recommender
that was trained anew without the forgotten interactions, beside taking them out of
the graph (unlink), fine-tuning, gradient ascent, amnesiac relabelling, and the
retraining of shards (RecEraser, arXiv:2201.06820)?

    python -m experiments.forget_recommendations --out out/recommendations

does so on generated interactions;

    python -m experiments.forget_recommendations --data-dir DIR

on MovieLens-100k (DIR holds ml-100k). Expected there, with --train-steps 400 and
seeds 0 and 1, Recall@20 on test and on forgotten interactions:

    request (5 %)  original     retrained    again        mmrecun      ascent
    users          .369 .313    .365 .031    .365 .051    .373 .027    .364 .282
    items          .366 .409    .379 .000    .375 .000    .377 .000    .375 .000
    interactions   .367 .400    .361 .330    .361 .328    .367 .342    .361 .348

Popularity has .18 on test. Items are gone as soon as the graph is rebuilt, so that
any method will do; users are not, and there MMRecUN alone comes near, 4.8 times
faster than retraining.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from jaxunlearn import Fit, Variables, metrics, recsys, report
from jaxunlearn.core.keys import derive
from jaxunlearn.core.reduction import all_finite
from jaxunlearn.recsys.receraser import AGGREGATE
from jaxunlearn.recsys.types import Embeddings, Recommender
from jaxunlearn.report.taxonomy import WHITE_BOX
from jaxunlearn.report.verdict import DAMAGE, NOTHING, TELLTALE, TRACE

from .. import bench, files, flags
from ..beds import models, own_networks
from ..bench import Bed, Case, Measure, Method, cautions, table
from ..bench.tune import Between
from ..data import data_folder
from ..datasets import interaction_requests as asked
from ..datasets import interactions
from ..flags import described
from . import forget_recommendations_view as view

MMRECUN = view.MMRECUN
# Weight of the kept interactions in MMRecUN, by kind of request; chosen on
# MovieLens-100k, on seeds that are not reported by default.
ALPHAS: Mapping[str, float] = {
  "users": 0.97,
  "items": 0.9,
  "group": 0.9,
  "preference": 0.99,
  "interactions": 0.99,
  "index": 0.99,
}
NAMES = ("bpr_mf", "lightgcn", "vbpr", "mgcn")
SWEEP = "0.5,0.8,0.9,0.95,0.97,0.99,1"  # Of the preset paper.


class Recipe(NamedTuple):
  """How models are trained, by Adam, and how methods are set."""

  dim: int  # Of the embeddings.
  steps: int  # Of training and of retraining.
  rate: float
  batch_size: int  # Interactions a step.
  unlearn_steps: int  # Of MMRecUN, fine-tuning and amnesiac unlearning.
  ascent_steps: int
  num_shards: int
  shard_steps: int  # Of each shard's model.
  aggregator_steps: int


RECIPES: Mapping[str, Recipe] = {
  "smoke": Recipe(8, 60, 0.02, 128, 20, 3, 2, 30, 10),
  "quick": Recipe(64, 300, 5e-3, 2048, 100, 5, 4, 60, 40),
  "paper": Recipe(64, 400, 5e-3, 2048, 100, 5, 4, 100, 100),
}


@dataclasses.dataclass(frozen=True)
class Options(bench.CommonOptions):
  """Make a recommender forget interactions, and compare with retraining."""

  data: Annotated[
    str | None,
    described(
      "Interactions: movielens (MovieLens-100k, needs --data-dir), generated, "
      "npz:PATH, a file with users [N] and items [N], ids as your platform gives "
      "them, and optionally users_test and items_test [M], which are not trained "
      "on, user_ids [U] and item_ids [I] in the order of a model's rows, group "
      "[I] and features_NAME [I, F] of the items, or csv:PATH with the columns "
      "users and items. By default movielens where its folder is given, else "
      "generated.",
      "NAME",
    ),
  ] = None

  model: Annotated[
    str,
    described(
      "Recommender: bpr_mf (matrix factorisation of ids), lightgcn (a graph "
      "network, with the items' features where there are any), vbpr (bpr_mf with "
      "the features), mgcn (a multi-modal graph network) or "
      "package.module:factory, a function of yours that returns a Flax linen "
      "module or, given nnx.Rngs, an nnx module, which is called on a "
      "recsys.graphs.Graph and returns users [U, D] and items [I, D]; a score is "
      "their inner product.",
      "STR",
    ),
  ] = "lightgcn"

  checkpoint: Annotated[
    str | None,
    described(
      "Orbax checkpoint with the trained values of the recommender, which takes "
      "npz:PATH with users_test and items_test; without it the recommender is "
      "trained here first.",
      "DIR",
    ),
  ] = None

  request: Annotated[
    str | None,
    tyro.conf.arg(
      aliases=["--requests"],
      metavar="LIST",
      help="What to forget: users:4711,4712 (all that these users did), items:ID, "
      "index:FILE (rows of the data file, from 0 on), users, items, interactions "
      "(5 % at random, or users:0.1 for 10 %), preference:GROUP (5 % of the users "
      "no longer like a genre), group:GROUP (all items of a genre or source); "
      "several with semicolons between. By default users, items and "
      "interactions; with --preset paper a preference and a group too.",
    ),
  ] = None

  k: Annotated[
    int, described("Length of the recommended list that is judged.", "INT")
  ] = 20

  alpha: Annotated[
    float | None,
    described(
      "Weight of what is kept in MMRecUN, from 0 to 1 (1 is fine-tuning); by "
      "default one for each kind of request.",
      "FLOAT",
    ),
  ] = None

  sweep: Annotated[
    str | None,
    described(
      "Further weights of MMRecUN to draw a curve over, as in 0.5,0.9,1; none "
      "for no curve. By default with --preset paper only.",
      "LIST",
    ),
  ] = None

  train_steps: Annotated[
    int | None,
    described("Steps of (re)training; the preset's by default.", "INT"),
  ] = None

  out: flags.Out = "out/forget_recommendations"


@functools.lru_cache(maxsize=1)
def _load(
  source: str | None, preset: str, data_dir: str | None, *stamp: Any
) -> interactions.Source:
  del stamp  # Another file, or another folder, is loaded anew.
  return interactions.load(source, preset=preset, data_dir=data_dir)


def source_of(options: Options) -> interactions.Source:
  path = (options.data or "").partition(":")[2]
  path = files.checked_path(path or ".", "--data")
  stamp = path.stat().st_mtime_ns if path.is_file() else None
  folder = data_folder(options.data_dir)
  return _load(options.data, options.preset, options.data_dir, folder, stamp)


def default_request(options: Options) -> str:
  """Users, items and interactions; of a large study a group too."""
  text, groups = "users;items;interactions", source_of(options).groups
  if options.preset != "paper" or not groups:
    return text
  # The group nearest to a tenth of the items.
  group = min(groups, key=lambda name: abs(np.mean(groups[name]) - 0.1))
  return f"{text};preference:{group};group:{group}"


def spell(options: Options, text: str) -> str:
  asks = asked.parse(text, source_of(options).groups)
  return ";".join(ask.text for ask in asks)


def recipe_of(options: Options) -> Recipe:
  """The preset's, with the flags, which are checked here.

  Raises:
    ValueError: a number out of its range.
  """
  for name in ("k", "train_steps"):
    value = getattr(options, name)
    if value is not None and value < 1:
      raise ValueError(f"Expected --{name.replace('_', '-')} > 0, got {value}.")
  if options.alpha is not None and not 0 <= options.alpha <= 1:
    raise ValueError(f"Expected --alpha in [0, 1], got {options.alpha}.")
  recipe = RECIPES[options.preset]
  return recipe._replace(steps=options.train_steps or recipe.steps)


def sweeps(plan: bench.Plan) -> dict[str, dict[str, tuple[float, ...]]]:
  """The further weights of MMRecUN.

  Raises:
    ValueError: no list of weights, or one that is for nothing.
  """
  text, is_run = plan.options.sweep, MMRECUN in plan.methods
  if text is None:
    text = SWEEP if plan.options.preset == "paper" and is_run else "none"
  if text == "none":
    return {}
  try:
    found = sorted({float(part) for part in text.split(",")})
  except ValueError:
    found = []
  if not found or not all(0 <= alpha <= 1 for alpha in found):
    raise ValueError(
      f"Expected --sweep none or weights in [0, 1], as in 0.5,0.9, got {text!r}."
    )
  if not is_run:
    raise ValueError(
      f"Expected --methods with mmrecun to sweep, got {plan.options.methods!r}."
    )
  return {MMRECUN: {"retain_weight": tuple(found)}}


def fit(plan: bench.Plan) -> bench.Plan:
  sweeps(plan)  # Refuses what is wrong before anything is trained.
  lacks = {}
  if ":" in plan.options.model:
    lacks["scif"] = (
      "for a --model of yours, since it has to know the embeddings' names"
    )
  if plan.beds.given is not None:
    lacks["shards"] = bench.NOTHING_KEPT.format("models of the groups")
  plan = plan._replace(notes=tuple(cautions.of_few(plan.requests)))
  return bench.leave_out(plan, lacks)


def make_model(name: str, source: interactions.Source, dim: int) -> Recommender:
  """The model of `--model`.

  Raises:
    ValueError: no such model; a multi-modal model of data without modalities; a
      user's own that does not fit.
  """
  if ":" in name:
    data = {"x": source.pairs[: source.trained]}
    return own_networks.own_recommender(
      name, source.num_users, source.num_items, data
    )
  if name not in NAMES:
    raise ValueError(
      f"Expected --model to be one of {', '.join(NAMES)} or "
      f"package.module:factory, got {name!r}."
    )
  sizes = source.num_users, source.num_items
  features = {k: jnp.asarray(v) for k, v in source.features.items()}
  if name == "bpr_mf":
    return recsys.bpr_mf(*sizes, dim=dim)
  if name == "lightgcn":
    return recsys.lightgcn(*sizes, dim=dim, features=features or None)
  if not features:
    raise ValueError(
      f"Expected data with features of items for --model {name}, got none."
    )
  if name == "vbpr":
    return recsys.vbpr(*sizes, features, dim=dim)
  return recsys.mgcn(*sizes, features, dim=dim)


def beds(
  options: Options, seeds: Sequence[int], part: str, asks: Sequence[Any]
) -> bench.Beds:
  """The interactions, divided by user once per seed."""
  source, recipe = source_of(options), recipe_of(options)
  model = make_model(options.model, source, recipe.dim)
  pinned = asked.pinned(asks, source)
  splits = [interactions.split(source, seed, part, pinned) for seed in seeds]

  def make(pairs: jax.Array, own: Any) -> Bed:
    row_id, held_id = own
    data = {"x": pairs[row_id]}
    return Bed(model, data, {"x": pairs[held_id]}, recipe, own)

  return bench.Beds(
    source.pairs,
    tuple(np.stack(ids) for ids in zip(*(split[2:] for split in splits))),
    make,
    splits,
    {
      "recipe": recipe._asdict(),
      "words": source.words,
      "users": source.num_users,
      "items": source.num_items,
      "test_rows": len(splits[0].held_id),
    },
    _given(options, source, model),
    source,
    model,
  )


def _given(
  options: Options, source: interactions.Source, model: Recommender
) -> Variables | None:
  """The user's trained model, if there is one."""
  if options.checkpoint is None:
    return None
  if source.trained is None:
    raise ValueError(
      "Expected with --checkpoint npz:PATH with users_test and items_test, which "
      f"it was not trained on, got --data {options.data} without."
    )
  like = jax.eval_shape(model.init, jax.random.key(0))
  found = models.joined(options.checkpoint, like)
  return _served(found, jnp.zeros(source.trained, bool))


class Fixed(NamedTuple):
  """A recommender that is its embeddings, whatever the graph."""

  users: jax.Array
  items: jax.Array


def _served(made: Variables, gone: jax.Array, **state: Any) -> Variables:
  """A model and the interactions that its graph lacks, bool [N]."""
  return Variables(made.params, {"gone": gone, **state})


def embed(bed: Bed, variables: Any) -> Embeddings:
  """A model's embeddings, on its own graph."""
  if isinstance(variables, Fixed):
    return Embeddings(*variables)
  model, (params, state, _) = bed.model, variables
  if "shard" in state:
    model = recsys.sharded(model, state["shard"], bed.recipe.num_shards)
  made = model.embed_under(Variables(params), bed.data, state["gone"])
  return Embeddings(made.users, made.items)


def _fit(bed: Bed, **changes: Any) -> Fit:
  rate = changes.pop("learning_rate", bed.recipe.rate)
  fit = Fit(optax.adam(rate), bed.recipe.steps, bed.recipe.batch_size)
  return fit._replace(**changes)


def train(bed: Bed, weights: jax.Array, key: jax.Array):
  # Not a constant, or XLA would sort the rows at compile time.
  weights = weights & (bed.data["x"][:, 0] >= 0)
  made, info = recsys.train(bed.model, bed.data, weights, key, _fit(bed))
  return _served(made, ~weights), info


def _sharding(bed: Bed) -> dict[str, Any]:
  steps, size = bed.recipe.aggregator_steps, bed.recipe.batch_size
  joined = AGGREGATE._replace(num_steps=steps, batch_size=size)
  sharding = _fit(bed, num_steps=bed.recipe.shard_steps)
  return {"fit": sharding, "aggregator": joined}


def keep(bed: Bed, forget: jax.Array, key: jax.Array):
  """The original model, and the first training of its shards."""
  weights = bed.data["x"][:, 0] >= 0
  original, _ = train(bed, weights, key)
  part_key, fit_key = jax.random.split(derive(key, "shards"))
  count = bed.recipe.num_shards
  shard = recsys.balanced_shards(
    embed(bed, original), bed.data, count, part_key, by="user"
  )
  made, _ = recsys.train_shards(
    bed.model, shard, count, bed.data, weights, fit_key, **_sharding(bed)
  )
  many = lambda leaf: jnp.broadcast_to(leaf, (len(forget), *leaf.shape))
  return original, jax.tree.map(many, (made, shard))


def _shards(bed: Bed, setting: bench.Setting):
  del setting

  def method(variables, data, forget, key):
    first, shard = bed.kept
    again = recsys.receraser(
      bed.model, shard, bed.recipe.num_shards, **_sharding(bed)
    )
    made, info = again(first, data, forget, key)
    return _served(made, forget, shard=shard), info

  return method


def _popularity(bed: Bed, setting: bench.Setting):
  del setting
  sizes = bed.model.num_users, bed.model.num_items

  def method(variables, data, forget, key):
    made = recsys.popularity(data, ~forget, *sizes)
    return Fixed(made.users, made.items), None

  return method


def _edited(make: Callable[[Bed, Any], Any], **space: Any) -> Method:
  """A method that makes of the original model one for the graph that is left."""

  def build(bed: Bed, setting: bench.Setting):
    transform = make(bed, setting)

    def method(variables, data, forget, key):
      bare = Variables(variables.params)
      made, info = transform(bare, data, forget, key)
      return _served(made, forget), info

    return method

  return Method(build, space)


def _mmrecun(bed: Bed, setting: bench.Setting):
  rest = dict(setting)
  alpha, strength = rest.pop("retain_weight"), rest.pop("strength")
  if isinstance(alpha, Mapping):
    alpha = jnp.array([alpha[kind] for kind in asked.FORMS])[bed.marks["kind"]]
    alpha = jnp.clip(1 - strength * (1 - alpha), 0, 1)
  return recsys.mmrecun(bed.model, _fit(bed, **rest), retain_weight=alpha)


def _by(factory: Callable[..., Any]) -> Callable[[Bed, Any], Any]:
  return lambda bed, setting: factory(bed.model, _fit(bed, **setting))


_RATE = {"learning_rate": Between(1e-4, 1e-1)}
METHODS = {
  view.POPULARITY: Method(
    _popularity,
    note="no unlearning method: it shows everybody the items with the most kept "
    "interactions, and is there as a yardstick.",
  ),
  "unlink": _edited(lambda bed, setting: recsys.unlink()),
  "finetune": _edited(_by(recsys.finetune), **_RATE),
  "gradient_ascent": _edited(_by(recsys.gradient_ascent), **_RATE),
  "amnesiac": _edited(_by(recsys.amnesiac), **_RATE),
  "shards": Method(
    _shards,
    note="RecEraser: one model for each of several groups of similar users, "
    "joined by attention; a request retrains the groups that it touches. Users "
    "drawn at random touch nearly all. Its first training counts as part of the "
    "original's.",
    keeps=True,
  ),
  "scif": _edited(
    lambda bed, setting: recsys.scif(bed.model, **setting),
    damping=Between(1e-5, 1e-1),
    scale=Between(0.1, 1.0),
  ),
  MMRECUN: _edited(_mmrecun, **_RATE, strength=Between(0.1, 10)),
}
_ACCESS = {
  view.POPULARITY: "interactions that stay",
  "unlink": "the graph that stays",
  "finetune": "interactions that stay",
  "gradient_ascent": "forgotten interactions",
  "amnesiac": "all interactions",
  "scif": "all interactions",
  "shards": "interactions that stay, models of the groups",
  MMRECUN: "all interactions",
}
METHODS = {
  name: method._replace(access=_ACCESS[name])
  for name, method in METHODS.items()
}


def settings_of(options: Options) -> dict[str, bench.Setting]:
  recipe, alphas = recipe_of(options), ALPHAS
  if options.alpha is not None:
    alphas = dict.fromkeys(ALPHAS, options.alpha)
  usual = {"learning_rate": recipe.rate, "num_steps": recipe.unlearn_steps}
  return {
    "finetune": usual,
    "gradient_ascent": {**usual, "num_steps": recipe.ascent_steps},
    "amnesiac": usual,
    "scif": {"damping": 1e-2, "scale": 1.0},
    # Strength multiplies 1 - alpha, the weight of what is forgotten.
    MMRECUN: {**usual, "retain_weight": alphas, "strength": 1.0},
  }


def standardised_scores(made: Embeddings, pairs: jax.Array) -> jax.Array:
  """Scores of pairs, in standard deviations over the items of the user.

  What an attacker compares: users' scores have scales of their own.

  Args:
    made: the embeddings.
    pairs: int [P, 2].

  Returns:
    float32 [P]; 0 for a user to whom all items score the same, nan where the
    model diverged.
  """
  users, items = (
    part.astype(jnp.promote_types(jnp.float32, part.dtype)) for part in made[:2]
  )
  centred = items - items.mean(axis=0, keepdims=True)
  # No [U, I] matrix: the variance is a quadratic form in the user.
  spread = centred.T @ centred / items.shape[0]
  deviation = jnp.sqrt(jnp.maximum(((users @ spread) * users).sum(axis=1), 0.0))
  own = deviation[pairs[:, 0]]
  scores = (users[pairs[:, 0]] * centred[pairs[:, 1]]).sum(axis=1)
  return jnp.where(own == 0, 0.0, scores / jnp.where(own == 0, 1.0, own))


def measures(plan: bench.Plan) -> list[Measure]:
  """Ranking, membership, the distance of scores, and gaps."""
  source, k = plan.dataset, plan.options.k
  sizes = source.num_users, source.num_items
  rank = recsys.ranking({"x": source.pairs}, *sizes, ks=(k,))
  pairs = jnp.asarray(source.pairs)

  def run(case: Case) -> dict[str, Any]:
    bed, forget = case.bed, case.forget
    own, theirs = (embed(bed, v) for v in (case.variables, case.retrained))
    among = lambda rows, mask: (
      jnp.zeros(len(pairs), bool).at[bed.extra[rows]].set(mask)
    )
    trained, gone, held = among(0, True), among(0, forget), among(1, True)
    # Of users and items that are forgotten altogether no test counts.
    for side, size in enumerate(sizes):
      of = lambda mask, i=pairs[:, side], n=size: (
        jnp.zeros(n, bool).at[i].max(mask)[i]
      )
      held &= ~(of(gone) & ~of(trained & ~gone))
    ranked = {
      "test": rank(own, held, trained),
      "forget": rank(own, gone, trained & ~gone),
    }
    scores, their_scores, others = (
      standardised_scores(made, part["x"])
      for made, part in ((own, bed.data), (theirs, bed.data), (own, bed.test))
    )
    apart = jnp.where(forget, (scores - their_scores) ** 2, 0.0)
    return {
      "is_finite": all_finite(own),
      **{
        f"{part}_{name}": getattr(found, name)[0]
        for part, found in ranked.items()
        for name in view.RANKING
      },
      "membership_auc": metrics.separation_auc(
        scores, others, forget, case.marks["alike"]
      ),
      "score_distance": jnp.sqrt(apart.sum() / forget.sum()),
    }

  gap = functools.partial(
    table.gap, unit="", decimals=3, direction=report.LOWER
  )
  of_recall = (
    "Distance of the recall of {} interactions to the retrained model's."
  )
  return [
    Measure(
      (*view.ranking(k), view.MEMBERSHIP, view.DISTANCE),
      run,
      rules=(
        bench.Rule("forget_recall", 0.05, above=TRACE, below=TELLTALE),
        bench.Rule(
          "membership_auc", 0.05, above=TRACE, below=TELLTALE, threat=WHITE_BOX
        ),
        bench.Rule("test_recall", 0.02, above=NOTHING, below=DAMAGE),
        bench.distance("score_distance", 0.1),
      ),
    ),
    gap(["test_recall"], of_recall.format("test"), name="test_gap"),
    gap(["forget_recall"], of_recall.format("forgotten"), name="forget_gap"),
    gap(["test_recall", "forget_recall"], "Mean of both distances of recall."),
  ]


STUDY = bench.Study(
  name="forget_recommendations",
  options=Options,
  beds=beds,
  kinds={
    kind: bench.Kind(form, functools.partial(asked.mask, kind))
    for kind, form in asked.FORMS.items()
  },
  request=default_request,
  spell=spell,
  train=train,
  keep=keep,
  methods=METHODS,
  smoke=("unlink", "finetune", MMRECUN),
  settings=settings_of,
  fit=fit,
  sweeps=sweeps,
  measures=measures,
  seeds=lambda options: {"smoke": 2, "quick": 2, "paper": 5}[options.preset],
  tune_request=lambda options: "users:0.1;items:0.1;interactions:0.1",
  title=lambda plan: f"Forgetting in a recommender ({plan.options.model})",
  lead=view.lead,
  notes=view.notes,
  columns=lambda plan: (
    *("test_recall", "forget_recall", "score_distance", "membership_auc"),
    *("retrained_gap", "seconds_run", "speedup"),
  ),
  panels=(view.panels,),
  findings=view.findings,
  files=view.files,
  time_alone=True,
)
