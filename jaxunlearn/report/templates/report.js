'use strict';
// Tables sort by a click on a head; of equal values the order stays.
for (const table of document.querySelectorAll('table.sortable')) {
  table.querySelectorAll('thead th').forEach((head, column) => {
    const button = document.createElement('button');
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener('click', () => {
      const down = head.getAttribute('aria-sort') === 'ascending';
      for (const other of table.querySelectorAll('th')) other.removeAttribute('aria-sort');
      head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
      const key = row => {
        const cell = row.cells[column], number = parseFloat(cell.dataset.value);
        return cell.dataset.value === undefined ? cell.textContent : isNaN(number) ? Infinity : number;
      };
      const body = table.tBodies[0], sign = down ? -1 : 1;
      const compare = (a, b) => a < b ? -sign : a > b ? sign : 0;
      const rows = [...body.rows].map(row => [key(row), row]);
      rows.sort((a, b) => (a[0] === Infinity) - (b[0] === Infinity) || compare(a[0], b[0]));
      body.append(...rows.map(pair => pair[1]));
    });
  });
}
// A method that is picked stands out in every table and picture.
const methods = [...new Set([...document.querySelectorAll('tr[data-method]')].map(row => row.dataset.method))];
const methodOf = label => methods.filter(m => label === m || label.startsWith(m + ': ')).sort((a, b) => b.length - a.length)[0];
let picked;
function show() {
  document.body.classList.toggle('picking', picked !== undefined);
  for (const row of document.querySelectorAll('tr[data-method]')) {
    row.classList.toggle('picked', row.dataset.method === picked);
  }
  for (const mark of document.querySelectorAll('.panel [role="graphics-symbol"][aria-label]')) {
    const own = methodOf(mark.getAttribute('aria-label'));
    mark.classList.toggle('other', picked !== undefined && own !== undefined && own !== picked);
  }
}
document.addEventListener('click', event => {
  const row = event.target.closest('tr[data-method]');
  const mark = event.target.closest('.panel [role="graphics-symbol"][aria-label]');
  if (!row && !mark || event.target.closest('a')) return;
  const found = row ? row.dataset.method : methodOf(mark.getAttribute('aria-label'));
  picked = found === picked ? undefined : found;
  show();
});
// A picture comes alive when it is pointed at or focused: it zooms and pans.
async function enliven(panel) {
  if (!window.vegaEmbed || panel.classList.contains('live')) return;
  panel.classList.add('live');
  const text = panel.querySelector('script').textContent, still = panel.querySelector('svg');
  const target = document.createElement('div');
  try {
    await vegaEmbed(target, JSON.parse(text), {
      mode: 'vega-lite', ast: true, actions: false, defaultStyle: false,
      renderer: 'svg', logLevel: 1, tooltip: {disableDefaultStyle: true},
    });
    still.replaceWith(target);
    show();
  } catch (error) { console.warn(error); }
}
for (const panel of document.querySelectorAll('.panel')) {
  for (const kind of ['pointerenter', 'focus']) {
    panel.addEventListener(kind, () => enliven(panel), {once: true});
  }
}
