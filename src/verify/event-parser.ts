import { BrokerProblem } from "./problem.ts";

/** One server-sent event. `id` is the last one that the stream named, up to and with this event. */
export interface StreamEvent {
  readonly type: string;
  readonly data: string;
  readonly id: string | undefined;
}

/**
 * Reads `text/event-stream` (WHATWG HTML §9.2.6) from pieces of any size. Gives the events that a piece completes. Throws
 * {@link BrokerProblem} when an event grows beyond `maxLength` characters, so that memory stays bounded.
 */
export function createEventParser(maxLength: number): (piece: string) => StreamEvent[] {
  let line: string[] = [];
  let data: string[] = [];
  let length = 0;
  let type = "";
  let id: string | undefined;
  let afterReturn = false;
  let isFirst = true;

  const endOfLine = (): StreamEvent | undefined => {
    const text = line.length === 1 ? (line[0] ?? "") : line.join("");
    line = [];
    if (text !== "") {
      readField(text);
      return undefined;
    }
    const event = { type: type === "" ? "message" : type, data: data.join("\n"), id };
    const isEmpty = data.length === 0;
    data = [];
    type = "";
    length = 0;
    return isEmpty ? undefined : event;
  };
  const readField = (text: string): void => {
    const colon = text.indexOf(":");
    if (colon === 0) return;
    const name = colon === -1 ? text : text.slice(0, colon);
    const value = colon === -1 ? "" : text.slice(colon + (text.charAt(colon + 1) === " " ? 2 : 1));
    if (name === "data") data.push(value);
    else if (name === "event") type = value;
    else if (name === "id" && !value.includes("\0")) id = value;
  };

  return (piece) => {
    const events: StreamEvent[] = [];
    let from = 0;
    if (isFirst && piece !== "") {
      isFirst = false;
      if (piece.charCodeAt(0) === 0xfeff) from = 1;
    }
    // A return and the line feed after it are one end of line, also when they come in two pieces.
    if (afterReturn && piece !== "") {
      afterReturn = false;
      if (piece.charAt(from) === "\n") from += 1;
    }
    const ends = /\r\n|\n|\r/g;
    ends.lastIndex = from;
    for (let end = ends.exec(piece); end !== null; end = ends.exec(piece)) {
      add(piece.slice(from, end.index));
      from = ends.lastIndex;
      afterReturn = end[0] === "\r" && from === piece.length;
      const event = endOfLine();
      if (event !== undefined) events.push(event);
    }
    if (from < piece.length) add(piece.slice(from));
    return events;
  };

  // Comments count too: they are lines, and a line of any kind could be endless.
  function add(text: string): void {
    length += text.length + 1;
    if (length > maxLength) throw new BrokerProblem("an event of the status stream is too long");
    line.push(text);
  }
}
