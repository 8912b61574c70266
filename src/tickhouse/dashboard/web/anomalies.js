// The list of flagged trades beside the chart; a click brings one into view.

import { element } from "./mount.js";
import { instant, number } from "./format.js";

const MOST = 30;

export class Anomalies {
  constructor(onChoose) {
    this.onChoose = onChoose;
    this.rows = [];
    this.node = element("div", "anomalies");
    this.node.append(element("h3", "", "Unusual prices"));
    this.list = element("ol");
    this.words = element("p", "words", "None: no price was more than the detector's threshold away from those before it.");
    this.list.hidden = true;
    this.node.append(this.list, this.words);
  }

  add(rows, decimals) {
    const known = new Set(this.rows.map((row) => `${row.ts} ${row.value}`));
    const fresh = rows.filter((row) => !known.has(`${row.ts} ${row.value}`));
    this.rows = this.rows.concat(fresh).sort((a, b) => b.ts - a.ts).slice(0, MOST);
    this.decimals = decimals;
    if (fresh.length) this.asked ??= requestAnimationFrame(() => this.paint());
  }

  paint() {
    this.asked = undefined;
    this.words.hidden = this.rows.length > 0;
    this.list.hidden = !this.rows.length;
    this.list.replaceChildren(...this.rows.map((row) => this.item(row, this.decimals)));
  }

  item(row, decimals) {
    const item = element("li");
    const button = element("button");
    button.type = "button";
    button.title = `${row.detector}: ${number(row.score, 1)} deviations from ${number(row.baseline, decimals)}`;
    button.append(
      element("span", "time", instant(row.ts).slice(5)),
      element("span", "price", number(row.value, decimals)),
      element("span", "score", `${row.score > 0 ? "+" : ""}${number(row.score, 1)} σ`),
    );
    button.onclick = () => this.onChoose(row.ts);
    item.append(button);
    return item;
  }
}
