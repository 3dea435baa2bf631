/** One element of an answer. `text` is its own, without that of its children. */
export interface Xml {
  readonly name: string;
  readonly text: string;
  readonly children: readonly Xml[];
}

const MAX_DEPTH = 16;
const DECLARATION = /^\uFEFF?\s*(<\?xml [^<>]*\?>)?/;
const TOKEN = /<(\/?)([A-Za-z][\w.-]*)(?:\s+[\w:.-]+="[^"<]*")*\s*(\/?)>|([^<]+)/y;

/**
 * Reads the XML that AWS answers with: elements and text, nothing else. Undefined for everything else, such as HTML, an entity
 * of its own, a comment, half a document, or one that is nested deeper than any answer is.
 */
export function parseXml(document: string): Xml | undefined {
  const open: { name: string; text: string; children: Xml[] }[] = [{ name: "", text: "", children: [] }];
  const token = new RegExp(TOKEN);
  token.lastIndex = DECLARATION.exec(document)?.[0].length ?? 0;
  while (token.lastIndex < document.length) {
    const found = token.exec(document);
    const top = open.at(-1);
    if (found === null || top === undefined) return undefined;
    const [, closing, name, alone, text] = found;
    if (text !== undefined) {
      const decoded = decode(text);
      if (decoded === undefined) return undefined;
      top.text += decoded;
    } else if (closing === "/") {
      open.pop();
      if (open.length === 0 || top.name !== name || alone === "/") return undefined;
      open.at(-1)?.children.push(top);
    } else {
      const element = { name: name ?? "", text: "", children: [] };
      if (alone === "/") top.children.push(element);
      else if (open.push(element) > MAX_DEPTH) return undefined;
    }
  }
  const [root] = open;
  if (open.length !== 1 || root === undefined || root.children.length !== 1 || root.text.trim() !== "")
    return undefined;
  return root.children[0];
}

/** The only child of these names, one below the other. Undefined when there is none, or more than one. */
export function childOf(xml: Xml | undefined, ...path: readonly string[]): Xml | undefined {
  let at = xml;
  for (const name of path) {
    const found = at?.children.filter((child) => child.name === name) ?? [];
    at = found.length === 1 ? found[0] : undefined;
  }
  return at;
}

const ENTITIES: Readonly<Record<string, string>> = { lt: "<", gt: ">", amp: "&", quot: '"', apos: "'" };

function decode(text: string): string | undefined {
  let known = true;
  const decoded = text.replaceAll(
    /&(?:#x([0-9A-Fa-f]{1,5})|#([0-9]{1,6})|([a-z]{2,4}));|&/g,
    (_all, hex, dec, name) => {
      const character =
        hex !== undefined || dec !== undefined
          ? String.fromCodePoint(hex === undefined ? Number(dec) : Number.parseInt(hex, 16))
          : ENTITIES[name as string];
      if (character === undefined) known = false;
      return character ?? "";
    },
  );
  return known ? decoded : undefined;
}
