import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname } from "node:path";
import v8 from "node:v8";
import vm from "node:vm";

// On Node 20 V8 inlines calls from JavaScript into WebAssembly, and deoptimizing such a frame ends the process
// ("unreachable code") when it happens while Cedar calls back for the JSON of its arguments: after some hundred calls
// under HTTP load. It must be off before the first of those calls is compiled. Node 24 does not crash; a V8 that does
// not know the flag says so on standard error and goes on.
v8.setFlagsFromString("--no-turbo-inline-js-wasm-calls");

/** The functions of cedar-wasm. */
export type Cedar = typeof import("@cedar-policy/cedar-wasm/nodejs");

/** Cedar threw where it should have answered. Its instance was thrown away; whoever asked must deny. */
export class CedarFailed extends Error {}

const require = createRequire(import.meta.url);

let current: Cedar | undefined;
const whenReplaced: (() => void)[] = [];

/**
 * Runs a synchronous piece of work with Cedar, loading it at the first call (some 40 ms). If Cedar throws, the
 * instance is replaced before the next call, and the caller gets {@link CedarFailed}.
 */
export function withCedar<Result>(work: (cedar: Cedar) => Result): Result {
  current ??= instantiate();
  try {
    return work(current);
  } catch (cause) {
    // What is thrown out of WebAssembly leaves its stack pointer where it was: measured, a few thousand harmless
    // errors or one policy with 150 nested brackets, and every later call of every tenant fails.
    current = undefined;
    for (const forget of whenReplaced) forget();
    throw new CedarFailed("cedar-wasm threw", { cause });
  }
}

/** Registers what must be forgotten with an instance: whatever was preparsed lives in its memory. */
export function onCedarReplaced(forget: () => void): void {
  whenReplaced.push(forget);
}

// The package instantiates itself once, when it is required. Running its file as a function, instead of requiring
// it, is what makes a second instance possible.
function instantiate(): Cedar {
  const file = require.resolve("@cedar-policy/cedar-wasm/nodejs");
  const load = vm.compileFunction(readFileSync(file, "utf8"), ["exports", "require", "__dirname"], { filename: file });
  const exports = {};
  load(exports, require, dirname(file));
  return exports as Cedar;
}
