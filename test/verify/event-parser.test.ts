import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { createEventParser, type StreamEvent } from "../../src/verify/event-parser.ts";

const eventsOf = (pieces: readonly string[], maxLength = 10_000): StreamEvent[] => {
  const parse = createEventParser(maxLength);
  return pieces.flatMap((piece) => parse(piece));
};

describe("an event stream (WHATWG HTML §9.2.6)", () => {
  test.each<[string, string, Partial<StreamEvent>[]]>([
    ["has a type, an id and data", "event: a\nid: 1\ndata: x\n\n", [{ type: "a", id: "1", data: "x" }]],
    ["has the type message by default", "data: x\n\n", [{ type: "message", id: undefined, data: "x" }]],
    ["joins lines of data", "data: x\ndata\ndata:y\n\n", [{ data: "x\n\ny" }]],
    ["drops one space alone", "data:  x\n\n", [{ data: " x" }]],
    [
      "keeps the id for later events, not the type",
      "event: a\nid: 1\ndata: x\n\ndata: y\n\n",
      [{ id: "1" }, { type: "message", id: "1" }],
    ],
    ["has no event without data", "event: a\nid: 1\n\ndata: x\n\n", [{ type: "message", id: "1", data: "x" }]],
    ["ignores comments and unknown fields", ": x\nretry: 1\nother: y\ndata: x\n\n", [{ data: "x" }]],
    ["ignores an id with NUL", "id: a\0b\ndata: x\n\n", [{ id: undefined }]],
    ["begins after a byte order mark", "\ufeffdata: x\n\n", [{ data: "x" }]],
    ["ends lines as it likes", "data: x\r\ndata: y\rdata: z\n\r\n", [{ data: "x\ny\nz" }]],
    ["does not give an event that is not ended", "data: x\n", []],
  ])("%s", (_what, text, events) => {
    expect(eventsOf([text])).toMatchObject(events);
    expect(eventsOf([text])).toHaveLength(events.length);
  });

  test("says the same however it is cut into pieces", () => {
    const parts = fc.constantFrom(
      "data: x",
      "id: 7",
      "event: alive",
      ":",
      "\n",
      "\r",
      "\r\n",
      "\n\n",
      "data",
      "é€😀",
      "\ufeff",
    );
    const texts = fc.array(parts, { maxLength: 30 }).map((all) => all.join(""));
    fc.assert(
      fc.property(texts, fc.array(fc.integer({ min: 1, max: 5 }), { minLength: 1, maxLength: 100 }), (text, sizes) => {
        const pieces: string[] = [];
        for (let at = 0, turn = 0; at < text.length; turn += 1) {
          const size = sizes[turn % sizes.length] ?? 1;
          pieces.push(text.slice(at, at + size));
          at += size;
        }
        expect(eventsOf(pieces)).toEqual(eventsOf([text]));
      }),
    );
  });

  test("may be long in all, but not in one event", () => {
    const event = `data: ${"x".repeat(80)}\n\n`;
    expect(
      eventsOf(
        Array.from({ length: 1000 }, () => event),
        100,
      ),
    ).toHaveLength(1000);
    expect(() => eventsOf([`data: ${"x".repeat(95)}\n\n`], 100)).toThrow("too long");
  });
});
