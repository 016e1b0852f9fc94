"""Pages from disk in a browser without a network.

Skipped where Playwright (the extra `browser`) or a Chromium is missing; CHROMIUM
names another one.
"""

import contextlib
import os
import shutil

import pytest


@pytest.fixture(scope="session")
def chromium():
  sync_api = pytest.importorskip(
    "playwright.sync_api", reason="no Playwright here: the extra `browser`"
  )
  names = ("chromium", "chromium-browser", "google-chrome")
  path = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, names)), None
  )
  if path is None:
    pytest.skip("no Chromium here: `apt-get install chromium`")
  with sync_api.sync_playwright() as playwright:
    browser = playwright.chromium.launch(
      executable_path=path, args=["--no-sandbox"]
    )
    yield browser
    browser.close()


@pytest.fixture
def opened(chromium):
  """`(path, width=1400, scheme="light", **more) -> page`; errors fail the test."""
  with contextlib.ExitStack() as stack:
    said = []

    def open_page(path, width=1400, scheme="light", **more):
      context = chromium.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, **more
      )
      stack.callback(context.close)
      context.set_offline(True)
      page = context.new_page()
      page.on(
        "console", lambda m: said.append(m.text) if m.type == "error" else None
      )
      page.on("pageerror", lambda error: said.append(str(error)))
      page.on(
        "request",
        lambda r: said.append(r.url) if r.url.startswith("http") else None,
      )
      page.on("dialog", lambda d: (said.append(d.message), d.dismiss()))
      page.goto(path.as_uri())
      return page

    yield open_page
  assert not said, said
