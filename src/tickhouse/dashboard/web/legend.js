// What stands over the chart: the bar under the crosshair, or the newest, in numbers.

import { element, say } from "./mount.js";
import { change, instant, number, size } from "./format.js";

const MINUTE_US = 60e6;
const LOOK_BACK = 30;

export class Legend {
  constructor(chart) {
    this.chart = chart;
    this.node = element("div", "legend");
    this.bar = element("div", "bar");
    this.values = Object.fromEntries(["time", "O", "H", "L", "C", "change", "V"].map((name) => {
      const value = element("span", `value ${name}`);
      if (name.length === 1) this.bar.append(element("b", "", name));
      this.bar.append(value);
      return [name, value];
    }));
    this.indicators = element("div", "indicators");
    this.lines = chart.lines.map((line) => {
      const label = element("span", "label", line.nth ? line.output : line.indicator.indicator);
      const value = element("span", "value");
      const pair = element("span");
      pair.append(label, " ", value);
      this.indicators.append(pair);
      return { ...line, label, value };
    });
    this.unusual = element("span", "unusual");
    this.bar.append(this.unusual);
    this.node.append(this.bar, this.indicators);
    this.restyle();
  }

  restyle() {
    for (const { label, place } of this.lines) label.style.color = this.chart.palette(place);
  }

  show(row) {
    this.node.hidden = !row;
    if (!row) return;
    const { values } = this;
    const decimals = this.chart.decimals ?? 2;
    say(values.time, instant(row.start).slice(0, row.end - row.start < MINUTE_US ? 19 : 16));
    for (const [name, key] of [["O", "open"], ["H", "high"], ["L", "low"], ["C", "close"]]) say(values[name], number(row[key], decimals));
    say(values.V, size(row.volume));
    say(values.change, change((row.close / row.open - 1) * 100));
    const unusual = this.chart.marked.get(row.start);
    say(this.unusual, unusual ? `● ${unusual} unusual` : "");
    this.node.classList.toggle("down", row.close < row.open);
    for (const { value, column } of this.lines) {
      const found = row[column] ?? this.newest(row, column);
      say(value, found === null || found === undefined ? "–" : Math.abs(found) < 0.01 ? found.toPrecision(3) : number(found, decimals));
    }
  }

  /** An open bar has no indicators yet: those of the newest bar that has. */
  newest(row, column) {
    if (row.final) return undefined;
    return this.chart.rows.slice(-LOOK_BACK).findLast((each) => each[column] !== null && each[column] !== undefined)?.[column];
  }
}
