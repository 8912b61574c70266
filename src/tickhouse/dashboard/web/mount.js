// How a component lives in a Streamlit page: made once, told of new data as often as the script runs, closed when it leaves.

const living = new WeakMap();

/** Turn `make(root, data, send)` -> {update(data, theme), close()} into what Streamlit calls. */
export function component(make) {
  return ({ parentElement, data, setTriggerValue }) => {
    let part = living.get(parentElement);
    if (!part) {
      const root = element("div", "house");
      parentElement.append(root);
      part = make(root, data, setTriggerValue);
      root.component = part; // for a debugger, and for the tests
      living.set(parentElement, part);
    } else {
      part.update(data);
    }
    return () => {
      part.close();
      living.delete(parentElement);
    };
  };
}

/** Make an element; text goes in as text, never as markup. */
export function element(tag, className = "", text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

/** Set text only where it differs: an unchanged node costs no layout. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}
