"""Results as files: JSON, tables, plots and an HTML report.

The one room of the package that writes files. It knows results only, plain
values and NumPy arrays, never models. Jinja2 and vl-convert (the `experiments`
extra) are imported when a file is made.
"""

from jaxunlearn.report.certificate import Certificate as Certificate
from jaxunlearn.report.charts import Chart as Chart
from jaxunlearn.report.comparator import compare as compare
from jaxunlearn.report.compare_data import Compared as Compared
from jaxunlearn.report.compare_data import ComparedRows as ComparedRows
from jaxunlearn.report.comparisons import salun_table as salun_table
from jaxunlearn.report.contents import Contents as Contents
from jaxunlearn.report.definitions import HIGHER as HIGHER
from jaxunlearn.report.definitions import LOWER as LOWER
from jaxunlearn.report.definitions import METRICS as METRICS
from jaxunlearn.report.definitions import NEAREST as NEAREST
from jaxunlearn.report.definitions import NEITHER as NEITHER
from jaxunlearn.report.definitions import Metric as Metric
from jaxunlearn.report.definitions import describe as describe
from jaxunlearn.report.distributions import density_panels as density_panels
from jaxunlearn.report.distributions import score_histograms as score_histograms
from jaxunlearn.report.doubts import doubts as doubts
from jaxunlearn.report.equivalence import Rule as Rule
from jaxunlearn.report.equivalence import Trial as Trial
from jaxunlearn.report.equivalence import checks as checks
from jaxunlearn.report.equivalence import distance as distance
from jaxunlearn.report.equivalence import verdicts as verdicts
from jaxunlearn.report.files import check_writable as check_writable
from jaxunlearn.report.files import figure_png as figure_png
from jaxunlearn.report.files import write_bytes as write_bytes
from jaxunlearn.report.files import write_json as write_json
from jaxunlearn.report.files import write_text as write_text
from jaxunlearn.report.findings import drift_findings as drift_findings
from jaxunlearn.report.findings import findings as findings
from jaxunlearn.report.findings import retrained_gaps as retrained_gaps
from jaxunlearn.report.line_charts import curve_panels as curve_panels
from jaxunlearn.report.line_charts import curves as curves
from jaxunlearn.report.line_charts import loss_traces as loss_traces
from jaxunlearn.report.line_charts import roc_curves as roc_curves
from jaxunlearn.report.pictures import accuracy_bars as accuracy_bars
from jaxunlearn.report.pictures import confusion_pair as confusion_pair
from jaxunlearn.report.pictures import distance_plot as distance_plot
from jaxunlearn.report.pictures import trade_off as trade_off
from jaxunlearn.report.results import Results as Results
from jaxunlearn.report.results import Statistic as Statistic
from jaxunlearn.report.results import Summary as Summary
from jaxunlearn.report.results import check_results as check_results
from jaxunlearn.report.results import read_results as read_results
from jaxunlearn.report.results import results_to_json as results_to_json
from jaxunlearn.report.results import summarise as summarise
from jaxunlearn.report.tables import Cell as Cell
from jaxunlearn.report.tables import Comparison as Comparison
from jaxunlearn.report.tables import Grid as Grid
from jaxunlearn.report.tables import markdown_table as markdown_table
from jaxunlearn.report.taxonomy import Card as Card
from jaxunlearn.report.taxonomy import Depth as Depth
from jaxunlearn.report.taxonomy import Probe as Probe
from jaxunlearn.report.taxonomy_table import DEPTH_COLUMNS as DEPTH_COLUMNS
from jaxunlearn.report.taxonomy_table import depth_account as depth_account
from jaxunlearn.report.taxonomy_table import depth_table as depth_table
from jaxunlearn.report.terminal import rich_table as rich_table
from jaxunlearn.report.trial_words import comparisons as comparisons
from jaxunlearn.report.trial_words import nearest_findings as nearest_findings
from jaxunlearn.report.trial_words import verdict_sentences as verdict_sentences
from jaxunlearn.report.unseen import Answers as Answers
from jaxunlearn.report.unseen import checks_by_unseen as checks_by_unseen
from jaxunlearn.report.unseen import doubts_by_unseen as doubts_by_unseen
from jaxunlearn.report.verdict import Check as Check
from jaxunlearn.report.verdict import Verdict as Verdict
from jaxunlearn.report.verdict import judge as judge
from jaxunlearn.report.write import write_report as write_report
