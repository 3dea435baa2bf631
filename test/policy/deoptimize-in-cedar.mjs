/*
 * The crash itself, without waiting for chance. A function that calls Cedar gets hot, and V8 inlines the way into
 * WebAssembly; then, while a call is under way, something that the function was optimized for stops being true, and
 * V8 must leave the optimized code from inside that call. With `without-flag` V8 keeps what src/policy/cedar.ts
 * turns off.
 */
import { register, syncBuiltinESMExports } from "node:module";
import v8 from "node:v8";

if (process.argv[2] === "without-flag") {
  v8.setFlagsFromString = () => {};
  syncBuiltinESMExports();
}
register("./typescript-hooks.mjs", import.meta.url);
const { withCedar } = await import("../../src/policy/cedar.ts");

class Assumption {
  get value() {
    return 1;
  }
}
const assumption = new Assumption();
let broken = false;
const call = {
  context: {
    x: {
      // Cedar calls back for the JSON of its argument.
      toJSON() {
        if (broken) Object.defineProperty(Assumption.prototype, "value", { get: () => 2 });
        return 1;
      },
    },
  },
};
const cedar = withCedar((loaded) => loaded);

function hot() {
  const { type } = cedar.checkParseContext(call);
  return (type === "success" ? 1 : 0) + assumption.value;
}

let sum = 0;
for (let i = 0; i < 50_000; i++) sum += hot();
broken = true;
process.stdout.write(JSON.stringify({ before: sum / 50_000, during: hot(), after: hot() }));
