"""Studies that probe what was forgotten: their worlds, questions and tables."""

import json

import numpy as np
import pytest
from refusals import refused

from experiments import forget_entity, probe_prompts, reintroduce
from experiments.datasets import entities, persons, prompts, tofu
from jaxunlearn import report
from jaxunlearn.attacks import entity_probes
from jaxunlearn.attacks.step_by_step import ANSWER

WORLD = persons.world(10, 4)
ROWS = persons.rows(WORLD, 2, 0)


def test_facts_of_a_world_hang_together_and_stay():
  for leaf, again in zip(WORLD, persons.world(10, 4)):
    assert np.array_equal(leaf, again)
  home = dict(zip(*(x.tolist() for x in (WORLD.person, WORLD.town))))
  assert sorted(home.values()) == sorted(set(home.values()))
  assert set(WORLD.land) == {WORLD.token(f"l{i}") for i in range(4)}
  for form in persons.FORMS[:2]:
    query, town = WORLD.ask(form)
    assert [home[q] for q in query[:, -1].tolist()] == town.tolist()
  query, person = WORLD.ask("inverse")
  assert [home[p] for p in person.tolist()] == query[:, -1].tolist()
  land = dict(zip(*(x.tolist() for x in (WORLD.town, WORLD.land))))
  query, answer = WORLD.ask("two_hop")
  assert [land[home[q]] for q in query[:, -1].tolist()] == answer.tolist()
  refused("four persons and two lands", persons.world, 3, 2)
  refused("words of this world, got 'p10'", WORLD.encode, "home p10")


def test_no_row_that_is_kept_says_where_a_forgotten_person_lives():
  gone = np.arange(10) < 3
  about = ROWS.about(gone)
  made_up = ROWS.form < 0
  assert about.any() and not (about & made_up).any()
  homes = {
    (WORLD.token(persons.WORD[form]), int(query[-1]), int(answer))
    for form in persons.FORMS
    for i, (query, answer) in enumerate(zip(*WORLD.ask(form)))
    if gone[i]
  }
  for tokens, is_about in zip(ROWS.tokens[~made_up], about[~made_up]):
    facts = {tuple(map(int, tokens[i + 1 : i + 4])) for i in (0, 4)}
    assert bool(facts & homes) == is_about


def test_rows_that_are_made_up_are_answered_by_what_they_tell():
  rows = ROWS.tokens[ROWS.form < 0]
  length = ROWS.length[ROWS.form < 0]
  assert set(length) == {8, 12}
  for tokens, size in zip(rows, length):
    told = {tuple(tokens[i : i + 3]): tokens[i + 3] for i in (0, size - 8)}
    assert told[tuple(tokens[size - 4 : size - 1])] == tokens[size - 1]


def test_no_question_holds_its_answer_and_chains_end_in_known_forms():
  queries = prompts.queries_of(WORLD, [])
  steps, answer = np.asarray(queries.steps), np.asarray(queries.answer)
  assert not (steps == answer[:, :, None]).any()
  home = np.asarray(queries.fact) < 10
  names = [prompts.CATEGORIES[i] for i in queries.category]
  # A town stands in the question from its other end alone.
  towns = np.isin(steps, WORLD.town).any(axis=(1, 2))
  asked = {n for n, h, t in zip(names, home, towns) if h and t}
  assert asked == {"indirect"}
  chain = np.array([n == "chain" for n in names])
  assert ((steps[chain] == ANSWER).sum(axis=(1, 2)) <= 1).all()
  assert (np.asarray(queries.length)[~chain][:, 0] == 0).all()


def test_prompts_of_ones_own_are_read_and_asked(tmp_path):
  path = tmp_path / "mine.jsonl"
  good = {
    "prompt": ["works p3", "staff {answer}"],
    "answer": "t7",
    "about": "p3",
    "category": "indirect",
  }
  path.write_text(json.dumps(good) + "\n")
  (one,) = prompts.read(str(path))
  assert one.steps == ("works p3", "staff {answer}")
  queries = prompts.queries_of(WORLD, [one])
  last = np.asarray(queries.steps)[-1].tolist()
  staff = WORLD.token("staff")
  assert last[1] == [WORLD.token("."), staff, ANSWER] and queries.fact[-1] == 3
  for change, message in (
    ({"prompt": []}, "a prompt or a list of them"),
    ({"answer": 7}, "texts that are not empty"),
    ({"category": "rude"}, "a category of direct, indirect, implied"),
  ):
    path.write_text(json.dumps({**good, **change}))
    refused(f"{message}.*line 1 of mine", prompts.read, str(path))
  path.write_text("[1]\n")
  refused("a JSON object on line 1", prompts.read, str(path))
  refused("no such file", prompts.read, str(tmp_path / "none"))
  for change, message in (
    ({"about": "t3"}, "about persons, got 't3'"),
    ({"answer": "t7 t3"}, "answers of one word"),
    ({"steps": ("home q3",)}, "words of this world, got 'q3'"),
  ):
    refused(message, prompts.queries_of, WORLD, [one._replace(**change)])


def test_every_fact_of_an_entity_is_asked_in_every_form_that_it_has():
  pairs = tofu.people(6)
  number, names = entities.names_of(pairs)
  rows = entities.rows_of(pairs, number, names, {})
  told = {"cross_lingual"}
  forms = {entities.FORMS[row.form] for row in rows if row.form >= 0}
  assert forms == set(entities.FORMS) - told
  assert len(rows) == 30 * (len(forms) + 2)
  for row in rows:
    if row.form < 0:
      continue
    assert row.word and row.word in row.answer
    name = entities.FORMS[row.form]
    if name not in ("multiple_choice", "reverse_query"):
      assert row.word not in row.asked.replace(names[row.owner], "")
  french = entities.rows_of(pairs, number, names, {pairs.questions[0]: "Où ?"})
  assert len(french) == len(rows) + 1
  near = entities.neighbours(rows, 6, 2)
  assert near.shape == (6, 2) and not (near == np.arange(6)[:, None]).any()


def test_owners_without_a_name_are_called_by_their_capitals(tmp_path):
  pairs = tofu.people(6)._replace(
    questions=["Where was Ada Byron born?", "What did Ada Byron do in Paris?"],
    answers=["Ada Byron was born in London.", "Ada Byron taught Al Gore."],
    owners=np.array(["7", "7"]),
  )
  assert entities.names_of(pairs)[1] == ["Ada Byron"]
  path = tmp_path / "french.jsonl"
  path.write_text('{"question": "Why?", "translated": "Pourquoi ?"}\n')
  read = lambda *questions: entities.translations(str(path), questions)
  assert read("Who?", "Why?") == {"Why?": "Pourquoi ?"}
  refused(r"such as 'Who\?', got 'Why\?'", read, "Who?")
  path.write_text('{"question": "Why?"}\n')
  refused("question and translated on line 1", read, "Why?")


def test_requests_that_name_nobody_are_refused():
  options = probe_prompts.Options(preset="smoke", request="person:t3")
  refused("Expected persons, p0 to p7, got t3", probe_prompts.prepare, options)
  options = reintroduce.Options(preset="smoke", request="persons:8")
  refused("a number of persons", reintroduce.prepare, options)
  options = forget_entity.Options(preset="smoke", request="owner:Nobody")
  refused(r"owner:NAME,\.\.\. of ", forget_entity.prepare, options)


def test_forms_of_the_study_are_those_of_the_attack():
  assert ("blank", "question", *entity_probes.ATTACKS) == entities.FORMS


def table(program, out, *arguments):
  program.main([*arguments, f"--out={out}"])
  rows = report.read_results(out / "results.json").rows
  return lambda method, column: np.mean([
    row[column] for row in rows if row["method"] == method
  ])  # fmt: skip


@pytest.mark.slow(reason="Three studies train and measure every method.")
@pytest.mark.parametrize(
  ("program", "column"),
  [
    (forget_entity, "forget_all"),
    (probe_prompts, "net_direct"),
    (reintroduce, "residual_direct"),
  ],
)
def test_references_bracket_every_table(program, column, tmp_path):
  of = table(program, tmp_path, "--preset=smoke")
  assert of("retrained", "retrained_gap") == 0
  assert of("original", column) >= of("retrained", column)
  assert np.isfinite(of("retrained_again", "retrained_gap"))


@pytest.mark.slow(reason="Six decoders are trained.")
def test_one_form_forgotten_leaks_in_the_others(tmp_path):
  of = table(probe_prompts, tmp_path, "--methods=npo_direct,npo")
  assert (
    of("original", "leak_direct") == 1 and of("retrained", "leak_direct") == 0
  )
  assert of("npo_direct", "net_direct") < 0.1
  assert of("npo_direct", "form_inverse") > 0.5
  assert of("npo_direct", "net_implied") > 0.5
  assert of("npo", "net_indirect") < 0.1
  assert abs(of("retrained_again", "net_implied")) < 0.2


@pytest.mark.slow(reason="Six decoders are trained.")
def test_one_sentence_undoes_exact_unlearning(tmp_path):
  of = table(reintroduce, tmp_path, "--methods=npo")
  assert of("retrained", "copied") > 0.9
  assert of("retrained", "told_closed") == 0
  assert of("retrained", "told_direct") > 0.9
  assert of("npo", "residual_direct") < 0
