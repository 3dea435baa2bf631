import type { Registry } from "prom-client";
import type { Answer } from "./answer.ts";
import type { Run } from "./exchange.ts";

/** Looks at one thing that requests depend on; throws when it does not work. Its name is public. */
export type HealthCheck = (signal: AbortSignal) => Promise<unknown>;

const CHECK_TIMEOUT_MS = 2000;

/** `/healthz`: the process answers. It looks at nothing else, so an outage elsewhere does not restart it. */
export const alive: Run = async () => json(200, { status: "ok" });

/**
 * `/readyz`: every check passed within two seconds, else 503 with the names of those that did not. What is only a
 * `warning` makes nobody take the process out of service: it is named as `degraded` in a 200. The names are all it says:
 * why is in the log.
 */
export function readiness(
  checks: Readonly<Record<string, HealthCheck>>,
  warnings: Readonly<Record<string, HealthCheck>>,
  onFailed: (name: string, error: unknown) => void,
): Run {
  const failing = async (all: Readonly<Record<string, HealthCheck>>): Promise<readonly string[]> => {
    const names = await Promise.all(
      Object.entries(all).map(async ([name, check]) => {
        try {
          await within(CHECK_TIMEOUT_MS, check);
          return [];
        } catch (error) {
          onFailed(name, error);
          return [name];
        }
      }),
    );
    return names.flat();
  };
  const looked = [...Object.keys(checks), ...Object.keys(warnings)];
  return async () => {
    const [failed, degraded] = await Promise.all([failing(checks), failing(warnings)]);
    return failed.length === 0
      ? json(200, { status: "ready", checks: looked, ...(degraded.length === 0 ? {} : { degraded }) })
      : json(503, { status: "not_ready", failed });
  };
}

/** `/metrics` in the format that Prometheus scrapes. */
export function metricsPage(registry: Registry): Run {
  return async () => ({
    status: 200,
    headers: { "content-type": registry.contentType },
    body: await registry.metrics(),
  });
}

async function within(milliseconds: number, check: HealthCheck): Promise<void> {
  const controller = new AbortController();
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      reject(new RangeError(`no answer within ${milliseconds} ms`));
      controller.abort();
    }, milliseconds);
  });
  try {
    await Promise.race([check(controller.signal), late]);
  } finally {
    clearTimeout(timer);
  }
}

function json(status: number, body: unknown): Answer {
  return { status, headers: { "content-type": "application/json; charset=utf-8" }, body: JSON.stringify(body) };
}
