import { canonicalJson } from "../lib/canonical-json.ts";

type Json = Readonly<Record<string, unknown>>;

/** The named schemas of a document while it is built. */
export interface OpenApiComponents {
  /** Ready for `components.schemas`. */
  readonly schemas: Readonly<Record<string, unknown>>;
  /** A reference to this schema, which becomes a component of this name unless it has an id of its own. */
  reference(schema: Json, name: string, io: "input" | "output"): Json;
  /** The schema itself; only what it refers to becomes components. */
  inline(schema: Json, name: string, io: "input" | "output"): Json;
}

/**
 * zod puts what has an id, and what recurs, into `$defs` of each schema; in OpenAPI a reference starts at the
 * document, so they move to `#/components/schemas`. A schema that both requests and replies use may differ between
 * the two (defaults, transforms): ids in `outputIds` get the suffix `Input` where they are read.
 */
export function createOpenApiComponents(outputIds: ReadonlySet<string>): OpenApiComponents {
  const schemas: Record<string, unknown> = {};

  function place(name: string, schema: unknown): void {
    const present = schemas[name];
    if (present !== undefined && canonicalJson(present) !== canonicalJson(schema)) {
      throw new TypeError(`two different schemas have the id ${name}`);
    }
    schemas[name] = schema;
  }

  function moveDefinitions(schema: Json, name: string, io: "input" | "output"): Json {
    const { $defs, ...root } = schema as { readonly $defs?: Readonly<Record<string, Json>> };
    const nameOf = (key: string) => {
      if (key.startsWith("__")) return name + key;
      return io === "input" && outputIds.has(key) ? `${key}Input` : key;
    };
    const point = (node: unknown): unknown => {
      if (Array.isArray(node)) return node.map(point);
      if (typeof node !== "object" || node === null) return node;
      const members = Object.entries(node).map(([key, value]) => {
        if (key !== "$ref" || typeof value !== "string") return [key, point(value)];
        // `#` is zod's word for "this schema again", which is the component that we are about to make of it.
        const target = value === "#" ? name : nameOf(value.replace(/^#\/\$defs\//, ""));
        return [key, `#/components/schemas/${target}`];
      });
      return Object.fromEntries(members);
    };
    for (const [key, definition] of Object.entries($defs ?? {})) place(nameOf(key), point(definition));
    return point(root) as Json;
  }

  return {
    schemas,
    reference(schema, name, io) {
      const moved = moveDefinitions(schema, name, io);
      if (Object.keys(moved).join() === "$ref") return moved;
      place(name, moved);
      return { $ref: `#/components/schemas/${name}` };
    },
    inline: moveDefinitions,
  };
}
