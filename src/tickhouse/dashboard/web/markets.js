// The list of instruments with what they do now: searched and sorted here, so that typing asks nobody.

import { change, clock, decimalsOf, instant, number, span } from "./format.js";
import { component, element, say } from "./mount.js";
import { get, quoted, select } from "./rest.js";
import { Sparkline } from "./sparkline.js";
import { StateLine } from "./state.js";
import { Stream } from "./stream.js";
import { starred, toggle } from "./watchlist.js";

const SHOWN = 60;
const SPARKS_EVERY_MS = 60_000;
const LIST_EVERY_MS = 30_000;
const SPARK_US = 2 * 3600e6;
const SPARK_POINTS = 60;
const COLUMNS = [
  ["symbol", "Symbol", (row) => row.symbol],
  ["last", "Last", (row) => row.last_price],
  ["change", "24 h", (row) => row.change_pct],
  ["rate", "Trades/s", (row) => row.rate],
  ["trades", "Trades", (row) => row.trades],
  ["seen", "Last trade", (row) => row.last_ts],
];
const keyOf = (row) => `${row.venue}:${row.symbol}`;

class Markets {
  constructor(root, data, send) {
    this.root = root;
    this.data = data;
    this.send = send;
    this.rows = new Map();
    this.lines = new Map();
    this.stars = starred();
    this.sort = { column: "trades", falling: true };
    this.state = new StateLine();
    this.build();
    this.list();
    this.stream = new Stream((connection) => {
      root.classList.toggle("stale", connection.state === "lost");
      this.state.connected(connection);
      if (connection.state === "live") this.list();
    });
    this.stream.subscribe(() => ({ channel: "feeds" }), (message) => message.rows && this.figures(message.rows));
    this.timers = [setInterval(() => this.list(), LIST_EVERY_MS), setInterval(() => this.sparks(), SPARKS_EVERY_MS)];
  }

  update(data) {
    this.data = data;
  }

  build() {
    const bar = element("header", "find");
    this.search = element("input");
    Object.assign(this.search, { type: "search", placeholder: "Search symbols", autocomplete: "off", spellcheck: false });
    this.search.setAttribute("aria-label", "Search symbols");
    this.search.oninput = () => this.arrange();
    bar.append(this.search, this.state.node);
    this.table = element("table");
    this.table.append(this.head(), (this.body = element("tbody")));
    this.more = element("button", "more");
    this.more.onclick = () => this.arrange(Infinity);
    this.words = element("p", "words", "loading …");
    this.root.append(bar, this.table, this.words, this.more);
  }

  head() {
    const row = element("tr");
    row.append(element("th", "star"));
    this.headers = COLUMNS.map(([name, title]) => {
      const cell = element("th", name);
      const button = element("button", "", title);
      button.onclick = () => this.sortBy(name);
      cell.append(button);
      if (name === "last") row.append((this.length = element("th", "line")));
      row.append(cell);
      return [name, cell];
    });
    const head = element("thead");
    head.append(row);
    return head;
  }

  sortBy(column) {
    this.sort = { column, falling: this.sort.column === column ? !this.sort.falling : column !== "symbol" };
    this.arrange();
  }

  async list() {
    try {
      const { rows } = await get("symbols");
      for (const row of rows) this.take(row);
      this.arrange();
      await this.sparks();
    } catch (error) {
      console.warn(`markets: ${error.message}`);
      if (!this.rows.size) this.tell(error.message);
    }
  }

  take(row) {
    const known = this.rows.get(keyOf(row));
    // The price of a day ago follows from what the house says, so that the change can move with the price.
    const before = row.change_pct === null || row.change_pct === undefined ? null : row.last_price / (1 + row.change_pct / 100);
    const newer = known && known.last_ts > row.last_ts ? { last_price: known.last_price, last_ts: known.last_ts } : {};
    this.rows.set(keyOf(row), { ...known, ...row, before, ...newer });
  }

  figures(rows) {
    let isNew = false;
    let newest = null;
    for (const row of rows) {
      const known = this.rows.get(keyOf(row));
      isNew ||= !known;
      if (!known || row.last === null) continue;
      const moved = row.last !== known.last_price || row.trades !== known.counted;
      if (moved && row.clock) known.last_ts = Math.max(known.last_ts, row.last_ts ?? row.clock);
      if (known.counted !== undefined) known.trades += Math.max(0, row.trades - known.counted);
      Object.assign(known, { counted: row.trades, last_price: row.last, rate: row.rate, connected: row.connected });
      if (known.before) known.change_pct = (row.last / known.before - 1) * 100;
    }
    for (const row of this.rows.values()) newest = Math.max(newest, row.last_ts);
    this.state.traded(newest);
    this.state.feeds(rows);
    if (isNew) this.list();
    this.asked ??= requestAnimationFrame(() => this.paint());
  }

  arrange(most = SHOWN) {
    const asked = this.search.value.trim().toUpperCase();
    const value = COLUMNS.find(([name]) => name === this.sort.column)[2];
    const sign = this.sort.falling ? -1 : 1;
    const found = [...this.rows.values()].filter((row) => keyOf(row).toUpperCase().includes(asked));
    const star = (row) => (this.stars.has(keyOf(row)) ? 0 : 1);
    found.sort((a, b) => star(a) - star(b) || sign * compare(value(a), value(b)) || compare(a.symbol, b.symbol));
    this.shown = found.slice(0, most);
    this.body.replaceChildren(...this.shown.map((row) => this.line(keyOf(row)).node));
    for (const [name, cell] of this.headers) {
      cell.setAttribute("aria-sort", name !== this.sort.column ? "none" : this.sort.falling ? "descending" : "ascending");
    }
    this.more.hidden = found.length <= most;
    say(this.more, `${number(found.length - most)} more: show all`);
    this.table.hidden = !found.length;
    this.tell(found.length ? "" : !this.rows.size ? this.data.empty : `No symbol has “${asked}” in its name.`);
    this.paint();
  }

  line(key) {
    if (!this.lines.has(key)) this.lines.set(key, this.make(key));
    return this.lines.get(key);
  }

  make(key) {
    const row = this.rows.get(key);
    const node = element("tr");
    const star = element("button", "star");
    const link = element("a");
    const name = element("td", "symbol");
    const spark = new Sparkline();
    const cells = Object.fromEntries(COLUMNS.slice(1).map(([column]) => [column, element("td", column)]));
    link.href = `/chart?${new URLSearchParams({ symbol: key })}`;
    link.append(element("b", "", row.symbol), element("small", "", row.venue));
    name.append(link);
    node.onclick = (event) => this.open(event, key, star);
    star.onclick = () => this.star(key, star);
    node.append(wrap("star", star), name, wrap("line", spark.node), ...Object.values(cells));
    this.mark(star, key);
    return { node, spark, cells };
  }

  open(event, key, star) {
    if (event.target === star || event.ctrlKey || event.metaKey || event.button) return;
    event.preventDefault();
    this.send("open", key);
  }

  star(key, button) {
    toggle(key);
    this.stars = starred();
    this.mark(button, key);
    this.arrange();
  }

  mark(button, key) {
    const on = this.stars.has(key);
    say(button, on ? "★" : "☆");
    button.setAttribute("aria-pressed", String(on));
    button.setAttribute("aria-label", `${on ? "unwatch" : "watch"} ${key}`);
  }

  paint() {
    this.asked = undefined;
    const today = new Date().toISOString().slice(0, 10);
    for (const row of this.shown ?? []) {
      const { cells, spark } = this.line(keyOf(row));
      row.decimals ??= decimalsOf(spark.closes.length ? spark.closes.slice(-30) : [row.last_price]);
      say(cells.last, number(row.last_price, row.decimals));
      say(cells.change, change(row.change_pct));
      cells.change.classList.toggle("down", row.change_pct < 0);
      say(cells.rate, row.rate === undefined ? "–" : number(row.rate, 1));
      say(cells.trades, number(row.trades));
      const seen = instant(row.last_ts);
      say(cells.seen, seen.startsWith(today) ? clock(row.last_ts) : seen.slice(0, 16));
      spark.end(row.last_price);
    }
  }

  /** Recent closes, thinned by the house: of two hours, or of as many minutes as there are. */
  async sparks() {
    if (!this.shown?.length) return;
    const rows = [...this.rows.values()];
    const newest = Math.max(...rows.map((row) => row.last_ts));
    const age = newest - Math.min(...rows.map((row) => row.first_ts));
    const length = Math.min(age, SPARK_US);
    const { finest, usual } = this.data.intervals;
    const from = new Date((newest - length) / 1000).toISOString();
    say(this.length, span(length / 1e6));
    const found = await select(
      `SELECT venue, symbol, epoch_us(start) // ${Math.ceil(length / SPARK_POINTS) || 1} AS place, arg_max(close, start) AS close ` +
        `FROM gold.bars_latest WHERE interval = '${length < SPARK_US / 4 ? finest : usual}' AND date >= '${from.slice(0, 10)}' ` +
        `AND start >= '${from}' AND symbol IN (${this.shown.map((row) => quoted(row.symbol))}) GROUP BY ALL ORDER BY place`,
      SHOWN * SPARK_POINTS * 2,
    );
    const closes = Map.groupBy(found, keyOf);
    for (const row of this.shown) {
      const own = closes.get(keyOf(row))?.map((each) => each.close);
      if (own) this.line(keyOf(row)).spark.set([...own, row.last_price]);
      row.decimals = undefined;
    }
    this.paint();
  }

  tell(text) {
    this.words.hidden = !text;
    say(this.words, text);
  }

  close() {
    this.timers.forEach(clearInterval);
    cancelAnimationFrame(this.asked);
    this.state.close();
    this.stream.close();
  }
}

function wrap(className, node) {
  const cell = element("td", className);
  cell.append(node);
  return cell;
}

function compare(a, b) {
  if (a === b) return 0;
  if (a === null || a === undefined) return -1;
  if (b === null || b === undefined) return 1;
  return a < b ? -1 : 1;
}

export default component((root, data, send) => new Markets(root, data, send));
