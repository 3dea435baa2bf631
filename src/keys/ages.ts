/** For so long anybody may use a copy of a key set (`Cache-Control: max-age`). migrations/0006 holds keys to it. */
export const JWKS_MAX_AGE_SECONDS = 300;

/** Clocks differ, and a row is stamped a moment before others can see it. */
export const MARGIN_SECONDS = 60;

const DAY_SECONDS = 86_400;

/** When the steps of a rotation are due, in seconds. */
export interface KeyAges {
  /** A key that has been active for so long is replaced. */
  readonly rotateSeconds: number;
  /** The next key is published so long before, because some verifiers keep a key set for longer than they should. */
  readonly aheadSeconds: number;
  /** A key signs only after it was published for so long. At least {@link JWKS_MAX_AGE_SECONDS}. */
  readonly publishSeconds: number;
}

/** The ages of a deployment that replaces its keys every so many days. */
export function keyAges(rotationDays: number): KeyAges {
  return {
    rotateSeconds: rotationDays * DAY_SECONDS,
    aheadSeconds: DAY_SECONDS,
    publishSeconds: JWKS_MAX_AGE_SECONDS + MARGIN_SECONDS,
  };
}
