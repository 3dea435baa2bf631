import { inspect } from "node:util";
import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import type { Issued, IssueRequest, Issuer } from "../../src/issuers/issuer.ts";
import { MayflyError } from "../../src/lib/errors.ts";
import { newId } from "../../src/lib/ids.ts";
import { Secret } from "../../src/lib/secret.ts";
import { tellRefusal } from "../support/refusals.ts";
import { until } from "../support/until.ts";

/** What the promises need to know of one kind. Functions, because a far system exists only once the tests run. */
interface Conformance<Config, Access, Handle, Client extends AsyncDisposable> {
  readonly issuer: Issuer<string, Config, Access, Handle, Client>;
  /** A config as an admin stores it, for a far system that is up and set up as the documentation says. */
  config(): Config;
  /** What the credentials of the tests may do. */
  access(): readonly Access[];
  /** Uses the credential as its holder would, from nothing: whether it does what its access says. Throws on surprises. */
  works(secret: Issued["secret"]): Promise<boolean>;
  /** Starts a use that stays open, where the far side has such a thing. */
  hold?(secret: Issued["secret"]): Promise<Held>;
  /** The same config for a far system that does not answer. */
  unreachable(): Config;
  /** The same config with an admin's secret that the far side refuses. */
  refused(): Config;
  /** Access that `inspect` must refuse, where the kind inspects. */
  forbidden?(): readonly Access[];
  /** When the far side itself would end the credential, as the far side says it, where it has a backstop. */
  endsAt?(secret: Issued["secret"], handle: Handle): Promise<Date>;
  /** The far side takes the same name twice: what is made under it are two credentials. */
  readonly namesAreShared?: true;
  /** The far side cannot tell what was never made from what was: nothing is dead before it was taken back. */
  readonly absenceIsUnseen?: true;
  /** A revoke leaves something harmless behind, and names it. */
  readonly leavesResidue?: true;
  /** Nothing can be taken back (`revocability: "expiry"`). Moves the far side's clock on, so that it ends what it ends by itself. */
  passes?(seconds: number): void;
}

/** A request, with the handle as it was last kept. */
interface Asked<Access, Handle> extends IssueRequest<Access, Handle> {
  handle: Handle;
}

/** A use of a credential that is open: a session, a stream, a connection. */
interface Held extends AsyncDisposable {
  works(): Promise<boolean>;
}

/** States every promise of the {@link Issuer} interface as a test against the real far side. */
export function itIsAnIssuer<Config, Access, Handle, Client extends AsyncDisposable>(
  kind: Conformance<Config, Access, Handle, Client>,
): void {
  const { issuer } = kind;
  const revocable = kind.passes === undefined;
  const taken = kind.leavesResidue === true ? { residue: expect.any(String) } : {};
  let client: Client;
  let minted: { handle: Handle }[];

  beforeEach(async () => {
    client = await issuer.connect(kind.config());
    minted = [];
  });
  afterEach(async () => {
    if (revocable) for (const { handle } of minted) await issuer.revoke(client, handle, never());
    await client[Symbol.asyncDispose]();
  });

  function request(changes: Partial<IssueRequest<Access, Handle>> = {}): Asked<Access, Handle> {
    const credentialId = changes.credentialId ?? newId("credential");
    const seconds = Math.max(60, issuer.bounds(kind.config()).ttlSeconds.min);
    const asked: Asked<Access, Handle> = {
      credentialId,
      ...issuer.name(credentialId, kind.config()),
      access: kind.access(),
      expiresAt: new Date(Date.now() + seconds * 1000),
      createWithinMs: 5_000,
      signal: never(),
      keep: async (fuller) => {
        // As it is stored and read again.
        asked.handle = issuer.handle.parse(JSON.parse(JSON.stringify(fuller)));
      },
      ...changes,
    };
    minted.push(asked);
    return asked;
  }

  const outcome = async (handle: Handle): Promise<string> => (await issuer.probe(client, handle, never())).outcome;
  /** The same for what was not made, after what it takes for the far side to tell. */
  const unmade = async (handle: Handle): Promise<string> => {
    if (kind.absenceIsUnseen === true) await issuer.revoke(client, handle, never());
    return outcome(handle);
  };
  /** Whether it is refused, at once or as soon as the far side says that it will be. */
  const refused = async (secret: Issued["secret"]): Promise<boolean> => {
    if (issuer.bounds(kind.config()).effectiveBoundSeconds > 0)
      await until("the far side refuses what was taken back", async () => !(await kind.works(secret)));
    return !(await kind.works(secret));
  };

  describe("what it declares", () => {
    test("its config is closed, and says what is secret and what is identity", () => {
      const config = kind.config() as Config & object;
      expect(issuer.config.parse(config)).toEqual(config);
      expect(issuer.config.safeParse({ ...config, unheard_of: 1 }).success).toBe(false);
      for (const name of issuer.identityConfig) expect(Object.keys(config)).toContain(name);
      // A secret may be one of several that a config can have.
      for (const name of issuer.secretConfig)
        expect(issuer.config.safeParse({ ...config, [name]: null }).error?.issues ?? []).not.toContainEqual(
          expect.objectContaining({ code: "unrecognized_keys" }),
        );
      expect(issuer.secretConfig.filter((name) => issuer.identityConfig.includes(name))).toEqual([]);
    });

    test("its access is closed", () => {
      for (const access of kind.access()) {
        expect(issuer.access.parse(access)).toEqual(access);
        expect(issuer.access.safeParse({ ...access, unheard_of: 1 }).success).toBe(false);
      }
    });

    test("its bounds make sense", () => {
      const { ttlSeconds, backstopSeconds = 0, effectiveBoundSeconds } = issuer.bounds(kind.config());
      expect(ttlSeconds.min).toBeGreaterThan(0);
      expect(ttlSeconds.max).toBeGreaterThanOrEqual(ttlSeconds.min);
      expect(Math.min(backstopSeconds, effectiveBoundSeconds)).toBeGreaterThanOrEqual(0);
      expect(issuer.bounds(kind.config()).revocability).toBe(revocable ? "immediate" : "expiry");
    });

    test("its bounds follow from what never changes about a target", () => {
      const config = kind.config() as Config & Record<string, unknown>;
      const identity = Object.fromEntries(issuer.identityConfig.map((name) => [name, config[name]]));
      expect(issuer.bounds(identity as Config)).toEqual(issuer.bounds(config));
    });

    test("the name and the handle follow from the id and the config alone, and survive being stored", () => {
      const id = newId("credential");
      const first = issuer.name(id, kind.config());
      expect(issuer.name(id, issuer.config.parse(kind.config()))).toEqual(first);
      expect(issuer.handle.parse(JSON.parse(JSON.stringify(first.handle)))).toEqual(first.handle);
      expect(issuer.name(newId("credential"), kind.config()).downstreamName).not.toBe(first.downstreamName);
    });
  });

  describe("a credential", () => {
    if (revocable) {
      test("works from its issue until its revoke, and is proven dead after it", async () => {
        const asked = request();
        const { secret } = await issuer.issue(client, asked);
        expect(await kind.works(secret)).toBe(true);
        expect(await outcome(asked.handle)).toBe("alive");
        const revokedAt = performance.now();
        expect(await issuer.revoke(client, asked.handle, never())).toEqual(taken);
        expect(await refused(secret)).toBe(true);
        tellRefusal({ issuer: issuer.kind, ms: performance.now() - revokedAt });
        expect(await outcome(asked.handle)).toBe("dead");
      });
    } else {
      test("works from its issue until its own end, and is refused after it, whatever we do", async () => {
        const asked = request();
        const { secret, expiresAt = asked.expiresAt } = await issuer.issue(client, asked);
        const { backstopSeconds = Number.NaN } = issuer.bounds(kind.config());
        expect(expiresAt.getTime()).toBeLessThanOrEqual(asked.expiresAt.getTime());
        expect(await kind.works(secret)).toBe(true);
        expect(await outcome(asked.handle)).not.toBe("dead");
        kind.passes?.(Math.ceil((asked.expiresAt.getTime() - Date.now()) / 1000) + backstopSeconds);
        expect(await kind.works(secret)).toBe(false);
      });
    }

    if (kind.endsAt !== undefined) {
      test("carries a backstop: the far side itself ends it, about when it was asked to", async () => {
        const { backstopSeconds } = issuer.bounds(kind.config());
        if (backstopSeconds === undefined) throw new Error("declares no backstop");
        const asked = request();
        const { secret, expiresAt = asked.expiresAt } = await issuer.issue(client, asked);
        const ends = await kind.endsAt?.(secret, asked.handle);
        expect(expiresAt.getTime()).toBeLessThanOrEqual(asked.expiresAt.getTime());
        expect(ends?.getTime()).toBeGreaterThanOrEqual(expiresAt.getTime());
        expect(ends?.getTime()).toBeLessThanOrEqual(asked.expiresAt.getTime() + backstopSeconds * 1000);
      });
    }

    if (revocable) {
      test("ends alone: its neighbour keeps working", async () => {
        const [ended, kept] = [request(), request()];
        const { secret: other } = await issuer.issue(client, ended);
        const { secret } = await issuer.issue(client, kept);
        await issuer.revoke(client, ended.handle, never());
        expect(await refused(other)).toBe(true);
        expect(await kind.works(secret)).toBe(true);
        expect(await outcome(kept.handle)).toBe("alive");
      });
    }

    if (kind.hold !== undefined) {
      test("takes its open uses with it", async () => {
        const asked = request();
        const { secret } = await issuer.issue(client, asked);
        await using held = await kind.hold?.(secret);
        expect(await held?.works()).toBe(true);
        await issuer.revoke(client, asked.handle, never());
        expect(await held?.works()).toBe(false);
        expect(await outcome(asked.handle)).toBe("dead");
      });
    }

    if (issuer.list !== undefined) {
      test("is listed under its name with its handle while it is there, and not after", async () => {
        const asked = request();
        await issuer.issue(client, asked);
        const { credentialId, downstreamName } = asked;
        const listed = (await issuer.list?.(client, never()))?.find((one) => one.credentialId === credentialId);
        expect(listed).toMatchObject({ credentialId, downstreamName });
        // What is listed is enough to take it back: it may be all that is left after a crash.
        await issuer.revoke(client, listed?.handle as Handle, never());
        expect(await outcome(asked.handle)).toBe("dead");
        expect(names(await issuer.list?.(client, never()))).not.toContain(downstreamName);
      });
    }

    test("hands out its secret as secrets: nothing prints, serialises or inspects it", async () => {
      const issued = await issuer.issue(client, request());
      const material = Object.values(issued.secret).flatMap((value) =>
        value instanceof Secret ? [value.reveal()] : [],
      );
      expect(material.length).toBeGreaterThan(0);
      const shown = `${JSON.stringify(issued)} ${inspect(issued, { depth: 9, showHidden: true })}`;
      for (const text of material) expect(shown).not.toContain(text);
    });
  });

  if (revocable) {
    describe("a revoke", () => {
      test("of what was never created succeeds, and the probe says dead", async () => {
        const { handle } = request();
        expect(await issuer.revoke(client, handle, never())).toEqual(taken);
        expect(await outcome(handle)).toBe("dead");
      });

      test("may be repeated, and fifty at once over two clients all succeed", async () => {
        const asked = request();
        const { secret } = await issuer.issue(client, asked);
        await using other = await issuer.connect(kind.config());
        const all = Array.from({ length: 50 }, (_, i) => issuer.revoke(i % 2 ? client : other, asked.handle, never()));
        for (const one of all) expect(await one).toEqual(taken);
        expect(await issuer.revoke(client, asked.handle, never())).toEqual(taken);
        expect(await outcome(asked.handle)).toBe("dead");
        expect(await refused(secret)).toBe(true);
      });

      test("beside its own issue leaves nothing behind once both are over and it is asked again", async () => {
        const asked = request();
        await Promise.allSettled([issuer.issue(client, asked), issuer.revoke(client, asked.handle, never())]);
        await issuer.revoke(client, asked.handle, never());
        expect(await outcome(asked.handle)).toBe("dead");
      });
    });
  }

  describe("an issue", () => {
    test("whose time is over creates nothing", async () => {
      const asked = request({ createWithinMs: 0 });
      await expect(issuer.issue(client, asked)).rejects.toMatchObject({ code: "target_unavailable" });
      if (revocable) expect(await unmade(asked.handle)).toBe("dead");
    });

    if (kind.namesAreShared !== true) {
      test("of a name that is taken is refused and does not give the other's credential away or change it", async () => {
        const asked = request();
        const { secret } = await issuer.issue(client, asked);
        const error = await failure(issuer.issue(client, asked));
        expect(error).toMatchObject({ code: "target_rejected" });
        expect(await kind.works(secret)).toBe(true);
      });
    }

    test("that is told that the credential was taken back leaves nothing that works", async () => {
      let fuller: Handle | undefined;
      const asked = request({
        keep: async (handle) => {
          fuller = handle;
          throw new MayflyError("denied", "taken back");
        },
      });
      const end = await issuer.issue(client, asked).then(
        () => "issued",
        () => "refused",
      );
      // Kinds that know the whole handle beforehand keep nothing, and are taken back by it.
      expect(end).toBe(fuller === undefined ? "issued" : "refused");
      if (fuller !== undefined) expect(await outcome(fuller)).toBe("dead");
    });

    test("sixteen at a time never meet each other", async () => {
      const asked = Array.from({ length: 48 }, () => request());
      const queue = [...asked];
      const minter = async (): Promise<void> => {
        for (let one = queue.shift(); one !== undefined; one = queue.shift()) await issuer.issue(client, one);
      };
      await Promise.all(Array.from({ length: 16 }, minter));
      const outcomes = await Promise.all(asked.map(({ handle }) => outcome(handle)));
      expect(new Set(outcomes)).toEqual(new Set([revocable ? "alive" : "unknown"]));
    });
  });

  describe("a signal that has aborted", () => {
    test("ends every call at once, and the client stays usable", async () => {
      const asked = request();
      const gone = AbortSignal.abort();
      for (let i = 0; i < 20; i += 1) {
        await expect(issuer.issue(client, { ...asked, signal: gone })).rejects.toBeInstanceOf(MayflyError);
        await expect(issuer.revoke(client, asked.handle, gone)).rejects.toBeInstanceOf(MayflyError);
        expect((await issuer.probe(client, asked.handle, gone)).outcome).toBe("unknown");
      }
      if (revocable) expect(await unmade(asked.handle)).toBe("dead");
      else await issuer.issue(client, asked);
    });

    test("in the middle of an issue leaves what a revoke can find", async () => {
      const stop = new AbortController();
      const asked = request({ signal: stop.signal });
      const issued = failure(issuer.issue(client, asked));
      setImmediate(() => stop.abort());
      expect(await issued).toBeInstanceOf(MayflyError);
      if (!revocable) return;
      await issuer.revoke(client, asked.handle, never());
      expect(await outcome(asked.handle)).toBe("dead");
    });
  });

  describe("a far side that fails", () => {
    test("does not answer: an issue and a revoke say so, a probe says unknown", async () => {
      await using away = await issuer.connect(kind.unreachable());
      const asked = request();
      const errors = [failure(issuer.issue(away, asked))];
      if (revocable) errors.push(failure(issuer.revoke(away, asked.handle, never())));
      for (const error of errors) expect(await error).toMatchObject({ code: "target_unavailable", retryable: true });
      expect((await issuer.probe(away, asked.handle, never())).outcome).toBe("unknown");
    });

    test("refuses the admin: the errors say so without the admin's secret, a probe says unknown", async () => {
      const config = kind.refused() as Config & Record<string, unknown>;
      await using barred = await issuer.connect(config);
      const asked = request();
      const errors = [failure(issuer.issue(barred, asked))];
      if (revocable) errors.push(failure(issuer.revoke(barred, asked.handle, never())));
      for (const error of errors) {
        expect(await error).toMatchObject({ code: "target_rejected", retryable: false });
        const shown = inspect(await error, { depth: 9, showHidden: true });
        const secrets = issuer.secretConfig.flatMap((name) => config[name] ?? []);
        expect(secrets.length).toBeGreaterThan(0);
        for (const secret of secrets) expect(shown).not.toContain(secret);
      }
      expect((await issuer.probe(barred, asked.handle, never())).outcome).toBe("unknown");
    });
  });

  if (issuer.inspect !== undefined) {
    test("inspection passes a far side that is set up as documented, and refuses access that goes too far", async () => {
      await issuer.inspect?.(client, kind.access(), never());
      const forbidden = kind.forbidden?.();
      if (forbidden === undefined) return;
      await expect(issuer.inspect?.(client, forbidden, never())).rejects.toMatchObject({ code: "target_refused" });
    });
  }
}

/** The error that a promise ends in. Throws when it ends well. */
export async function failure(promise: Promise<unknown>): Promise<unknown> {
  const end = await promise.then(
    (value) => ({ value }),
    (error: unknown) => ({ error }),
  );
  if ("error" in end) return end.error;
  throw new Error(`it should have failed, and gave ${inspect(end.value)}`);
}

/** A signal for calls that nothing stops. */
export function never(): AbortSignal {
  return new AbortController().signal;
}

function names(listed: readonly { readonly downstreamName: string }[] | undefined): string[] {
  return (listed ?? []).map(({ downstreamName }) => downstreamName);
}
