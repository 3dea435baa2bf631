import { basename } from "node:path";
import { fileURLToPath } from "node:url";
import { round, table } from "./report.ts";

const SHOWN = 15;

interface CpuProfile {
  readonly nodes: readonly {
    readonly id: number;
    readonly callFrame: { readonly functionName: string; readonly url: string; readonly lineNumber: number };
  }[];
  readonly samples: readonly number[];
  readonly timeDeltas: readonly number[];
}

/** Prints the functions in which a process of V8 spent most time themselves, as shares of the time it was busy. */
export function printProfile(text: string): void {
  const { nodes, samples, timeDeltas } = JSON.parse(text) as CpuProfile;
  const names = new Map(nodes.map(({ id, callFrame }) => [id, nameOf(callFrame)]));
  const spent = new Map<string, number>();
  samples.forEach((id, index) => {
    const name = names.get(id) ?? "?";
    spent.set(name, (spent.get(name) ?? 0) + (timeDeltas[index] ?? 0));
  });
  // Waiting for something to do.
  spent.delete("(idle)");
  const busy = [...spent.values()].reduce((sum, time) => sum + time, 0);
  const top = [...spent].sort(([, a], [, b]) => b - a).slice(0, SHOWN);
  console.log(`where the server's main thread was, ${round(busy / 1e6, 1)} s busy (start and seeding included):`);
  table(
    ["share %", "self ms", "function"],
    top.map(([name, time]) => [round((time / busy) * 100, 1), round(time / 1000), name]),
  );
}

function nameOf({ functionName, url, lineNumber }: CpuProfile["nodes"][number]["callFrame"]): string {
  if (url === "") return functionName;
  const path = url.startsWith("file:") ? fileURLToPath(url) : url;
  const inPackage = /node_modules\/((?:@[^/]+\/)?[^/]+)\/.*?([^/]+)$/.exec(path);
  const inDist = /\/dist\/(.+)$/.exec(path);
  const place =
    inPackage === null
      ? (inDist?.[1] ?? (url.startsWith("node:") ? url : basename(path)))
      : `${inPackage[1]}/${inPackage[2]}`;
  return `${functionName || "(anonymous)"} ${place}:${lineNumber + 1}`;
}
