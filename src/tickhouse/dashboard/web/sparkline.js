// A small line of recent closes; its shape only, without axes.

const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT, EDGE] = [120, 28, 2];
const SEEN = 59;

export class Sparkline {
  constructor() {
    this.node = document.createElementNS(SVG, "svg");
    this.node.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    this.node.setAttribute("preserveAspectRatio", "none");
    this.node.setAttribute("class", "spark");
    this.node.setAttribute("aria-hidden", "true");
    this.line = document.createElementNS(SVG, "polyline");
    this.node.append(this.line);
    this.closes = [];
    this.ofBars = false;
  }

  /** Take the closes of bars, the newest price last. */
  set(closes) {
    this.closes = closes;
    this.ofBars = true;
    this.draw();
  }

  /** Move the end of the line to the newest price; before there are bars, the prices seen here are the line. */
  end(price) {
    if (this.closes.at(-1) === price) return;
    if (this.ofBars) this.closes[this.closes.length - 1] = price;
    else this.closes = [...this.closes.slice(-SEEN), price];
    this.draw();
  }

  draw() {
    const { closes } = this;
    if (closes.length < 2) return this.line.setAttribute("points", "");
    const [low, high] = [Math.min(...closes), Math.max(...closes)];
    const x = (place) => (EDGE + (place / (closes.length - 1)) * (WIDTH - 2 * EDGE)).toFixed(1);
    const y = (close) => (high === low ? HEIGHT / 2 : EDGE + ((high - close) / (high - low)) * (HEIGHT - 2 * EDGE)).toFixed(1);
    this.line.setAttribute("points", closes.map((close, place) => `${x(place)},${y(close)}`).join(" "));
    this.node.classList.toggle("down", closes.at(-1) < closes[0]);
  }
}
