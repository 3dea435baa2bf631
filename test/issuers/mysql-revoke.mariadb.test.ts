import { createHash } from "node:crypto";
import { once } from "node:events";
import { connect } from "node:net";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "@jest/globals";
import type { Issued } from "../../src/issuers/issuer.ts";
import { mysql } from "../../src/issuers/mysql.ts";
import { createLock } from "../../src/issuers/mysql-revoke.ts";
import { Secret } from "../../src/lib/secret.ts";
import { until } from "../support/until.ts";
import { failure, never } from "./conformance.ts";
import { type MysqlTarget, mysqlTarget } from "./mysql-target.ts";

/** A log-in of the wire protocol that has named its account and holds its proof back. */
interface HeldLogin extends Disposable {
  /** Sends the proof. Whether the server lets it in. */
  prove(): Promise<boolean>;
  /** Whether a statement is answered. */
  works(): Promise<boolean>;
}

async function holdLogin(port: number, secret: Issued["secret"]): Promise<HeldLogin> {
  const { username, password } = secret;
  if (!(password instanceof Secret)) throw new Error("the password must be a Secret");
  const socket = connect(port, "127.0.0.1").on("error", () => undefined);
  const answer = async (): Promise<Buffer | undefined> => {
    const ended = once(socket, "close").then(() => undefined);
    return Promise.race([once(socket, "data").then(([data]) => data as Buffer), ended]);
  };
  const send = (sequence: number, body: Buffer): void => {
    const header = Buffer.alloc(4);
    header.writeUIntLE(body.length, 0, 3);
    header[3] = sequence;
    socket.write(Buffer.concat([header, body]));
  };
  await answer();
  const head = Buffer.alloc(32);
  // Protocol 4.1, secure connection, plug-in authentication.
  head.writeUInt32LE(0x200 | 0x8000 | 0x80000 | 1, 0);
  head.writeUInt32LE(1 << 24, 4);
  head[8] = 45;
  // A way to log in that the server does not have: it answers with its own, after it has read the account.
  send(1, Buffer.concat([head, Buffer.from(`${String(username)}\0\0unheard_of\0`)]));
  const asked = await answer();
  if (asked === undefined || asked[4] !== 0xfe) throw new Error("the server did not ask for another way to log in");
  const salt = asked.subarray(asked.length - 21, asked.length - 1);
  const sha1 = (...parts: readonly Buffer[]): Buffer => createHash("sha1").update(Buffer.concat(parts)).digest();
  const once1 = sha1(Buffer.from(password.reveal()));
  const mask = sha1(salt, sha1(once1));
  return {
    async prove() {
      if (socket.destroyed) return false;
      send(3, Buffer.from(once1.map((byte, i) => byte ^ (mask[i] ?? 0))));
      return (await answer())?.[4] === 0;
    },
    async works() {
      if (socket.destroyed) return false;
      send(0, Buffer.from("\x03select 1 from app.notes"));
      const came = await answer();
      return came !== undefined && came[4] !== 0xff;
    },
    [Symbol.dispose]: () => socket.destroy(),
  };
}

describe("revoking on MariaDB", () => {
  let target: MysqlTarget;
  let client: Awaited<ReturnType<typeof mysql.connect>>;
  beforeAll(async () => {
    target = await mysqlTarget();
  });
  afterAll(async () => {
    await target[Symbol.asyncDispose]();
  });
  beforeEach(async () => {
    client = await mysql.connect(target.config);
  });
  afterEach(async () => {
    await client[Symbol.asyncDispose]();
  });

  const mint = async () => {
    const asked = target.request();
    return { ...asked, ...(await mysql.issue(client, asked)) };
  };
  const outcome = async (handle: Parameters<typeof mysql.probe>[1]): Promise<string> =>
    (await mysql.probe(client, handle, never())).outcome;

  test("an admin that lost its view of others' sessions revokes nothing blindly and proves nothing", async () => {
    const { handle, secret } = await mint();
    await using session = await target.login(secret);
    await target.sql("REVOKE PROCESS ON *.* FROM 'mayfly_admin'@'%'");
    await using blind = await mysql.connect(target.config);
    expect(await failure(mysql.revoke(blind, handle, never()))).toMatchObject({ code: "target_rejected" });
    expect((await mysql.probe(blind, handle, never())).outcome).toBe("unknown");
    await target.sql("GRANT PROCESS ON *.* TO 'mayfly_admin'@'%'");
    await using seeing = await mysql.connect(target.config);
    expect(await mysql.revoke(seeing, handle, never())).toEqual({});
    expect(await failure(session.query("select 1 from app.notes"))).toBeInstanceOf(Error);
    expect(await outcome(handle)).toBe("dead");
  });

  test("a log-in that held its proof back until after the lock is found and ended (C5)", async () => {
    const { handle, secret } = await mint();
    using late = await holdLogin(target.config.port, secret);
    const revoked = mysql.revoke(client, handle, never());
    await revoked;
    expect(await late.prove()).toBe(false);
    expect(await late.works()).toBe(false);
    expect(await outcome(handle)).toBe("dead");
  });

  test("ACCOUNT LOCK alone would let that log-in in, and a drop would leave it its rights: why sessions are killed", async () => {
    const { handle, secret } = await mint();
    using late = await holdLogin(target.config.port, secret);
    await target.sql(`alter user '${handle.user}'@'%' account lock`);
    expect(await late.prove()).toBe(true);
    await target.sql(`drop user '${handle.user}'@'%'`);
    expect(await late.works()).toBe(true);
    // The account is gone already; the session is not, so it is not dead.
    expect(await outcome(handle)).toBe("alive");
    await mysql.revoke(client, handle, never());
    expect(await late.works()).toBe(false);
    expect(await outcome(handle)).toBe("dead");
  });

  test("a session that is busy is ended", async () => {
    const { handle, secret } = await mint();
    await using busy = await target.login(secret);
    const sleeping = failure(busy.query("select sleep(600)"));
    await mysql.revoke(client, handle, never());
    expect(await sleeping).toBeInstanceOf(Error);
    expect(await outcome(handle)).toBe("dead");
  });

  test("a create that is under way on the server is ended first, and the account with it", async () => {
    const asked = target.request();
    await using creating = await target.admin();
    await creating.query("select get_lock(?, 0)", [createLock(asked.handle)]);
    expect(await outcome(asked.handle)).toBe("unknown");
    await mysql.revoke(client, asked.handle, never());
    expect(await failure(creating.query("select 1"))).toBeInstanceOf(Error);
    expect(await outcome(asked.handle)).toBe("dead");
  });

  test("a mint whose client has gone and that waits on the server is ended by the revoke", async () => {
    const stop = new AbortController();
    const asked = target.request({ signal: stop.signal });
    await using locker = await target.root();
    await locker.query("flush tables with read lock");
    const end = failure(mysql.issue(client, asked));
    await until("the create waits", async () => {
      const used = await target.sql<{ id: unknown }>("select is_used_lock(?) as id", [createLock(asked.handle)]);
      return used[0]?.id !== null;
    });
    stop.abort();
    await end;
    const revoked = failure(mysql.revoke(client, asked.handle, never()));
    await until("the create is killed", async () => {
      const used = await target.sql<{ id: unknown }>("select is_used_lock(?) as id", [createLock(asked.handle)]);
      return used[0]?.id === null;
    });
    expect(await revoked).toMatchObject({ code: "target_unavailable" });
    await locker.query("unlock tables");
    await mysql.revoke(client, asked.handle, never());
    expect(await outcome(asked.handle)).toBe("dead");
  });

  test("somebody else's lock of that name does not keep a credential alive", async () => {
    const { handle, secret } = await mint();
    const other = await mint();
    await using friend = await target.login(other.secret);
    await friend.query("select get_lock(?, 0)", [createLock(handle)]);
    await mysql.revoke(client, handle, never());
    expect(await outcome(handle)).toBe("dead");
    expect(await target.tryLogin(secret)).toBeUndefined();
    expect(await friend.query("select 1 from app.notes")).toEqual([]);
    await mysql.revoke(client, other.handle, never());
  });

  test("the same name on another host is somebody else's, and stays", async () => {
    const { handle } = await mint();
    await target.sql(`create user '${handle.user}'@'10.1.2.3'`);
    await mysql.revoke(client, handle, never());
    const left = await target.sql("select Host from mysql.user where User = ?", [handle.user]);
    expect(left).toEqual([{ Host: "10.1.2.3" }]);
  });

  test("two hundred at once all end, with their sessions", async () => {
    const queue = Array.from({ length: 200 }, () => target.request());
    const made: { handle: Parameters<typeof mysql.probe>[1]; secret: Issued["secret"] }[] = [];
    const waiting = [...queue];
    const minter = async (): Promise<void> => {
      for (let one = waiting.shift(); one !== undefined; one = waiting.shift())
        made.push({ handle: one.handle, ...(await mysql.issue(client, one)) });
    };
    await Promise.all(Array.from({ length: 8 }, minter));
    const held = await Promise.all(made.slice(0, 40).map(({ secret }) => target.login(secret)));
    // Waiting for a turn counts: a caller asks again, as the runtime does.
    const end = async (handle: Parameters<typeof mysql.probe>[1]): Promise<void> =>
      until(
        "it is revoked",
        () =>
          mysql.revoke(client, handle, never()).then(
            () => true,
            (error: { code?: unknown }) => {
              if (error.code === "target_unavailable") return false;
              throw error;
            },
          ),
        120_000,
      ).then(() => undefined);
    await Promise.all(made.map(({ handle }) => end(handle)));
    for (const session of held) {
      expect(await failure(session.query("select 1 from app.notes"))).toBeInstanceOf(Error);
      await session[Symbol.asyncDispose]();
    }
    expect(await mysql.list?.(client, never())).toEqual([]);
    for (const { handle } of made.slice(0, 20)) expect(await outcome(handle)).toBe("dead");
  }, 180_000);
});
