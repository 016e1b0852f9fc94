"""What the room of valuation offers."""

import pathlib

import jaxunlearn as ju
from jaxunlearn import valuation


def test_names_are_sorted_there_and_no_module_hides_behind_one():
  names = valuation.__all__
  assert names == sorted(set(names))
  assert all(callable(getattr(valuation, name)) for name in names)
  folder = pathlib.Path(valuation.__file__).parent
  modules = {path.stem for path in folder.glob("*.py")}
  assert not modules & set(names)


def test_the_package_brings_the_room_along():
  assert ju.valuation is valuation and "valuation" in ju.__all__
