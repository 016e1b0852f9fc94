"""A bad option of any study: one line, exit status 2, nothing written.

What is particular to `forget` is in test_forget_bad_input.py.
"""

import importlib

import pytest

from experiments import (
  audit,
  audit_diffusion,
  continual,
  forget_gan,
  forget_graph,
  forget_identity,
  forget_recommendations,
  forget_regression,
  forget_table,
  guard_text,
  search_architecture,
  synthetic_tables,
  value_data,
  zero_shot,
)
from jaxunlearn.__main__ import STUDIES as PROGRAMS

SMOKE = ("--preset", "smoke")
# Each study, what it is called with besides, and its mistakes: flags, and the
# words of which the line must hold every one.
STUDIES = [
  (
    audit,
    SMOKE,
    [
      (["--shadows", "3"], ["--shadows >= 4, got 3"]),
      (["--seeds", "1"], ["--seeds >= 2"]),
      (["--request", "each-class"], ["--request to be one request, got 10"]),
      (["--methods", "unsri"], ["did you mean 'unsir'"]),
      (["--checkpoint", "/nowhere"], ["--checkpoint"]),
    ],
  ),
  (
    audit_diffusion,
    SMOKE,
    [
      (
        ["--concept", "colour:red"],
        ["--concept object:NAME, style:NAME or pair:OBJECT,STYLE, got"],
      ),
      (["--concept", "object:ten"], ["one of zero, one"]),
      (["--concept", "style:6"], ["its number below 6"]),
      (["--methods", "magic"], ["--methods usual, all or of finetune"]),
      (["--seeds", "0"], ["--seeds > 0, got 0"]),
      (["--attacked", "-1"], ["--attacked >= 0, got -1"]),
      (["--twins", "0"], ["--twins > 0, got 0"]),
      (
        ["--load", "/no/such/folder"],
        ["--load to be the folder of an earlier"],
      ),
    ],
  ),
  (
    continual,
    SMOKE,
    [
      (["--streams", "publish"], ["--streams of published, requests_last"]),
      (["--events", "lern:0"], ["--events as in 'learn:0"]),
      (["--events", "learn:"], ["got 'learn:'"]),
      (["--events", "learn:0 forget:9"], ["tasks in 0 .. 4, got 'forget:9'"]),
      (
        ["--events", "learn:1+forget:1"],
        ["not learn and forget a task at once"],
      ),
      (["--events", "forget:1"], ["--events to learn something"]),
      (["--events", ""], ["--events to say something, got ''"]),
      (["--methods", "clue"], ["--methods all or of clu, clu_exclude_label"]),
      (["--methods", ","], ["--methods all or of"]),
      (["--seeds", "0"], ["--seeds > 0, got 0"]),
      (["--first-seed", "-1"], ["--first-seed in 0 .. 2147483647, got -1"]),
      (["--many-requests", "-1"], ["--many-requests >= 0, got -1"]),
      (["--classes-per-task", "0"], ["--classes-per-task > 0, got 0"]),
      (["--classes-per-task", "10"], ["at least 2 tasks, got 1 of 10 classes"]),
      (["--data", "mnist"], ["--data to be digits"]),
    ],
  ),
  (
    forget_recommendations,
    (*SMOKE, "--data", "generated"),
    [
      (["--k", "0"], ["--k", "> 0", "got 0"]),
      (["--seeds", "0"], ["--seeds", "> 0"]),
      (["--train-steps", "-3"], ["--train-steps", "got -3"]),
      (["--first-seed", "-1"], ["--first-seed", "got -1"]),
      (["--alpha", "1.5"], ["--alpha", "[0, 1]"]),
      (["--alpha", "nan"], ["--alpha", "nan"]),
      (["--sweep", "0.5,x"], ["--sweep", "'0.5,x'"]),
      (["--sweep", "2"], ["--sweep", "'2'"]),
      (["--sweep", "1", "--methods", "unlink"], ["--methods", "mmrecun"]),
      (["--methods", "magic"], ["--methods", "amnesiac", "'magic'"]),
      (["--methods", ","], ["--methods", "','"]),
      (["--requests", "movies"], ["--requests", "interactions", "'movies'"]),
      (["--requests", "interactions:0"], ["(0, 1)", "'0'"]),
      (["--requests", "users:x"], ["a user, a number", "'x'"]),
      (["--requests", "users,users"], ["differ", "'users'"]),
      (["--requests", "users;users:0.05"], ["once", "users:0.05"]),
      (["--requests", "group"], ["group:GROUP", "source-1"]),
      (["--requests", "group:War"], ["source-4", "'group:War'"]),
      (["--requests", "group:source-1:0.5"], ["group:GROUP", "0.5"]),
      (["--requests", "preference:source-1:2"], ["(0, 1)", "source-1:2"]),
      (["--requests", "users:0.999"], ["users:0.999", "covers"]),
      (["--data", "netflix"], ["--data", "movielens", "'netflix'"]),
      (["--data", "movielens", "--data-dir", "/nowhere"], ["u.data"]),
    ],
  ),
  (
    synthetic_tables,
    (),
    [
      (["--data", "iris"], ["--data all or of adult"]),
      (["--data", ","], ["--data all or of adult"]),
      (["--generators", "tvae"], ["--generators all or of copy"]),
      (["--generators", ","], ["--generators all or of copy"]),
      (["--seeds", "0"], ["--seeds > 0, got 0"]),
      (["--request", "class:3"], ["--request random:SHARE or index:FILE"]),
      (["--request", "random:1"], ["a share in (0, 1), got '1'"]),
      (["--request", "random:0.1;random:0.2"], ["one --request, got 2"]),
      (["--request", "index:/nowhere"], ["--data with one table, got 2"]),
      (["--request", "index:/no", "--data", "wine"], ["got no such file"]),
      (["--data-dir", "/no/such/folder"], ["--data-dir to be a folder"]),
    ],
  ),
  (
    value_data,
    SMOKE,
    [
      (["--noise", "0"], ["--noise", "(0, 1)", "got 0"]),
      (["--noise", "1.5"], ["--noise", "got 1.5"]),
      (["--noise", "nan"], ["--noise", "nan"]),
      (["--noise", "0.001"], ["--noise", "80 rows", "flips none"]),
      (["--seeds", "0"], ["--seeds", "> 0", "got 0"]),
      (["--methods", "looo"], ["--methods", "tmc_shapley_5", "'looo'"]),
      (["--certificate", "loo"], ["value_data, which tests none"]),
      (["--tune", "3"], ["--methods with settings to --tune"]),
      (["--request", "class:3"], ["--request"]),
      (["--methods", ","], ["--methods", "ecoval_additive", "','"]),
      (["--data", "mnist"], ["--data", "breast-cancer", "'mnist'"]),
      (
        ["--data", "adult", "--data-dir", "/nowhere"],
        ["--data-dir", "adult_train.csv", "/nowhere"],
      ),
    ],
  ),
  (
    zero_shot,
    SMOKE,
    [
      (
        ["--request", "random:0.1"],
        ["since these methods forget whole classes"],
      ),
      (["--request", "class:12"], ["Expected a class that has rows"]),
      (["--cycles", "0"], ["--cycles > 0, got 0"]),
      (["--seeds", "-1"], ["--seeds > 0, got -1"]),
      (["--data", "mnist"], ["--data to be digits"]),
    ],
  ),
  (
    forget_table,
    SMOKE,
    [
      (["--request", "random:1e-9"], ["Expected a share of", "1e-9, of none"]),
      (["--request", "class:" + "9" * 5000], ["Expected a class 0 .. "]),
      (["--first-seed", "2.5"], ["--first-seed to be a number, got '2.5'"]),
      (["--first-seed", "9" * 5000], ["--first-seed to be a number"]),
      (["--wat", "3"], ["options as in --help, got --wat, 3"]),
      (["--tune", "100000000"], ["--tune of at most 10000, got 100000000"]),
      (["--tune", "2", "--write-settings", "/"], ["to be a file, got the fol"]),
      (["--data-dir", "~nosuchuser/x"], ["--data-dir to be a path"]),
    ],
  ),
  (
    forget_gan,
    SMOKE,
    [(["--request", "class:" + "9" * 5000], ["Expected a class 0 .. 9"])],
  ),
  (
    search_architecture,
    SMOKE,
    [(["--request", "random:1e-9"], ["of none"])],
  ),
  (
    forget_identity,
    SMOKE,
    [(["--data", "folder:/nowhere"], ["folder:DIR, got no folder /nowhere"])],
  ),
  (
    guard_text,
    (),
    [
      (["--facts", "0"], ["--facts >= 1, got 0"]),
      (["--facts", "31"], ["--facts <= 30, got 31"]),
      (["--draws", "x"], ["--draws to be a number, got 'x'"]),
      (["--forget", "Atlantis"], ["--forget all or of France"]),
      (["--forget", "all"], ["--forget of 10 at most, got 29"]),
      (["--part", "rocr"], ["with the file tofu.jsonl"]),
      (["--weights", "scratch", "--part", "trace"], ["got 'scratch'"]),
    ],
  ),
  (
    forget_graph,
    (*SMOKE, "--data", "karate"),
    [(["--request", "edges:2"], ["--request"])],
  ),
  (
    forget_regression,
    SMOKE,
    [(["--seeds", "0"], ["--seeds", "> 0", "got 0"])],
  ),
]


@pytest.mark.parametrize(
  ("study", "given", "argv", "words"),
  [
    pytest.param(
      study,
      given,
      argv,
      words,
      id=f"{study.__name__.split('.')[-1]} {' '.join(argv)}"[:90],
    )
    for study, given, mistakes in STUDIES
    for argv, words in mistakes
  ],
)
def test_a_bad_option_ends_in_one_line_before_any_work(
  study, given, argv, words, tmp_path, capsys, monkeypatch
):
  monkeypatch.delenv("JAXUNLEARN_DATA", raising=False)
  out = tmp_path / "out"
  with pytest.raises(SystemExit) as stopped:
    study.main([*given, *argv, "--out", str(out)])
  assert stopped.value.code == 2
  assert not out.exists()
  captured = capsys.readouterr()
  assert captured.out == ""
  assert captured.err.count("\n") == 1, captured.err
  for word in words:
    assert word in captured.err


def test_smoke_names_methods_of_its_study_and_fewer_than_all():
  named = 0
  for name in PROGRAMS:
    study = getattr(
      importlib.import_module(f"experiments.{name}"), "STUDY", None
    )
    if study is not None and study.smoke is not None:
      named += 1
      assert {*study.smoke} < {*study.methods}, name
  assert named > 8
