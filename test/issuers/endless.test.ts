import { describe, expect, jest, test } from "@jest/globals";
import { mysql } from "../../src/issuers/mysql.ts";
import { postgres } from "../../src/issuers/postgres.ts";
import { redis } from "../../src/issuers/redis.ts";
import type { AnyIssuer } from "../../src/issuers/registry.ts";
import { newId } from "../../src/lib/ids.ts";
import { certify, names } from "../support/certificates.ts";
import { until } from "../support/until.ts";
import { failure, never } from "./conformance.ts";
import { endless, type talks } from "./endless.ts";

// localhost by name: the driver of MySQL checks no address.
const certificate = certify({ cn: "localhost", san: [names.dns("localhost")] });
const stranger = certify({ cn: "localhost", san: [names.dns("localhost")] });
const elsewhere = certify({ cn: "elsewhere.test", san: [names.dns("elsewhere.test")] });

type Kind = keyof typeof talks;
const issuers: Readonly<Record<Kind, AnyIssuer>> = { redis, postgres, mysql };
const access: Readonly<Record<Kind, unknown>> = {
  redis: { keys: [{ pattern: "notes:*", mode: "read" }], commands: ["get"] },
  postgres: { roles: ["notes"] },
  mysql: { roles: ["notes"] },
};

async function connected(kind: Kind, port: number, ca?: string): Promise<{ client: AsyncDisposable; config: unknown }> {
  const host = ca === undefined ? "127.0.0.1" : "localhost";
  const config = issuers[kind].config.parse({
    ...(kind === "redis" ? { nodes: [{ host, port }] } : { host, port }),
    ...(kind === "postgres" ? { database: "notes" } : {}),
    user: "mayfly",
    password: "p",
    tls: ca === undefined ? "disable" : "verify-full",
    ...(ca === undefined ? {} : { ca }),
  });
  return { client: await issuers[kind].connect(config), config };
}

/** The limit of an answer, and what stands in buffers on the way. */
const BOUND = 16 * 1024 * 1024 + 24 * 1024 * 1024;
const cells = (["redis", "postgres", "mysql"] as const).flatMap((kind) =>
  [false, true].flatMap((tls) => (["the log-in", "an answer"] as const).map((when) => ({ kind, tls, when }))),
);

describe.each(cells)("$kind that never stops talking (TLS: $tls), from $when on", ({ kind, tls, when }) => {
  test("is left after 16 MiB: every call ends with its error, and nothing of it is kept", async () => {
    await using far = await endless(kind, { when, ...(tls ? { tls: certificate } : {}) });
    const { client, config } = await connected(kind, far.port, tls ? certificate.cert : undefined);
    await using _closed = client;
    const credentialId = newId("credential");
    const { handle } = issuers[kind].name(credentialId, config);
    const calls: readonly (() => Promise<unknown> | undefined)[] = [
      () => issuers[kind].inspect?.(client, [access[kind]], never()),
      () => issuers[kind].revoke(client, handle, never()),
    ];
    for (const [index, call] of calls.entries()) {
      expect(await failure(call() ?? Promise.resolve())).toMatchObject({
        code: "target_unavailable",
        detail: expect.stringContaining("sent more than 16 MiB"),
      });
      await until("the connection is ended", far.left);
      expect(far.said()).toBeLessThan((index + 1) * BOUND);
    }
    expect(await issuers[kind].probe(client, handle, never())).toMatchObject({ outcome: "unknown" });
  });
});

describe.each(["redis", "postgres", "mysql"] as const)("the certificate of a %s", (kind) => {
  test.each([
    ["of another authority", stranger, certificate.cert],
    ["of another name", elsewhere, elsewhere.cert],
  ])("%s is refused at registration, before the password is sent", async (_what, shown, trusted) => {
    await using far = await endless(kind, { when: "the log-in", tls: shown });
    const { client } = await connected(kind, far.port, trusted);
    await using _closed = client;
    expect(await failure(issuers[kind].inspect?.(client, [access[kind]], never()) as Promise<void>)).toMatchObject({
      code: "target_rejected",
      detail: expect.stringContaining("certificate was not accepted"),
    });
    expect(far.said()).toBe(0);
  });
});

test.each([false, true])(
  "a MySQL (TLS: %s) whose packets are out of order is left at the first, and nothing is printed",
  async (tls) => {
    const printed = jest.spyOn(console, "error").mockImplementation(() => undefined);
    const says = Buffer.alloc(64 * 1024, Buffer.from([0, 0, 0, 9]));
    await using far = await endless("mysql", { when: "an answer", says, ...(tls ? { tls: certificate } : {}) });
    const { client, config } = await connected("mysql", far.port, tls ? certificate.cert : undefined);
    await using _closed = client;
    const { handle } = mysql.name(newId("credential"), config as never);
    expect(await failure(mysql.revoke(client as never, handle, never()))).toMatchObject({
      code: "target_unavailable",
      detail: "MySQL did not answer (PROTOCOL_PACKETS_OUT_OF_ORDER)",
    });
    await until("the connection is ended", far.left);
    expect(far.said()).toBeLessThan(BOUND);
    expect(printed).not.toHaveBeenCalled();
    printed.mockRestore();
  },
);
