"""The comparison of models, driven as a reader would."""

import re

import compared
import numpy as np
import pytest
from browsing import see_all, serious

HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
  path = tmp_path_factory.mktemp("page") / "compare.html"
  compared.page(path=path)
  return path


def choose(page, name, value):
  page.select_option(f"#{name}", str(value))


def test_every_picture_comes_alive_and_nothing_is_asked_of_a_network(
  opened, path
):
  page = opened(path)
  see_all(page)
  assert page.locator(".view[data-live]").count() == 8 + 2 + 2 + 6
  # Titles follow the choice of models in all of them.
  choose(page, "b", 2)
  page.wait_for_function(
    "document.querySelector('#rows').textContent.includes('B: copy')"
  )


def test_the_table_sorts_and_tells_how_a_model_was_made(opened, path):
  page = opened(path)
  heads = page.locator("#methods thead th")
  names = lambda: page.locator("#methods tbody tr > th").all_inner_texts()
  at = heads.all_inner_texts().index("Privacy score")
  heads.nth(at).locator("button").focus()
  page.keyboard.press("Enter")
  assert heads.nth(at).get_attribute("aria-sort") == "ascending"
  values = page.locator(
    f"#methods tbody td:nth-child({at + 1})"
  ).all_inner_texts()
  assert [float(v) for v in values] == sorted(map(float, values))
  assert set(names()[-2:]) == {"retrained", "copy"}
  page.locator("#methods summary").first.click()
  assert "python -m make" in page.locator("#methods details[open]").inner_text()


def test_a_threshold_that_is_moved_moves_every_rate(opened, path):
  page = opened(path)
  lazy = compared.records()[0]["lazy"].privacy
  choose(page, "feature", 0)
  choose(page, "direction", 1)
  slider = page.locator("#at")
  slider.focus()
  page.keyboard.press("Home")
  for k in range(1, 4):
    page.keyboard.press("ArrowRight")
    cells = page.locator("#rates-b td").all_inner_texts()
    of = lambda leaf, k=k: float(leaf[0, 1, k])
    told = [float(re.sub("[ %]", "", c)) for c in cells]
    expected = [
      100 * (1 - of(lazy.curves.fnr)),
      100 * of(lazy.curves.fpr),
      of(lazy.curves.score),
      1 - of(lazy.curves.score),
      float(lazy.value),
    ]
    np.testing.assert_allclose(told, expected, atol=0.06)
  page.click("#worst-b")
  cells = page.locator("#rates-b td").all_inner_texts()
  assert cells[3] == cells[4]  # At the best attacker it is the privacy score.
  # Dragged in a picture it moves as well.
  before = slider.input_value()
  see_all(page)
  picture = page.locator("#attack .view").first
  picture.scroll_into_view_if_needed()
  box = picture.bounding_box()
  page.mouse.move(box["x"] + 0.4 * box["width"], box["y"] + 80)
  page.mouse.down()
  page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 80, steps=5)
  page.mouse.up()
  page.wait_for_function(
    "b => document.querySelector('#at').value !== b", arg=before
  )


def test_rows_are_filtered_pinned_and_linked_between_the_sides(opened, path):
  page = opened(path)
  see_all(page)
  marks = lambda side: (
    page.locator(f"#rows .view >> nth={side}")
    .locator(".mark-symbol path")
    .count()
  )
  everything = [marks(0), marks(1)]
  choose(page, "show", "not forgotten")
  page.wait_for_timeout(300)
  kept = [marks(0), marks(1)]
  # The retrained model on the left is wrong on all forget rows, the lazy one right.
  assert kept[0] == 0 and 0 < kept[1] < everything[1]
  choose(page, "show", "all")
  page.fill("#row", "2")
  card = page.locator("#card")
  assert "Row 102, kept in sight" in card.inner_text()
  assert "✖ owl, to be forgotten" in card.inner_text()
  assert (
    card.locator("canvas").count() == 1 and card.locator("meter").count() == 6
  )
  page.wait_for_timeout(300)
  assert [marks(0) - everything[0], marks(1) - everything[1]] == [1, 1]
  page.keyboard.press("Escape")
  assert card.is_hidden()
  # A class that is picked in a picture is picked in all.
  page.locator("#classes .view").nth(2).locator(".mark-rect path").first.click(
    force=True
  )
  page.wait_for_function("document.querySelector('#klass').value !== '-1'")


def test_hostile_names_are_shown_as_text(opened, tmp_path):
  path = tmp_path / "hostile.html"
  names = {"lazy": HOSTILE, "copy": "\u202ecopy\u2066 of it"}
  made = compared.models(names, provenance={HOSTILE: HOSTILE})
  columns = {HOSTILE: [HOSTILE] * compared.ROWS}
  compared.page(
    made, path=path, title=HOSTILE, classes=(HOSTILE, "b", "c"),
    rows=compared.rows(columns=columns),
  )  # fmt: skip
  page = opened(path)
  see_all(page)
  page.fill("#row", "0")
  assert HOSTILE in page.locator("#card").inner_text()
  assert page.locator("h1").inner_text() == HOSTILE
  assert page.locator("img[src=x]").count() == 0
  assert "\u202e" not in page.content()


@pytest.mark.parametrize("width, scheme", [(1400, "light"), (360, "dark")])
def test_it_is_accessible_and_fits(opened, path, width, scheme):
  page = opened(path, width, scheme, bypass_csp=True)
  see_all(page)
  assert page.evaluate("document.documentElement.scrollWidth") <= width
  assert serious(page) == []


def test_twenty_models_open_within_a_second(opened, tmp_path):
  path = tmp_path / "many.html"
  made = [
    m._replace(name=f"{m.name} {i}") if i else m
    for i in range(5)
    for m in compared.models()
  ]
  compared.page(made, path=path)
  took = []
  for _ in range(3):
    page = opened(path)
    assert page.locator("#controls").is_visible()  # Its script has run.
    took.append(
      page.evaluate(
        "performance.timing.loadEventEnd - performance.timing.navigationStart"
      )
      / 1000
    )
  assert min(took) < 1.0, took


def test_without_scripts_it_can_be_read(opened, path):
  page = opened(path, java_script_enabled=False)
  assert page.locator(".view svg").count() == 18
  assert page.locator("#controls").is_hidden()
  assert page.locator("#methods tbody tr").count() == 4
  assert "Without scripts" in page.locator("main").inner_text()
