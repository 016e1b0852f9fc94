"""The report of a study, driven as a reader would."""

import pytest
from browsing import serious

from jaxunlearn import report

HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
  rows = [
    {
      "method": method,
      "request": "class 3",
      "seed": seed,
      "seconds_compile": 1.0,
      "seconds_run": 2.0,
      "forget_accuracy": value + 0.01 * seed,
      "retrained_gap": value,
    }
    for method, value in [
      ("original", 0.9),
      ("retrained", 0.1),
      (HOSTILE, 0.3),
      ("\u202eunsir", 0.5),
    ]
    for seed in range(2)
  ]
  results = report.Results("classes", "smoke", "0.10", "cpu", {"a": 1}, rows)
  chart = report.accuracy_bars(report.summarise(rows))
  return report.write_report(
    tmp_path_factory.mktemp("report"),
    results,
    report.Contents("Title", "Lead."),
    figures={"accuracy": (chart, "How to read it.")},
  )


def test_it_sorts_picks_and_comes_alive(opened, path):
  page = opened(path)
  head = page.locator("#results thead th").nth(1)
  head.locator("button").click()
  head.locator("button").click()
  assert head.get_attribute("aria-sort") == "descending"
  first = page.locator("#results tbody tr").first
  assert first.get_attribute("data-method") == "original"
  first.locator("th").click()
  picked = page.locator("tr.picked")
  assert picked.count() >= 1
  for i in range(picked.count()):
    assert picked.nth(i).get_attribute("data-method") == "original"
  page.locator(".panel").first.focus()
  page.wait_for_selector(".panel .vega-embed svg")


def test_hostile_names_are_shown_as_text(opened, path):
  page = opened(path)
  assert HOSTILE in page.locator("#results").inner_text()
  assert page.locator("img[src=x]").count() == 0


@pytest.mark.parametrize("width, scheme", [(1400, "light"), (360, "dark")])
def test_it_is_accessible_and_fits(opened, path, width, scheme):
  page = opened(path, width, scheme, bypass_csp=True)
  assert page.evaluate("document.documentElement.scrollWidth") <= width
  assert serious(page) == []
