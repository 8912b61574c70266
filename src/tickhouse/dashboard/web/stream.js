// One WebSocket to the house, kept open: subscriptions survive a lost connection, and its state is always known.

const FIRST_WAIT_MS = 250;
const LONGEST_WAIT_MS = 5000;
// The relay sends a beat every two seconds, so silence this long is a dead connection and not a quiet market.
const SILENCE_MS = 6000;

let skewMs = 0;

/** Milliseconds since the epoch by the house's clock: the reader's own may be wrong. */
export function now() {
  return Date.now() + skewMs;
}

export class Stream {
  /** `onState({state, since, reason})`: state is "connecting", "live" or "lost", since when (ms). */
  constructor(onState) {
    this.onState = onState;
    this.subscriptions = new Map();
    this.next = 1;
    this.wait = FIRST_WAIT_MS;
    this.closed = false;
    this.state = { state: "connecting", since: Date.now(), reason: "" };
    this.wake = () => document.visibilityState === "visible" && this.state.state === "lost" && this.open();
    document.addEventListener("visibilitychange", this.wake);
    addEventListener("online", this.wake);
    this.open();
  }

  /** `request()` is asked again at each reconnect, so that it can name how far the page has come. Returns what ends it. */
  subscribe(request, onMessage) {
    const id = `s${this.next++}`;
    this.subscriptions.set(id, { request, onMessage });
    if (this.socket?.readyState === WebSocket.OPEN) this.send({ op: "subscribe", id, ...request() });
    return () => {
      this.subscriptions.delete(id);
      if (this.socket?.readyState === WebSocket.OPEN) this.send({ op: "unsubscribe", id });
    };
  }

  close() {
    this.closed = true;
    document.removeEventListener("visibilitychange", this.wake);
    removeEventListener("online", this.wake);
    clearTimeout(this.timer);
    clearInterval(this.watch);
    this.socket?.close();
  }

  open() {
    clearTimeout(this.timer);
    clearInterval(this.watch);
    this.socket?.close();
    const socket = new WebSocket(new URL("/api/v1/stream", location.href.replace(/^http/, "ws")));
    this.socket = socket;
    this.heard = performance.now();
    this.watch = setInterval(() => performance.now() - this.heard > SILENCE_MS && this.lose(socket, "nothing heard"), 1000);
    socket.onopen = () => {
      for (const [id, { request }] of this.subscriptions) this.send({ op: "subscribe", id, ...request() });
    };
    socket.onmessage = (event) => socket === this.socket && this.take(JSON.parse(event.data));
    socket.onclose = (event) => this.lose(socket, event.reason);
  }

  send(message) {
    this.socket.send(JSON.stringify(message));
  }

  take(message) {
    this.heard = performance.now();
    if (this.state.state !== "live") {
      this.wait = FIRST_WAIT_MS;
      this.change("live", "");
    }
    if (message.type === "beat") skewMs = message.now / 1000 - Date.now();
    else this.subscriptions.get(message.id)?.onMessage(message);
  }

  lose(socket, reason) {
    if (this.closed || socket !== this.socket) return;
    this.socket = undefined;
    clearInterval(this.watch);
    socket.close();
    if (this.state.state !== "lost") this.change("lost", reason);
    else if (reason) this.change("lost", reason, this.state.since);
    this.timer = setTimeout(() => this.open(), this.wait * (0.75 + Math.random() / 2));
    this.wait = Math.min(this.wait * 2, LONGEST_WAIT_MS);
  }

  change(state, reason, since = Date.now()) {
    this.state = { state, since, reason };
    this.onState(this.state);
  }
}
