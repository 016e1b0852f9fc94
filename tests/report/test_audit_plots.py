"""Figures of audits: what is drawn is what was given."""

import io
import warnings

import numpy as np
import pytest
from PIL import Image

from jaxunlearn import report
from jaxunlearn.report import audit_plots


def decode(figure):
  with warnings.catch_warnings():
    warnings.simplefilter("error")  # A missing glyph, a failed layout.
    png = report.figure_png(figure)
  image = Image.open(io.BytesIO(png))
  image.load()
  return image


def line_of(axes, label):
  return next(line for line in axes.lines if line.get_label() == label)


STEPS = (np.array([0, 0, 0.5, 1]), np.array([0, 0.4, 0.4, 1]))
LATER = (np.array([0, 0, 0.5, 1]), np.array([0, 0.2, 0.8, 1]))


def test_a_roc_curve_is_the_mean_over_seeds_of_what_the_attack_reaches():
  runs = {"a": [STEPS, LATER], "retrained": [STEPS]}
  figure = report.roc_curves(runs, lowest=0.1)
  decode(figure)
  (axes,) = figure.axes
  assert axes.get_xscale() == axes.get_yscale() == "log"
  x, y = line_of(axes, "a").get_data()
  # Below a false positive rate of a half the attack gets 0.4 and 0.2.
  np.testing.assert_allclose(y[x < 0.5], 0.3)
  np.testing.assert_allclose(y[(x > 0.5) & (x < 1)], 0.6)
  assert y[-1] == 1
  assert line_of(axes, "retrained").get_linestyle() == "--"
  diagonal = line_of(axes, "guessing")
  np.testing.assert_array_equal(*diagonal.get_data())
  band = axes.collections[0].get_paths()[0].vertices
  assert band[:, 1].min() == pytest.approx(0.2)


def test_a_roc_curve_starts_at_one_in_a_thousand_or_one_row():
  few = np.linspace(0, 1, 6)
  many = np.linspace(0, 1, 5001)
  starts = [
    report.roc_curves({"a": [(rates, rates)]}).axes[0].get_xlim()[0]
    for rates in (few, many)
  ]
  np.testing.assert_allclose(starts, [0.2, 1e-3])
  given = report.roc_curves({"a": [(few, few)]}, lowest=0.01)
  assert given.axes[0].get_xlim() == (0.01, 1)
  one_row = np.array([0.0, 1.0])
  decode(report.roc_curves({"a": [(one_row, one_row)]}))


def test_an_attack_that_finds_nobody_is_drawn_at_the_bottom():
  nobody = (np.array([0, 0.1, 1]), np.array([0, 0, 1]))
  axes = report.roc_curves({"a": [nobody]}).axes[0]
  _, y = line_of(axes, "a").get_data()
  assert y[0] == axes.get_ylim()[0] == 0.1


@pytest.mark.parametrize(
  ("pair", "message"),
  [
    (([0, 1], [0, 0.5, 1]), r"two vectors \[K\], got \[2\] and \[3\]"),
    (([], []), "two vectors"),
    (([0, 1], [1, 0]), "rates that do not fall"),
    (([0, 2], [0, 1]), "rates that do not fall"),
    (([0, 1], [0, np.nan]), "rates that do not fall"),
  ],
)
def test_what_are_no_rates_is_rejected(pair, message):
  with pytest.raises(ValueError, match=message) as raised:
    report.roc_curves({"a": [STEPS, pair]})
  assert "curves['a'][1]" in str(raised.value)


@pytest.mark.parametrize("lowest", [0, 1, -1, np.nan])
def test_a_start_outside_the_axes_is_rejected(lowest):
  with pytest.raises(ValueError, match=r"Expected lowest in \(0, 1\)"):
    report.roc_curves({"a": [STEPS]}, lowest=lowest)


def test_histograms_show_shares_of_each_group_on_one_axis():
  scores = {
    "original": {"forget": np.array([0.1, 0.1, 0.9]), "unseen": np.zeros(50)},
    "retrained": {"forget": [[0.9], [np.nan]], "own": [0.5]},
    "empty": {"forget": [np.nan]},
  }
  figure = report.score_histograms(scores, bins=10)
  decode(figure)
  drawn = [axes for axes in figure.axes if axes.axison]
  assert [a.get_title(loc="left") for a in drawn] == ["original", "retrained"]
  assert drawn[0].get_xlim() == drawn[1].get_xlim()
  for axes in drawn:
    for patch in axes.patches:
      np.testing.assert_allclose(patch.get_data().values.sum(), 100)
  labels = [text.get_text() for text in figure.legends[0].get_texts()]
  assert labels == ["forget", "unseen", "own"]


def test_scores_far_out_are_gathered_at_the_ends():
  values = np.r_[np.linspace(0, 1, 999), 1e6]
  figure = report.score_histograms({"a": {"forget": values}}, bins=5)
  heights, edges, _ = figure.axes[0].patches[0].get_data()
  assert edges[-1] < 2
  np.testing.assert_allclose(heights.sum(), 100)


def test_equal_scores_still_have_a_histogram():
  decode(report.score_histograms({"a": {"forget": np.ones(4)}}))


def test_a_histogram_without_bins_is_rejected():
  with pytest.raises(ValueError, match="bins >= 1, got 0"):
    report.score_histograms({"a": {"forget": [1.0]}}, bins=0)


def test_curves_draw_the_mean_over_the_seeds_that_have_a_value():
  lines = {"a": [[1.0, 2.0, np.nan], [3.0, np.nan, np.nan]], "b": [0, 1, 2]}
  figure = report.curves([1, 2, 3], lines, y_label="gap", x_label="requests")
  decode(figure)
  axes = figure.axes[0]
  np.testing.assert_array_equal(line_of(axes, "a").get_ydata(), [2, 2, np.nan])
  np.testing.assert_array_equal(line_of(axes, "b").get_xdata(), [1, 2, 3])
  assert axes.get_ylabel() == "gap" and axes.get_xlabel() == "requests"


def test_a_method_has_one_style_in_all_panels():
  names = ["retrained", *(f"method {i}" for i in range(24))]
  first = {name: np.arange(4.0) for name in names}
  second = {name: np.arange(4.0) for name in reversed(names[1:])}
  figure = report.curve_panels(range(4), {"one": first, "two": second})
  decode(figure)
  styles = []
  for axes in figure.axes:
    lines = {line.get_label(): line for line in axes.lines}
    styles.append(
      {
        n: (lines[n].get_color(), str(lines[n].get_linestyle()))
        for n in names[1:]
      }
    )
  assert styles[0] == styles[1]
  for markers in (True, False):
    looks = audit_plots.line_styles(names, markers=markers).values()
    assert len({str(sorted(style.items())) for style in looks}) == 25
  legend = figure.legends[0].get_window_extent()
  for axes in figure.axes:
    assert not legend.overlaps(axes.xaxis.label.get_window_extent())
    assert not legend.overlaps(axes.get_window_extent())


def test_one_step_of_one_seed_is_a_point():
  figure = report.curves([1], {"a": [0.5]})
  decode(figure)
  assert figure.axes[0].lines[0].get_marker() == "o"


@pytest.mark.parametrize(
  ("x", "values", "message"),
  [
    ([[1, 2]], [1, 2], r"x to have shape \[T\], got \[1, 2\]"),
    ([1, 2], [1, 2, 3], r"'a' to have shape \[seeds, 2\], got \[3\]"),
    ([1, 2], np.ones((1, 1, 2)), r"'a' to have shape \[seeds, 2\]"),
  ],
)
def test_lines_of_another_length_are_rejected(x, values, message):
  with pytest.raises(ValueError, match=message):
    report.curves(x, {"a": values})


def test_nothing_to_show_is_said_in_words():
  for figure in (
    report.roc_curves({}),
    report.roc_curves({"a": []}),
    report.score_histograms({"a": {"forget": []}}),
    report.curves([1, 2], {"a": [np.nan, np.nan]}),
    report.curve_panels([], {}),
  ):
    assert not figure.axes
    assert figure.texts[0].get_text()
    decode(figure)
