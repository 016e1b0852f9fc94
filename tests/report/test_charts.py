"""Charts: what they are given is what they show, as SVG, PNG and JSON."""

import json
import math
import re

import numpy as np
import pytest
from refusals import refused

from jaxunlearn import report
from jaxunlearn.report import charts, distributions, draw, page

HOSTILE = "<script>alert(1)</script>&\"x' $a$ \ud800"


def make_summary(count, seeds=2, **missing):
  rng = np.random.default_rng(0)
  names = ["original", "retrained", *(f"method_{i}" for i in range(count))]
  rows = [
    {
      "method": name,
      "request": "r",
      "seed": seed,
      "seconds_compile": 1.0,
      "seconds_run": 0.01 * 2.0**i,
      "forget_accuracy": rng.random(),
      "retain_accuracy": rng.random(),
      "test_accuracy": rng.random(),
      "retrained_gap": rng.random(),
      **missing,
    }
    for i, name in enumerate(names)
    for seed in range(seeds)
  ]
  return report.summarise(rows)


def rows_of(panel, mark=None):
  """The rows of the layers with a mark, or of all."""
  kind = lambda m: m if isinstance(m, str) else m["type"]
  return [
    row
    for layer in panel["layer"]
    if mark is None or kind(layer["mark"]) == mark
    for row in layer.get("data", {}).get("values", [])
  ]


def line(panel, name):
  return [r["value"] for r in rows_of(panel, "line") if r["method"] == name]


def png_size(chart):
  png = chart.png()
  assert png.startswith(b"\x89PNG")
  return int.from_bytes(png[16:20]), int.from_bytes(png[20:24])


def test_bars_have_the_means_and_the_line_is_the_retrained_model():
  summary = make_summary(2)
  chart = report.accuracy_bars(summary)
  assert [p["title"] for p in chart.panels] == [
    "Forget accuracy (%)", "Retain accuracy (%)", "Test accuracy (%)",
  ]  # fmt: skip
  bars = rows_of(chart.panels[0], "bar")
  assert [row["method"] for row in bars] == list(summary.methods)
  for row in bars:
    s = summary.overall[row["method"]]["forget_accuracy"]
    assert row["value"] == pytest.approx(100 * s.mean, rel=1e-5)
    assert row["high"] == pytest.approx(100 * (s.mean + s.std), rel=1e-5)
  aim = chart.panels[0]["layer"][-1]["data"]["values"][0]["v"]
  mean = summary.overall["retrained"]["forget_accuracy"].mean
  assert aim == pytest.approx(100 * mean, rel=1e-5)


@pytest.mark.parametrize("count", [1, 13])
def test_pictures_are_drawn_with_few_and_many_methods(count):
  summary = make_summary(count)
  for chart in (
    report.accuracy_bars(summary),
    report.distance_plot(summary),
    report.trade_off(summary, "forget_accuracy", "retain_accuracy"),
  ):
    width, height = png_size(chart)
    assert 300 < width < 4000 and 100 < height < 4000
  points = rows_of(report.distance_plot(summary).panels[0], "point")
  assert len(points) == count


def test_a_trade_off_needs_neither_of_the_references():
  rows = [{"method": "ours", "request": "r", "seed": 0, "up": 0.1, "on": 0.2}]
  chart = report.trade_off(report.summarise(rows), "on", "up")
  assert len(rows_of(chart.panels[0], "point")) == 1


def test_what_is_missing_is_said():
  nothing = dict.fromkeys(
    ("forget_accuracy", "retain_accuracy", "test_accuracy", "retrained_gap"),
    math.nan,
  )
  summary = make_summary(1, **nothing)
  for chart in (
    report.accuracy_bars(summary),
    report.distance_plot(summary),
    report.loss_traces({}),
    report.roc_curves({}),
    report.score_histograms({}),
    report.curves(np.arange(2), {"a": [np.nan, np.nan]}),
  ):
    assert re.search(r">(No|Nothing) [a-z ]+\.<", chart.svg())


def test_names_of_points_do_not_cover_each_other_nor_points():
  points = [
    {"method": f"method_{i}", "x": 1 + 0.01 * i, "y": 1.0, "low": 1, "high": 1}
    for i in range(8)
  ]
  found = draw._label_sides(points, ((0, 2), (0, 2)), False, (520, 300), [])
  boxes = []
  for (align, dx, dy), rows in found.items():
    for row in rows:
      wide = 6.2 * len(row["method"])
      x, y = row["x"] * 260, 300 - row["y"] * 150
      left = x + dx - {"left": 0, "right": 1, "center": 0.5}[align] * wide
      boxes.append((left, y + dy - 6, left + wide, y + dy + 6))
  assert 1 < len(boxes) < 8
  for i, a in enumerate(boxes):
    for b in boxes[:i]:
      apart = a[0] >= b[2] or b[0] >= a[2] or a[1] >= b[3] or b[1] >= a[3]
      assert apart


def test_confusion_rows_are_divided_by_their_sums():
  before = np.array([[3, 1], [0, 0]])
  chart = report.confusion_pair(before, before.T, ["a", "b"], forgotten=[1])
  cells = {
    (r["down"], r["across"]): r for r in rows_of(chart.panels[0], "rect")
  }
  assert cells["a", "• b"]["value"] == 25
  assert cells["• b", "a"]["value"] is None
  assert not cells["a", "a"]["frame"] and cells["• b", "a"]["frame"]


@pytest.mark.parametrize(
  "change, message",
  [
    ({"before": np.ones((2, 3))}, r"before to have shape \[2, 2\]"),
    ({"after": -np.ones((2, 2))}, "after to be counts >= 0"),
    ({"forgotten": [2]}, "forgotten to be classes below 2"),
  ],
)
def test_what_is_no_pair_of_matrices_is_rejected(change, message):
  given = {"before": np.eye(2), "after": np.eye(2), "names": "ab", **change}
  refused(message, report.confusion_pair, **given)


def test_lines_are_means_over_the_seeds_that_have_a_value():
  runs = np.array([[0.0, np.nan, np.nan], [1.0, 3.0, np.nan]])
  chart = report.curves([1, 2, 3], {"retrained": runs}, y_label="gap")
  panel = chart.panels[0]
  assert panel["title"] == "gap"
  assert line(panel, "retrained") == [0.5, 3.0, None]
  first = rows_of(panel, "area")[0]
  assert (first["low"], first["high"]) == (0, 1)
  colours = panel["layer"][-1]["encoding"]["strokeDash"]["scale"]
  assert colours["range"] == [[5, 3]]  # The reference is dashed.


def test_of_many_methods_each_has_a_panel_with_the_references():
  names = ["original", "retrained", *(f"m{i}" for i in range(22))]
  lines = {name: np.arange(3.0) + i for i, name in enumerate(names)}
  chart = report.curves(np.arange(3), lines)
  assert len(chart.panels) == 23  # And the legend.
  shown = {row["method"] for row in rows_of(chart.panels[5], "line")}
  assert shown == {"original", "retrained", "m5"}
  few = report.curves(np.arange(3), dict(list(lines.items())[:5]))
  assert len(few.panels) == 2
  styles = charts.styles(names)
  assert len({str(style) for style in styles.values()}) == 24


@pytest.mark.parametrize(
  "x, values, message",
  [
    (np.ones((2, 2)), np.ones(2), r"x to have shape \[T\]"),
    (np.ones(2), np.ones(3), r"'a' to have shape \[seeds, 2\]"),
  ],
)
def test_lines_of_another_length_are_rejected(x, values, message):
  refused(message, report.curves, x, {"a": values})


def test_losses_have_a_panel_a_phase_and_say_what_is_not_finite():
  trace = np.array([1.0, np.inf, 3.0])
  chart = report.loss_traces({"a": {"impair": trace, "none": np.ones(0)}})
  assert [p["title"] for p in chart.panels] == [
    "a: impair, 1 of 3 steps not finite"
  ]
  assert line(chart.panels[0], "a") == [1.0, None, 3.0]
  with pytest.raises(ValueError, match=r"shape \[T\] or \[seeds, T\]"):
    report.loss_traces({"a": {"b": np.ones((1, 1, 1))}})


def test_a_roc_curve_is_what_the_attack_reaches_within_a_bound():
  pair = np.array([0, 0.5, 1.0]), np.array([0.2, 0.6, 1.0])
  panel = report.roc_curves({"a": [pair]}, lowest=0.01).panels[0]
  values = line(panel, "a")
  assert values[0] == 0.2 and values[-1] == 1.0 and 0.6 in values
  blind = np.array([0, 1.0]), np.array([0, 1.0])
  assert line(report.roc_curves({"a": [blind]}).panels[0], "a")[0] == 0.5


@pytest.mark.parametrize(
  "pair, lowest, message",
  [
    (([0, 1], [0, 0.5, 1]), None, "to be two vectors"),
    (([0, 1], [1, 0]), None, "rates that do not fall"),
    (([0, 2], [0, 1]), None, "rates that do not fall"),
    (([0, 1], [0, 1]), 1.0, r"lowest in \(0, 1\)"),
  ],
)
def test_what_are_no_rates_is_rejected(pair, lowest, message):
  refused(message, report.roc_curves, {"a": [pair]}, lowest=lowest)


def test_histograms_show_shares_of_each_group():
  scores = {"m": {"forget": [0.0, 0.0, 1.0, np.nan], "mine": [1.0]}}
  panel = report.score_histograms(scores, bins=2).panels[0]
  assert line(panel, "forget") == pytest.approx([200 / 3, 100 / 3, 100 / 3], rel=1e-5)  # fmt: skip
  assert line(panel, "mine") == [0, 100, 100]
  assert all(one["encoding"]["y"]["stack"] is None for one in panel["layer"])
  assert report.score_histograms({"m": {"forget": [1.0, 1.0]}}).svg()
  refused("bins >= 1", report.score_histograms, scores, bins=0)


def test_a_density_integrates_to_one_and_ignores_what_is_not_finite():
  grid = np.linspace(-6, 6, 241)
  values = np.append(np.random.default_rng(0).normal(size=400), np.nan)
  found = distributions.density(values, grid)
  assert np.sum(found) * (grid[1] - grid[0]) == pytest.approx(1, abs=0.01)
  assert not distributions.density(np.array([np.nan]), grid).any()
  names = ("original", "retrained", "a")
  chart = report.density_panels({n: values for n in names}, values, "v")
  assert len(chart.panels) == 2 and "targets" in chart.svg()


def test_images_keep_their_pixels():
  from PIL import Image

  pixels = np.random.default_rng(0).random((3, 5, 3))
  import base64
  import io

  url = charts.data_url(pixels).removeprefix("data:image/png;base64,")
  image = np.asarray(Image.open(io.BytesIO(base64.b64decode(url))))
  assert (image == np.round(255 * pixels)).all()
  panel = draw.pictures([[pixels, pixels[..., :1]]], ["a"], ["x", "x"])
  assert [row["across"] for row in rows_of(panel)] == ["x (0)", "x (1)"]
  assert "<image" in charts.panel_svg(panel)


def test_hostile_names_stay_text():
  summary = make_summary(1)
  rows = [HOSTILE, "retrained", "original"]
  for chart in (
    report.curves(np.arange(2), dict.fromkeys(rows, np.ones(2)), y_label=HOSTILE),
    report.confusion_pair(np.eye(2), np.eye(2), [HOSTILE, HOSTILE]),
    report.accuracy_bars(
      summary._replace(overall={HOSTILE: summary.overall["method_0"]})
    ),
  ):  # fmt: skip
    svg = chart.svg()
    assert "<script" not in svg and "alert(1)" in svg
    assert "<" not in page._json(charts.live(chart.panels[0]))


def test_a_chart_is_valid_vega_lite_and_saves_in_four_forms(tmp_path):
  altair = pytest.importorskip("altair")
  chart = report.roc_curves({"a": [([0, 0.5, 1], [0, 0.7, 1])]})
  assert isinstance(chart.altair(), altair.ConcatChart)  # By its schema.
  for kind in ("svg", "png", "json", "html"):
    path = chart.save(tmp_path / f"chart.{kind}")
    assert path.stat().st_size > 1000
  assert chart.png() == chart.png()
  assert json.loads((tmp_path / "chart.json").read_text()) == chart.spec
  refused(r"path to end with \.svg", chart.save, tmp_path / "chart.gif")


def test_a_picture_needs_no_network_and_no_styles_of_its_own():
  svg = report.distance_plot(make_summary(3)).svg()
  assert "http" not in svg.replace('xmlns="http://www.w3.org/2000/svg"', "").replace('xmlns:xlink="http://www.w3.org/1999/xlink"', "")  # fmt: skip
  assert "style=" not in svg and "<title>method_0: Gap" in svg
  ids = re.findall(r' id="([^"]+)"', svg)
  assert len(ids) == len(set(ids))
