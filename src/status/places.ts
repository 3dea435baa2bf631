import type { Db } from "../db/database.ts";
import { keepNewest } from "../lib/keep-newest.ts";
import { permuted } from "./permute.ts";

/** The place of one token in a token status list: `idx` and the list's id. */
export interface StatusPlace {
  readonly list: string;
  readonly index: number;
}

/** Gives every token a place of its own. */
export interface StatusPlaces {
  /**
   * A place that no other token has or will have, in a list for tokens that expire when this one does. At once, unless this
   * process has none left; rejects with `unavailable` when it cannot get any: then nothing may be minted. One that is
   * taken and not used is lost, which costs nothing.
   */
  take(tenantId: string, expiresMs: number): StatusPlace | Promise<StatusPlace>;
}

/** What `mayfly.lease_status_places` gives: counts from `first` on, for this process alone. */
interface Lease {
  readonly id: string;
  readonly seed: Buffer;
  readonly first: number;
}

/** Two hours, so that a tenant has two or three lists at a time, and each is gone soon after its last token. */
const BUCKET_MS = 2 * 3_600_000;
/** 2^20 is a multiple of it. A process that ends loses what it has not used. */
const LEASE = 512;
/** With so many left the next ones are fetched: a quarter of a second of the fastest minting we measured. */
const LOW = LEASE / 2;
/** Some 2 KB each. */
const MAX_HELD = 2_000;

interface Held {
  ready: { readonly list: string; readonly places: Uint32Array; used: number }[];
  left: number;
  leasing: Promise<void> | undefined;
}

/** Places come from Postgres in leases, ahead of need, so that a mint makes no round trip for its own. */
export function createStatusPlaces(db: Db): StatusPlaces {
  const held = new Map<string, Held>();

  const lease = async (mine: Held, tenantId: string, expiresBefore: Date): Promise<void> => {
    const [leased] = await db.prompt.callForTenant<Lease>("lease_status_places", tenantId, [expiresBefore, LEASE]);
    if (leased === undefined) throw new Error("no places were leased");
    mine.ready.push({ list: leased.id, places: permuted(leased.seed, leased.first, LEASE), used: 0 });
    mine.left += LEASE;
  };
  const leaseOnce = (mine: Held, tenantId: string, expiresBefore: Date): Promise<void> => {
    mine.leasing ??= lease(mine, tenantId, expiresBefore).finally(() => {
      mine.leasing = undefined;
    });
    return mine.leasing;
  };
  const next = (mine: Held): StatusPlace | undefined => {
    const [first] = mine.ready;
    const index = first?.places[first.used];
    if (first === undefined || index === undefined) return undefined;
    first.used += 1;
    mine.left -= 1;
    if (first.used === first.places.length) mine.ready.shift();
    return { list: first.list, index };
  };

  return {
    take(tenantId, expiresMs) {
      const expiresBefore = new Date((Math.floor(expiresMs / BUCKET_MS) + 1) * BUCKET_MS);
      const name = `${tenantId} ${expiresBefore.getTime()}`;
      let mine = held.get(name);
      if (mine === undefined) {
        mine = { ready: [], left: 0, leasing: undefined };
        keepNewest(held, MAX_HELD, name, mine);
      }
      const place = next(mine);
      // What fails here is tried again by the mint that finds nothing left.
      if (mine.left <= LOW) leaseOnce(mine, tenantId, expiresBefore).catch(() => undefined);
      return place ?? waited(mine, tenantId, expiresBefore);
    },
  };

  async function waited(mine: Held, tenantId: string, expiresBefore: Date): Promise<StatusPlace> {
    for (;;) {
      await leaseOnce(mine, tenantId, expiresBefore);
      const place = next(mine);
      if (place !== undefined) return place;
    }
  }
}
