// Waits until the test run that started it is gone, then ends the servers that the run left behind and removes its
// directory. It knows them by their working directory, which is inside the run's own. Linux only: elsewhere an
// interrupted run leaves its servers to whoever interrupted it.
import { readdirSync, readlinkSync, realpathSync, rmSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";

const directory = realpathSync(process.argv[2]);

function left() {
  const pids = [];
  for (const name of process.platform === "linux" ? readdirSync("/proc") : []) {
    if (!/^\d+$/.test(name) || Number(name) === process.pid) continue;
    try {
      const place = readlinkSync(`/proc/${name}/cwd`);
      if (place === directory || place.startsWith(`${directory}/`)) pids.push(Number(name));
    } catch {
      // It ended meanwhile, or is not ours to look at.
    }
  }
  return pids;
}

process.on("SIGINT", () => {});
process.stdin.resume();
process.stdin.on("end", async () => {
  for (let pids = left(); pids.length > 0; pids = left()) {
    for (const pid of pids) {
      try {
        process.kill(pid, "SIGKILL");
      } catch {
        // Gone already.
      }
    }
    await delay(50);
  }
  rmSync(directory, { recursive: true, force: true });
});
