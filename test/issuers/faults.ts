import { inspect } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import type { Issued, IssueRequest, Issuer } from "../../src/issuers/issuer.ts";
import { MayflyError } from "../../src/lib/errors.ts";
import { newId } from "../../src/lib/ids.ts";
import { type Fault, type FaultProxy, faultProxy, requestFaults } from "../support/fault-proxy.ts";
import { faultWire, type WireFault, wireFaults } from "../support/fault-wire.ts";
import { until } from "../support/until.ts";
import { never } from "./conformance.ts";

/** What the matrix needs to know of one kind. Functions, because a far system exists only once the tests run. */
interface Survivor<Config, Access, Handle, Client extends AsyncDisposable> {
  readonly issuer: Issuer<string, Config, Access, Handle, Client>;
  /** Where the far side answers, an origin. */
  farSide(): string;
  /** The config of a target that is reached at this origin. */
  config(origin: string): Config;
  access(): readonly Access[];
  /** Uses the credential as its holder would, past the proxy. */
  works(secret: Issued["secret"]): Promise<boolean>;
  /** Whether a handle that nothing was made for is dead at once. False: only after a revoke. */
  readonly absenceIsUnseen?: true;
  /** Nothing can be taken back: only the making is looked at. */
  readonly onlyExpires?: true;
  /** Credentials at the far side that still work, if it can be asked: 0 once everything was taken back. */
  alive?(): number | Promise<number>;
  /** Brings the far side back to where it was before the first test. */
  reset?(): void | Promise<void>;
}

/** How a fault comes about: to a request, or to whoever connects there. */
type Cell<Kind> =
  | { readonly name: string; readonly means: Fault["means"]; readonly fault: Kind }
  | { readonly name: string; readonly means: Fault["means"]; readonly at: (proxy: FaultProxy<Kind>) => string };

function cellsOf<Kind extends Fault | WireFault>(faults: readonly Kind[]): Cell<Kind>[] {
  return [
    ...faults.map((fault) => ({ name: fault.name, means: fault.means, fault })),
    {
      name: "nobody listening",
      means: "unavailable",
      at: ({ url }) => url.replace(/:\d+$/, ":1"),
    },
  ];
}

/** The same matrix for far sides of another protocol than HTTP: the faults are those of a TCP connection. */
export function itSurvivesWireFaults<Config, Access, Handle, Client extends AsyncDisposable>(
  kind: Survivor<Config, Access, Handle, Client>,
): void {
  itSurvives(kind, cellsOf(wireFaults), faultWire);
}

/** More requests than any one call of an issuer makes. */
const MOST_STEPS = 8;

/**
 * States for every fault of a far side and each of inspection, mint, probe and revoke (reliability F4): the error says whether to try again
 * and holds no secret, nothing is called dead that works, no other host hears of it, and once the fault is over a revoke leaves
 * nothing that works. The fault happens to all requests of a call, and to each of them alone, for calls of several.
 */
export function itSurvivesFaults<Config, Access, Handle, Client extends AsyncDisposable>(
  kind: Survivor<Config, Access, Handle, Client>,
): void {
  const tls: Cell<Fault> = { name: "a certificate of nobody's", means: "rejected", at: ({ tlsUrl }) => tlsUrl };
  itSurvives(kind, [...cellsOf(requestFaults), tls], faultProxy);
}

function itSurvives<Config, Access, Handle, Client extends AsyncDisposable, Kind extends Fault | WireFault>(
  kind: Survivor<Config, Access, Handle, Client>,
  cells: readonly Cell<Kind>[],
  openProxy: (farSide: string) => Promise<FaultProxy<Kind>>,
): void {
  const { issuer } = kind;
  let proxy: FaultProxy<Kind>;
  let client: Client;
  beforeAll(async () => {
    proxy = await openProxy(kind.farSide());
    client = await issuer.connect(kind.config(proxy.url));
  });
  afterAll(async () => {
    await client[Symbol.asyncDispose]();
    await proxy[Symbol.asyncDispose]();
  });

  const request = (
    signal: AbortSignal,
  ): { -readonly [Name in keyof IssueRequest<Access, Handle>]: IssueRequest<Access, Handle>[Name] } => {
    const credentialId = newId("credential");
    const config = kind.config(proxy.url);
    const asked = {
      credentialId,
      ...issuer.name(credentialId, config),
      access: kind.access(),
      expiresAt: new Date(Date.now() + Math.max(60, issuer.bounds(config).ttlSeconds.min) * 1000),
      createWithinMs: 5_000,
      signal,
      keep: async (fuller: Handle) => {
        asked.handle = issuer.handle.parse(JSON.parse(JSON.stringify(fuller)));
      },
    };
    return asked;
  };

  /** Runs a call while the fault lasts. Undefined when the fault met no request. */
  async function during<Value>(
    cell: Cell<Kind>,
    step: number | undefined,
    call: (client: Client, signal: AbortSignal) => Promise<Value>,
  ): Promise<{ readonly value: Value } | { readonly error: unknown } | undefined> {
    const settle = async (on: Client, signal: AbortSignal) =>
      call(on, signal).then(
        (value) => ({ value }),
        (error: unknown) => ({ error }),
      );
    if ("at" in cell) {
      await using other = await issuer.connect(kind.config(cell.at(proxy)));
      // Awaited here, or the client would be closed before it is over.
      return await settle(other, never());
    }
    const patience = new AbortController();
    let met = false;
    proxy.fail(cell.fault, step === undefined ? undefined : [step], () => {
      met = true;
      // Long enough for the first of what drips to come; and for an issuer that looks until it sees, to have looked.
      setTimeout(() => patience.abort(), cell.fault.waits === true ? 12 : 1_000).unref();
    });
    let ended = false;
    const settled = settle(client, patience.signal).finally(() => (ended = true));
    // Sooner than any limit of an issuer's own ends a call that does not listen.
    if (cell.fault.waits === true) await until("a call that is told to stop has stopped", () => ended, 6_000);
    const end = await settled;
    proxy.clear();
    return met ? end : undefined;
  }

  function checkError(error: unknown, means: Fault["means"], alsoRefused = false): void {
    expect(error).toBeInstanceOf(MayflyError);
    const { code, retryAfterSeconds } = error as MayflyError;
    const codes = {
      unavailable: ["target_unavailable"],
      rejected: ["target_rejected"],
      either: ["target_unavailable", "target_rejected"],
    };
    // An inspection says what to change, where another call only says that it was refused.
    expect([...codes[means], ...(alsoRefused && means !== "unavailable" ? ["target_refused"] : [])]).toContain(code);
    expect([undefined, 7]).toContain(retryAfterSeconds);
    const shown = inspect(error, { depth: 9, showHidden: true });
    const config = kind.config(proxy.url) as Record<string, unknown>;
    for (const name of issuer.secretConfig) if (name in config) expect(shown).not.toContain(config[name]);
    expect(shown).not.toContain("a proxy's page");
  }

  const outcome = async (handle: Handle): Promise<string> => (await issuer.probe(client, handle, never())).outcome;
  /** What the runtime does until it has its proof. */
  async function takeBack(handle: Handle, secret: Issued["secret"] | undefined): Promise<void> {
    await issuer.revoke(client, handle, never());
    await until("the probe proves the death", async () => (await outcome(handle)) === "dead");
    if (secret !== undefined) expect(await kind.works(secret)).toBe(false);
  }
  /** Runs one cell for all requests of a call at once, and then for each alone, as long as there is one of that number. */
  async function each(cell: Cell<Kind>, run: (step: number | undefined) => Promise<boolean>): Promise<void> {
    expect(await run(undefined)).toBe(true);
    if ("at" in cell) return;
    for (let step = 1; step <= MOST_STEPS; step += 1) if (!(await run(step))) break;
    expect(proxy.strangers()).toBe(0);
  }

  describe.each(cells)("$name", (cell) => {
    afterAll(async () => {
      await kind.reset?.();
    });

    if (issuer.inspect !== undefined)
      test("in an inspection: an error of its class, or one that passes", async () => {
        await each(cell, async (step) => {
          const end = await during(cell, step, async (on, signal) => {
            // What some learn of a far side they keep; who inspects knows nothing yet.
            if ("at" in cell) return issuer.inspect?.(on, kind.access(), signal);
            await using fresh = await issuer.connect(kind.config(proxy.url));
            return await issuer.inspect?.(fresh, kind.access(), signal);
          });
          if (end !== undefined && "error" in end) checkError(end.error, cell.means, true);
          return end !== undefined;
        });
        await kind.reset?.();
      });

    test("in a mint: an error of its class, or a credential that works; nothing is left", async () => {
      await each(cell, async (step) => {
        let asked = request(never());
        const end = await during(cell, step, (on, signal) => issuer.issue(on, (asked = request(signal))));
        const secret = end !== undefined && "value" in end ? end.value.secret : undefined;
        if (end !== undefined && "error" in end) checkError(end.error, cell.means);
        if (secret !== undefined) expect(await kind.works(secret)).toBe(true);
        if (kind.onlyExpires === true) return end !== undefined;
        await takeBack(asked.handle, secret);
        expect((await kind.alive?.()) ?? 0).toBe(0);
        return end !== undefined;
      });
    });

    if (kind.onlyExpires === true) return;

    test("in a probe: never dead while it works", async () => {
      const asked = request(never());
      const { secret } = await issuer.issue(client, asked);
      await each(cell, async (step) => {
        const end = await during(cell, step, (on, signal) => issuer.probe(on, asked.handle, signal));
        if (end === undefined) return false;
        // It never throws.
        expect(end).toMatchObject({ value: { outcome: expect.stringMatching(/^(unknown|alive)$/) } });
        return true;
      });
      expect(await kind.works(secret)).toBe(true);
      await takeBack(asked.handle, secret);
    });

    test("in a revoke: an error of its class, or one that worked; the next one ends it", async () => {
      await each(cell, async (step) => {
        const asked = request(never());
        const { secret } = await issuer.issue(client, asked);
        const end = await during(cell, step, (on, signal) => issuer.revoke(on, asked.handle, signal));
        if (end !== undefined && "error" in end) checkError(end.error, cell.means);
        const mistaken = "fault" in cell && cell.fault.looksGood === true;
        if (end !== undefined && "value" in end && !mistaken)
          await until("a revoke that says it worked has", async () => (await outcome(asked.handle)) === "dead");
        if ((await outcome(asked.handle)) === "dead") expect(await kind.works(secret)).toBe(false);
        await takeBack(asked.handle, secret);
        return end !== undefined;
      });
    });
  });
}
