// Numbers and times as they are shown. Times are UTC, from integer microseconds.

const MINUS = "\u2212";

/** Decimals that show these prices exactly, as far as eight significant digits go. */
export function decimalsOf(prices) {
  const magnitude = Math.floor(Math.log10(Math.abs(prices.at(-1)) || 1));
  const most = Math.min(8, Math.max(0, 7 - magnitude));
  let decimals = 0;
  for (const price of prices) {
    while (decimals <= most && Math.abs(price - Number(price.toFixed(decimals))) > Math.abs(price) * 1e-12) decimals++;
  }
  // Computed prices have no last digit: six significant ones then, two decimals at least.
  return decimals <= most ? decimals : Math.min(8, Math.max(2, 5 - magnitude));
}

const formats = [];

export function number(value, decimals = 0) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  // One formatter for each number of decimals: making one costs as much as hundreds of numbers.
  formats[decimals] ??= new Intl.NumberFormat("en-US", { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
  const text = formats[decimals].format(Math.abs(value));
  return value < 0 ? MINUS + text : text;
}

export function size(value) {
  if (value === null || value === undefined) return "–";
  if (value >= 1e6) return `${number(value / 1e6, 2)} M`;
  return number(value, value >= 1000 ? 0 : value >= 1 ? 3 : 5);
}

/** A change always carries its sign, so that it does not rest on colour. */
export function change(percent) {
  if (percent === null || percent === undefined) return "–";
  const shown = number(Math.abs(percent), 2);
  return `${shown === "0.00" ? "" : percent < 0 ? MINUS : "+"}${shown} %`;
}

export function clock(us, millis = false) {
  if (us === null || us === undefined) return "–";
  return new Date(us / 1000).toISOString().slice(11, millis ? 23 : 19);
}

export function instant(us) {
  return us === null || us === undefined ? "–" : new Date(us / 1000).toISOString().replace("T", " ").slice(0, 19);
}

/** "12 s", "3 min", "2 h", "5 days" */
export function span(seconds) {
  if (seconds < 90) return `${Math.max(0, Math.round(seconds))} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 129600) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} days`;
}
