// xterm.js writes <style> elements, which the page's policy refuses. What it would put there goes
// into style sheets made by script, which the policy allows: the rules are the page's own.
(() => {
  const make = document.createElement.bind(document);

  function standIn() {
    const sheet = new CSSStyleSheet();
    document.adoptedStyleSheets.push(sheet);
    const node = make("span");
    node.hidden = true;
    let text = "";
    const write = (value) => {
      text = String(value);
      sheet.replaceSync(text);
    };
    for (const name of ["textContent", "innerText"]) {
      Object.defineProperty(node, name, { get: () => text, set: write });
    }
    Object.defineProperty(node, "sheet", { get: () => sheet });
    node.remove = () => {
      document.adoptedStyleSheets = document.adoptedStyleSheets.filter((one) => one !== sheet);
      Element.prototype.remove.call(node);
    };
    return node;
  }

  document.createElement = (name, options) =>
    String(name).toLowerCase() === "style" ? standIn() : make(name, options);
})();
