import { z } from "zod";
import type { Endpoint } from "./endpoint.ts";
import { laxPlaces } from "./validate.ts";

const PATH = /^(?:\/(?:[a-z0-9._-]+|\{[a-z_]+\}))+$/;

/** The names of the parameters in a path, in their order. */
export function pathParameters(path: string): readonly string[] {
  return [...path.matchAll(/\{([a-z_]+)\}/g)].map((match) => match[1] ?? "");
}

/** `/v1/tasks/{task_id}/end` as express spells it. */
export function routePatternOf(path: string): string {
  return path.replaceAll(/\{([a-z_]+)\}/g, ":$1");
}

/**
 * Throws when the endpoints contradict themselves or each other: a mistake in the catalogue must stop the start,
 * not surface as a request that behaves oddly.
 */
export function assertEndpoints(endpoints: readonly Endpoint[]): void {
  const seen = new Set<string>();
  for (const endpoint of endpoints) {
    const name = `${endpoint.method.toUpperCase()} ${endpoint.path}`;
    const fail = (problem: string) => {
      throw new TypeError(`${name}: ${problem}`);
    };
    if (!PATH.test(endpoint.path)) fail("the path is not spelled as /segments/{parameters}");
    if (seen.has(name)) fail("is declared twice");
    seen.add(name);
    const inPath = [...pathParameters(endpoint.path)].sort().join();
    const declared = endpoint.params instanceof z.ZodObject ? Object.keys(endpoint.params.shape).sort().join() : "";
    if (inPath !== declared) fail(`the path has the parameters [${inPath}], its schema [${declared}]`);
    if (endpoint.method === "get" && endpoint.body !== undefined) fail("GET takes no body");
    const statuses = Object.keys(endpoint.replies).map(Number);
    if (statuses.length === 0) fail("declares no reply");
    // A refusal is thrown, so that it is worded, recorded and (under a key) kept in one place.
    if (statuses.some((status) => status < 200 || status >= 400)) fail("declares an error as a reply");
    // RFC 6749 §3.2 wants unknown form parameters ignored; everywhere else they are refused.
    const mustBeStrict = { query: endpoint.query, body: endpoint.bodyKind === "form" ? undefined : endpoint.body };
    for (const [place, schema] of Object.entries(mustBeStrict)) {
      if (schema === undefined) continue;
      const lax = laxPlaces(schema);
      if (lax.length > 0) fail(`the ${place} schema drops unknown members at ${lax.join(", ")}; use z.strictObject`);
    }
  }
}

/**
 * Endpoints by path, so that a path's methods share one route. Literal segments come before parameters, so that
 * `/v1/tasks/search` is never read as the id `search`.
 */
export function byPath(endpoints: readonly Endpoint[]): ReadonlyMap<string, readonly Endpoint[]> {
  // `{` sorts after every character that a literal segment may have.
  const sorted = [...endpoints].sort((a, b) => compare(a.path, b.path));
  const paths = new Map<string, Endpoint[]>();
  for (const endpoint of sorted) {
    const present = paths.get(endpoint.path);
    if (present === undefined) paths.set(endpoint.path, [endpoint]);
    else present.push(endpoint);
  }
  return paths;
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
