import { types } from "node:util";

// Jest runs every test file in a realm of its own, whose Error is not the Error of Node's own modules: there, an ENOENT
// of node:fs is not `instanceof Error`, and code under test takes a way that it never takes in production. Classes of
// our own are not touched.
for (const builtIn of [Error, TypeError, RangeError, SyntaxError, AggregateError]) {
  const ordinary = Function.prototype[Symbol.hasInstance];
  Object.defineProperty(builtIn, Symbol.hasInstance, {
    value(this: unknown, value: unknown): boolean {
      if (ordinary.call(this, value)) return true;
      if (this !== builtIn || !types.isNativeError(value)) return false;
      return builtIn === Error || isNamed(value, builtIn.name);
    },
  });
}

function isNamed(error: Error, name: string): boolean {
  for (let proto: unknown = error; proto !== null && proto !== undefined; proto = Object.getPrototypeOf(proto)) {
    if (Object.hasOwn(proto, "constructor") && proto.constructor.name === name) return true;
  }
  return false;
}
