"""The site: Sphinx with MyST-NB; `make docs` builds it, without a network."""

import os
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import api_pages  # noqa: E402

# Pages compile small programs, once.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault(
  "JAX_COMPILATION_CACHE_DIR", str(HERE.parent / ".cache" / "jax")
)

project = "jaxunlearn"
author = copyright = "The jaxunlearn authors"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "sphinx_book_theme"
html_title = "jaxunlearn"
html_show_sourcelink = False
exclude_patterns = ["_build", "rooms/template.md", "parts"]
default_role = "literal"
add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_use_rtype = False
napoleon_use_ivar = True
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
# Pages run once for each of their contents; an error ends the build.
nb_execution_mode = "cache"
nb_execution_cache_path = str(HERE.parent / ".cache" / "docs")
nb_execution_in_temp = True
nb_execution_timeout = 120
nb_execution_raise_on_error = True
nb_merge_streams = True
linkcheck_ignore = [r"http://localhost.*"]


def setup(app):
  api_pages.write(HERE / "api")
  app.connect("autodoc-process-docstring", api_pages.escape, priority=100)
