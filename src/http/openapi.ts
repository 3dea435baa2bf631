import type { z } from "zod";
import { pathParameters } from "./catalogue.ts";
import type { Endpoint } from "./endpoint.ts";
import { createOpenApiComponents, type OpenApiComponents } from "./openapi-components.ts";
import { jsonSchemaOf } from "./validate.ts";

type Json = Readonly<Record<string, unknown>>;

/**
 * The OpenAPI 3.1 document of these endpoints, made of the schemas that validate their requests and replies, so
 * the two cannot differ. It holds nothing that depends on a tenant or a deployment.
 */
export function openApiDocument(endpoints: readonly Endpoint[], version: string): Json {
  const components = createOpenApiComponents(outputIdsOf(endpoints));
  const paths: Record<string, Record<string, Json>> = {};
  for (const endpoint of endpoints) {
    paths[endpoint.path] = { ...paths[endpoint.path], [endpoint.method]: operation(endpoint, components) };
  }
  return {
    openapi: "3.1.0",
    jsonSchemaDialect: "https://json-schema.org/draft/2020-12/schema",
    info: { title: "Mayfly", version, license: { name: "Apache-2.0", identifier: "Apache-2.0" } },
    tags: [...new Set(endpoints.map(({ tag }) => tag))].sort().map((name) => ({ name })),
    paths,
    components: {
      schemas: { Problem, OAuthError, ...components.schemas },
      securitySchemes: {
        bearer: { type: "http", scheme: "bearer", bearerFormat: "JWT" },
        dpop: { type: "http", scheme: "dpop", description: "RFC 9449" },
      },
    },
  };
}

/** `POST /v1/tasks/{task_id}/end` → `postV1TasksByTaskIdEnd`: unique because method and path are. */
export function operationIdOf({ method, path }: Pick<Endpoint, "method" | "path">): string {
  const words = path.replaceAll("{", "by_").split(/[^a-zA-Z0-9]+/);
  return method + words.map((word) => word.charAt(0).toUpperCase() + word.slice(1)).join("");
}

function operation(endpoint: Endpoint, components: OpenApiComponents): Json {
  const operationId = operationIdOf(endpoint);
  const isForm = endpoint.bodyKind === "form";
  const parameters = [
    ...parametersOf(endpoint.params, "path", components, operationId),
    ...parametersOf(endpoint.query, "query", components, operationId),
    ...headersOf(endpoint),
  ];
  const requestBody = endpoint.body && {
    required: !endpoint.body.safeParse(undefined).success,
    content: {
      [isForm ? "application/x-www-form-urlencoded" : "application/json"]: {
        schema: components.reference(jsonSchemaOf(endpoint.body, "input"), `${operationId}Request`, "input"),
      },
    },
  };
  return {
    operationId,
    summary: endpoint.summary,
    tags: [endpoint.tag],
    security: endpoint.allow === "public" ? [] : [{ bearer: [] }, { dpop: [] }],
    ...(endpoint.allow === "public" ? {} : { "x-roles": endpoint.allow }),
    ...(parameters.length > 0 ? { parameters } : {}),
    ...(requestBody === undefined ? {} : { requestBody }),
    responses: { ...repliesOf(endpoint, components, operationId), ...errorsOf(endpoint) },
  };
}

function parametersOf(
  schema: z.ZodType | undefined,
  place: "path" | "query",
  components: OpenApiComponents,
  operationId: string,
): Json[] {
  if (schema === undefined) return [];
  const generated = components.inline(jsonSchemaOf(schema, "input"), operationId, "input") as {
    readonly properties?: Readonly<Record<string, Json>>;
    readonly required?: readonly string[];
  };
  return Object.entries(generated.properties ?? {}).map(([name, property]) => ({
    name,
    in: place,
    required: place === "path" || generated.required?.includes(name) === true,
    schema: property,
  }));
}

function headersOf(endpoint: Endpoint): Json[] {
  const headers: Json[] = [];
  if (endpoint.conditional === true) {
    headers.push({ name: "If-Match", in: "header", required: true, schema: { type: "string" } });
  }
  if (endpoint.stream) {
    const description = "The id of the last event that was received: what came after it is sent.";
    headers.push({ name: "Last-Event-ID", in: "header", required: false, description, schema: { type: "string" } });
  }
  if (endpoint.method === "post" && endpoint.allow !== "public" && endpoint.errors !== "oauth") {
    const description = "A structured-field string. The first answer under a key is replayed for 24 hours.";
    const schema = { type: "string", minLength: 1, maxLength: 257 };
    headers.push({ name: "Idempotency-Key", in: "header", required: false, description, schema });
  }
  return headers;
}

function repliesOf(endpoint: Endpoint, components: OpenApiComponents, operationId: string): Record<string, Json> {
  const mediaType = endpoint.mediaType ?? "application/json";
  const replies = Object.entries(endpoint.replies).map(([status, schema]) => {
    if (schema === null) return [status, { description: "Done" }];
    const reference = components.reference(jsonSchemaOf(schema, "output"), `${operationId}${status}`, "output");
    return [status, { description: "Done", content: { [mediaType]: { schema: reference } } }];
  });
  return Object.fromEntries(replies);
}

function outputIdsOf(endpoints: readonly Endpoint[]): ReadonlySet<string> {
  const schemas = endpoints.flatMap(({ replies }) => Object.values(replies));
  const ids = schemas.flatMap((schema) =>
    schema === null ? [] : Object.keys(jsonSchemaOf(schema, "output").$defs ?? {}),
  );
  return new Set(ids);
}

function errorsOf(endpoint: Endpoint): Record<string, Json> {
  const statuses = new Set<number>([400, 429, 500, 503]);
  if (endpoint.allow !== "public") for (const status of [401, 403]) statuses.add(status);
  if (pathParameters(endpoint.path).length > 0) statuses.add(404);
  if (endpoint.conditional === true) for (const status of [412, 428]) statuses.add(status);
  if (endpoint.method !== "get") for (const status of [409, 413, 415]) statuses.add(status);
  if (endpoint.method === "post") statuses.add(422);
  const [type, name] =
    endpoint.errors === "oauth" ? ["application/json", "OAuthError"] : ["application/problem+json", "Problem"];
  const content = { [type]: { schema: { $ref: `#/components/schemas/${name}` } } };
  const responses = [...statuses].map((status) => [String(status), { description: "Refused or failed", content }]);
  return Object.fromEntries([...responses, ["default", { description: "Refused or failed", content }]]);
}

const reason = {
  type: "object",
  required: ["code", "detail"],
  properties: {
    code: { type: "string" },
    detail: { type: "string" },
    policy: { type: "string" },
    remedy: { type: "string", description: "What would lift it; absent when nothing the caller can do does" },
  },
};

const Problem: Json = {
  type: "object",
  description: "RFC 9457. `code` is the contract: it never changes its meaning.",
  required: ["type", "title", "status", "detail", "instance", "code", "retryable"],
  properties: {
    type: { type: "string", format: "uri" },
    title: { type: "string" },
    status: { type: "integer", minimum: 400, maximum: 599 },
    detail: { type: "string" },
    instance: { type: "string", format: "uri-reference" },
    code: { type: "string" },
    retryable: { type: "boolean" },
    errors: {
      type: "array",
      items: {
        type: "object",
        required: ["pointer", "detail"],
        properties: { pointer: { type: "string" }, detail: { type: "string" } },
      },
    },
    reasons: { type: "array", items: reason },
  },
};

const OAuthError: Json = {
  type: "object",
  description: "RFC 6749 §5.2",
  required: ["error"],
  properties: {
    error: { type: "string" },
    error_description: { type: "string" },
    reasons: { type: "array", items: reason },
  },
};
