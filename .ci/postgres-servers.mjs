// Starts one PostgreSQL per argument (`16=<directory of its npm package>`), prints `16=<superuser URL>,17=…` when all
// answer, and stops them when it is told to end.
import { chmod, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { startEmbeddedPostgres } from "../dist/db/embedded.js";

const directory = await mkdtemp(join(tmpdir(), "mayfly-ci-postgres-"));
await chmod(directory, 0o711);
const servers = [];

async function end() {
  for (const { server } of servers) await server.stop();
  await rm(directory, { recursive: true, force: true });
  process.exit(0);
}
process.once("SIGTERM", end);
process.once("SIGINT", end);

for (const argument of process.argv.slice(2)) {
  const [major, home] = argument.split("=");
  const options = { directory: join(directory, major), native: join(home, "native"), durable: false };
  servers.push({ major, server: await startEmbeddedPostgres(options) });
}
console.log(servers.map(({ major, server }) => `${major}=${server.superuserUrl}`).join(","));
setInterval(() => undefined, 60_000);
