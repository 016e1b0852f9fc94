"""Images with two labels, and prompts that name both."""

import numpy as np
import pytest
from refusals import refused

from experiments.beds import diffusion as beds
from experiments.datasets import prompted

WORDS = np.array(prompted.VOCABULARY)


def test_prompts_name_what_the_image_shows():
  rows = prompted.digits_in_styles(300, seed=1).train
  assert rows["x"].shape == (300, 8, 8, 3)
  assert rows["x"].min() >= -1 and rows["x"].max() <= 1
  for tokens, label, style in zip(
    rows["tokens"], rows["object"], rows["style"]
  ):
    words = set(WORDS[tokens])
    assert len(words & set(prompted.OBJECTS[label])) == 1
    assert words & set(prompted.STYLES) == {prompted.STYLES[style]}


def test_the_styles_are_the_stated_maps_of_the_grey_image():
  test = prompted.digits_in_styles(1).test
  n = len(test["x"]) // 6
  grey, negative, ember, sea, stripes, _ = test["x"].reshape(6, n, 8, 8, 3)
  np.testing.assert_array_equal(negative, -grey)
  x = grey[..., 0]
  np.testing.assert_array_equal(ember[..., 1], (x - 1) / 2)
  assert (ember[..., 2] == -1).all() and (sea[..., 0] == -1).all()
  np.testing.assert_array_equal(sea[..., 2], np.maximum(x, np.float32(0.2)))
  assert (stripes[:, 1::2, :, 1] == np.float32(0.7)).all()
  np.testing.assert_array_equal(stripes[:, ::2], grey[:, ::2])


def test_no_test_image_is_trained_on():
  data = prompted.digits_in_styles(1)
  flat = lambda rows: {r.tobytes() for r in rows["x"][rows["style"] == 0]}
  assert len(data.test["x"]) == 6 * 297
  assert not flat(data.labelled) & flat(data.test)


def test_every_prompt_comes_once_and_words_can_be_left_out():
  images = beds.Images(None, {}, {}, beds.DIGITS, {}, None, None)
  every = images.every_prompt()
  assert len({tuple(t) for t in every["tokens"]}) == 60
  assert " ".join(WORDS[every["tokens"][20]][1:4]) == "a three image"
  triad = prompted.prompts([3], [2], template=1, synonym=2)[0]
  assert " ".join(WORDS[triad][1:5]) == "triad in ember style"
  no_style, no_object = prompted.prompts([3, -1], [-1, 2])
  assert " ".join(WORDS[no_style][1:6]) == "a three image in style"
  assert " ".join(WORDS[no_object][1:6]) == "a image in ember style"


def test_only_objects_and_styles_are_dropped():
  rates = prompted.drop_rates(0.3, 0.4)
  assert len(WORDS) == 64 and len(set(WORDS)) == 64
  assert set(WORDS[rates == np.float32(0.4)]) == set(prompted.STYLES)
  names = {w for words in prompted.OBJECTS for w in words}
  assert set(WORDS[rates == np.float32(0.3)]) == names
  assert rates.sum() == pytest.approx(30 * 0.3 + 6 * 0.4, rel=1e-5)


@pytest.mark.parametrize(
  "call, message",
  [
    (lambda: prompted.tokenize("a giraffe"), "words of the vocabulary"),
    (lambda: prompted.tokenize("a " * 10), "at most 9 words"),
    (lambda: prompted.digits_in_styles(0), "num_rows > 0"),
  ],
)
def test_mistakes_are_named(call, message):
  refused(message, call)
