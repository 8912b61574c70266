// The trade tape: newest on top. Trades are kept as they come and painted once a frame, into rows that are made once.

import { element, say } from "./mount.js";
import { clock, number, size } from "./format.js";

const ROWS = 40;
const ROW_PX = 22;

export class Tape {
  /** `onPaint(received)`: told, after each frame, when the newest trades of the messages it took were received (us). */
  constructor(onPaint = () => {}) {
    this.onPaint = onPaint;
    this.decimals = 2;
    this.trades = [];
    this.received = [];
    this.node = element("div", "tape");
    this.node.append(this.head());
    this.list = element("ol");
    this.list.setAttribute("aria-label", "latest trades");
    this.rows = Array.from({ length: ROWS }, () => row());
    this.list.append(...this.rows.map((each) => each.node));
    this.empty = element("p", "words", "No trade yet.");
    this.node.append(this.list, this.empty);
    this.node.onpointerenter = (event) => event.pointerType === "mouse" && this.hold(true);
    this.node.onpointerleave = () => this.hold(false);
    this.paint = this.paint.bind(this);
    this.fits = ROWS;
    this.sized = new ResizeObserver(() => this.fit());
    this.sized.observe(this.list);
  }

  /** Paint as many rows as are seen. */
  fit() {
    this.fits = Math.min(ROWS, Math.ceil(this.list.clientHeight / ROW_PX));
    this.ask();
  }

  head() {
    const head = element("h3", "", "Trades");
    this.note = element("small");
    head.append(this.note);
    return head;
  }

  hold(held) {
    this.held = held;
    say(this.note, held ? "held while you point at it" : "");
    if (!held) this.ask();
  }

  reset(trades = []) {
    this.trades = trades.slice(-ROWS);
    this.ask();
  }

  add(trades, receivedAt) {
    this.trades = this.trades.concat(trades).slice(-ROWS);
    if (receivedAt) this.received.push(receivedAt);
    this.ask();
  }

  ask() {
    this.asked ??= requestAnimationFrame(this.paint);
  }

  paint() {
    this.asked = undefined;
    if (this.held) return;
    this.empty.hidden = this.trades.length > 0;
    for (let place = 0; place < this.fits; place++) fill(this.rows[place], this.trades.at(-1 - place), this.decimals);
    const received = this.received;
    this.received = [];
    if (received.length) this.onPaint(received);
  }

  close() {
    this.sized.disconnect();
    cancelAnimationFrame(this.asked);
  }
}

function row() {
  const node = element("li");
  const [time, side, price, amount] = ["time", "side", "price", "size"].map((name) => element("span", name));
  node.append(time, side, price, amount);
  return { node, time, side, price, amount };
}

function fill(row, trade, decimals) {
  row.node.hidden = !trade;
  if (!trade || row.trade === trade) return;
  row.trade = trade;
  row.node.className = `${trade.side ?? ""}${trade.anomaly ? " anomaly" : ""}${trade.late ? " late" : ""}`;
  row.node.title = trade.anomaly ? "an unusual price, see below" : trade.late ? "came late" : "";
  say(row.time, clock(trade.ts));
  say(row.side, trade.side === "buy" ? "▲" : trade.side === "sell" ? "▼" : "·");
  row.side.setAttribute("aria-label", trade.side ?? "side unknown");
  say(row.price, number(trade.price, decimals));
  say(row.amount, size(trade.size));
}
