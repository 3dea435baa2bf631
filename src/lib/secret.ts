import { inspect } from "node:util";

const SHOWN = "[secret]";

/**
 * Material that is handed out once and never stored or logged (invariant 11). Whatever prints, interpolates,
 * serialises or inspects it gets `[secret]`; only {@link Secret.reveal} gives it back, so every use can be found.
 */
export class Secret {
  readonly #value: string;

  constructor(value: string) {
    this.#value = value;
  }

  /** The material itself. Call it at the last moment, and never into a variable that outlives the call. */
  reveal(): string {
    return this.#value;
  }

  toString(): string {
    return SHOWN;
  }

  toJSON(): string {
    return SHOWN;
  }

  [inspect.custom](): string {
    return SHOWN;
  }
}
