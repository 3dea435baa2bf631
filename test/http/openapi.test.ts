import { describe, expect, test } from "@jest/globals";
import { z } from "zod";
import { endpoint } from "../../src/http/endpoint.ts";
import { openApiDocument, operationIdOf } from "../../src/http/openapi.ts";
import { createOpenApiComponents } from "../../src/http/openapi-components.ts";
import { pageOf, pageQuery } from "../../src/http/page.ts";
import { noteEndpoint, serving, taskEndpoint } from "./harness.ts";

const Owner = z
  .strictObject({ name: z.string(), kind: z.enum(["human", "team"]).default("team") })
  .meta({ id: "Owner" });
const Agent = z.strictObject({ id: z.string(), owner: Owner, retired_at: z.string().nullable() }).meta({ id: "Agent" });
interface Tree {
  readonly name: string;
  readonly parts: readonly Tree[];
}
const Tree: z.ZodType<Tree> = z.strictObject({
  name: z.string(),
  get parts() {
    return z.array(Tree);
  },
});

const endpoints = [
  noteEndpoint(),
  taskEndpoint(),
  endpoint({
    method: "put",
    path: "/v1/agents/{agent_id}/owner",
    summary: "Set the owner",
    tag: "agents",
    allow: ["admin"],
    conditional: true,
    params: z.strictObject({ agent_id: z.string() }),
    body: z.strictObject({ owner: Owner }),
    replies: { 200: Agent, 204: null },
    handle: async () => ({ status: 204 }),
  }),
  endpoint({
    method: "get",
    path: "/v1/agents",
    summary: "List agents",
    tag: "agents",
    allow: ["auditor"],
    query: z.strictObject({ ...pageQuery, owner: z.string(), state: z.enum(["active"]).optional() }),
    replies: { 200: pageOf(Agent) },
    handle: async () => ({ status: 200 }),
  }),
  endpoint({
    method: "post",
    path: "/v1/trees",
    summary: "Grow",
    tag: "trees",
    allow: ["admin"],
    body: Tree,
    replies: { 201: z.strictObject({ tree: Tree }) },
    handle: async () => ({ status: 201 }),
  }),
  endpoint({
    method: "post",
    path: "/oauth/token",
    summary: "Token",
    tag: "oauth",
    allow: "public",
    bodyKind: "form",
    errors: "oauth",
    body: z.object({ grant_type: z.string() }),
    replies: { 200: z.strictObject({ access_token: z.string() }) },
    handle: async () => ({ status: 200 }),
  }),
  endpoint({
    method: "get",
    path: "/status/{list}",
    summary: "Status list",
    tag: "status",
    allow: "public",
    params: z.strictObject({ list: z.string() }),
    mediaType: "application/statuslist+jwt",
    replies: { 200: z.string() },
    handle: async () => ({ status: 200 }),
  }),
];

type Node = Record<string, unknown>;
type Operation = Node & {
  operationId: string;
  parameters?: { name: string; in: string; required: boolean; schema: Node }[];
  requestBody?: { required: boolean; content: Record<string, { schema: Node }> };
  responses: Record<string, { description: string; content?: Record<string, { schema: Node }> }>;
  security: Node[];
  tags: string[];
};
const document = openApiDocument(endpoints, "1.2.3") as Node & {
  paths: Record<string, Record<string, Operation>>;
  components: { schemas: Record<string, Node>; securitySchemes: Record<string, Node> };
  tags: { name: string }[];
};
const operations = Object.entries(document.paths).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, operation]) => ({ path, method, operation })),
);

function refsIn(node: unknown): string[] {
  if (typeof node !== "object" || node === null) return [];
  return Object.entries(node).flatMap(([key, value]) => (key === "$ref" ? [String(value)] : refsIn(value)));
}

function resolved(reference: string): unknown {
  const parts = reference.slice(2).split("/");
  return parts.reduce<unknown>((at, part) => (at as Node | undefined)?.[part], document);
}

const at = (method: string, path: string): Operation => {
  const found = document.paths[path]?.[method];
  if (found === undefined) throw new Error(`${method} ${path} is missing`);
  return found;
};

describe("the OpenAPI document", () => {
  test("is 3.1 and describes every endpoint, once, and nothing else", () => {
    expect(document["openapi"]).toBe("3.1.0");
    expect(document["info"]).toMatchObject({ title: "Mayfly", version: "1.2.3" });
    const described = operations.map(({ method, path }) => `${method} ${path}`).sort();
    expect(described).toEqual(endpoints.map(({ method, path }) => `${method} ${path}`).sort());
  });

  test("has only references that lead somewhere inside it", () => {
    const refs = refsIn(document);
    expect(refs.length).toBeGreaterThan(20);
    for (const reference of refs) {
      expect(reference).toMatch(/^#\/components\/schemas\/[A-Za-z0-9._-]+$/);
      expect(resolved(reference)).toBeInstanceOf(Object);
    }
    expect(JSON.stringify(document)).not.toContain("$defs");
  });

  test("names every operation uniquely", () => {
    const ids = operations.map(({ operation }) => operation.operationId);
    expect(new Set(ids).size).toBe(ids.length);
    for (const id of ids) expect(id).toMatch(/^[a-z][A-Za-z0-9]+$/);
    expect(operationIdOf({ method: "post", path: "/v1/tasks/{task_id}/end" })).toBe("postV1TasksByTaskIdEnd");
  });

  test("declares exactly the parameters of each path, all required", () => {
    for (const { path, operation } of operations) {
      const inPath = [...path.matchAll(/\{([^}]+)\}/g)].map((match) => match[1]);
      const declared = (operation.parameters ?? []).filter((parameter) => parameter.in === "path");
      expect(declared.map(({ name }) => name)).toEqual(inPath);
      expect(declared.every(({ required }) => required)).toBe(true);
      const all = (operation.parameters ?? []).map((parameter) => `${parameter.in} ${parameter.name}`);
      expect(new Set(all).size).toBe(all.length);
    }
  });

  test("uses only what 3.1 has: no nullable, known tags, a description for every response", () => {
    expect(JSON.stringify(document)).not.toContain('"nullable"');
    const tags = document.tags.map(({ name }) => name);
    for (const { operation } of operations) {
      for (const tag of operation.tags) expect(tags).toContain(tag);
      for (const [status, response] of Object.entries(operation.responses)) {
        expect(status).toMatch(/^([1-5][0-9]{2}|default)$/);
        expect(response.description.length).toBeGreaterThan(0);
        for (const { schema } of Object.values(response.content ?? {})) expect(schema).toBeInstanceOf(Object);
      }
      for (const requirement of operation.security) {
        for (const name of Object.keys(requirement))
          expect(Object.keys(document.components.securitySchemes)).toContain(name);
      }
    }
  });

  test("says who needs to authenticate", () => {
    expect(at("post", "/v1/notes").security.length).toBeGreaterThan(0);
    expect(at("post", "/oauth/token").security).toEqual([]);
  });

  test("words errors as the endpoint does", () => {
    const { responses } = at("post", "/v1/notes");
    const problem = { "application/problem+json": { schema: { $ref: "#/components/schemas/Problem" } } };
    for (const status of ["400", "401", "403", "409", "413", "415", "422", "429", "500", "503", "default"]) {
      expect(responses[status]?.content).toEqual(problem);
    }
    expect(Object.keys(at("put", "/v1/agents/{agent_id}/owner").responses)).toEqual(
      expect.arrayContaining(["404", "412", "428"]),
    );
    expect(at("post", "/oauth/token").responses["400"]?.content).toEqual({
      "application/json": { schema: { $ref: "#/components/schemas/OAuthError" } },
    });
  });

  test("tells what goes in from what comes out where a default makes them differ", () => {
    const { schemas } = document.components;
    expect(schemas["Owner"]?.["required"]).toEqual(["name", "kind"]);
    expect(schemas["OwnerInput"]?.["required"]).toEqual(["name"]);
    expect(refsIn(at("put", "/v1/agents/{agent_id}/owner").requestBody)).toEqual([
      "#/components/schemas/putV1AgentsByAgentIdOwnerRequest",
    ]);
    expect(refsIn(schemas["putV1AgentsByAgentIdOwnerRequest"])).toEqual(["#/components/schemas/OwnerInput"]);
    expect(refsIn(schemas["Agent"])).toEqual(["#/components/schemas/Owner"]);
  });

  test("carries a schema that contains itself", () => {
    const request = document.components.schemas["postV1TreesRequest"];
    expect(refsIn(request)).toEqual(["#/components/schemas/postV1TreesRequest"]);
  });

  test("marks bodies, forms, queries and media types as they are", () => {
    expect(at("post", "/v1/notes").requestBody?.required).toBe(true);
    expect(Object.keys(at("post", "/oauth/token").requestBody?.content ?? {})).toEqual([
      "application/x-www-form-urlencoded",
    ]);
    expect(Object.keys(at("get", "/status/{list}").responses["200"]?.content ?? {})).toEqual([
      "application/statuslist+jwt",
    ]);
    const query = (at("get", "/v1/agents").parameters ?? []).map(({ name, required }) => [name, required]);
    expect(query).toEqual([
      ["page_size", false],
      ["page_token", false],
      ["owner", true],
      ["state", false],
    ]);
    const headers = (operation: Operation) =>
      (operation.parameters ?? []).filter((each) => each.in === "header").map(({ name }) => name);
    expect(headers(at("post", "/v1/notes"))).toEqual(["Idempotency-Key"]);
    expect(headers(at("put", "/v1/agents/{agent_id}/owner"))).toEqual(["If-Match"]);
  });

  test("refuses two different schemas under one name", () => {
    const components = createOpenApiComponents(new Set());
    const owner = (type: string) => ({ $ref: "#/$defs/Owner", $defs: { Owner: { type } } });
    expect(components.reference(owner("object"), "one", "output")).toEqual({ $ref: "#/components/schemas/Owner" });
    components.reference(owner("object"), "two", "output");
    expect(() => components.reference(owner("array"), "three", "output")).toThrow(
      /two different schemas have the id Owner/,
    );
  });

  test("is served to anyone at /openapi.json", async () => {
    await using server = await serving(endpoints, { version: "1.2.3" });
    const got = await server.ask({ path: "/openapi.json", as: null });
    expect([got.status, got.headers["content-type"]]).toEqual([200, "application/json; charset=utf-8"]);
    expect(got.json).toEqual(JSON.parse(JSON.stringify(document)));
  });
});
