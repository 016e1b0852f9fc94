'use strict';
// A block of its own: other scripts of the page have names too.
{
// One state; every picture has a signal for each of its entries.
const shared = JSON.parse(document.getElementById('shared').textContent);
const state = {...shared.params}, views = new Map();
const el = id => document.getElementById(id);
const numbers = ['a', 'b', 'split', 'klass', 'layout', 'feature', 'direction', 'at'];
const curve = (feature, direction) => shared.datasets.curves.filter(row => row.feature === feature && row.direction === direction);
let lines = curve(state.feature, state.direction);
async function show(panel) {
  if (views.has(panel)) return;
  views.set(panel, null);
  const text = panel.querySelector('script').textContent, spec = JSON.parse(text);
  // Copies: a picture writes what it calculates into its rows.
  spec.datasets = {};
  for (const [, name] of text.matchAll(/"data":{"name":"(\w+)"}/g)) spec.datasets[name] = structuredClone(shared.datasets[name]);
  for (const param of spec.params) param.value = state[param.name];
  const target = document.createElement('div');
  try {
    const made = await vegaEmbed(target, spec, {
      mode: 'vega-lite', ast: true, actions: false, defaultStyle: false,
      renderer: 'svg', logLevel: 1, tooltip: {disableDefaultStyle: true},
    });
    const view = made.view, listen = (name, on) => {
      try { view.addSignalListener(name, (_, value) => on(value)); } catch { /* Not in this picture. */ }
    };
    listen('pick', value => {
      if (value.i) change({klass: value.i[0] === state.klass ? -1 : value.i[0]});
      if (value.row) change({pinned: value.row[0]});
    });
    listen('hover', value => change({hovered: value.row ? value.row[0] : -1}));
    listen('drag', value => {
      const at = value.t ? lines.findIndex(row => row.t === value.t[0]) : -1;
      if (at >= 0) change({at});
    });
    panel.querySelector('svg').replaceWith(target);
    views.set(panel, view);
    update(view);
    panel.dataset.live = '1';
  } catch (error) { console.error(error); }
}
function update(view) {
  for (const [name, value] of Object.entries(state)) {
    if (JSON.stringify(view.signal(name)) !== JSON.stringify(value)) view.signal(name, value);
  }
  return view.runAsync();
}
function change(values) {
  if (Object.entries(values).every(([name, value]) => state[name] === value)) return;
  Object.assign(state, values);
  if (lines.length || 'feature' in values || 'direction' in values) {
    lines = curve(state.feature, state.direction);
    if (lines.length) state.t = lines[state.at].t;
  }
  for (const name of [...numbers, 'show']) if (el(name)) el(name).value = state[name];
  if (state.pinned >= 0) el('row').value = state.pinned;
  for (const view of views.values()) if (view) update(view);
  tell();
}
const percent = value => value === null ? '–' : (100 * value).toFixed(1) + ' %';
const add = (parent, tag, text, kind) => {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  parent.append(made);
  return made;
};
// What the pictures say in words: of the attack at this threshold, and of the row.
function tell() {
  const rates = el('rates'), card = el('card');
  if (rates) {
    rates.replaceChildren();
    add(rates, 'p', `Threshold ${lines[state.at].t.toFixed(2)} of ${['entropy', 'confidence'][state.feature]}`);
    const table = add(rates, 'table');
    const head = add(add(table, 'thead'), 'tr'), body = add(table, 'tbody');
    for (const text of ['Model', 'True positives', 'False positives', 'Attack score here', 'Privacy score here', 'Privacy score']) add(head, 'th', text).scope = 'col';
    for (const side of ['a', 'b']) {
      const of = state[side], row = lines[state.at], line = add(body, 'tr');
      const worst = Math.max(...shared.datasets.curves.map(r => r.score[of] ?? NaN));
      line.id = 'rates-' + side;
      add(line, 'th', side.toUpperCase() + ': ' + state.names[of]).scope = 'row';
      const score = row.score[of];
      for (const text of [percent(row.fnr[of] === null ? null : 1 - row.fnr[of]), percent(row.fpr[of]), score === null ? '–' : score.toFixed(3), score === null ? '–' : (1 - score).toFixed(3), isNaN(worst) ? '–' : (1 - worst).toFixed(3)]) add(line, 'td', text);
    }
  }
  const at = state.pinned >= 0 ? state.pinned : state.hovered, row = shared.datasets.rows[at];
  card.hidden = row === undefined;
  card.replaceChildren();
  if (!row) return;
  add(card, 'h3', `Row ${shared.ids[at]}${state.pinned >= 0 ? ', kept in sight' : ''}`);
  if (shared.sprite) {
    const [height, width] = shared.size, canvas = add(card, 'canvas');
    canvas.width = width; canvas.height = height;
    canvas.setAttribute('role', 'img');
    canvas.setAttribute('aria-label', `Picture of row ${shared.ids[at]}`);
    canvas.getContext('2d').drawImage(sprite, at % 40 * width, Math.floor(at / 40) * height, width, height, 0, 0, width, height);
  }
  const facts = add(card, 'dl', undefined, 'facts');
  const fact = (name, text) => { const pair = add(facts, 'div'); add(pair, 'dt', name); add(pair, 'dd', text); };
  fact('Class', row.true + (row.forget ? ', to be forgotten' : ', to be kept'));
  for (const side of ['a', 'b']) fact(`${side.toUpperCase()}: ${state.names[state[side]]}`, 'takes it for ' + state.classes[row.pred[state[side]]]);
  for (const [name, values] of Object.entries(shared.columns)) fact(name, values[at]);
  if (chances) {
    const many = state.classes.length, count = shared.datasets.rows.length;
    const of = side => state.classes.map((_, i) => chances[(state[side] * count + at) * many + i] / 255);
    const [ours, theirs] = [of('a'), of('b')];
    const table = add(card, 'table'), head = add(add(table, 'thead'), 'tr'), body = add(table, 'tbody');
    for (const text of ['Class', 'A', 'B']) add(head, 'th', text).scope = 'col';
    const order = state.classes.map((_, i) => i).sort((i, j) => Math.max(ours[j], theirs[j]) - Math.max(ours[i], theirs[i]));
    for (const i of order.slice(0, 5)) {
      const line = add(body, 'tr');
      add(line, 'th', state.classes[i]).scope = 'row';
      for (const share of [ours[i], theirs[i]]) {
        const cell = add(line, 'td', percent(share) + ' '), bar = add(cell, 'meter');
        bar.value = share;
        bar.setAttribute('aria-label', percent(share));
      }
    }
  }
}
const sprite = new Image(), chances = shared.chances && Uint8Array.from(atob(shared.chances), c => c.charCodeAt(0));
if (shared.sprite) { sprite.addEventListener('load', tell); sprite.src = shared.sprite; }
for (const id of ['controls', 'row-controls', 'attack-controls', 'rates']) if (el(id)) el(id).hidden = false;
for (const name of [...numbers, 'show']) {
  if (el(name)) el(name).addEventListener('input', event => change({[name]: name === 'show' ? event.target.value : Number(event.target.value)}));
}
el('row').addEventListener('input', event => {
  const at = event.target.value === '' ? -1 : Number(event.target.value);
  change({pinned: shared.datasets.rows[at] ? at : -1});
});
el('swap').addEventListener('click', () => change({a: state.b, b: state.a}));
for (const side of ['a', 'b']) {
  el('worst-' + side)?.addEventListener('click', () => {
    const of = state[side], best = shared.datasets.curves.reduce((x, y) => (y.score[of] ?? -1) > (x.score[of] ?? -1) ? y : x);
    change({feature: best.feature, direction: best.direction, at: best.at});
  });
}
document.addEventListener('keydown', event => { if (event.key === 'Escape') { change({pinned: -1, klass: -1, hovered: -1}); el('row').value = ''; } });
tell();
// Pictures come alive as they come into sight.
const seen = new IntersectionObserver(entries => {
  for (const entry of entries) if (entry.isIntersecting) { seen.unobserve(entry.target); show(entry.target); }
});
for (const panel of document.querySelectorAll('.view')) seen.observe(panel);
}
