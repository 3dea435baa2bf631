import { setTimeout as sleep } from "node:timers/promises";
import { MayflyError } from "../lib/errors.ts";
import type { Connection } from "./redis-client.ts";

/*
 * How a user dies on one node, and why a create that is still on its way cannot bring it back (measured on 7.0.15):
 *
 * 1. Its rights, its connections and itself go in one MULTI, so nobody ever meets half of it, and of two revokes at once
 *    the later one makes and removes an empty user that nobody sees (SETUSER creates).
 * 2. A create travels on a connection that bears the user's name (CLIENT SETNAME, answered before the create is sent).
 *    Ending those connections is the fence: whatever is held up on its way to a closed connection never takes effect.
 *    A key that expires (SET PX, WATCH, EXEC) would be a limit on the server's own clock, but replicas refuse the SET
 *    (READONLY), nodes of a cluster refuse the keys of others (MOVED), and the admin would need rights on keys.
 * 3. ACL SAVE, or the user is back after a restart (reliability B12). Then it is looked for once more.
 */

const ENDS_WITHIN_MS = 5_000;

/** What one node knows of a user. */
export interface Seen {
  readonly present: boolean;
  /** Connections that are logged in as the user. */
  readonly sessions: readonly string[];
  /** Connections on which its create may still be on its way. */
  readonly makers: readonly string[];
}

/** Looks for a user, its sessions, and creates of it that may still come. */
export async function lookFor(connection: Connection, user: string): Promise<Seen> {
  const [clients, found] = await connection.ask(["CLIENT", "LIST"], ["ACL", "GETUSER", user]);
  if (typeof clients !== "string" || (found !== null && !Array.isArray(found))) throw unclear();
  const idsWith = (member: string): string[] =>
    clients.split("\n").flatMap((line) => {
      const members = line.trim().split(" ");
      const id = /^id=([0-9]{1,20})$/.exec(members[0] ?? "")?.[1];
      return id !== undefined && members.includes(member) ? [id] : [];
    });
  return { present: found !== null, sessions: idsWith(`user=${user}`), makers: idsWith(`name=${user}`) };
}

/** Takes a user away for good; that it returns is the proof. Succeeds when there is none, and then none can come any more. */
export async function revokeUser(connection: Connection, user: string, signal: AbortSignal): Promise<void> {
  const started = performance.now();
  for (let pause = 1; ; pause = Math.min(pause * 2, 50)) {
    const { present, sessions, makers } = await lookFor(connection, user);
    const open = [...sessions, ...makers];
    if (!present && open.length === 0) {
      const [, found] = await connection.ask(["ACL", "SAVE"], ["ACL", "GETUSER", user]);
      if (found === null) return;
    }
    if (performance.now() - started > ENDS_WITHIN_MS) {
      throw new MayflyError("target_unavailable", `${open.length} connections of the user have not ended yet`);
    }
    if (makers.length > 0) await connection.ask(...makers.map((id) => ["CLIENT", "KILL", "ID", id] as const));
    if (present) {
      await connection.atomically(
        // `reset` is off, resetpass, resetkeys, resetchannels, -@all and no selectors.
        ["ACL", "SETUSER", user, "reset"],
        ["CLIENT", "KILL", "USER", user],
        ["ACL", "DELUSER", user],
      );
    } else if (sessions.length > 0) {
      await connection.ask(...sessions.map((id) => ["CLIENT", "KILL", "ID", id] as const));
    }
    await sleep(pause, undefined, { signal });
  }
}

function unclear(): MayflyError {
  return new MayflyError("target_unavailable", "Redis did not say who is there");
}
