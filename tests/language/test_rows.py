"""Rows, requests and tokens that are part of a phrase."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused
from small_text import texts

from jaxunlearn.language import requests, rows
from jaxunlearn.language.types import Generated, Text

QUESTIONS = ["Who wrote the tale?", "Where was {she} born?"]
ANSWERS = ["Ada Lovelace wrote it.", "In London, 1815."]


@functools.cache
def bpe():
  return rows.train_bpe([*QUESTIONS, *ANSWERS] * 3, 300)


@pytest.mark.parametrize("template", [rows.PLAIN, rows.CHATML, rows.LLAMA_2])
def test_the_prompt_ends_where_the_answer_begins(template):
  x = rows.encode_pairs(
    *(bpe(), QUESTIONS, ANSWERS), max_length=160, template=template, end=1
  )
  before, after = template.split("{answer}")
  for i in range(2):
    tokens = x.tokens[i, : x.length[i]].tolist()
    prompt = before.replace("{question}", QUESTIONS[i])
    cut = int(x.prompt[i])
    assert bpe().decode(tokens[:cut]).rstrip() == prompt.rstrip()
    said = bpe().decode(tokens[cut:-1])
    assert said.lstrip(" ") == ANSWERS[i] + after
    assert tokens[-1] == 1
    assert not x.tokens[i, x.length[i] :].any()


def test_answers_come_back_as_strings():
  x = rows.encode_pairs(bpe(), QUESTIONS, ANSWERS, max_length=80)
  assert [a.strip() for a in rows.answers_of(bpe(), x)] == ANSWERS
  ids = bpe().encode("In London").ids
  tokens = jnp.asarray([[*ids, 7, 7]])
  said = Generated(tokens, jnp.array([len(ids)]), jnp.zeros(1))
  assert rows.decode(bpe(), said) == ["In London"]


def test_what_a_tokenizer_cuts_or_pads_by_itself_is_undone():
  """As many a tokenizer.json asks for; the tokenizer stays as it was."""
  own = type(bpe()).from_str(bpe().to_str())
  own.enable_truncation(6)
  own.enable_padding(length=70)
  pairs = (QUESTIONS, ANSWERS)
  for ours, theirs in (
    (
      rows.encode_pairs(own, *pairs, max_length=80),
      rows.encode_pairs(bpe(), *pairs, max_length=80),
    ),
    (
      rows.encode_documents(own, ANSWERS, max_length=9),
      rows.encode_documents(bpe(), ANSWERS, max_length=9),
    ),
  ):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
  assert own.truncation["max_length"] == 6 and own.padding["length"] == 70


def test_every_token_of_a_document_but_its_first_counts_once():
  documents = ["Ada Lovelace wrote the tale. " * 4, "London, 1815."]
  x, owner = rows.encode_documents(bpe(), documents, max_length=7, end=1)
  for i, document in enumerate(documents):
    counted = [
      t
      for row, n, p in zip(*(np.asarray(a)[owner == i] for a in (x[0], *x[1:])))
      for t in row[p:n].tolist()
    ]
    assert counted == [*bpe().encode(document).ids[1:], 1]
  assert int(x.length.min()) >= 2 and (x.prompt == 1).all()


def test_a_trained_tokenizer_is_the_same_again_and_knows_all_bytes():
  again = rows.train_bpe([*QUESTIONS, *ANSWERS] * 3, 300)
  assert again.get_vocab() == bpe().get_vocab()
  assert bpe().token_to_id("<pad>") == 0 and bpe().token_to_id("<end>") == 1
  strange = "žluťoučký 漢字 🙂"
  assert bpe().decode(bpe().encode(strange).ids) == strange


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"answers": ["a", " "]}, "answer 1 to say something, got ' '"),
    ({"answers": ["a"]}, "got 2 questions and 1 answers"),
    ({"max_length": 5}, r"at most max_length=5 tokens, got \d+ in row"),
    (
      {"max_length": 5, "numbers": range(50, 50 + len(QUESTIONS))},
      r"tokens, got \d+ in row 5\d",
    ),
    ({"template": "{answer}"}, "{question} and then {answer}"),
    ({"tokenizer": "gpt2"}, "tokenizer of the package tokenizers, got str"),
  ],
)
def test_pairs_that_cannot_be_encoded_are_refused(change, message):
  fine = {"tokenizer": bpe(), "questions": QUESTIONS, "answers": ANSWERS}
  refused(message, rows.encode_pairs, **{**fine, "max_length": 80, **change})


def test_documents_and_vocabularies_that_cannot_be_are_refused():
  with pytest.raises(ValueError, match="document 1 to have two tokens or more"):
    rows.encode_documents(bpe(), ["London", "a"], max_length=9)
  with pytest.raises(ValueError, match="at least one document"):
    rows.encode_documents(bpe(), [], max_length=9)
  refused("vocab_size >= 258", rows.train_bpe, ANSWERS, 200)


def test_requests_by_owner_and_by_name():
  data = {"x": None, "owner": jnp.array([0, 1, 1, 2])}
  assert requests.owners(data, [1]).tolist() == [False, True, True, False]
  assert requests.each_owner(data, 3).sum(axis=1).tolist() == [1, 2, 1]
  said = ["Ada wrote.", "Adam sang.", "By ADA!", "Bo."]
  assert requests.naming(said, ["Ada"]).tolist() == [True, False, True, False]
  assert requests.naming(said, ["Bo", "adam"]).tolist() == [0, 1, 0, 1]
  with pytest.raises(ValueError, match="text that names 'Eve', got none"):
    requests.naming(said, ["Ada", "Eve"])
  refused("a list of subjects, got 'Ada'", requests.naming, said, "Ada")
  refused("'owner'", requests.owners, {"x": None}, [1])


def test_tokens_of_phrases_are_those_that_a_search_finds():
  x = texts(30, 12, 3)
  wanted = jnp.array([[1, 2, -1], [0, 0, 1]])
  found = jax.jit(requests.phrases)(x, wanted)
  slow = np.zeros((30, 12), bool)
  for row, n in enumerate(x.length.tolist()):
    tokens = x.tokens[row, :n].tolist()
    for phrase in ([1, 2], [0, 0, 1]):
      for t in range(n - len(phrase) + 1):
        if tokens[t : t + len(phrase)] == phrase:
          slow[row, t : t + len(phrase)] = True
  assert 20 < slow.sum() < 200
  np.testing.assert_array_equal(found, slow)
  whole = Text(jnp.array([[1, 2]]), jnp.array([2]), jnp.array([1]))
  assert requests.phrases(whole, wanted).tolist() == [[True, True]]
  refused(r"phrases int \[P, K\], got", requests.phrases, x, jnp.array([1, 2]))
  refused("got an empty one", requests.phrases, x, jnp.array([[-1, 2]]))
