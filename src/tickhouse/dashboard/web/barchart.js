// Bars, volume, indicators and marks on the charting library; knows nothing of where rows come from.

import { decimalsOf, instant } from "./format.js";

const HOLLOW = "rgba(0,0,0,0)";
const OLDER_FROM = 30;
const FEW = 60;
const RIGHT_OFFSET = 4;
const OWN_PANE_PX = 110;

let library;

/** Load the charting library once a page; it is served by the dashboard itself. */
export function ready() {
  library ??= import(new URL("/web/lightweight-charts.js", location.origin)).then(() => window.LightweightCharts);
  return library;
}

const seconds = (us) => us / 1e6;
const bar = (row) => ({ time: seconds(row.start), open: row.open, high: row.high, low: row.low, close: row.close });

export class BarChart {
  /**
   * @param charts the library, from `ready()`
   * @param node where to draw; its CSS variables are the colours
   * @param indicators entries of the catalogue
   */
  constructor(charts, node, indicators) {
    this.charts = charts;
    this.node = node;
    this.indicators = indicators;
    this.theme = this.colours();
    this.rows = [];
    this.marked = new Map();
    this.onOlder = () => {};
    this.onPoint = () => {};
    this.chart = charts.createChart(node, { autoSize: true, ...this.style() });
    this.bars = this.chart.addSeries(charts.CandlestickSeries, this.barStyle());
    this.volume = this.chart.addSeries(charts.HistogramSeries, {
      priceScaleId: "volume", priceFormat: { type: "volume" }, lastValueVisible: false, priceLineVisible: false,
    });
    this.volume.priceScale().applyOptions({ scaleMargins: { top: 0.82, bottom: 0 } });
    this.bars.priceScale().applyOptions({ scaleMargins: { top: 0.12, bottom: 0.22 } });
    this.lines = this.addLines();
    this.markers = charts.createSeriesMarkers(this.bars, []);
    this.chart.timeScale().subscribeVisibleLogicalRangeChange((range) => {
      if (range && range.from < OLDER_FROM && this.rows.length) this.onOlder();
    });
    this.chart.subscribeCrosshairMove(({ time }) => this.onPoint(this.at(time)));
  }

  /** One line an output; where it goes (over the price or in a pane of its own) is the catalogue's word. */
  addLines() {
    let pane = 0;
    const lines = this.indicators.flatMap((indicator, place) => {
      const own = indicator.pane !== "price";
      if (own) pane += 1;
      return indicator.outputs.map(({ output, column }, nth) => ({
        column, output, indicator, place, nth,
        series: this.chart.addSeries(this.charts.LineSeries, {
          ...this.lineStyle(place, nth, indicator.outputs.length),
          ...(own ? { priceFormat: { type: "custom", minMove: 1e-8, formatter: brief } } : {}),
        }, own ? pane : 0),
      }));
    });
    for (const each of this.chart.panes().slice(1)) each.setHeight(OWN_PANE_PX);
    return lines;
  }

  /** The theme's colours, read once: asking the browser for each bar would cost a style each time. */
  colours() {
    const style = getComputedStyle(this.node);
    const [up, down, flag, text, line, back, font, lines] = [
      "green-color", "red-color", "orange-color", "gray-text-color", "border-color", "background-color", "font",
      "chart-categorical-colors",
    ].map((name) => style.getPropertyValue(`--st-${name}`).trim());
    return { up, down, flag, text, line, back, font, lines: lines.split(","), upVolume: `${up}59`, downVolume: `${down}59` };
  }

  palette(place) {
    return this.theme.lines[place % this.theme.lines.length];
  }

  style() {
    const { text, line, font } = this.theme;
    return {
      layout: {
        background: { color: HOLLOW }, textColor: text, fontSize: 12, fontFamily: font, attributionLogo: true,
        panes: { separatorColor: line, separatorHoverColor: line },
      },
      grid: { vertLines: { visible: false }, horzLines: { color: `${line}80` } },
      rightPriceScale: { borderVisible: false },
      timeScale: { borderColor: line, timeVisible: true, rightOffset: RIGHT_OFFSET, minBarSpacing: 0.8 },
      crosshair: { mode: this.charts.CrosshairMode.Normal },
      localization: { timeFormatter: (time) => `${instant(time * 1e6)} UTC` },
    };
  }

  /** Rising bars are hollow, falling ones filled: told apart without colour. */
  barStyle() {
    const { up, down, back } = this.theme;
    return {
      upColor: back, borderUpColor: up, wickUpColor: up, downColor: down, borderDownColor: down, wickDownColor: down,
      lastValueVisible: false, priceLineVisible: false,
    };
  }

  /** The line at the newest price is our own: the library would draw it in the colour of a hollow bar's inside. */
  showLast() {
    const row = this.rows.at(-1);
    if (!row) return;
    const color = row.close < row.open ? this.theme.down : this.theme.up;
    const options = { price: row.close, color, axisLabelColor: color, axisLabelTextColor: this.theme.back };
    if (this.last) this.last.applyOptions(options);
    else this.last = this.bars.createPriceLine({ ...options, lineWidth: 1, lineStyle: this.charts.LineStyle.Dotted, title: "" });
  }

  lineStyle(place, nth, outputs) {
    return {
      color: this.palette(place), lineWidth: outputs > 1 && nth !== 1 ? 1 : 2,
      lineStyle: outputs > 1 && nth === 1 ? this.charts.LineStyle.Dotted : this.charts.LineStyle.Solid,
      lastValueVisible: false, priceLineVisible: false, crosshairMarkerVisible: false,
    };
  }

  restyle() {
    this.theme = this.colours();
    this.chart.applyOptions(this.style());
    this.bars.applyOptions(this.barStyle());
    for (const { series, place, nth, indicator } of this.lines) {
      series.applyOptions(this.lineStyle(place, nth, indicator.outputs.length));
    }
    this.volume.setData(this.rows.map((row) => this.volumeBar(row)));
    this.showLast();
    this.paintMarks();
  }

  volumeBar(row) {
    return { time: seconds(row.start), value: row.volume, color: row.close < row.open ? this.theme.downVolume : this.theme.upVolume };
  }

  /** Show these rows, oldest first; what is in view stays in view. */
  set(rows) {
    this.rows = rows;
    if (rows.length) this.setDecimals(rows);
    this.bars.setData(rows.map(bar));
    this.volume.setData(rows.map((row) => this.volumeBar(row)));
    for (const { series, column } of this.lines) series.setData(rows.map((row) => point(row, column)));
    this.showLast();
  }

  setDecimals(rows) {
    this.decimals = decimalsOf(rows.slice(-50).map((row) => row.close));
    this.bars.applyOptions({ priceFormat: { type: "price", precision: this.decimals, minMove: 10 ** -this.decimals } });
  }

  prepend(older) {
    const first = this.rows[0]?.start ?? Infinity;
    this.set(older.filter((row) => row.start < first).concat(this.rows));
  }

  /** Take one row: the bar that is open, a new one, or a revision of one long closed. */
  apply(row) {
    const place = this.placeOf(row.start);
    const known = this.rows[place];
    const old = known?.start === row.start ? known : undefined;
    // What was overtaken: an update of the open bar by the final one, a revision by a later one.
    if (old?.final && (!row.final || row.revision < old.revision)) return;
    const whole = old ? { ...old, ...row } : row;
    if (old) this.rows[place] = whole;
    else if (place === this.rows.length) this.rows.push(whole);
    else return this.set(this.rows.toSpliced(place, 0, whole)); // a bar that late trades made, between others
    if (!this.decimals) this.setDecimals(this.rows);
    const past = place < this.rows.length - 1;
    this.bars.update(bar(whole), past);
    this.volume.update(this.volumeBar(whole), past);
    if (!past) this.showLast();
    for (const { series, column } of this.lines) if (row[column] !== undefined) series.update(point(whole, column), past);
  }

  placeOf(start) {
    let [low, high] = [0, this.rows.length];
    if (!high || this.rows[high - 1].start < start) return high;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.rows[middle].start < start) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  at(time) {
    if (time === undefined) return undefined;
    const row = this.rows[this.placeOf(time * 1e6)];
    return row && seconds(row.start) === time ? row : undefined;
  }

  /** Mark the bars in which flagged trades lie: pairs of an instant (us) and how many. */
  mark(flagged) {
    for (const [instant, count] of flagged) {
      const row = this.rows[this.placeOf(instant + 1) - 1];
      if (row && instant < row.end) this.marked.set(row.start, (this.marked.get(row.start) ?? 0) + count);
    }
    this.paintMarks();
  }

  paintMarks() {
    const color = this.theme.flag;
    const shown = [...this.marked.keys()].sort((a, b) => a - b);
    if (shown.length === this.painted?.length && color === this.painted.color) return;
    this.painted = { length: shown.length, color };
    this.markers.setMarkers(shown.map((start) => ({ time: seconds(start), position: "aboveBar", shape: "circle", size: 0.3, color })));
  }

  /** Bring the bar of this instant into view. */
  goTo(instant) {
    const place = this.placeOf(instant + 1) - 1;
    const range = this.chart.timeScale().getVisibleLogicalRange();
    if (!range || place < 0) return;
    const half = (range.to - range.from) / 2;
    this.chart.timeScale().setVisibleLogicalRange({ from: place - half, to: place + half });
  }

  /** Bring into view what lies from this instant on (null = the newest), at a width that a few bars do not stretch. */
  frame(start) {
    const { length } = this.rows;
    const from = start ? this.placeOf(start) : length < FEW ? 0 : null;
    if (from !== null && from < length) {
      this.chart.timeScale().setVisibleLogicalRange({ from: Math.min(from - 1, length - FEW), to: length + RIGHT_OFFSET });
    }
  }

  close() {
    this.chart.remove();
  }
}

function point(row, column) {
  const value = row[column];
  return value === null || value === undefined ? { time: seconds(row.start) } : { time: seconds(row.start), value };
}

function brief(value) {
  const size = Math.abs(value);
  if (size !== 0 && size < 0.01) return value.toExponential(1);
  return value.toFixed(size < 1 ? 4 : 2);
}
