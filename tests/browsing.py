"""What tests of pages do in a browser."""

import pytest


def see_all(page):
  """Scrolls through a page, so that all of its pictures come alive."""
  pictures = page.locator(".view")
  for i in range(pictures.count()):
    pictures.nth(i).scroll_into_view_if_needed()
    page.wait_for_function(
      "i => document.querySelectorAll('.view')[i].dataset.live", arg=i
    )


def serious(page):
  """Findings of axe-core that are serious or critical, in a line each."""
  axe = pytest.importorskip(
    "axe_playwright_python.sync_playwright",
    reason="no axe here: the extra `browser`",
  )
  # Run as the page's own tools do: its policy lets nothing else in.
  found = axe.Axe().run(page).response["violations"]
  return [
    f"{v['id']}: {v['help']}: {v['nodes'][0]['html'][:200]}"
    for v in found
    if v["impact"] in ("serious", "critical")
  ]
