/**
 * Draws the charts of a report from the JSON in the same file. Text reaches the page by `textContent` and attributes
 * alone, so nothing in the JSON can become markup.
 */

/** @typedef {[x: number, y: number | null]} Point */
/** @typedef {{ name: string, points: Point[], colour?: number }} Series */
/** @typedef {{ at: number, what: string }[]} Events */
/**
 * @typedef {object} Scale
 * @property {(value: number) => number} at 0 to 1
 * @property {number[]} ticks
 * @property {(value: number) => string} text
 */
/**
 * @typedef {object} Chart
 * @property {Series[]} series
 * @property {'time' | 'ms'} x
 * @property {'linear' | 'log' | 'nines'} y
 * @property {(value: number) => string} text of a value
 * @property {boolean} [stacked]
 * @property {boolean} [dashed]
 * @property {'mean' | 'max'} [fold] of several seconds in the table
 */

const report = json('report');
const other = document.getElementById('report-b') ? json('report-b') : null;
const TABLE_ROWS = 200;

/** @param {string} id */
function json(id) {
  return JSON.parse(document.getElementById(id)?.textContent ?? 'null');
}

// How values are written.

/** @param {number} value */
function digits(value) {
  const size = Math.abs(value);
  if (Number.isInteger(value) && size < 1_000) return String(value);
  return value.toFixed(size < 0.1 ? 3 : size < 10 ? 2 : size < 100 ? 1 : 0);
}

/** @param {number} value */
function short(value) {
  const size = Math.abs(value);
  if (size < 1e3) return digits(value);
  if (size < 1e6) return `${digits(value / 1e3)}k`;
  return size < 1e9 ? `${digits(value / 1e6)}M` : `${digits(value / 1e9)}G`;
}

/** @param {number} ms */
function milliseconds(ms) {
  if (ms < 1e3) return `${digits(ms)} ms`;
  return ms < 60e3 ? `${digits(ms / 1e3)} s` : `${digits(ms / 60e3)} min`;
}

/** @param {number} bytes */
function size(bytes) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let unit = 0;
  for (; Math.abs(bytes) >= 1_024 && unit < units.length - 1; unit += 1) bytes /= 1_024;
  return `${digits(bytes)} ${units[unit]}`;
}

/** @param {number} share */
const percent = (share) => `${+(share * 100).toFixed(share > 0.99 ? 2 : 1)} %`;

/** The unit is in the title. @param {number} cores */
const cores = (cores) => digits(cores);

/** Minutes and seconds, or hours and minutes if it is long. @param {number} seconds @param {number} of */
function clock(seconds, of) {
  const two = (/** @type {number} */ number) => String(Math.floor(number)).padStart(2, '0');
  if (of <= 120) return `${digits(seconds)} s`;
  if (of <= 7_200) return `${Math.floor(seconds / 60)}:${two(seconds % 60)}`;
  return `${Math.floor(seconds / 3_600)}:${two((seconds / 60) % 60)} h`;
}

// Scales.

/** @param {number} most @param {number} wanted */
function step(most, wanted) {
  const rough = most / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  return power * ([1, 2, 5].find((factor) => factor * power >= rough) ?? 10);
}

/** A number on an axis, without noughts that say nothing. @param {string} text */
const trimmed = (text) => text.replace(/(\.\d*?)0+(?!\d)/, '$1').replace(/\.(?!\d)/, '');

/** @param {number} most @param {(value: number) => string} text @returns {Scale} */
function linear(most, text) {
  // Bytes are counted in steps of their own unit.
  const unit = text === size ? 1_024 ** Math.min(4, Math.floor(Math.log2(Math.max(most, 1)) / 10)) : 1;
  const by = step(most / unit || 1, 4) * unit;
  const end = Math.max(by, Math.ceil((most * 1.02) / by) * by);
  const ticks = Array.from({ length: Math.round(end / by) + 1 }, (_, number) => number * by);
  return { at: (value) => value / end, ticks, text: (value) => trimmed(text(value)) };
}

/** @param {number} end @param {number} width @returns {Scale} */
function time(end, width) {
  const steps = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 14_400, 28_800, 86_400];
  const by = steps.find((by) => (end / by) * 64 <= width) ?? step(end, 4);
  const ticks = Array.from({ length: Math.floor(end / by) + 1 }, (_, number) => number * by);
  return { at: (value) => value / end, ticks, text: (value) => clock(value, end) };
}

/** Logarithmic, from and to 1, 2 or 5 times a power of ten. @param {number} least @param {number} most @param {number} room */
function log(least, most, room) {
  const down = (/** @type {number} */ value) => {
    const power = 10 ** Math.floor(Math.log10(value));
    return power * ([5, 2, 1].find((factor) => factor * power <= value * 1.0001) ?? 1);
  };
  const up = (/** @type {number} */ value) => {
    const power = 10 ** Math.floor(Math.log10(value));
    return power * ([1, 2, 5, 10].find((factor) => factor * power >= value * 0.9999) ?? 10);
  };
  const from = down(least);
  let to = up(most);
  if (to <= from) to = from * 10;
  const span = Math.log(to / from);
  const factors = room / Math.log10(to / from) > 150 ? [1, 2, 5] : [1];
  const ticks = [];
  for (let power = Math.floor(Math.log10(from)); power <= Math.ceil(Math.log10(to)); power += 1) {
    for (const factor of factors) {
      const tick = factor * 10 ** power;
      if (tick >= from * 0.999 && tick <= to * 1.001) ticks.push(tick);
    }
  }
  return { at: (/** @type {number} */ value) => Math.log(Math.max(value, from) / from) / span, ticks, text: (/** @type {number} */ value) => trimmed(milliseconds(value)) };
}

/** Shares by the number of their nines: 90 % is as far from 99 % as that from 99.9 %. @returns {Scale} */
function nines() {
  const at = (/** @type {number} */ share) => Math.min(-Math.log10(1 - Math.min(share, 0.9999)) / 3, 1);
  return { at, ticks: [0, 0.5, 0.9, 0.99, 0.999], text: percent };
}

// What is charted.

/** @param {any} run @param {string} name @param {(second: any) => number | null} of @returns {Series} */
function timeline(run, name, of) {
  return { name, points: run.timeline.map((/** @type {any} */ second) => [second.at_s, of(second) ?? null]) };
}

/** @param {Record<string, any>} named @param {(value: any) => any} [times] @returns {Series[]} */
function distributions(named, times = (value) => value) {
  return Object.entries(named)
    .map(([name, value]) => ({ name: name.replaceAll('_', ' '), points: times(value)?.cdf ?? [] }))
    .filter(({ points }) => points.length > 1);
}

/** Of one run, or of both. @param {(second: any) => number | null} of @param {string} [name] */
function either(of, name = '') {
  if (!other) return [timeline(report, name, of)];
  return [timeline(report, 'A', of), timeline(other, 'B', of)];
}

/** @param {Series[]} series @param {(value: number) => string} text @param {Partial<Chart>} [more] @returns {Chart} */
const overTime = (series, text, more) => ({ series, x: 'time', y: 'linear', text, fold: 'mean', ...more });

/** @param {Series[]} series @returns {Chart} */
const distribution = (series) => ({ series, x: 'ms', y: 'nines', text: percent, dashed: true });

/** In this order, others after them. @template T @param {Record<string, T>} named @param {string[]} order @returns {Record<string, T>} */
function ordered(named, order) {
  const rank = (/** @type {string} */ name) => (order.includes(name) ? order.indexOf(name) : order.length);
  return Object.fromEntries(Object.entries(named).sort(([a], [b]) => rank(a) - rank(b)));
}

/** @param {string} name @returns {Chart} */
function chart(name) {
  const latency = /** @type {const} */ ({ y: 'log', fold: 'max' });
  if (other && name.startsWith('lane:')) {
    const lane = name.slice(5);
    return distribution(distributions({ A: report.lanes[lane], B: other.lanes[lane] }, (lane) => lane.latency));
  }
  if (other && name.startsWith('stage:')) {
    const stage = name.slice(6);
    return distribution(distributions({ A: report.connect.stages[stage], B: other.connect.stages[stage] }));
  }
  switch (name) {
    case 'messages':
      if (other) return overTime(either((second) => second.received), short);
      return overTime([timeline(report, 'received', (s) => s.received), timeline(report, 'sent', (s) => s.sent)], short);
    case 'latency':
      if (other) return overTime(either((second) => second.p95_ms), milliseconds, latency);
      return overTime(['p50', 'p95', 'p99'].map((p) => timeline(report, p, (s) => s[`${p}_ms`])), milliseconds, latency);
    case 'latency-p99':
      return overTime(either((second) => second.p99_ms), milliseconds, latency);
    case 'users': {
      const rungs = new Set(report.timeline.flatMap((/** @type {any} */ second) => Object.keys(second.rungs)));
      const order = ['udp', 'websocket', 'none'].filter((rung) => rungs.delete(rung));
      const series = [...order, ...rungs].map((rung) => timeline(report, rung, (s) => s.rungs[rung] ?? 0));
      for (const one of series) if (one.name === 'none') one.colour = 5;
      return overTime(series, short, { stacked: true });
    }
    case 'errors':
      return overTime(either((second) => second.errors, 'errors'), short, { fold: 'max' });
    case 'cpu':
      if (other) return overTime(either((second) => second.server_cpu), cores);
      return overTime([timeline(report, 'server', (s) => s.server_cpu), timeline(report, 'harness', (s) => s.harness_cpu)], cores);
    case 'memory':
      return overTime(either((second) => second.server_rss_bytes, 'resident'), size);
    case 'packets':
      return overTime(either((second) => second.packets_dropped, 'dropped'), short);
    case 'joins':
      return overTime(either((second) => second.joins, 'joined'), short);
    case 'latency-cdf':
      return distribution(distributions(ordered(report.lanes, ['reliable', 'lossy', 'messages']), (lane) => lane.latency));
    case 'connect-cdf': {
      const order = ['websocket', 'joined', 'first_message', 'ice', 'dtls', 'channel', 'ready'];
      return distribution(distributions(ordered(report.connect.stages, order)));
    }
    case 'recovery-cdf':
      return distribution(distributions(report.recovery.by_cause));
    case 'windows-cdf':
      return distribution(distributions(report.windows, (window) => window.latency));
    default:
      throw new Error(`no chart ${name}`);
  }
}

// Drawing.

/** @param {string} name @param {Record<string, string | number>} attributes @param {string} [text] */
function svg(name, attributes, text) {
  const element = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, String(value));
  if (text !== undefined) element.textContent = text;
  return element;
}

/**
 * The way of a line through points. Of all points in a column of pixels, those are kept that it shows: the first, the
 * lowest, the highest, the last. So no peak of a long run is lost.
 * @param {[number, number | null][]} points in pixels
 * @param {number | null} floor to which an area is closed
 */
function path(points, floor) {
  /** @type {string[]} */
  const out = [];
  /** @type {[number, number][]} */
  let run = [];
  const end = () => {
    if (run.length === 0) return;
    const kept = run.filter(([x, y], at) => {
      const column = Math.floor(x);
      const [before, after] = [run[at - 1], run[at + 1]];
      if (!before || !after || Math.floor(before[0]) !== column || Math.floor(after[0]) !== column) return true;
      return (y - before[1]) * (after[1] - y) < 0;
    });
    const line = kept.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join('L');
    if (floor === null) out.push(`M${line}${kept.length === 1 ? 'h0.1' : ''}`);
    else out.push(`M${kept[0][0].toFixed(1)} ${floor}L${line}V${floor}Z`);
    run = [];
  };
  for (const [x, y] of points) {
    if (y === null) end();
    else run.push([x, y]);
  }
  end();
  return out.join('');
}

/** Each series on those before it. @param {Series[]} series @returns {Series[]} */
function stacked(series) {
  const sums = /** @type {number[]} */ ([]);
  return series.map(({ points, ...rest }) => ({
    ...rest,
    points: points.map(([x, y], at) => [x, (sums[at] = (sums[at] ?? 0) + (y ?? 0))]),
  }));
}

/** The index of the last point at or before x. @param {Point[]} points @param {number} x */
function before(points, x) {
  let [low, high] = [0, points.length - 1];
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (points[middle][0] <= x) low = middle;
    else high = middle - 1;
  }
  return low;
}

/** @param {HTMLElement} figure */
function draw(figure) {
  const title = figure.querySelector('h3')?.textContent ?? '';
  const { series, ...kind } = chart(figure.dataset.chart ?? '');
  figure.querySelectorAll(':scope > :not(figcaption)').forEach((element) => element.remove());
  const values = series.flatMap(({ points }) => points.flatMap(([, y]) => (y === null ? [] : [y])));
  if (values.length === 0) {
    const none = document.createElement('p');
    none.className = 'none';
    none.textContent = 'There are no figures.';
    return figure.append(none);
  }
  const shown = kind.stacked ? stacked(series) : series;
  const width = Math.max(240, figure.clientWidth - 2 * parseFloat(getComputedStyle(figure).paddingLeft));
  const windows = kind.x === 'time' && !other ? rows(Object.values(report.windows)) : [];
  const beneath = windows.reduce((most, { row }) => Math.max(most, row + 1), 0) * ROW;
  const height = (width < 420 ? 200 : 240) + beneath;
  const edge = { left: 56, right: 12, top: 18, bottom: 24 + beneath };
  const [inner, tall] = [width - edge.left - edge.right, height - edge.top - edge.bottom];

  const reduce = (/** @type {(a: number, b: number) => number} */ of, /** @type {number[]} */ from, /** @type {number} */ start) =>
    from.reduce((a, b) => of(a, b), start);
  const xs = series.flatMap(({ points }) => points.map(([x]) => x));
  const x = kind.x === 'time' ? time(reduce(Math.max, xs, 1), inner) : log(reduce(Math.min, xs.filter((x) => x > 0), 1e6), reduce(Math.max, xs, 1e-3), inner);
  const tops = shown.flatMap(({ points }) => points.map(([, y]) => y ?? 0));
  const positive = values.filter((value) => value > 0);
  const y =
    kind.y === 'nines' ? nines()
    : kind.y === 'log' && positive.length > 0 ? log(reduce(Math.min, positive, 1e6), reduce(Math.max, positive, 1e-3), tall * 2)
    : linear(reduce(Math.max, tops, 0), kind.text);
  const px = (/** @type {number} */ value) => edge.left + x.at(value) * inner;
  const py = (/** @type {number} */ value) => edge.top + (1 - y.at(value)) * tall;

  const picture = svg('svg', { viewBox: `0 0 ${width} ${height}`, role: 'img', tabindex: 0, 'aria-label': summary(title, series, kind) });
  if (kind.x === 'time') shade(picture, px, edge.top, tall, x);
  for (const tick of y.ticks) {
    picture.append(svg('line', { class: 'grid', x1: edge.left, x2: width - edge.right, y1: py(tick), y2: py(tick) }));
    picture.append(svg('text', { x: edge.left - 6, y: py(tick) + 4, 'text-anchor': 'end' }, y.text(tick)));
  }
  let free = -Infinity;
  for (const tick of x.ticks) {
    picture.append(svg('line', { class: 'grid', x1: px(tick), x2: px(tick), y1: edge.top + tall, y2: edge.top + tall + 4 }));
    const text = x.text(tick);
    const half = text.length * 3.2;
    // The first and the last are kept inside, and none is written over another.
    const middle = Math.min(px(tick), width - half);
    if (middle - half < free) continue;
    picture.append(svg('text', { x: middle, y: height - 6, 'text-anchor': 'middle' }, text));
    free = middle + half + 8;
  }
  const floor = edge.top + tall;
  const colour = (/** @type {number} */ number) => `s${(series[number].colour ?? number) % 8}`;
  const drawn = shown.map(({ points }, number) => {
    const way = /** @type {[number, number | null][]} */ (points.map(([at, value]) => [px(at), value === null ? null : py(value)]));
    const dash = kind.dashed ? ` dash-${number % 4}` : '';
    return svg('path', { class: `${kind.stacked ? 'area' : `series${dash}`} ${colour(number)}`, d: path(way, kind.stacked ? floor : null) });
  });
  // Where a pixel holds many seconds, their means are drawn upon their extremes.
  const many = kind.x === 'time' && !kind.stacked ? Math.floor((4 * series[0].points.length) / inner) : 0;
  if (many > 4) {
    drawn.forEach((line) => line.classList.add('faint'));
    drawn.push(...shown.map(({ points }, number) => {
      const way = /** @type {[number, number | null][]} */ ([]);
      for (let start = 0; start < points.length; start += many) {
        const known = points.slice(start, start + many).flatMap(([at, value]) => (value === null ? [] : [[px(at), py(value)]]));
        const middle = (/** @type {number} */ axis) => known.reduce((sum, at) => sum + at[axis], 0) / known.length;
        way.push(known.length > 0 ? [middle(0), middle(1)] : [px(points[start][0]), null]);
      }
      return svg('path', { class: `series ${colour(number)}`, d: path(way, null) });
    }));
  }
  // Areas reach down to the floor: the highest first.
  picture.append(...(kind.stacked ? drawn.reverse() : drawn));
  if (kind.x === 'time' && !other) mark(picture, px, edge.top, floor, windows);
  const cursor = svg('line', { class: 'cursor', y1: edge.top, y2: floor, visibility: 'hidden' });
  picture.append(cursor);

  const legend = document.createElement('ul');
  legend.className = 'legend';
  legend.setAttribute('aria-live', 'polite');
  const labels = series.map(({ name }, number) => {
    const item = document.createElement('li');
    const label = document.createElement('span');
    const dash = kind.dashed ? ` dash-${number % 4}` : '';
    const sample = svg('svg', { viewBox: '0 0 24 8', 'aria-hidden': 'true' });
    sample.append(
      kind.stacked
        ? svg('rect', { class: `area ${colour(number)}`, width: 24, height: 8 })
        : svg('path', { class: `series${dash} ${colour(number)}`, d: 'M1 4H23' }),
    );
    label.textContent = name;
    item.append(sample, label);
    legend.append(item);
    return label;
  });
  const where = document.createElement('li');
  legend.append(where);

  /** Points at a place and says the values there. @param {number | null} at */
  const point = (at) => {
    cursor.setAttribute('visibility', at === null ? 'hidden' : 'visible');
    if (at !== null) for (const end of ['x1', 'x2']) cursor.setAttribute(end, String(px(at)));
    series.forEach(({ name, points }, number) => {
      const value = at === null ? null : points[before(points, at)][1];
      labels[number].textContent = at === null ? name : `${name} ${value === null ? '–' : kind.text(value)}`;
    });
    where.textContent = at === null ? '' : `at ${kind.x === 'time' ? clock(at, reduce(Math.max, xs, 1)) : milliseconds(at)}`;
  };
  const stops = [...new Set(xs)].sort((a, b) => a - b);
  let stop = -1;
  const go = (/** @type {number} */ to) => {
    stop = Math.max(0, Math.min(stops.length - 1, to));
    point(stops[stop]);
  };
  picture.addEventListener('pointermove', (event) => {
    const box = picture.getBoundingClientRect();
    const share = ((event.clientX - box.left) * (width / box.width) - edge.left) / inner;
    go(nearest(stops, x, share));
  });
  picture.addEventListener('pointerleave', () => point(null));
  picture.addEventListener('blur', () => point(null));
  picture.addEventListener('keydown', (event) => {
    const far = Math.max(1, Math.round(stops.length / 20));
    const by = { ArrowLeft: -1, ArrowRight: 1, PageUp: -far, PageDown: far, Home: -stops.length, End: stops.length }[event.key];
    if (by === undefined) return;
    event.preventDefault();
    go(stop + by);
  });
  figure.append(picture, legend, table(title, series, kind));
}

/** The index of the stop that is drawn nearest to a share of the width. @param {number[]} stops @param {Scale} x @param {number} share */
function nearest(stops, x, share) {
  let [low, high] = [0, stops.length - 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (x.at((stops[middle] + stops[middle + 1]) / 2) < share) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** What the chart shows, in words. @param {string} title @param {Series[]} series @param {Omit<Chart, 'series'>} kind */
function summary(title, series, kind) {
  const parts = series.map(({ name, points }) => {
    if (kind.x === 'ms') {
      const reached = (/** @type {number} */ share) => points.find(([, y]) => (y ?? 0) >= share)?.[0] ?? points[points.length - 1][0];
      return `${name}: half within ${milliseconds(reached(0.5))}, 99 % within ${milliseconds(reached(0.99))}`;
    }
    const known = points.flatMap(([, y]) => (y === null ? [] : [y])).sort((a, b) => a - b);
    if (known.length === 0) return `${name}: no figures`;
    return `${name}: ${kind.text(known[0])} to ${kind.text(known[known.length - 1])}, median ${kind.text(known[known.length >> 1])}`;
  });
  return `${title}. ${parts.join('; ')}. Arrow keys read single values.`;
}

/** The time in which not all users were there. @param {Element} picture @param {(x: number) => number} px @param {number} top @param {number} tall @param {Scale} x */
function shade(picture, px, top, tall, x) {
  const { ramp_s: ramp, hold_s: hold } = report.scenario;
  const end = edgeOf(x);
  for (const [from, until] of [[0, ramp], [ramp + hold, end]]) {
    const [left, right] = [px(Math.min(from, end)), px(Math.min(until, end))];
    if (right - left > 0.5) picture.append(svg('rect', { class: 'shade', x: left, y: top, width: right - left, height: tall }));
  }
}

/** The value at the right edge of a scale that begins at 0. @param {Scale} x */
const edgeOf = (x) => 1 / x.at(1);

/** Height of a row of windows. */
const ROW = 14;

/**
 * Windows of time with their letters, in rows so that none lies on another.
 * @param {{ from_s: number, until_s: number }[]} windows
 */
function rows(windows) {
  /** @type {number[]} */
  const ends = [];
  return windows.slice(0, 26).map(({ from_s: from, until_s: until }, number) => {
    const free = ends.findIndex((end) => end <= from);
    const row = free < 0 ? ends.length : free;
    ends[row] = until;
    return { from, until, row, letter: String.fromCharCode(65 + number) };
  });
}

/**
 * Events as numbered lines, windows as lettered bars beneath the axis.
 * @param {Element} picture
 * @param {(x: number) => number} px
 * @param {number} top
 * @param {number} floor
 * @param {ReturnType<typeof rows>} windows
 */
function mark(picture, px, top, floor, windows) {
  for (const { from, until, row, letter } of windows) {
    const [left, y] = [px(from), floor + 5 + row * ROW];
    const width = Math.max(12, px(until) - left);
    picture.append(svg('rect', { class: 'window', x: left, y, width, height: ROW - 2, rx: 2 }));
    picture.append(svg('text', { x: left + width / 2, y: y + 10, 'text-anchor': 'middle' }, letter));
  }
  let free = -Infinity;
  report.scenario.events.forEach((/** @type {any} */ event, /** @type {number} */ number) => {
    const at = px(event.at_s);
    const line = svg('line', { class: 'event', x1: at, x2: at, y1: top, y2: floor });
    line.append(svg('title', {}, event.what));
    picture.append(line);
    if (at - 8 < free) return;
    picture.append(svg('text', { x: at, y: top - 5, 'text-anchor': 'middle' }, String(number + 1)));
    free = at + 8;
  });
}

/** The same figures as a table, made when it is opened. @param {string} title @param {Series[]} series @param {Omit<Chart, 'series'>} kind */
function table(title, series, kind) {
  const details = document.createElement('details');
  const summary = document.createElement('summary');
  summary.textContent = 'As a table';
  details.append(summary);
  details.addEventListener('toggle', () => {
    if (!details.open || details.childElementCount > 1) return;
    const region = document.createElement('div');
    region.className = 'table';
    region.tabIndex = 0;
    region.setAttribute('role', 'region');
    region.setAttribute('aria-label', title);
    region.append(kind.x === 'time' ? seconds(series, kind) : percentiles(series));
    details.append(region);
  });
  return details;
}

/** @param {string} caption @param {string[]} head @param {string[][]} rows */
function cells(caption, head, rows) {
  const table = document.createElement('table');
  table.createCaption().textContent = caption;
  /** @param {HTMLTableRowElement} row @param {string[]} texts @param {boolean} isHead */
  const fill = (row, texts, isHead) => {
    texts.forEach((text, column) => {
      const cell = document.createElement(isHead || column === 0 ? 'th' : 'td');
      if (cell.tagName === 'TH') cell.setAttribute('scope', isHead ? 'col' : 'row');
      if (column > 0) cell.className = 'n';
      cell.textContent = text;
      row.append(cell);
    });
  };
  fill(table.createTHead().insertRow(), head, true);
  const body = table.createTBody();
  for (const row of rows) fill(body.insertRow(), row, false);
  return table;
}

/** @param {Series[]} series @param {Omit<Chart, 'series'>} kind */
function seconds(series, kind) {
  const longest = series.reduce((a, b) => (b.points.length > a.points.length ? b : a));
  const by = Math.max(1, Math.ceil(longest.points.length / TABLE_ROWS));
  const end = longest.points[longest.points.length - 1][0];
  const rows = [];
  for (let start = 0; start < longest.points.length; start += by) {
    const values = series.map(({ points }) => {
      const known = points.slice(start, start + by).flatMap(([, y]) => (y === null ? [] : [y]));
      if (known.length === 0) return '–';
      return kind.text(kind.fold === 'max' ? Math.max(...known) : known.reduce((a, b) => a + b) / known.length);
    });
    rows.push([clock(longest.points[start][0], end), ...values]);
  }
  const caption = by === 1 ? 'Each second' : `The ${kind.fold === 'max' ? 'highest' : 'mean'} of each ${by} seconds`;
  return cells(caption, ['time', ...series.map(({ name }) => name)], rows);
}

/** @param {Series[]} series */
function percentiles(series) {
  const shares = [0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1];
  const rows = shares.map((share) => [
    percent(share),
    ...series.map(({ points }) => {
      const point = points.find(([, y]) => (y ?? 0) >= share);
      return point ? milliseconds(point[0]) : '–';
    }),
  ]);
  return cells('Time within which a share was done', ['share', ...series.map(({ name }) => name)], rows);
}

const figures = /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll('figure.chart'));
let drawnAt = 0;
const redraw = () => {
  const width = document.documentElement.clientWidth;
  // Scroll bars and keyboards of phones change the height alone.
  if (width === drawnAt) return;
  drawnAt = width;
  figures.forEach(draw);
};
redraw();
addEventListener('resize', () => requestAnimationFrame(redraw));
