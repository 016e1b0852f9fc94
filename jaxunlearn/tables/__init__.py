"""Synthetic tables: generators of mixed columns, trained under a mask.

`metrics.tabsyndex` says how much what they draw is like the real table.
"""

from jaxunlearn.core.columns import columns_of
from jaxunlearn.tables.encoding import (
  Encoding,
  decode,
  encode,
  fit_encoding,
)
from jaxunlearn.tables.generators import (
  Generator,
  gaussian_copula,
  independent_columns,
  resampled_rows,
)
from jaxunlearn.tables.neural import (
  Learnt,
  LearntInfo,
  tabular_gan,
  tabular_vae,
)

__all__ = [
  "Encoding",
  "Generator",
  "Learnt",
  "LearntInfo",
  "columns_of",
  "decode",
  "encode",
  "fit_encoding",
  "gaussian_copula",
  "independent_columns",
  "resampled_rows",
  "tabular_gan",
  "tabular_vae",
]
