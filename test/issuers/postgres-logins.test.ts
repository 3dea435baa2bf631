import { once } from "node:events";
import { connect } from "node:net";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { type PostgresHandle, postgres } from "../../src/issuers/postgres.ts";
import { failure, never } from "./conformance.ts";
import { mint, type PostgresTarget, postgresTarget, servers, type TestClient, until } from "./postgres-target.ts";

type Client = Awaited<ReturnType<typeof postgres.connect>>;

describe.each(servers)("log-ins under way on PostgreSQL $name, at a revoke", ({ url }) => {
  let target: PostgresTarget;
  let client: Client;
  beforeAll(async () => {
    target = await postgresTarget(url);
    client = await postgres.connect(target.config);
  });
  afterAll(async () => {
    await client[Symbol.asyncDispose]();
    await target[Symbol.asyncDispose]();
  });

  const revoke = (handle: PostgresHandle) => postgres.revoke(client, handle, never());
  const probe = (handle: PostgresHandle) => postgres.probe(client, handle, never());

  const minted = () => mint(target, client);

  test("a client that never stops logging in has no session when the revoke returns, fifty times over", async () => {
    let sessions = 0;
    for (let round = 0; round < 50; round += 1) {
      const { secret, handle } = await minted();
      const got: TestClient[] = [];
      let stop = false;
      const hammer = async (): Promise<void> => {
        while (!stop)
          await target.login(secret).then(
            (session) => got.push(session),
            () => (stop = true),
          );
      };
      const hammers = [hammer(), hammer(), hammer()];
      await until(async () => got.length > round % 4);
      await revoke(handle);
      stop = true;
      await Promise.all(hammers);
      sessions += got.length;
      for (const session of got) {
        expect(await session.alive()).toBe(false);
        await session[Symbol.asyncDispose]();
      }
    }
    expect(sessions).toBeGreaterThan(50);
  }, 180_000); // fifty rounds of log-ins are slow on a busy machine

  test("a log-in that hides behind post_auth_delay is ended before the role goes", async () => {
    const { secret, handle } = await minted();
    const lurking = target.login(secret, "-c post_auth_delay=60");
    await until(async () => (await target.hiddenLogins()) > 0);
    expect(await probe(handle)).toMatchObject({ outcome: "alive" });
    expect(await revoke(handle)).toEqual({});
    // The server may still greet it before it hangs up.
    expect(
      await lurking.then(
        (session) => session.alive(),
        () => false,
      ),
    ).toBe(false);
  });

  test("somebody else's slow log-in is neither ended nor waited for", async () => {
    const [other, ended] = [await minted(), await minted()];
    let through = false;
    const slow = target.login(other.secret, "-c post_auth_delay=4").finally(() => (through = true));
    await until(async () => (await target.hiddenLogins()) > 0);
    expect(await revoke(ended.handle)).toEqual({});
    expect(through).toBe(false);
    await using session = await slow;
    expect(await session.query("select 1 as one")).toEqual([{ one: 1 }]);
    await revoke(other.handle);
  });

  test("where a role may not end its own sessions, a refusal is not taken for somebody else's log-in", async () => {
    const { secret, handle } = await minted();
    await target.sql("revoke execute on function pg_terminate_backend(int, bigint) from public");
    await target.sql("grant execute on function pg_terminate_backend(int, bigint) to pg_signal_backend");
    const lurking = target.login(secret, "-c post_auth_delay=60");
    await until(async () => (await target.hiddenLogins()) > 0);
    expect(await failure(revoke(handle))).toMatchObject({ code: "target_rejected" });
    await target.sql("grant execute on function pg_terminate_backend(int, bigint) to public");
    expect(await revoke(handle)).toEqual({});
    expect(
      await lurking.then(
        (session) => session.alive(),
        () => false,
      ),
    ).toBe(false);
  });

  test("a connection that never proves its password holds nothing up", async () => {
    const { downstreamName, handle } = await minted();
    const startup = Buffer.from(`\0\0\0\0\0\x03\0\0user\0${downstreamName}\0database\0${target.config.database}\0\0`);
    startup.writeInt32BE(startup.length);
    const stalled = connect(target.config.port, target.config.host);
    stalled.write(startup);
    await once(stalled, "data"); // AuthenticationSASL: the server waits for us now
    expect(await revoke(handle)).toEqual({});
    expect(stalled.readyState).toBe("open");
    stalled.destroy();
  });

  test("a role that goes while its log-ins are being told apart is gone, and that is success", async () => {
    const [other, ended] = [await minted(), await minted()];
    await target.sql(`alter role ${ended.downstreamName} nologin`);
    const slow = target.login(other.secret, "-c post_auth_delay=60");
    await until(async () => (await target.hiddenLogins()) > 0);
    await using dropper = await target.superuser();
    await dropper.query(`begin; drop role ${ended.downstreamName}`);
    const revoked = revoke(ended.handle);
    await until(async () => (await target.lockWaits()) > 0);
    await dropper.query("commit");
    expect(await revoked).toEqual({});
    await revoke(other.handle);
    expect(
      await slow.then(
        (session) => session.alive(),
        () => false,
      ),
    ).toBe(false);
  });
});
