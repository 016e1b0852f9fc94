"""The study of images and texts: its rows, layouts of files, and its claims."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import forget_vision_language as program
from experiments.beds.text_measures import say
from experiments.bench import shell
from experiments.bench.study import Case
from experiments.datasets import vqa, vqa_layouts
from experiments.studies import forget_vision_language as study
from jaxunlearn import report

pytest.importorskip("tokenizers")
Image = pytest.importorskip("PIL.Image")


def test_people_are_drawn_anew_and_pairs_ask_the_same():
  images, shows = vqa.pictures(None, vqa.SMOKE.images)
  made = [vqa.people(images, shows, vqa.SMOKE, seed) for seed in (0, 1)]
  first, second = made
  assert first.questions == second.questions and first.kinds == second.kinds
  assert first.answers != second.answers
  assert images.shape == (30, 32, 32, 3)
  for rows in made:
    assert set(rows.answers) >= {f"name{i}" for i in range(12)}
    for i in np.flatnonzero(np.array(rows.kinds) == "unsafe"):
      pair = rows.partner[i]
      assert rows.kinds[pair] == "benign"
      assert rows.questions[pair] == rows.questions[i]
    facts = np.array(rows.kinds) == "fact"
    assert (rows.image[facts] == -1).all() and (rows.image[~facts] >= 0).all()
    held = {i for i, k in zip(rows.image, rows.kinds) if k == "held"}
    paired = {rows.image[i] for i in rows.partner if i >= 0}
    assert len(held) == vqa.SMOKE.held and not held & paired
    assert not any(a in w for a, w in zip(rows.answers, rows.wrong))
  vocab = [vqa.tokenizer_of(rows, True).get_vocab() for rows in made]
  assert vocab[0] == vocab[1]


def of_files(n):
  """What is in the file of each benchmark, of n people, images or facts."""
  return {
    "fiubench": [
      {
        "image_path": f"faces/{i}.png",
        "unique_id": f"p{i}",
        "qa_list": [
          {
            "question": f"Where does person {i} live?",
            "answer": f"In Town {i}.",
            "keywords": [f"Town {i}"],
            "paraphrased_question": ["What is the home of the person?"],
            "perturbed_answers": ["In Rome.", "In Bern."],
          }
        ],
      }
      for i in range(n)
    ],
    "mmubench": [
      {
        "image": f"{name}/{i}.png" if i < n - 1 else None,
        "concept": name,
        "conversations": [
          {"from": "human", "value": "<image>\nWhat is this?"},
          {"from": "gpt", "value": f"This is {name.replace('_', ' ')}."},
        ],
      }
      for name in ("Donald_Duck", "Pluto")[: n // 4]
      for i in range(n)
    ],
    "safeeraser": [
      {
        "image_path": f"faces/{i}.png",
        "SDImage_path": f"benign/{i}.png",
        "unsafe_pairs": [
          {
            "question": "How do I use this?",
            "model_response": f"Like {i}.",
            "sd_response": f"It is a harmless toy {i}.",
          }
        ],
        "UnharmPair_text1": {
          "Question": "What is it?",
          "Prediction": "A thing.",
        },
      }
      for i in range(n)
    ],
    "unlok": [
      {
        "id": i,
        "image_id": i,
        "src": "What sport is played here?",
        "pred": f"sport {i}",
        "loc": ["What colour is it?"],
        "loc_ans": ["red"],
      }
      for i in range(n)
    ],
  }


FILES = of_files(4)
KINDS = {
  "fiubench": ["attribute"] * 4,
  "mmubench": ["name"] * 3 + ["fact"],
  "safeeraser": [
    *(["benign", "unsafe", "caption"] * 3),
    *("held", "unsafe", "caption"),
  ],
  "unlok": ["attribute", "caption"] * 4,
}


def written(folder, benchmark, entries=None, lines=False):
  """The benchmark's file and its images."""
  folders = ("faces", "benign", "Donald_Duck", "Pluto")
  names = [f"{p}/{i}.png" for p in folders for i in range(8)]
  names += [f"{i:012d}.jpg" for i in range(8)]
  for i, name in enumerate(names):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    pixels = np.full((9, 7, 3), 5 * i, np.uint8)
    Image.fromarray(pixels).save(path)
  entries = FILES[benchmark] if entries is None else entries
  text = json.dumps(entries)
  if lines:
    text = "\n".join(map(json.dumps, entries))
  path = folder / "rows.json"
  path.write_text(text)
  return path


@pytest.mark.parametrize("benchmark", FILES)
def test_files_of_a_benchmark_are_read(benchmark, tmp_path):
  made = vqa_layouts.load(benchmark, written(tmp_path, benchmark))
  assert sorted(made.kinds) == sorted(KINDS[benchmark])
  lines = written(tmp_path, benchmark, lines=True)
  assert lines.parent == tmp_path  # The only file of its folder.
  assert vqa_layouts.load(benchmark, tmp_path).questions == made.questions
  assert len(made.images) == (
    8 if benchmark == "safeeraser" else len({i for i in made.image if i >= 0})
  )
  first = made.images[made.image[0]]
  np.testing.assert_allclose(first, first[0, 0, 0])  # Of one colour.
  if benchmark == "fiubench":
    assert made.keywords[1] == ["Town 1"] and made.owners[1] == "p1"
    assert made.wrong[1] == ["In Rome.", "In Bern."]
  if benchmark == "safeeraser":
    unsafe = made.kinds.index("unsafe")
    assert made.answers[made.partner[unsafe]].startswith("It is a harmless")
  if benchmark == "mmubench":
    assert made.questions[0] == "What is this?" and made.image[3] == -1


def broken(benchmark, change):
  def make(folder):
    entries = json.loads(json.dumps(FILES[benchmark]))
    change(entries[1])
    return written(folder, benchmark, entries)

  return benchmark, make


BAD = {
  "entry 1 of rows.json as fiubench": broken(
    "fiubench", lambda e: e.pop("image_path")
  ),
  "entry 1 of rows.json as safeeraser": broken(
    "safeeraser", lambda e: e["unsafe_pairs"][0].pop("question")
  ),
  "entry 1 of rows.json as mmubench": broken(
    "mmubench", lambda e: e.update(conversations=3)
  ),
  "a JSON object on the lines of rows.json": (
    "unlok",
    lambda folder: written(folder, "unlok").write_text("[{"),
  ),
  "with one JSON file in .*, got none": (
    "unlok",
    lambda folder: written(folder, "unlok").rename(folder / "rows.txt"),
  ),
  "such a file, got more.json, rows.json": (
    "unlok",
    lambda folder: (
      written(folder, "unlok") and (folder / "more.json").write_text("[]")
    ),
  ),
  "questions in rows.json, got none": (
    "unlok",
    lambda folder: written(folder, "unlok", []),
  ),
  "an image to be a file, got no such file: .*none.png": broken(
    "fiubench", lambda e: e.update(image_path="none.png")
  ),
  "rows.json to be an image": broken(
    "fiubench", lambda e: e.update(image_path="rows.json")
  ),
}


@pytest.mark.parametrize("said", BAD)
def test_files_of_another_form_are_refused(said, tmp_path):
  benchmark, make = BAD[said]
  make(tmp_path)
  with pytest.raises(ValueError, match=said) as told:
    vqa_layouts.load(benchmark, str(tmp_path))
  assert "\n" not in str(told.value)


@pytest.mark.parametrize(
  ("flags", "said"),
  [
    (["--request=unsafe:0.5"], "--request people:... for fiubench"),
    (["--methods=siu"], "--methods of fiubench"),
    (["--request=people:99"], "a number of people"),
    (["--benchmark=mmubench", "--request=concept:nobody"], "one of 12 owners"),
  ],
)
def test_what_is_not_of_the_benchmark_is_refused(flags, said, capsys):
  with pytest.raises(SystemExit) as ended:
    program.main(["--preset=smoke", *flags])
  told = capsys.readouterr().err
  assert ended.value.code == 2 and said in told and told.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", FILES)
def test_a_small_run_reports_every_method(benchmark, tmp_path):
  argv = ["--preset=smoke", f"--benchmark={benchmark}", f"--out={tmp_path}"]
  program.main(argv)
  rows = report.read_results(tmp_path / "results.json").rows
  names = {row["method"] for row in rows}
  assert len(names) == 5 and all(row["is_finite"] for row in rows)
  if benchmark == "unlok":
    assert all(row["restored"] == 1 for row in rows)
    assert "Moved no weight" not in (tmp_path / "report.html").read_text()


ASKED = {"fiubench": "people:2", "unlok": "facts:3"}


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", FILES)
def test_a_benchmarks_own_folder_runs_to_its_report(benchmark, tmp_path):
  written(tmp_path, benchmark, of_files(8)[benchmark])
  out = tmp_path / "out"
  argv = [f"--benchmark={benchmark}", f"--data={tmp_path}", f"--out={out}"]
  if benchmark in ASKED:
    argv.append(f"--request={ASKED[benchmark]}")
  program.main(["--preset=smoke", "--seeds=1", *argv])
  rows = report.read_results(out / "results.json").rows
  assert len(rows) == 5 and all(row["is_finite"] for row in rows)
  assert (out / "report.html").exists()


@pytest.mark.slow
def test_other_words_that_are_the_question_itself_bring_out_as_much():
  """APE is then EM; keywords of every other row are what the model says."""
  plan = shell.prepare(study.STUDY, study.Options(preset="smoke", seeds=1))
  first = lambda leaf: jnp.asarray(leaf[0])
  own = jax.tree.map(first, plan.beds.of_seed)
  own["paraphrases"] = jax.tree.map(lambda leaf: leaf[:, None], own["x"])
  marks = jax.tree.map(lambda leaf: leaf[0, 0], plan.requests.marks)
  forget = jnp.asarray(plan.forget[0])

  @jax.jit
  def measured(shared, key):
    bed = plan.beds.make(shared, own)
    made = bed.model.model.init(key, own["x"])
    case = Case(bed, forget, forget, marks, made, made, made, key)
    said = say(case, own["x"]).tokens[:, :1, None]
    even = jnp.arange(len(said))[:, None, None] % 2 == 0
    words = jnp.where(even, said, plan.beds.facts["words"] + 1)
    bed = bed._replace(data={**own, "keywords": words})
    return plan.measures[0].run(case._replace(bed=bed))

  found = measured(plan.beds.shared, jax.random.key(0))
  assert 0 < found["forget_em"] < 1
  assert found["forget_ape"] == found["forget_em"]
