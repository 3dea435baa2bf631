import { generateKeyPairSync, verify } from "node:crypto";
import { expect, test } from "@jest/globals";
import { createSigningThread } from "../../src/keys/signing-thread.ts";

const pair = () => generateKeyPairSync("ec", { namedCurve: "P-256" });

test("each text gets its own signature by its own key, however many are asked for at once", async () => {
  await using thread = createSigningThread();
  const [one, other] = [pair(), pair()];
  const asked = Array.from({ length: 100 }, (_, index) => ({
    text: `text ${index}`,
    by: index % 3 === 0 ? one : other,
  }));
  const signatures = await Promise.all(asked.map(({ text, by }) => thread.sign(by.privateKey, text)));
  for (const [index, { text, by }] of asked.entries()) {
    const signature = Buffer.from(signatures[index] ?? "", "base64url");
    expect(signature).toHaveLength(64);
    const key = { key: by.publicKey, dsaEncoding: "ieee-p1363" as const };
    expect(verify("sha256", Buffer.from(text), key, signature)).toBe(true);
  }
  expect(new Set(signatures).size).toBe(100);
});

test("a thread that is gone fails who waits for it, and the next call has another one", async () => {
  const thread = createSigningThread();
  const { privateKey, publicKey } = pair();
  await thread.sign(privateKey, "first");
  const cut = thread.sign(publicKey, "a public key signs nothing");
  await expect(cut).rejects.toThrow();
  await expect(thread.sign(privateKey, "second")).resolves.toMatch(/^[A-Za-z0-9_-]{86}$/);
  await thread[Symbol.asyncDispose]();
});
