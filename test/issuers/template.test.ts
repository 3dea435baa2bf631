import { afterAll, beforeAll } from "@jest/globals";
import type { Issued } from "../../src/issuers/issuer.ts";
import { Secret } from "../../src/lib/secret.ts";
import { itIsAnIssuer } from "./conformance.ts";
import { type TemplateConfig, template } from "./template.ts";
import { type KeyService, keyService } from "./template-service.ts";

/* A test to begin from: what conformance must know of a kind is all that it needs. */

let service: KeyService;
beforeAll(async () => {
  service = await keyService();
});
afterAll(async () => {
  await service[Symbol.asyncDispose]();
});

const config = (): TemplateConfig => ({ url: service.url, token: service.adminToken, deployment: "test" });
const keyOf = ({ key }: Issued["secret"]): string => (key instanceof Secret ? key.reveal() : "");

itIsAnIssuer({
  issuer: template,
  config,
  access: () => [{ scope: "read" }],
  works: async (secret) => {
    const answer = await fetch(`${service.url}/use`, { headers: { authorization: `Bearer ${keyOf(secret)}` } });
    return answer.status === 200;
  },
  endsAt: async (_, { name }) => new Date(service.keys.get(name)?.endsAtMs ?? Number.NaN),
  unreachable: () => ({ ...config(), url: "http://127.0.0.1:1" }),
  refused: () => ({ ...config(), token: "not the token of the admin" }),
});
