import type { KeyObject } from "node:crypto";
import { Worker } from "node:worker_threads";
import { batcher } from "../lib/batch.ts";

/** Signs on a thread of its own, many texts at a time. */
export interface SigningThread extends AsyncDisposable {
  /**
   * The ES256 signature of a text (RFC 7518 §3.4), base64url. Rejects when the thread is gone; the next call starts
   * another. The thread keeps every key that it was given: give it the same object each time.
   */
  sign(key: KeyObject, text: string): Promise<string>;
}

// Plain text, because a worker's file would have to be JavaScript where the sources are TypeScript.
// createSign: the one-shot sign() looks its algorithms up again each time.
// One string each way, and a key only once: to clone a KeyObject for each message cost the main thread half a signature.
const THREAD = `
const { parentPort } = require("node:worker_threads");
const { createSign } = require("node:crypto");
const keys = new Map();
parentPort.on("message", (message) => {
  if (typeof message !== "string") return keys.set(message.name, message.key);
  const [id, name, ...texts] = JSON.parse(message);
  const key = { key: keys.get(name), dsaEncoding: "ieee-p1363" };
  const signatures = texts.map((text) => createSign("sha256").update(text).sign(key, "base64url"));
  parentPort.postMessage(JSON.stringify([id, ...signatures]));
});`;

interface Running {
  readonly worker: Worker;
  /** The keys that the thread was given, by the names that it knows them by. */
  readonly names: Map<KeyObject, string>;
  readonly waiting: Map<string, { resolve(signatures: string[]): void; reject(error: Error): void }>;
}

/**
 * A P-256 signature is the dearest single step of a mint: 80 µs with warm caches, over 130 µs between everything else
 * that the main thread does. Waking a thread costs as much, so what arrives together is sent together: with one job per
 * signature (the callback of crypto.sign) nothing was gained.
 */
export function createSigningThread(): SigningThread {
  let running: Running | undefined;
  let asked = 0;

  const start = (): Running => {
    const started: Running = {
      worker: new Worker(THREAD, { eval: true, env: {} }),
      names: new Map(),
      waiting: new Map(),
    };
    const { worker, waiting } = started;
    const lost = (error: Error): void => {
      if (running === started) running = undefined;
      for (const { reject } of waiting.values()) reject(error);
      waiting.clear();
    };
    worker.on("message", (message: string) => {
      const [id = "", ...signatures] = JSON.parse(message) as string[];
      waiting.get(id)?.resolve(signatures);
      waiting.delete(id);
      if (waiting.size === 0) worker.unref();
    });
    worker.on("error", lost);
    worker.on("exit", () => lost(new Error("the signing thread has ended")));
    return started;
  };

  const signAll = (key: KeyObject, texts: readonly string[]): Promise<string[]> =>
    new Promise((resolve, reject) => {
      running ??= start();
      const { worker, names, waiting } = running;
      asked += 1;
      waiting.set(`${asked}`, { resolve, reject });
      // The process stays for an answer that somebody waits for, and for nothing else.
      worker.ref();
      let name = names.get(key);
      if (name === undefined) {
        name = `${names.size}`;
        names.set(key, name);
        worker.postMessage({ name, key }, []);
      }
      worker.postMessage(JSON.stringify([`${asked}`, name, ...texts]), []);
    });

  const lanes = new WeakMap<KeyObject, (text: string) => Promise<string>>();
  const laneOf = (key: KeyObject): ((text: string) => Promise<string>) => {
    const known = lanes.get(key);
    if (known !== undefined) return known;
    const batched = batcher<string, string>((_, texts) => signAll(key, texts), { full: 8 });
    const lane = (text: string): Promise<string> => batched("", text);
    lanes.set(key, lane);
    return lane;
  };

  return {
    sign: (key, text) => laneOf(key)(text),
    async [Symbol.asyncDispose]() {
      await running?.worker.terminate();
    },
  };
}
