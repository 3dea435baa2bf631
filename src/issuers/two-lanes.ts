/** Connections to a far side for mints, and others for revokes, so that a burst of mints cannot hold up a revoke. */
export interface TwoLanes<Lane> extends AsyncDisposable {
  readonly mint: Lane;
  readonly revoke: Lane;
}

/** Opens the two lanes of a target. Disposing closes both. */
export function twoLanes<Lane extends AsyncDisposable>(open: () => Lane): TwoLanes<Lane> {
  const [mint, revoke] = [open(), open()];
  return {
    mint,
    revoke,
    async [Symbol.asyncDispose]() {
      await Promise.all([mint[Symbol.asyncDispose](), revoke[Symbol.asyncDispose]()]);
    },
  };
}
