"""Forgetting in recommenders from end to end, on small generated data."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import common, forget_recommendations, recommendation_data
from experiments import forget_recommendations_methods as methods
from experiments import forget_recommendations_requests as requests
from experiments import forget_recommendations_study as study
from experiments.forget_recommendations import Options, prepare
from jaxunlearn import recsys
from jaxunlearn.adapters import orbax

ASKED = "users,interactions:0.1,group:source-2"
NAMES = ("users 5 %", "interactions 10 %", "group source-2")
METHODS = ("popularity", "unlink", "finetune", "mmrecun")
SEEDS = 2


def run(out, *argv, preset="smoke"):
  options = ["--preset", preset, *argv, "--out", str(out)]
  forget_recommendations.main(options)
  return json.loads((out / "results.json").read_text())


@pytest.fixture(scope="module")
def smoke_run(tmp_path_factory):
  out = tmp_path_factory.mktemp("recommendations")
  argv = ("--data", "generated", "--requests", ASKED, "--sweep", "0.5,1")
  return out, run(out, *argv, "--methods", ",".join(METHODS))


@pytest.fixture
def source():
  return recommendation_data.generated("smoke", 0)


def test_every_method_request_and_seed_has_a_row_with_its_numbers(smoke_run):
  _, results = smoke_run
  assert results["experiment"] == "forget_recommendations"
  known = ("original", "retrained", *METHODS)
  found = {(r["method"], r["request"], r["seed"]) for r in results["rows"]}
  assert found == {
    (m, r, s) for m in known for r in NAMES for s in range(SEEDS)
  }
  for row in results["rows"]:
    for part in ("test", "forget"):
      for name in study.MEASURES:
        assert 0 <= row[f"{part}_{name}"] <= 1
    assert 0 <= row["membership_auc"] <= 1
    assert row["seconds_run"] > 0
    gaps = row["test_gap"], row["forget_gap"]
    assert row["retrained_gap"] == pytest.approx(sum(gaps) / 2)
    if row["method"] == "retrained":
      assert gaps == (0, 0)
    trains = row["method"] in ("finetune", "mmrecun")
    assert ("speed_up" in row) == trains


def test_gaps_and_speed_ups_compare_with_the_same_request_and_seed(smoke_run):
  _, results = smoke_run
  rows = {(r["method"], r["request"], r["seed"]): r for r in results["rows"]}
  for (method, *place), row in rows.items():
    wanted = rows["retrained", *place]
    gap = abs(row["forget_recall"] - wanted["forget_recall"])
    assert row["forget_gap"] == pytest.approx(gap)
    if method == "mmrecun":
      ratio = wanted["seconds_run"] / row["seconds_run"]
      assert row["speed_up"] == pytest.approx(ratio)


def test_fine_tuning_is_mmrecun_with_all_weight_on_what_is_kept(smoke_run):
  out, results = smoke_run
  sweep = json.loads((out / "sweep.json").read_text())
  assert sweep["requests"] == list(NAMES) and sweep["alpha"] == [0.5, 1.0]
  for part in ("test_recall", "forget_recall"):
    table = np.array(sweep["recall"][part])
    assert table.shape == (len(NAMES), SEEDS, 2)
    for row in results["rows"]:
      if row["method"] == "finetune":
        place = NAMES.index(row["request"]), row["seed"]
        assert table[(*place, 1)] == pytest.approx(row[part], abs=1e-6)
  forgotten = np.array(sweep["recall"]["forget_recall"]).mean(axis=(0, 1))
  assert forgotten[0] < forgotten[1] - 0.1


def test_all_files_are_written_and_the_params_can_be_read(smoke_run):
  out, _ = smoke_run
  for name in ("table.md", "report.html", "plots/alpha.png"):
    assert (out / name).stat().st_size > 500
  shown = {path.name for path in (out / "plots").iterdir()}
  assert "recall_users_5.png" in shown
  assert "recall_group_source_2.png" in shown
  made = orbax.load(out / "params" / "mmrecun")
  assert made.variables.params["users"].shape[0] == 60
  assert int(made.forget_mask.sum()) == 3 * 16  # A twentieth of 60 users.
  assert not (out / "params" / "popularity").exists()


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
      if isinstance(v, float) and not k.startswith(("seconds", "speed"))
    }
    for r in rows
  }


def test_a_seed_gives_the_same_numbers_alone(smoke_run, tmp_path):
  _, first = smoke_run
  argv = ("--data", "generated", "--requests", ASKED, "--seeds", "1")
  second = run(tmp_path, *argv, "--methods", "unlink,mmrecun")
  wanted = numbers(first["rows"])
  for place, values in numbers(second["rows"]).items():
    assert values == pytest.approx(wanted[place], abs=1e-6)


@pytest.mark.slow
def test_lanes_together_are_lanes_one_by_one():
  options = Options(
    data="generated",
    preset="smoke",
    requests="users,items",
    methods="shards,mmrecun,gradient_ascent,amnesiac,unlink",
    train_steps=20,
  )
  plan = prepare(options)
  found = []
  for lanes in (1, 4):
    own = plan.study._replace(lanes_at_once=lanes)
    with common.progress() as bar:
      found.append(numbers(study.run(own, bar).rows))
  assert found[0].keys() == found[1].keys() and len(found[0]) == 7 * 4
  for place, values in found[0].items():
    # A tie that rounding breaks the other way moves a recall a little.
    assert values == pytest.approx(found[1][place], abs=0.02)


@pytest.mark.parametrize("name", ["bpr_mf", "mgcn"])
def test_the_other_models_train(name, source):
  model = methods.make_model(name, source.data, 4)
  made = jax.jit(model.init)(jax.random.key(0))
  data = source.data.train
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
  user, item = np.asarray(source.data.train["x"]).T
  held = np.concatenate([source.data.validation["x"], source.data.test["x"]])
  liked = source.groups["source-1"]
  text = "users:0.1,items:0.1,interactions:0.1,preference:source-1:0.2"
  asked = requests.parse(f"{text},group:source-1", source.groups)
  users, items, single, preference, group = (
    requests.draw(request, source, 3) for request in asked
  )
  assert len(np.unique(user[users.forget])) == 6
  assert not set(user[users.forget]) & set(user[~users.forget])
  np.testing.assert_array_equal(
    users.alike, np.isin(held[:, 0], user[users.forget])
  )
  assert len(np.unique(item[items.forget])) == round(0.1 * len(set(item)))
  assert not set(item[items.forget]) & set(item[~items.forget])
  np.testing.assert_array_equal(
    items.alike, np.isin(held[:, 1], item[items.forget])
  )
  assert single.forget.sum() == round(0.1 * len(user)) and single.alike.all()
  np.testing.assert_array_equal(group.forget, liked[item])
  np.testing.assert_array_equal(group.alike, liked[held[:, 1]])
  gone = np.unique(user[preference.forget])
  fans = np.unique(user[liked[item]])
  assert len(gone) == round(0.2 * len(fans))
  expected = np.isin(user, gone) & liked[item]
  np.testing.assert_array_equal(preference.forget, expected)
  again = [
    requests.draw(r, source, s).forget for r in asked[:1] for s in (3, 4)
  ]
  np.testing.assert_array_equal(again[0], users.forget)
  assert not np.array_equal(again[1], users.forget)


def test_the_alphas_are_those_of_the_kind_of_request_or_the_one_given():
  options = Options(data="generated", preset="smoke", requests=ASKED)
  assert prepare(options).study.alphas == tuple(
    methods.ALPHAS[kind] for kind in ("users", "interactions", "group")
  )
  given = Options(data="generated", preset="smoke", alpha=0.5)
  assert prepare(given).study.alphas == (0.5, 0.5, 0.5)


def write_npz(path, **arrays):
  rng = np.random.default_rng(0)
  pairs = [(u, i) for u in range(12) for i in rng.permutation(9)[:6]]
  users, items = np.array(pairs).T
  np.savez(path, **{"users": users, "items": items, **arrays})
  return f"npz:{path}"


def load(source):
  return recommendation_data.load(source, preset="smoke", data_dir=None, seed=0)


def test_own_interactions_come_with_groups_and_features(tmp_path):
  group = np.array(["a", "b"])[np.arange(10) % 2]
  text = np.ones((10, 3))
  path = tmp_path / "own.npz"
  found = load(write_npz(path, group=group, features_text=text))
  # The tenth item has a group and features, and no interactions.
  assert (found.data.num_users, found.data.num_items) == (12, 10)
  assert found.data.features["text"].shape == (10, 3)
  np.testing.assert_array_equal(found.groups["b"], np.arange(10) % 2 == 1)
  plain = load(write_npz(path))
  assert not plain.groups and not plain.data.features
  with pytest.raises(ValueError, match="features of items for --model mgcn"):
    prepare(Options(data=f"npz:{path}", model="mgcn", preset="smoke"))
  assert prepare(Options(data=f"npz:{path}", preset="smoke")).study.requests


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
  with pytest.raises(ValueError, match="npz file"):
    load(f"npz:{tmp_path / 'none.npz'}")


def test_movielens_needs_its_folder_and_is_the_default_where_there_is_one(
  monkeypatch, tmp_path
):
  monkeypatch.delenv("JAXUNLEARN_DATA", raising=False)
  with pytest.raises(ValueError, match="--data-dir"):
    load("movielens")
  assert "--data-dir with MovieLens-100k gives real ones" in load(None).words
  with pytest.raises(ValueError, match=r"no readable u\.data"):
    recommendation_data.load(
      None, preset="smoke", data_dir=str(tmp_path), seed=0
    )


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

  for request in ("users 5 %", "items 5 %"):
    test = lambda method, r=request: values(method, r, "test_recall").mean()
    assert test("original") >= 1.2 * test("popularity")
    wanted = values("retrained", request, "forget_recall")
    forgotten = values("mmrecun", request, "forget_recall").mean()
    assert forgotten <= wanted.mean() + wanted.std(ddof=1)
    assert test("mmrecun") >= 0.97 * test("retrained")
    assert test("mmrecun") > test("gradient_ascent")
    assert values("mmrecun", request, "speed_up").mean() >= 1.3
  assert math.isfinite(values("mmrecun", "users 5 %", "membership_auc").mean())


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
  plain = np.load(write_npz(tmp_path / "a.npz").removeprefix("npz:"))
  users, items = (
    ids[plain[n]] for ids, n in zip(PLATFORM[kind], ("users", "items"))
  )
  source = load(write_npz(tmp_path / "b.npz", users=users, items=items))
  user, item = np.asarray(source.data.train["x"]).T
  names = source.user_ids[user], source.item_ids[item]
  for place, side in enumerate(("users", "items")):
    wanted = PLATFORM[kind][place][[3, 5]]
    for text in (f"{side}:{wanted[0]},{wanted[1]}", f"{side}:id={wanted[0]}"):
      (asked,) = requests.parse(text, ())
      expected = np.isin(names[place], wanted[: len(asked.names)])
      for seed in (0, 1):
        drawn = requests.draw(asked, source, seed)
        np.testing.assert_array_equal(drawn.forget, expected)
    (unknown,) = requests.parse(f"{side}:id=2999-01-01", ())
    with pytest.raises(ValueError, match=f"an? {side[:-1]}"):
      requests.draw(unknown, source, 0)


def test_rows_of_the_users_file_are_named_by_number(tmp_path):
  source = load(write_npz(tmp_path / "own.npz"))
  (tmp_path / "rows.txt").write_text("0\n7\n30\n41\n")
  (asked,) = requests.parse(f"index:{tmp_path / 'rows.txt'}", ())
  forget = requests.draw(asked, source, 0).forget
  wanted = {tuple(row) for row in source.rows[[0, 7, 30, 41]].tolist()}
  pairs = np.asarray(source.data.train["x"]).tolist()
  np.testing.assert_array_equal(forget, [tuple(p) in wanted for p in pairs])
  with pytest.raises(ValueError, match="npz:PATH or csv:PATH"):
    requests.draw(asked, recommendation_data.generated("smoke", 0), 0)


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
