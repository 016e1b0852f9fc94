"""Forgetting in recommenders from end to end, on small generated data."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused

from experiments import bench, common, forget_recommendations
from experiments.bench.run import run as run_plan
from experiments.datasets import interaction_requests, interactions
from experiments.datasets import interaction_requests as requests
from experiments.forget_recommendations import Options, prepare
from experiments.studies import forget_recommendations as study
from experiments.studies import forget_recommendations_view as view
from jaxunlearn import recsys
from jaxunlearn.adapters import orbax

ALPHAS = [0.5, 0.9, 1.0]
ASKED = "users,interactions:0.1,group:source-2"
NAMES = ("users:0.05", "interactions:0.1", "group:source-2")
METHODS = ("unlink", "mmrecun")
REFERENCES = ("original", "retrained", "retrained_again")
SEEDS = 2


def run(out, *argv, preset="smoke"):
  options = ["--preset", preset, *argv, "--out", str(out)]
  forget_recommendations.main(options)
  return json.loads((out / "results.json").read_text())


@pytest.fixture(scope="module")
def smoke_run(tmp_path_factory):
  out = tmp_path_factory.mktemp("recommendations")
  argv = ("--data", "generated", "--requests", ASKED, "--sweep", "0.5,0.9,1")
  return out, run(out, *argv, "--methods", ",".join(METHODS))


@pytest.fixture
def source():
  return interactions.generated("smoke")


def drawn(text, source, seed):
  """Masks and the split of the requests of a text, one seed."""
  split = interactions.split(
    source, seed, pinned=interaction_requests.pinned(asks(text, source), source)
  )
  made = [
    interaction_requests.mask(ask.kind, ask.value, split)
    for ask in asks(text, source)
  ]
  return split, made


def asks(text, source):
  return requests.parse(text, source.groups)


def test_every_method_request_and_seed_has_a_row_with_its_numbers(smoke_run):
  _, results = smoke_run
  assert results["experiment"] == "forget_recommendations"
  known = (*REFERENCES, *METHODS)
  found = {(r["method"], r["request"], r["seed"]) for r in results["rows"]}
  assert found == {
    (m, r, s) for m in known for r in NAMES for s in range(SEEDS)
  }
  for row in results["rows"]:
    for part in ("test", "forget"):
      for name in view.RANKING:
        assert 0 <= row[f"{part}_{name}"] <= 1
    assert 0 <= row["membership_auc"] <= 1
    assert row["seconds_run"] > 0
    gaps = row["test_gap"], row["forget_gap"]
    assert row["retrained_gap"] == pytest.approx(sum(gaps) / 2)
    if row["method"] == "retrained":
      assert gaps == (0, 0) and row["score_distance"] == pytest.approx(0)
    assert (row["speedup"] is None) == (row["method"] in REFERENCES[::2])


def test_gaps_and_speed_ups_compare_with_the_same_request_and_seed(smoke_run):
  _, results = smoke_run
  rows = {(r["method"], r["request"], r["seed"]): r for r in results["rows"]}
  for (method, *place), row in rows.items():
    wanted = rows["retrained", *place]
    gap = abs(row["forget_recall"] - wanted["forget_recall"])
    assert row["forget_gap"] == pytest.approx(gap)
    if method == "mmrecun":
      ratio = wanted["seconds_alone"] / row["seconds_alone"]
      assert row["speedup"] == pytest.approx(ratio)


def test_the_sweep_goes_from_the_weight_of_the_run_to_fine_tuning(smoke_run):
  out, results = smoke_run
  sweep = json.loads((out / "sweep.json").read_text())
  assert sweep["requests"] == list(NAMES) and sweep["alpha"] == ALPHAS
  for part in ("test_recall", "forget_recall"):
    table = np.array(sweep["recall"][part])
    assert table.shape == (len(NAMES), SEEDS, len(ALPHAS))
    for row in results["rows"]:
      alpha = study.ALPHAS[row["request"].partition(":")[0]]
      if row["method"] == "mmrecun" and alpha in ALPHAS:
        place = NAMES.index(row["request"]), row["seed"], ALPHAS.index(alpha)
        assert table[place] == pytest.approx(row[part], abs=1e-6)
  forgotten = np.array(sweep["recall"]["forget_recall"]).mean(axis=(0, 1))
  assert forgotten[0] < forgotten[-1] - 0.1


def first_lane():
  plan = prepare(Options(data="generated", preset="smoke"))
  own = jax.tree.map(lambda v: jnp.asarray(v[0]), plan.beds.of_seed)
  bed = plan.beds.make(jnp.asarray(plan.beds.shared), own)
  return plan, bed, jnp.asarray(plan.forget[0])


def test_a_model_with_nan_ranks_nothing():
  plan, bed, forget = first_lane()
  marks = jax.tree.map(lambda v: jnp.asarray(v[0, 0]), plan.requests.marks)
  good = jax.jit(bed.model.init)(jax.random.key(0))._replace(
    model_state={"gone": forget}
  )
  bad = good._replace(
    params={**good.params, "users": good.params["users"] * np.nan}
  )

  @jax.jit
  def measure(variables):
    return plan.measures[0].run(
      bench.Case(bed, forget, forget, marks, variables, good, good, None)
    )

  found, broken = measure(good), measure(bad)
  assert found["is_finite"] and found["score_distance"] < 1e-5
  assert not broken["is_finite"]
  for part in ("test", "forget"):
    for name in view.RANKING:
      assert 0 <= found[f"{part}_{name}"] <= 1
      assert np.isnan(broken[f"{part}_{name}"])


def test_fine_tuning_is_mmrecun_with_all_weight_on_what_is_kept():
  plan, bed, forget = first_lane()
  start = jax.jit(bed.model.init)(jax.random.key(0))
  settings = {**plan.settings}
  settings["mmrecun"] = {**settings["mmrecun"], "retain_weight": 1.0}
  made = [
    jax.jit(study.METHODS[name].build(bed, settings[name]))(
      start, bed.data, forget, jax.random.key(1)
    )[0]
    for name in ("finetune", "mmrecun")
  ]
  for one, other in zip(*map(jax.tree.leaves, made)):
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_all_files_are_written_and_the_params_can_be_read(smoke_run):
  out, _ = smoke_run
  for name in ("table.md", "report.html", "plots/alpha.png"):
    assert (out / name).stat().st_size > 500
  shown = {path.name for path in (out / "plots").iterdir()}
  assert "recall_users_0_05.png" in shown
  assert "recall_group_source_2.png" in shown
  made = orbax.load(out / "params" / "mmrecun")
  assert made.variables.params["users"].shape[0] == 60
  assert int(made.forget_mask.sum()) == 3 * 16  # A twentieth of 60 users.
  assert made.variables.model_state["gone"].sum() == made.forget_mask.sum()


def test_the_report_says_how_far_the_random_request_is_from_retraining(
  smoke_run,
):
  out, _ = smoke_run
  text = (out / "report.html").read_text()
  assert "the aim is its value and not 0" in text
  assert "1.3 times faster" in text and "generated data" in text


def numbers(rows):
  return {
    (r["method"], r["request"], r["seed"]): {
      k: v
      for k, v in r.items()
      if isinstance(v, float)
      and not k.startswith(("seconds", "speed"))
      and k != "forget_rows"
    }
    for r in rows
  }


@pytest.mark.slow
def test_lanes_together_are_lanes_one_by_one():
  found = []
  for strategy in ("map", "vmap"):
    options = Options(
      data="generated",
      preset="smoke",
      request="users,items",
      methods="shards,mmrecun,gradient_ascent,amnesiac,unlink",
      train_steps=20,
      strategy=strategy,
    )
    with common.progress() as bar:
      found.append(numbers(run_plan(prepare(options), bar).rows))
  assert found[0].keys() == found[1].keys() and len(found[0]) == 8 * 4
  for place, values in found[0].items():
    # A tie that rounding breaks the other way moves a recall a little.
    assert values == pytest.approx(found[1][place], abs=0.02, nan_ok=True)


@pytest.mark.parametrize("name", ["bpr_mf", "mgcn"])
def test_the_other_models_train(name, source):
  model = study.make_model(name, source, 4)
  made = jax.jit(model.init)(jax.random.key(0))
  data = {"x": jnp.asarray(source.pairs)}
  nothing = jnp.zeros(len(data["x"]), bool)
  embedded = jax.jit(model.embed_under)(made, data, nothing)
  assert embedded.users.shape[0] == 60 and embedded.items.shape[0] == 100
  assert ("items" in made.params) and (len(made.params) > 2) == (name == "mgcn")


def test_scores_are_standardised_over_the_items_of_each_user():
  rng = np.random.default_rng(0)
  users, items = rng.normal(size=(5, 3)), 2 + rng.normal(size=(7, 3))
  users[4] = 0
  pairs = np.array([(u, i) for u in range(5) for i in range(7)])
  table = users @ items.T
  deviation = np.where(table.std(axis=1) > 0, table.std(axis=1), 1)
  expected = (table - table.mean(axis=1, keepdims=True)) / deviation[:, None]
  made = recsys.Embeddings(
    jnp.asarray(users, jnp.float32), jnp.asarray(items, jnp.float32)
  )
  found = study.standardised_scores(made, jnp.asarray(pairs))
  np.testing.assert_allclose(found, expected.reshape(-1), atol=1e-4)


def test_requests_cover_what_their_words_say(source):
  liked = source.groups["source-1"]
  text = "users:0.1,items:0.1,interactions:0.1,preference:source-1:0.2"
  text += ",group:source-1"
  split, made = drawn(text, source, 3)
  user, item = split.train["x"].T
  held = split.held
  forget = [mask for mask, _ in made]
  alike = [marks["alike"] for _, marks in made]
  users, items, single, preference, group = forget
  assert len(np.unique(user[users])) == 6
  assert not set(user[users]) & set(user[~users])
  np.testing.assert_array_equal(alike[0], np.isin(held[:, 0], user[users]))
  assert len(np.unique(item[items])) == round(0.1 * len(set(item)))
  assert not set(item[items]) & set(item[~items])
  np.testing.assert_array_equal(alike[1], np.isin(held[:, 1], item[items]))
  assert single.sum() == round(0.1 * len(user)) and alike[2].all()
  np.testing.assert_array_equal(group, liked[item])
  np.testing.assert_array_equal(alike[4], liked[held[:, 1]])
  gone = np.unique(user[preference])
  fans = np.unique(user[liked[item]])
  assert len(gone) == round(0.2 * len(fans))
  np.testing.assert_array_equal(preference, np.isin(user, gone) & liked[item])
  kinds = [list(requests.FORMS)[marks["kind"]] for _, marks in made]
  assert kinds == [ask.kind for ask in asks(text, source)]
  again = [drawn("users:0.1", source, seed)[1][0][0] for seed in (3, 4)]
  np.testing.assert_array_equal(again[0], users)
  assert not np.array_equal(again[1], users)


def test_splits_differ_by_seed_and_share_the_rows_that_choose(source):
  one, other = (interactions.split(source, seed) for seed in (0, 1))
  select = [interactions.split(source, seed, "select") for seed in (0, 1)]
  np.testing.assert_array_equal(select[0].held_id, select[1].held_id)
  assert one.held_id.shape == other.held_id.shape
  assert not np.array_equal(one.held_id, other.held_id)
  for split in (one, other, *select):
    assert not set(split.held_id) & set(split.row_id)
    assert np.bincount(split.held[:, 0]).tolist() == [2] * 60
  for split in (one, other):
    assert not set(select[0].held_id) & {*split.row_id, *split.held_id}


def test_the_alphas_are_those_of_the_kind_of_request_or_the_one_given():
  options = Options(data="generated", preset="smoke", request=ASKED)
  for plan, wanted in (
    (prepare(options), study.ALPHAS),
    (
      prepare(Options(data="generated", preset="smoke", alpha=0.5)),
      dict.fromkeys(study.ALPHAS, 0.5),
    ),
  ):
    assert plan.settings["mmrecun"]["retain_weight"] == wanted


def write_npz(path, **arrays):
  rng = np.random.default_rng(0)
  pairs = [(u, i) for u in range(12) for i in rng.permutation(9)[:6]]
  users, items = np.array(pairs).T
  np.savez(path, **{"users": users, "items": items, **arrays})
  return f"npz:{path}"


def load(source):
  return interactions.load(source, preset="smoke", data_dir=None)


def test_own_interactions_come_with_groups_and_features(tmp_path):
  group = np.array(["a", "b"])[np.arange(10) % 2]
  text = np.ones((10, 3))
  path = tmp_path / "own.npz"
  found = load(write_npz(path, group=group, features_text=text))
  # The tenth item has a group and features, and no interactions.
  assert (found.num_users, found.num_items) == (12, 10)
  assert found.features["text"].shape == (10, 3)
  np.testing.assert_array_equal(found.groups["b"], np.arange(10) % 2 == 1)
  plain = load(write_npz(path))
  assert not plain.groups and not plain.features
  with pytest.raises(ValueError, match="features of items for --model mgcn"):
    prepare(Options(data=f"npz:{path}", model="mgcn", preset="smoke"))
  assert prepare(Options(data=f"npz:{path}", preset="smoke")).forget.any()


def test_unusable_own_interactions_are_refused_in_one_line(tmp_path):
  path = tmp_path / "own.npz"
  for arrays, match in (
    ({"users": np.zeros((3, 2), int)}, "to have users, integers"),
    ({"items": np.zeros(72)}, "to have items, integers"),
    ({"users": np.zeros(0, int), "items": np.zeros(0, int)}, "got none"),
    ({"users": np.zeros(3, int)}, "one shape"),
    ({"users": np.full(72, -1)}, "user"),
    ({"items": np.zeros(72, int)}, "twice"),
    ({"group": np.zeros(4, int)}, r"group in .* of shape \[9\]"),
    ({"features_x": np.zeros((4, 2))}, r"features_x in .* \[9, F\]"),
    ({"features_x": np.full((9, 2), np.nan)}, "finite numbers in features_x"),
    ({"users": np.arange(72)}, "at least 3 interactions"),
  ):
    source = write_npz(path, **arrays)
    with pytest.raises(ValueError, match=match) as found:
      load(source)
    assert "\n" not in str(found.value)
  refused("npz file", load, f"npz:{tmp_path / 'none.npz'}")


def test_movielens_needs_its_folder_and_is_the_default_where_there_is_one(
  monkeypatch, tmp_path
):
  monkeypatch.delenv("JAXUNLEARN_DATA", raising=False)
  refused("--data-dir", load, "movielens")
  assert "--data-dir with MovieLens-100k gives real ones" in load(None).words
  with pytest.raises(ValueError, match=r"no readable u\.data"):
    interactions.load(None, preset="smoke", data_dir=str(tmp_path))


@pytest.mark.optimized(reason="A claim about what users run.")
@pytest.mark.slow
def test_mmrecun_meets_its_bounds_on_movielens(data_dir, tmp_path):
  results = run(
    tmp_path,
    *("--data-dir", str(data_dir), "--requests", "users,items"),
    *("--methods", "popularity,gradient_ascent,mmrecun"),
    *("--train-steps", "400"),
    preset="quick",
  )

  def values(method, request, name):
    return np.array(
      [
        row[name]
        for row in results["rows"]
        if row["method"] == method and row["request"] == request
      ]
    )

  for request in ("users:0.05", "items:0.05"):
    test = lambda method, r=request: values(method, r, "test_recall").mean()
    assert test("original") >= 1.2 * test("popularity")
    wanted = values("retrained", request, "forget_recall")
    forgotten = values("mmrecun", request, "forget_recall").mean()
    assert forgotten <= wanted.mean() + wanted.std(ddof=1)
    assert test("mmrecun") >= 0.97 * test("retrained")
    assert test("mmrecun") > test("gradient_ascent")
    assert values("mmrecun", request, "speedup").mean() >= 1.3
  assert math.isfinite(values("mmrecun", "users:0.05", "membership_auc").mean())


PLATFORM = {
  "numbers": (2**40 + np.arange(12), 7 + 2**33 * np.arange(9)),
  "words": (
    np.array([f"user-{u:02}" for u in range(12)]),
    np.array([f"{i:03}" for i in range(9)]),
  ),
  "times": (
    np.datetime64("2024-01-01") + np.arange(12),
    np.datetime64("2020-01-01") + np.arange(9),
  ),
}


@pytest.mark.parametrize("kind", PLATFORM)
def test_users_and_items_are_named_as_their_platform_names_them(tmp_path, kind):
  with np.load(write_npz(tmp_path / "a.npz").removeprefix("npz:")) as file:
    plain = dict(file)
  users, items = (
    ids[plain[n]] for ids, n in zip(PLATFORM[kind], ("users", "items"))
  )
  source = load(write_npz(tmp_path / "b.npz", users=users, items=items))
  for place, side in enumerate(("users", "items")):
    wanted = PLATFORM[kind][place][[3, 5]]
    for text in (f"{side}:{wanted[0]},{wanted[1]}", f"{side}:id={wanted[0]}"):
      count = 2 if "," in text else 1
      for seed in (0, 1):
        split, [(forget, _)] = drawn(text, source, seed)
        column = split.train["x"][:, place]
        names = (source.user_ids, source.item_ids)[place][column]
        np.testing.assert_array_equal(forget, np.isin(names, wanted[:count]))
    refused(f"an? {side[:-1]}", drawn, f"{side}:id=2999-01-01", source, 0)


def test_rows_of_the_users_file_are_named_by_number(tmp_path):
  source = load(write_npz(tmp_path / "own.npz"))
  (tmp_path / "rows.txt").write_text("0\n7\n30\n41\n")
  text = f"index:{tmp_path / 'rows.txt'}"
  for seed in range(3):
    split, [(forget, _)] = drawn(text, source, seed)
    assert split.row_id[forget].tolist() == [0, 7, 30, 41]
  with pytest.raises(ValueError, match="npz:PATH or csv:PATH"):
    drawn(text, interactions.generated("smoke"), 0)


def test_interactions_may_come_as_a_csv(tmp_path):
  path = tmp_path / "own.csv"
  lines = [f"u{u},{7 + i}" for u in range(6) for i in range(4)]
  path.write_text("\n".join(["users,items", *lines]), encoding="utf-8-sig")
  source = load(f"csv:{path}")
  assert source.user_ids.tolist() == [f"u{u}" for u in range(6)]
  assert source.item_ids.tolist() == [7, 8, 9, 10]


@pytest.mark.parametrize(
  ("text", "kinds"),
  [
    ("users:1,2,items", ("users", "items")),
    ("users:1,2;items:0.1", ("users", "items")),
    ("user:1", ("users",)),
    ("users,items,interactions", ("users", "items", "interactions")),
  ],
)
def test_commas_are_between_requests_or_between_names(text, kinds):
  assert tuple(r.kind for r in requests.parse(text, ())) == kinds
