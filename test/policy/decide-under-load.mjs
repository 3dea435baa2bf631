/*
 * A process of its own that decides under concurrent HTTP load and prints how often. With `without-flag` V8 keeps
 * what src/policy/cedar.ts turns off.
 */
import http from "node:http";
import { register, syncBuiltinESMExports } from "node:module";
import v8 from "node:v8";

const [decisions, flag] = [Number(process.argv[2]), process.argv[3]];
const CONNECTIONS = 32;
const DECISIONS_PER_REQUEST = 10;

if (flag === "without-flag") {
  v8.setFlagsFromString = () => {};
  syncBuiltinESMExports();
}
register("./typescript-hooks.mjs", import.meta.url);
const { decide } = await import("../../src/policy/engine.ts");
const { defaultPolicies } = await import("../../src/policy/default-policies.ts");
const { anAction, anInput, compiled } = await import("./fixtures.ts");

const policies = compiled(defaultPolicies);
const classes = ["write", "execute", "deploy", "delete"];
let decided = 0;

const server = http.createServer((request, response) => {
  request.resume().on("end", () => {
    const outcomes = [];
    for (let i = 0; i < DECISIONS_PER_REQUEST; i++, decided++) {
      // An approver of its own each time, so that Cedar is asked and not our memory.
      const approvals = ["resource-owners", `approver-${decided}`];
      const input = anInput({ approvals, actions: [anAction(classes[decided % classes.length])] });
      outcomes.push(decide(policies, input).outcome);
    }
    response.end(JSON.stringify(outcomes));
  });
});
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
const agent = new http.Agent({ keepAlive: true, maxSockets: CONNECTIONS });

function post() {
  return new Promise((resolve, reject) => {
    const options = { agent, port: server.address().port, host: "127.0.0.1", method: "POST" };
    const request = http.request(options, (response) => {
      const chunks = [];
      response.on("data", (chunk) => chunks.push(chunk));
      response.on("end", () => resolve(JSON.parse(Buffer.concat(chunks).toString())));
      response.on("error", reject);
    });
    request.on("error", reject);
    request.end("x".repeat(200));
  });
}

let allowed = 0;
let left = decisions / DECISIONS_PER_REQUEST;
await Promise.all(
  Array.from({ length: CONNECTIONS }, async () => {
    while (left-- > 0) for (const outcome of await post()) if (outcome === "allow") allowed++;
  }),
);
agent.destroy();
server.close();
process.stdout.write(JSON.stringify({ decided, allowed }));
