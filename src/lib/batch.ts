/** Runs one statement for several items of one tenant and answers one result per item, in order. */
export type RunBatch<Item, Result> = (tenantId: string, items: readonly Item[]) => Promise<readonly Result[]>;

interface Waiting<Item, Result> {
  readonly item: Item;
  resolve(result: Result): void;
  reject(error: unknown): void;
}

interface BatchOptions {
  /** Whether this error says that nothing of the batch has happened. */
  readonly nothingWasDone: (error: unknown) => boolean;
  readonly maxItems?: number;
  readonly width?: number;
  readonly full?: number;
}

/**
 * Lets requests that arrive together share a statement and a commit: while `width` batches of a tenant are under way,
 * later items wait, and then go as one. A lone item goes at once, so there is nothing to tune and no added delay when
 * idle. A batch never holds two tenants. When a batch of several fails and nothing of it was done, each of its items is
 * tried alone, so that one poisoned item fails nobody else. When it may have been done, all fail: a second try would
 * meet the first one's traces.
 *
 * Sharing commits took inserts from 6,800/s to over 28,000/s on two cores. `width` 2 keeps the database busy while the
 * other batch is on the wire; a batch that is `full` leaves in the middle of a turn (646 mints/s against 570, interleaved).
 */
export function batcher<Item, Result>(
  run: RunBatch<Item, Result>,
  { nothingWasDone, maxItems = 64, width = 2, full = 16 }: BatchOptions,
): (tenantId: string, item: Item) => Promise<Result> {
  const tenants = new Map<string, { waiting: Waiting<Item, Result>[]; running: number }>();

  const pump = (tenantId: string): void => {
    const lane = tenants.get(tenantId);
    if (lane === undefined) return;
    while (lane.running < width && lane.waiting.length > 0) {
      const batch = lane.waiting.splice(0, maxItems);
      lane.running += 1;
      void settle(run, nothingWasDone, tenantId, batch).then(() => {
        lane.running -= 1;
        if (lane.running === 0 && lane.waiting.length === 0) tenants.delete(tenantId);
        else pump(tenantId);
      });
    }
  };

  return (tenantId, item) =>
    new Promise<Result>((resolve, reject) => {
      let lane = tenants.get(tenantId);
      if (lane === undefined) {
        lane = { waiting: [], running: 0 };
        tenants.set(tenantId, lane);
      }
      lane.waiting.push({ item, resolve, reject });
      // Not only then: a burst would come back as one, and this process and the database would take turns at waiting.
      if (lane.waiting.length >= full) pump(tenantId);
      // After the current turn of the event loop: what was read from the sockets together travels together.
      if (lane.waiting.length === 1) setImmediate(pump, tenantId);
    });
}

/** Never rejects: every outcome goes to whoever waits for it. */
async function settle<Item, Result>(
  run: RunBatch<Item, Result>,
  nothingWasDone: (error: unknown) => boolean,
  tenantId: string,
  batch: readonly Waiting<Item, Result>[],
): Promise<void> {
  try {
    const results = await run(
      tenantId,
      batch.map((waiting) => waiting.item),
    );
    batch.forEach((waiting, index) => {
      waiting.resolve(results[index] as Result);
    });
  } catch (error) {
    const mayTryAlone = batch.length > 1 && nothingWasDone(error);
    for (const waiting of batch) {
      if (mayTryAlone) await settle(run, nothingWasDone, tenantId, [waiting]);
      else waiting.reject(error);
    }
  }
}
