// Says in words whether what is on the screen is live. Shape and text carry it, colour only helps.

import { element, say } from "./mount.js";
import { span } from "./format.js";
import { get } from "./rest.js";
import { now } from "./stream.js";

const QUIET_S = 60;
const ASK_EVERY_MS = 10_000;

export class StateLine {
  constructor() {
    this.node = element("span", "state connecting");
    this.node.setAttribute("role", "status");
    this.dot = element("i", "dot");
    this.words = element("span", "", "connecting …");
    this.node.append(this.dot, this.words);
    this.connection = { state: "connecting" };
    this.lastTrade = null;
    this.timer = setInterval(() => this.paint(), 1000);
  }

  /** What the stream says of itself. */
  connected(connection) {
    this.connection = connection;
    this.paint();
  }

  /** When the newest trade on the screen happened, microseconds; null = none yet. */
  traded(us) {
    this.lastTrade = us;
  }

  /** The rows of the `feeds` channel that the screen is about. */
  feeds(rows) {
    const every = (is) => rows.length > 0 && rows.every(is);
    this.feed = every((row) => row.connected === false) ? false : every((row) => row.connected) ? true : null;
    this.isClosed = every((row) => row.market === "closed");
  }

  paint() {
    const [kind, words, why] = this.found();
    this.node.className = `state ${kind}`;
    this.node.title = why;
    say(this.words, words);
  }

  found() {
    const { state, since, reason } = this.connection;
    if (state === "connecting") return ["connecting", "connecting …", "waiting for the house"];
    if (state === "lost") {
      const ago = span((Date.now() - since) / 1000);
      return ["lost", `connection lost ${ago} ago · trying again`, reason || "figures are those of then"];
    }
    if (this.feed === false) return ["quiet", "the feed is disconnected", "the house runs, its source does not deliver"];
    if (this.health?.status === "failed") return ["lost", "the house cannot be followed", this.health.detail];
    if (this.lastTrade === null) return ["live", "live · no trade yet", "connected"];
    const quiet = now() / 1000 - this.lastTrade / 1e6;
    if (quiet > QUIET_S) {
      this.ask();
      if (this.health?.running === false) return ["quiet", `nobody writes this house · last trade ${span(quiet)} ago`, this.health.detail];
      if (this.isClosed) return ["quiet", `market closed · last trade ${span(quiet)} ago`, "outside the hours of its venue"];
      const why = "nobody has traded since; a market is called closed where the hours of its venue are set";
      return ["quiet", `no trade for ${span(quiet)}${this.feed ? " · feed connected" : ""}`, why];
    }
    return ["live", "live", "connected; painted as it comes"];
  }

  /** Ask why nothing comes, now and then. */
  ask() {
    if (Date.now() - (this.askedAt ?? 0) < ASK_EVERY_MS) return;
    this.askedAt = Date.now();
    get("health").then((health) => (this.health = health), () => {});
  }

  close() {
    clearInterval(this.timer);
  }
}
