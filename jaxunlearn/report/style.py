"""The style sheet of the HTML report: light, dark, narrow and printed."""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #fbfbf9; --ink: #1d1f22; --soft: #5b6168; --line: #d9dbd7;
  --panel: #ffffff; --accent: #0b5c8f; --band: #f1f2ee;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #16181b; --ink: #e6e7e4; --soft: #a3a9af; --line: #363a3f;
    --panel: #1d2024; --accent: #7cbde8; --band: #23272b;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 17px/1.6 Charter, "Bitstream Charter", "Iowan Old Style", Cambria,
    "Source Serif 4", Georgia, serif;
}
main { max-width: 62rem; margin: 0 auto; padding: 3rem 1.25rem 5rem; }
header { border-bottom: 1px solid var(--line); padding-bottom: 1rem; }
h1, h2, h3, .kind, .facts, table, summary, figcaption, .hint, .glossary dt,
.glossary .sign {
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue",
    Arial, sans-serif;
}
h1 { font-size: 2rem; line-height: 1.2; margin: .3rem 0 1rem; }
h2 { font-size: 1.3rem; line-height: 1.3; margin: 3rem 0 1rem; }
h3 { font-size: 1rem; line-height: 1.4; margin: 1.5rem 0 .3rem; }
h1, h2, h3, p, li, dt, dd, figcaption, summary { overflow-wrap: anywhere; }
p, li, dd { max-width: 44rem; }
p { margin: 0 0 .8rem; }
.kind { color: var(--soft); font-size: .85rem; margin: 0; }
.lead { font-size: 1.1rem; }
.hint { color: var(--soft); font-size: .85rem; margin: .6rem 0 1.6rem; }
.facts { margin: 0; font-size: .92rem; }
.facts div {
  display: grid; grid-template-columns: 10rem 1fr; gap: .2rem 1rem;
  padding: .45rem 0; border-bottom: 1px solid var(--line);
}
dt { font-weight: 600; }
dd { margin: 0; }
.findings { padding-left: 1.2rem; margin: .3rem 0 1rem; }
.findings li { margin: .35rem 0; }
.findings li:first-child { font-weight: 600; }
.scroll { overflow-x: auto; margin: 0 0 .4rem; }
.scroll:focus-visible, summary:focus-visible {
  outline: 2px solid var(--accent); outline-offset: 2px;
}
table {
  border-collapse: collapse; width: 100%; font-size: .84rem; line-height: 1.35;
  font-variant-numeric: tabular-nums; background: var(--panel);
}
caption { text-align: left; font-weight: 600; padding: .4rem 0; }
th, td { padding: .42rem .7rem; border-bottom: 1px solid var(--line); }
td { text-align: right; white-space: nowrap; }
thead th {
  text-align: right; vertical-align: bottom; font-weight: 600; color: var(--soft);
  border-bottom: 1px solid var(--soft); min-width: 5.4rem;
}
tbody th {
  font-weight: 500; min-width: 10rem; max-width: 16rem; overflow-wrap: anywhere;
}
tr > th:first-child {
  text-align: left; position: sticky; left: 0; background: var(--panel);
}
tbody tr.baseline > * { background: var(--band); }
tbody strong { color: var(--accent); }
.sign { color: var(--soft); font-weight: 400; white-space: nowrap; }
.pairs th, .runs th:nth-child(-n+2) { text-align: left; }
.pairs td, .runs td:nth-child(-n+2) {
  text-align: left; white-space: normal; overflow-wrap: anywhere;
}
.runs td:nth-child(-n+2) { min-width: 8rem; }
.runs { font-size: .76rem; }
figure { margin: 0 0 2.2rem; }
img {
  display: block; max-width: 100%; height: auto; background: #ffffff;
  border: 1px solid var(--line);
}
figcaption {
  color: var(--soft); font-size: .88rem; max-width: 44rem; margin-top: .5rem;
}
.glossary { margin: 0; }
.glossary div { margin: 0 0 .9rem; }
.glossary dt { font-size: .95rem; }
.glossary .sign { font-size: .82rem; display: block; white-space: normal; }
details { border-top: 1px solid var(--line); margin: 0; padding: .2rem 0; }
details:last-of-type { border-bottom: 1px solid var(--line); }
section + details { margin-top: 3rem; }
summary { cursor: pointer; padding: .5rem 0; font-weight: 600; }
@media (max-width: 40rem) {
  body { font-size: 16px; }
  main { padding-top: 1.5rem; }
  h1 { font-size: 1.5rem; }
  .facts div { grid-template-columns: 1fr; }
  tbody th { min-width: 7rem; max-width: 9rem; }
  th, td { padding: .4rem .5rem; }
}
@media print {
  :root {
    color-scheme: light;
    --page: #ffffff; --ink: #000000; --soft: #444444; --line: #bbbbbb;
    --panel: #ffffff; --accent: #000000; --band: #eeeeee;
  }
  body { font-size: 10.5pt; }
  main { max-width: none; padding: 0; }
  .scroll { overflow: visible; }
  table { font-size: 7.5pt; }
  .runs { font-size: 5.5pt; }
  th, td { padding: .2rem .25rem; }
  thead th, tbody th { min-width: 0; }
  tr > th:first-child { position: static; }
  figure, tr, .glossary div { break-inside: avoid; }
  h2, h3, caption { break-after: avoid; }
}
"""
