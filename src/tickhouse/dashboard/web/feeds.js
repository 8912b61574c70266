// How well the house is fed: connection, lag, rates and what was late, doubled, refused or missing, by instrument.

import { clock, instant, number } from "./format.js";
import { component, element, say } from "./mount.js";
import { get, select } from "./rest.js";
import { StateLine } from "./state.js";
import { now, Stream } from "./stream.js";

const EVENTS = 30;
const BALANCE_EVERY_MS = 1000;
const GAPS_EVERY_MS = 10_000;
const STORED = `SELECT clock, source, venue, symbol, event, detail FROM bronze.events ORDER BY clock DESC, "offset" DESC LIMIT ${EVENTS}`;
const COLUMNS = [
  ["symbol", "Instrument"],
  ["feed", "Feed"],
  ["rate", "Trades/s"],
  ["lag", "Lag"],
  ["accepted", "Accepted"],
  ["late", "of them late"],
  ["duplicate", "Duplicate"],
  ["rejected", "Rejected"],
  ["gaps", "Open gaps"],
];
const keyOf = (row) => `${row.venue}:${row.symbol}`;

class Feeds {
  constructor(root, data) {
    this.root = root;
    this.data = data;
    this.lines = new Map();
    this.events = [];
    this.state = new StateLine();
    this.build();
    this.stream = new Stream((connection) => {
      root.classList.toggle("stale", connection.state === "lost");
      this.state.connected(connection);
    });
    this.stream.subscribe(() => ({ channel: "feeds" }), ({ rows }) => rows && this.figures(rows));
    this.stream.subscribe(() => ({ channel: "events" }), ({ rows }) => rows && this.happened(rows));
    this.past().catch(() => {});
    this.timers = [
      every(BALANCE_EVERY_MS, () => this.balance().catch(() => {})),
      every(GAPS_EVERY_MS, () => this.gaps().catch(() => {})),
    ];
  }

  update(data) {
    this.data = data;
  }

  build() {
    this.sum = element("section", "sum");
    this.parts = Object.fromEntries(["received", "accepted", "duplicate", "rejected"].map((name, place) => {
      const figure = element("div", "figure");
      const value = element("strong", "", "–");
      figure.append(value, element("span", "", name));
      if (place) this.sum.append(element("i", "", place === 1 ? "=" : "+"));
      this.sum.append(figure);
      return [name, value];
    }));
    this.verdict = element("p", "verdict");
    this.off = element("span", "off");
    this.off.hidden = true;
    this.verdict.append(this.state.node, this.off);
    this.table = element("table");
    const head = element("tr");
    for (const [name, title] of COLUMNS) head.append(element("th", name, title));
    const top = element("thead");
    top.append(head);
    this.body = element("tbody");
    this.table.append(top, this.body);
    this.words = element("p", "words", this.data.empty);
    const wide = element("div", "wide");
    wide.append(this.table, this.words);
    this.gapList = panel("Gaps in trade ids", "No gap is known.");
    this.eventList = panel("What happened to the feeds", "Nothing yet.");
    const below = element("div", "below");
    below.append(this.gapList.node, this.eventList.node);
    this.root.append(this.sum, this.verdict, wide, below);
  }

  figures(rows) {
    this.table.hidden = !rows.length;
    this.tell(rows.length ? "" : this.data.empty);
    for (const row of rows) this.paint(row);
    this.state.traded(now() * 1000);
    this.state.feeds(rows);
  }

  paint(row) {
    let line = this.lines.get(keyOf(row));
    if (!line) {
      const node = element("tr");
      const cells = Object.fromEntries(COLUMNS.map(([name]) => [name, element("td", name)]));
      cells.symbol.append(element("b", "", row.symbol), element("small", "", row.venue));
      node.append(...Object.values(cells));
      this.body.append(node);
      this.lines.set(keyOf(row), (line = { node, cells }));
    }
    const { cells } = line;
    cells.feed.className = `feed ${row.connected ? "on" : row.connected === false ? "off" : ""}`;
    say(cells.feed, row.connected ? `● ${row.source}` : row.connected === false ? `◇ ${row.source}: disconnected` : row.source ?? "–");
    say(cells.rate, number(row.rate, 1));
    say(cells.lag, row.lag_us === null ? "–" : `${number(row.lag_us / 1000, row.lag_us < 10_000 ? 1 : 0)} ms`);
    say(cells.accepted, number(row.trades));
    for (const name of ["late", "duplicate", "rejected"]) figure(cells[name], row[name]);
    figure(cells.gaps, row.open_gaps);
  }

  /** Received = accepted + duplicate + rejected, or it is said aloud that it is not. */
  async balance() {
    const health = await get("health");
    const rejected = Object.values(health.rejected).reduce((sum, each) => sum + each, 0);
    for (const [name, value] of Object.entries({ ...health, rejected })) if (this.parts[name]) say(this.parts[name], number(value));
    const reasons = Object.entries(health.rejected).map(([reason, count]) => `${reason}: ${number(count)}`);
    this.parts.rejected.parentNode.title = reasons.join("\n");
    const off = health.received - health.accepted - health.duplicate - rejected;
    this.off.hidden = off === 0;
    say(this.off, `The balance is off by ${number(off)}: this is a fault of the house.`);
  }

  async gaps() {
    const { rows } = await get("gaps", { limit: 50 });
    const order = { open: 0, lost: 1, healed: 2 };
    rows.sort((a, b) => order[a.state] - order[b.state] || b.clock - a.clock);
    this.gapList.show(rows.slice(0, EVENTS).map((row) => [
      `${row.state === "open" ? "○" : row.state === "lost" ? "✕" : "✓"} ${row.state}`,
      `${row.symbol}  ids ${number(row.first_missing_id)} – ${number(row.last_missing_id)}`,
      instant(row.clock),
    ]));
  }

  /** Those stored before this page was opened. */
  async past() {
    const rows = await select(STORED, EVENTS);
    this.happened(rows.reverse());
  }

  happened(rows) {
    const known = new Map([...this.events, ...rows].map((row) => [JSON.stringify([row.clock, row.event, row.source, row.symbol, row.detail]), row]));
    this.events = [...known.values()].sort((a, b) => a.clock - b.clock).slice(-EVENTS);
    this.eventList.show([...this.events].reverse().map((row) => [
      row.event.replaceAll("_", " "),
      [row.source, row.symbol, row.event === "rules" ? "" : reason(row.detail)].filter(Boolean).join("  ·  "),
      instant(row.clock),
    ]));
  }

  tell(text) {
    this.words.hidden = !text;
    say(this.words, text);
  }

  close() {
    this.timers.forEach(clearInterval);
    this.state.close();
    this.stream.close();
  }
}

function every(ms, work) {
  work();
  return setInterval(work, ms);
}

function figure(cell, value) {
  cell.classList.toggle("none", !value);
  say(cell, number(value));
}

function reason(detail) {
  try {
    return JSON.parse(detail).reason ?? "";
  } catch {
    return "";
  }
}

function panel(title, none) {
  const node = element("section", "panel");
  const list = element("ol");
  const words = element("p", "words", none);
  node.append(element("h3", "", title), list, words);
  const show = (lines) => {
    words.hidden = lines.length > 0;
    list.replaceChildren(...lines.map((texts) => {
      const item = element("li");
      item.append(...texts.map((text, place) => element("span", ["what", "detail", "when"][place], text)));
      return item;
    }));
  };
  return { node, show };
}

export default component((root, data) => new Feeds(root, data));
