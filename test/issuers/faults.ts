import { inspect } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import type { Issued, IssueRequest, Issuer } from "../../src/issuers/issuer.ts";
import { MayflyError } from "../../src/lib/errors.ts";
import { newId } from "../../src/lib/ids.ts";
import { Secret } from "../../src/lib/secret.ts";
import { type Fault, type FaultProxy, faultProxy, requestFaults } from "../support/fault-proxy.ts";
import { countShown, type FaultRun, faultChance, nothing, type Seen, tellRun } from "../support/fault-runs.ts";
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
/** Every far side of the tests does at once what it is told. */
const SOON_MS = 10_000;
const LATEST_MS = 20;

/** In another order with every seed. */
function shuffled<One>(list: readonly One[], chance: (() => number) | undefined): readonly One[] {
  if (chance === undefined) return list;
  const keyed = list.map((one) => ({ one, key: chance() }));
  return keyed.sort((a, b) => a.key - b.key).map(({ one }) => one);
}

/** The same fault so much later, unless who would meet it is gone by then. */
function late<Kind extends Fault | WireFault>(fault: Kind, ms: number): Kind {
  const reply = fault.reply as (to: { readonly destroyed: boolean }, ...rest: unknown[]) => void;
  const later: typeof reply = (to, ...rest) => {
    setTimeout(() => {
      if (!to.destroyed) reply(to, ...rest);
    }, ms).unref();
  };
  return ms === 0 ? fault : { ...fault, reply: later };
}

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
  const chance = faultChance();
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
    const lateMs = Math.floor((chance?.() ?? 0) * LATEST_MS);
    proxy.fail(late(cell.fault, lateMs), step === undefined ? undefined : [step], () => {
      met = true;
      // Long enough for the first of what drips to come; and for an issuer that looks until it sees, to have looked.
      setTimeout(() => patience.abort(), cell.fault.waits === true ? 12 + lateMs : 1_000).unref();
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
    expect(inspect(error, { depth: 9, showHidden: true })).not.toContain("a proxy's page");
  }

  /** How many secrets are shown by what a call came to: the admin's, and the credential's own. */
  function shownBy(came: unknown, secret: Issued["secret"] = {}): number {
    const config = kind.config(proxy.url) as Record<string, unknown>;
    const secrets = [
      ...issuer.secretConfig.map((name) => config[name]),
      ...Object.values(secret).map((value) => (value instanceof Secret ? value.reveal() : undefined)),
    ];
    return countShown(secrets, inspect(came, { depth: 9, showHidden: true }));
  }

  const outcome = async (handle: Handle): Promise<string> => (await issuer.probe(client, handle, never())).outcome;
  const provenDead = async (handle: Handle): Promise<boolean> =>
    until("the probe proves the death", async () => (await outcome(handle)) === "dead", SOON_MS).then(
      () => true,
      () => false,
    );

  let left = 0;
  /** What the runtime does until it has its proof; looks at what is left then. */
  async function takeBack(handle: Handle, secret: Issued["secret"] | undefined, seen: Seen): Promise<void> {
    await issuer.revoke(client, handle, never());
    const dead = await provenDead(handle);
    const works = secret !== undefined && (await kind.works(secret));
    if (works) seen.falseRevoked += 1;
    const alive = (await kind.alive?.()) ?? left;
    seen.orphans += Math.max(Number(works), alive - left);
    left = alive;
    expect({ dead }).toEqual({ dead: true });
  }

  /**
   * Runs one cell for all requests of a call at once, and then for each alone, as long as there is one of that number. A run
   * answers whether the fault was met.
   */
  async function each(
    call: FaultRun["call"],
    cell: Cell<Kind>,
    run: (step: number | undefined, seen: Seen) => Promise<boolean>,
  ): Promise<void> {
    const once = async (step: number | undefined): Promise<boolean> => {
      const seen = { ...nothing };
      const startedAt = performance.now();
      const strangers = proxy.strangers();
      let met = true;
      try {
        met = await run(step, seen);
      } finally {
        seen.leaks += proxy.strangers() - strangers;
        const ms = performance.now() - startedAt;
        if (met || Object.values(seen).some((count) => count > 0))
          tellRun({ issuer: issuer.kind, call, fault: cell.name, ...seen, ms });
      }
      expect(seen).toEqual(nothing);
      return met;
    };
    expect(await once(undefined)).toBe(true);
    if ("at" in cell) return;
    for (let step = 1; step <= MOST_STEPS; step += 1) if (!(await once(step))) break;
  }

  describe.each(shuffled(cells, chance))("$name", (cell) => {
    afterAll(async () => {
      await kind.reset?.();
    });

    if (issuer.inspect !== undefined)
      test("in an inspection: an error of its class, or one that passes", async () => {
        await each("inspect", cell, async (step, seen) => {
          const end = await during(cell, step, async (on, signal) => {
            // What some learn of a far side they keep; who inspects knows nothing yet.
            if ("at" in cell) return issuer.inspect?.(on, kind.access(), signal);
            await using fresh = await issuer.connect(kind.config(proxy.url));
            return await issuer.inspect?.(fresh, kind.access(), signal);
          });
          seen.leaks += shownBy(end);
          if (end !== undefined && "error" in end) checkError(end.error, cell.means, true);
          return end !== undefined;
        });
        await kind.reset?.();
      });

    test("in a mint: an error of its class, or a credential that works; nothing is left", async () => {
      await each("mint", cell, async (step, seen) => {
        let asked = request(never());
        const end = await during(cell, step, (on, signal) => issuer.issue(on, (asked = request(signal))));
        const secret = end !== undefined && "value" in end ? end.value.secret : undefined;
        const worked = secret !== undefined && (await kind.works(secret));
        if (end !== undefined && "error" in end) seen.leaks += shownBy(end.error);
        if (kind.onlyExpires !== true) await takeBack(asked.handle, secret, seen);
        if (end !== undefined && "error" in end) checkError(end.error, cell.means);
        expect(worked).toBe(secret !== undefined);
        return end !== undefined;
      });
    });

    if (kind.onlyExpires === true) return;

    test("in a probe: never dead while it works", async () => {
      await each("probe", cell, async (step, seen) => {
        const asked = request(never());
        const { secret } = await issuer.issue(client, asked);
        const end = await during(cell, step, (on, signal) => issuer.probe(on, asked.handle, signal));
        const works = await kind.works(secret);
        if (works && end !== undefined && "value" in end && end.value.outcome === "dead") seen.falseRevoked += 1;
        seen.leaks += shownBy(end, secret);
        await takeBack(asked.handle, secret, seen);
        expect(works).toBe(true);
        // It never throws.
        if (end !== undefined)
          expect(end).toMatchObject({ value: { outcome: expect.stringMatching(/^(unknown|alive)$/) } });
        return end !== undefined;
      });
    });

    test("in a revoke: an error of its class, or one that worked; the next one ends it", async () => {
      await each("revoke", cell, async (step, seen) => {
        const asked = request(never());
        const { secret } = await issuer.issue(client, asked);
        const end = await during(cell, step, (on, signal) => issuer.revoke(on, asked.handle, signal));
        // What the fault itself says in the far side's place is nobody's lie: that is what the probe is for.
        const mistaken = "fault" in cell && cell.fault.looksGood === true;
        const said = end !== undefined && "value" in end && !mistaken;
        const dead = said ? await provenDead(asked.handle) : (await outcome(asked.handle)) === "dead";
        if ((said || dead) && (await kind.works(secret))) seen.falseRevoked += 1;
        seen.leaks += shownBy(end, secret);
        await takeBack(asked.handle, secret, seen);
        if (end !== undefined && "error" in end) checkError(end.error, cell.means);
        if (said) expect({ dead }).toEqual({ dead: true });
        return end !== undefined;
      });
    });
  });
}
