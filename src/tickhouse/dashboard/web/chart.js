// The chart component: bars, tape and flagged trades of one instrument, live over the WebSocket or as they were known once.

import { Anomalies } from "./anomalies.js";
import { BarChart, ready } from "./barchart.js";
import { change, number } from "./format.js";
import { Legend } from "./legend.js";
import { component, element, say } from "./mount.js";
import { get, quoted, select } from "./rest.js";
import { StateLine } from "./state.js";
import { Stream } from "./stream.js";
import { Tape } from "./tape.js";

const PAGE = 500;
const DAY_PAGE = 1500;
const FLAGGED = 30;
const MARKS = 10_000;
const TRADED = 40;
const AGAIN_MS = 2000;
const TOO_MANY = 429;

class Chart {
  constructor(root, data) {
    this.root = root;
    this.state = new StateLine();
    this.updates = 0;
    this.build();
    this.update(data);
    this.scheme = matchMedia("(prefers-color-scheme: dark)");
    this.restyle = () => setTimeout(() => this.bars && (this.bars.restyle(), this.legend.restyle()), 50);
    this.scheme.addEventListener("change", this.restyle);
  }

  build() {
    this.quote = element("header", "quote");
    this.last = element("strong", "last", "–");
    this.moved = element("span", "moved");
    this.quote.append(this.last, this.moved, this.state.node);
    this.board = element("div", "board");
    this.frame = element("div", "frame");
    this.canvas = element("div", "canvas");
    this.words = element("p", "words", "loading …");
    this.frame.append(this.canvas, this.words);
    this.side = element("aside");
    this.board.append(this.frame, this.side);
    this.root.append(this.quote, this.board);
  }

  /** The script ran again: perhaps for another instrument, perhaps for nothing that matters here. */
  update(data) {
    const asked = JSON.stringify({ ...data, day: null });
    if (asked === this.asked) return this.restyle?.();
    const sameBars = this.data && ["symbol", "venue", "interval", "start", "end", "as_of"].every((key) => this.data[key] === data[key]);
    const view = sameBars ? this.bars?.chart.timeScale().getVisibleLogicalRange() : undefined;
    this.asked = asked;
    this.data = data;
    this.start(view);
  }

  /** Open, and again after a moment where the house does not answer now. */
  start(view) {
    this.leave();
    this.open(view).catch((error) => {
      this.fail(error);
      if (!error.status || error.status >= 500 || error.status === TOO_MANY) this.again = setTimeout(() => this.start(view), AGAIN_MS);
    });
  }

  async open(view) {
    const { data } = this;
    this.tell("loading …");
    say(this.last, "–");
    say(this.moved, "");
    this.root.classList.toggle("still", !data.live);
    const charts = await ready();
    if (data !== this.data) return;
    this.canvas.replaceChildren();
    const bars = (this.bars = new BarChart(charts, this.canvas, data.indicators));
    const legend = (this.legend = new Legend(bars));
    this.canvas.append(legend.node);
    this.anomalies = new Anomalies((ts) => bars.goTo(ts));
    this.tape = new Tape((received) => this.painted(received));
    this.side.replaceChildren(...(data.live ? [this.tape.node] : []), this.anomalies.node);
    const [page, flagged, traded] = await Promise.all([
      this.load(data.end),
      get("anomalies", { ...this.instrument(), ...this.when(), limit: FLAGGED }),
      data.live ? get("trades", { ...this.instrument(), limit: TRADED }) : null,
    ]);
    if (data !== this.data) return;
    this.more = this.isFull(page);
    bars.set(page.rows);
    if (view) bars.chart.timeScale().setVisibleLogicalRange(view);
    else bars.frame(data.start);
    bars.onOlder = () => this.older();
    bars.onPoint = (row) => legend.show(row ?? bars.rows.at(-1));
    this.anomalies.add(flagged.rows.filter((row) => row.ts >= (data.start ?? 0)), bars.decimals ?? 2);
    this.markBetween(bars.rows[0]?.start, data.end).catch((error) => console.warn(`marks: ${error.message}`));
    this.settled();
    if (!data.live) return;
    this.takeTrades(traded.rows, true);
    this.follow();
  }

  instrument() {
    return { symbol: this.data.symbol, venue: this.data.venue };
  }

  when() {
    return { as_of: this.data.as_of, end: this.data.end };
  }

  async load(end) {
    const page = await get("bars", {
      ...this.instrument(), interval: this.data.interval, as_of: this.data.as_of, end, limit: this.data.live ? PAGE : DAY_PAGE,
      indicators: this.data.indicators.length ? 1 : null, open: this.data.live && !end ? 1 : null,
    });
    return page;
  }

  /** Whether there may be older bars than those of a page. */
  isFull(page) {
    return page.rows.filter((row) => row.final).length === (this.data.live ? PAGE : DAY_PAGE);
  }

  /** The view has come near the oldest bar: fetch those before it. */
  async older() {
    if (!this.more || this.loading) return;
    const { bars, data } = this;
    this.loading = true;
    try {
      const page = await this.load(bars.rows[0].start);
      if (data !== this.data) return;
      this.more = this.isFull(page);
      const first = bars.rows[0].start;
      bars.prepend(page.rows);
      await this.markBetween(bars.rows[0].start, first);
      this.loading = false;
    } catch (error) {
      console.warn(`older bars: ${error.message}`);
      setTimeout(() => (this.loading = false), AGAIN_MS);
    }
  }

  /** Mark the bars in [from, to) that hold flagged trades; counted by the house, for there may be many. */
  async markBetween(from, to) {
    if (from === undefined) return;
    const { bars, data } = this;
    const step = bars.rows[0].end - bars.rows[0].start;
    const instant = (us) => `make_timestamptz(${us})`;
    const until = to ? `AND ts < ${instant(to)}` : "";
    const rows = await select(
      `SELECT epoch_us(ts) // ${step} * ${step} AS start, count(*) AS flagged FROM gold.anomalies WHERE symbol = ${quoted(data.symbol)} ` +
        `AND venue = ${quoted(data.venue)} AND ts >= ${instant(from)} ${until} GROUP BY ALL`,
      MARKS,
      data.as_of,
    );
    if (bars === this.bars) bars.mark(rows.map((row) => [row.start, row.flagged]));
  }

  follow() {
    const stream = (this.stream = new Stream((connection) => {
      this.root.classList.toggle("stale", connection.state === "lost");
      this.state.connected(connection);
    }));
    const { interval } = this.data;
    const on = (channel, more, take) =>
      stream.subscribe(() => ({ channel, ...this.instrument(), ...more() }), (message) => {
        if (message.type === "error") this.fail(new Error(message.detail ?? message.title));
        else this.updates++, take(message.rows, message.type === "snapshot", message.received_at);
      });
    const last = () => this.bars.rows.filter((row) => row.final !== false).at(-1)?.start ?? null;
    on("bars", () => ({ interval, indicators: this.data.indicators.length > 0, since: last() }), (rows) => this.takeBars(rows));
    on("trades", () => ({}), (rows, whole, receivedAt) => this.takeTrades(rows, whole, receivedAt));
    on("anomalies", () => ({}), (rows, whole) => this.flag(rows, whole));
    on("feeds", () => ({}), (rows) => this.takeFeeds(rows));
  }

  takeBars(rows) {
    for (const row of rows) this.bars.apply(row);
    this.settled();
  }

  takeTrades(rows, whole, receivedAt) {
    this.tape.decimals = this.bars.decimals ?? 2;
    if (!whole) this.tape.add(rows, receivedAt);
    else if (rows.length) this.tape.reset(rows);
    const newest = rows.at(-1);
    if (!newest) return;
    this.state.traded(newest.ts);
    this.price(newest.price);
  }

  takeFeeds(rows) {
    const { symbol, venue } = this.data;
    this.state.feeds(rows.filter((row) => row.symbol === symbol && (!venue || row.venue === venue)));
  }

  price(value) {
    say(this.last, number(value, this.bars.decimals ?? 2));
    const { day } = this.data;
    if (!day || day.change_pct === null) return;
    const percent = ((value / day.last_price) * (1 + day.change_pct / 100) - 1) * 100;
    this.quote.classList.toggle("down", percent < 0);
    say(this.moved, `${percent < 0 ? "▼" : "▲"} ${change(percent)} in 24 h`);
  }

  flag(rows, whole) {
    this.anomalies.add(rows, this.bars.decimals ?? 2);
    if (!whole) return this.bars.mark(rows.map((row) => [row.ts, 1]));
    // Connected again: what was flagged meanwhile is counted afresh.
    if (this.reconnected) {
      this.bars.marked.clear();
      this.markBetween(this.bars.rows[0]?.start).catch(() => {});
    }
    this.reconnected = true;
  }

  settled() {
    const newest = this.bars.rows.at(-1);
    this.legend.show(newest);
    if (newest && !this.tape.trades.length) this.price(newest.close);
    this.tell(newest ? "" : this.data.live ? "No bars yet: the first appears with the first trade." : "No bars were known for this day then.");
  }

  /** For measuring: when what a frame has shown was received, and when that frame was done. */
  painted(received) {
    if (!window.tickhousePaints) return;
    const channel = new MessageChannel();
    channel.port1.onmessage = () => window.tickhousePaints.push([received, performance.timeOrigin + performance.now()]);
    channel.port2.postMessage(0);
  }

  tell(text) {
    this.words.hidden = !text;
    say(this.words, text);
  }

  fail(error) {
    this.tell(error.message);
    this.root.classList.add("failed");
  }

  leave() {
    clearTimeout(this.again);
    this.stream?.close();
    this.tape?.close();
    this.bars?.close();
    this.bars = this.stream = undefined;
    this.state.feeds([]);
    this.loading = this.reconnected = false;
    this.root.classList.remove("failed", "stale");
  }

  close() {
    this.scheme.removeEventListener("change", this.restyle);
    this.state.close();
    this.leave();
  }
}

export default component((root, data) => new Chart(root, data));
