// Questions to the house's API over HTTP, through the dashboard's own port.

/** Return the answer of `GET /v1/<path>`; null parameters are left out. Throws an Error that says what the house said. */
export async function get(path, parameters = {}) {
  const given = Object.entries(parameters).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return answer(fetch(`/api/v1/${path}?${new URLSearchParams(given)}`));
}

/** Return the rows of one SELECT; with `asOf`, as they were known then. */
export async function select(sql, limit, asOf = null) {
  const body = JSON.stringify({ sql, limit, as_of: asOf });
  return (await answer(fetch("/api/v1/sql", { method: "POST", headers: { "content-type": "application/json" }, body }))).rows;
}

/** A text as SQL writes it. */
export function quoted(text) {
  return `'${text.replaceAll("'", "''")}'`;
}

async function answer(request) {
  const response = await request;
  const body = await response.json().catch(() => ({}));
  if (response.ok) return body;
  const error = new Error(body.detail ?? body.title ?? `the house answered ${response.status}`);
  error.status = response.status;
  throw error;
}
