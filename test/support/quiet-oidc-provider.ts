import { jest } from "@jest/globals";
import type { Provider as Real } from "oidc-provider";

// It says on the console that this Node is not its newest, and that what is kept in memory is lost. Tests print nothing.
function quiet(): Disposable {
  const muted = jest.spyOn(console, "warn").mockImplementation(() => undefined);
  return { [Symbol.dispose]: () => muted.mockRestore() };
}

async function load() {
  using _ = quiet();
  return await import("oidc-provider");
}

const loaded = await load();

export type Provider = Real;

/** A provider of node-oidc-provider, with the constructor's arguments. */
export function newProvider(...args: ConstructorParameters<typeof loaded.Provider>): Provider {
  using _ = quiet();
  return new loaded.Provider(...args);
}
