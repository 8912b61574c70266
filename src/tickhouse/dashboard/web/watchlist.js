// Which instruments the reader has starred; kept in this browser.

const KEY = "tickhouse.watchlist";

export function starred() {
  try {
    return new Set(JSON.parse(localStorage.getItem(KEY) ?? "[]"));
  } catch {
    return new Set();
  }
}

/** Star or unstar; returns whether it is starred now. */
export function toggle(key) {
  const stars = starred();
  if (!stars.delete(key)) stars.add(key);
  localStorage.setItem(KEY, JSON.stringify([...stars]));
  return stars.has(key);
}
