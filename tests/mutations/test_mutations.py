"""Some planted mistakes are seen; `mutate.py` plants all of them."""

import pytest
from mutations.mutate import MUTATIONS, ROOT, main


@pytest.mark.slow
def test_the_suite_sees_what_is_wrong(capsys):
  assert main(["sign", "retain", "key"]) == 0
  assert "SURVIVED" not in capsys.readouterr().out


def test_every_mistake_has_its_place_and_its_tests():
  for mutation in MUTATIONS:
    text = (ROOT / "jaxunlearn" / mutation.path).read_text()
    assert text.count(mutation.right) == 1, mutation.name
    assert (ROOT / mutation.tests[0]).exists(), mutation.name


def test_an_unknown_name_is_one_line(capsys):
  with pytest.raises(SystemExit) as stop:
    main(["typo"])
  assert stop.value.code == 2
  assert "got ['typo']" in capsys.readouterr().err
