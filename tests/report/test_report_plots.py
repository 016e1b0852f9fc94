"""Figures: they run on few, many and missing numbers, and show what is there."""

import io
import math
import subprocess
import sys
import warnings

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from jaxunlearn import report


def make_summary(count, seeds=2, **missing):
  rng = np.random.default_rng(0)
  names = ["original", "retrained"]
  names += [f"method_with_a_long_name_{i}" for i in range(count)]
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


def decode(figure):
  with warnings.catch_warnings():
    warnings.simplefilter("error")  # A missing glyph, a failed layout.
    png = report.figure_png(figure)
  image = Image.open(io.BytesIO(png))
  image.load()
  return image


@pytest.mark.parametrize("count", [0, 1, 13])
def test_summary_figures_run_with_any_number_of_methods(count):
  summary = make_summary(count)
  for plot in (report.accuracy_bars, report.distance_plot):
    image = decode(plot(summary))
    assert min(image.size) > 100
    assert max(image.size) < 1500


def test_summary_figures_run_with_missing_metrics():
  nothing = {
    name: math.nan
    for name in (
      "forget_accuracy",
      "retain_accuracy",
      "test_accuracy",
      "retrained_gap",
    )
  }
  summary = make_summary(2, **nothing)
  for plot in (report.accuracy_bars, report.distance_plot):
    figure = plot(summary)
    assert not figure.axes  # A sentence instead of empty axes.
    decode(figure)
  partial = report.accuracy_bars(make_summary(2, test_accuracy=math.nan))
  assert len(partial.axes) == 2
  decode(report.distance_plot(make_summary(2, seconds_run=0.0)))
  assert not report.accuracy_bars(report.summarise([])).axes


def test_bars_have_the_lengths_of_the_means_and_the_line_the_retrained_one():
  summary = make_summary(3)
  axes = report.accuracy_bars(summary).axes[0]
  expected = [
    100 * summary.overall[m]["forget_accuracy"].mean for m in summary.methods
  ]
  widths = [bar.get_width() for bar in axes.patches]
  np.testing.assert_allclose(widths, expected)
  dashed = [line for line in axes.lines if line.get_linestyle() == "--"]
  np.testing.assert_allclose(dashed[0].get_xdata(), expected[1])


@pytest.mark.parametrize("seed", range(3))
def test_labels_of_the_distance_plot_cover_neither_each_other_nor_points(seed):
  rng = np.random.default_rng(seed)
  rows = [
    {
      "method": name,
      "request": "r",
      "seed": 0,
      "seconds_run": float(10 ** rng.uniform(-1, 0.5)),
      "retrained_gap": float(rng.uniform(0.05, 0.2)),
    }
    for name in ["retrained"] + [f"method_number_{i}" for i in range(13)]
  ]
  figure = report.distance_plot(report.summarise(rows))
  decode(figure)
  axes = figure.axes[0]
  # The text alone: an annotation's own extent has the line to its point too.
  boxes = [Text.get_window_extent(text) for text in axes.texts]
  frame = axes.get_window_extent()
  assert len(boxes) == 13
  for i, box in enumerate(boxes):
    assert not any(box.overlaps(other) for other in boxes[:i])
    assert frame.x0 <= box.x0 < box.x1 <= frame.x1
    assert frame.y0 <= box.y0 < box.y1 <= frame.y1
  points = axes.transData.transform(
    [[row["seconds_run"], 100 * row["retrained_gap"]] for row in rows[1:]]
  )
  assert not any(box.contains(*point) for box in boxes for point in points)


def test_confusion_rows_are_divided_by_their_sums_on_one_scale():
  before = np.array([[8, 2, 0], [1, 3, 0], [0, 0, 0]])
  after = np.array([[5, 5, 0], [0, 4, 0], [1, 0, 3]])
  figure = report.confusion_pair(before, after, ["a", "b", "c"], forgotten=[0])
  decode(figure)
  left, right = (axes.images[0] for axes in figure.axes[:2])
  np.testing.assert_allclose(
    left.get_array().filled(np.nan), [[80, 20, 0], [25, 75, 0], [np.nan] * 3]
  )
  np.testing.assert_allclose(right.get_array()[0], [50, 50, 0])
  assert left.get_clim() == right.get_clim() == (0, 100)
  labels = [t.get_text() for t in figure.axes[0].get_yticklabels()]
  assert labels == ["▸ a", "b", "c"]
  assert len(figure.axes[0].patches) == 1


def test_a_hundred_classes_have_thinned_names_and_keep_the_forgotten_one():
  counts = np.eye(100)
  names = [f"class {i}" for i in range(100)]
  figure = report.confusion_pair(counts, counts, names, forgotten=[37, 38])
  decode(figure)
  axes = figure.axes[0]
  labels = [text.get_text() for text in axes.get_yticklabels()]
  assert "▸ class 37" in labels
  assert len(axes.patches) == 2
  boxes = [text.get_window_extent() for text in axes.get_yticklabels()]
  for i, box in enumerate(boxes):
    assert not any(box.overlaps(other) for other in boxes[:i])
  assert axes.xaxis.label.get_window_extent().y0 >= 0


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"before": np.ones((2, 3))}, r"before to have shape \[2, 2\].*\[2, 3\]"),
    ({"after": -np.ones((2, 2))}, "after to be counts >= 0"),
    ({"after": np.full((2, 2), np.nan)}, "after to be counts >= 0"),
    ({"forgotten": [2]}, "forgotten to be classes below 2, got 2"),
  ],
)
def test_confusion_pair_rejects_what_is_no_pair_of_matrices(change, message):
  good = {
    "before": np.ones((2, 2)),
    "after": np.ones((2, 2)),
    "names": ["a", "b"],
    "forgotten": [],
  }
  with pytest.raises(ValueError, match=message):
    report.confusion_pair(**{**good, **change})


def test_loss_traces_draw_a_panel_a_phase_with_the_mean_over_seeds():
  traces = {
    "unsir": {
      "impair": np.array([1.0, 2.0]),
      "repair": np.array([[1, 3], [3, 5]]),
    },
    "ssd": {"edit": np.zeros(0)},
    "one": {"step": [0.5]},
  }
  figure = report.loss_traces(traces)
  decode(figure)
  drawn = [axes for axes in figure.axes if axes.axison]
  assert len(drawn) == 3
  np.testing.assert_array_equal(drawn[1].lines[0].get_ydata(), [2.0, 4.0])
  np.testing.assert_array_equal(drawn[1].lines[0].get_xdata(), [1, 2])


def test_loss_traces_say_where_the_loss_is_not_finite():
  traces = {"a": {"p": [1.0, math.nan, math.inf]}, "b": {"p": [math.nan] * 2}}
  figure = report.loss_traces(traces)
  decode(figure)
  titles = [axes.get_title(loc="left") for axes in figure.axes]
  assert "2 of 3 steps not finite" in titles[0]
  assert "2 of 2 steps not finite" in titles[1]


def test_loss_traces_run_with_many_and_with_no_methods():
  many = {f"m{i}": {"p": np.ones((3, 5))} for i in range(13)}
  decode(report.loss_traces(many))
  decode(report.loss_traces({}))
  with pytest.raises(ValueError, match=r"traces\['a'\]\['p'\].*\[1, 1, 1\]"):
    report.loss_traces({"a": {"p": np.ones((1, 1, 1))}})


def test_names_are_drawn_as_they_stand_even_if_they_look_like_formulas():
  rows = [
    {
      "method": name,
      "request": "r",
      "seed": 0,
      "seconds_run": 1.0 + i,
      "retrained_gap": 0.1,
      "forget_accuracy": 0.5,
    }
    for i, name in enumerate([r"$\frac{$", "a$b$^", "忘\n却\x07", "x" * 300])
  ]
  summary = report.summarise(rows)
  decode(report.accuracy_bars(summary))
  decode(report.distance_plot(summary))
  decode(report.loss_traces({row["method"]: {"$p^$": [1.0]} for row in rows}))


def test_equal_figures_give_equal_files_without_metadata():
  first = report.figure_png(report.accuracy_bars(make_summary(2)))
  second = report.figure_png(report.accuracy_bars(make_summary(2)))
  assert first == second
  assert b"matplotlib" not in first.lower()


def test_importing_the_room_does_not_import_matplotlib_nor_pyplot_later():
  code = (
    "import sys; from jaxunlearn import report; "
    "assert 'matplotlib' not in sys.modules; "
    "report.figure_png(report.loss_traces({'a': {'p': [1.0, 2.0]}})); "
    "assert 'matplotlib' in sys.modules; "
    "assert 'matplotlib.pyplot' not in sys.modules"
  )
  subprocess.run([sys.executable, "-c", code], check=True)
