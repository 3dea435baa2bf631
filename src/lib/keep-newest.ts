/** Keeps `value` under `name` as the newest, and no more than `most` in all: the oldest makes room. */
export function keepNewest<Value>(kept: Map<string, Value>, most: number, name: string, value: Value): void {
  kept.delete(name);
  if (kept.size >= most) kept.delete(kept.keys().next().value ?? "");
  kept.set(name, value);
}
