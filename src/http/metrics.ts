import { Histogram, type Registry } from "prom-client";

/** What HTTP counts. Labels are constants of the code (route pattern, method, status), so they cannot explode. */
export interface HttpMetrics {
  observe(route: string, method: string, status: number, seconds: number): void;
}

const methods: ReadonlySet<string> = new Set(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]);

/** Registers the HTTP metrics. */
export function createHttpMetrics(registry: Registry): HttpMetrics {
  const duration = new Histogram({
    name: "mayfly_http_request_duration_seconds",
    help: "From the arrival of the headers to the last byte of the answer. Status 499: the caller left first.",
    labelNames: ["route", "method", "status"] as const,
    buckets: [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30],
    registers: [registry],
  });
  return {
    observe(route, method, status, seconds) {
      duration.observe({ route, method: methods.has(method) ? method : "OTHER", status }, seconds);
    },
  };
}
