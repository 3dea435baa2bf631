import { appendFileSync } from "node:fs";

/** From the call of a revoke until a client of the far side, new to it, was refused. */
export interface Refusal {
  readonly issuer: string;
  readonly ms: number;
}

/** Tells `npm run bench -- refusal` of one. Without it, nobody listens. */
export function tellRefusal(refusal: Refusal): void {
  const file = process.env["TEST_REFUSALS_FILE"];
  if (file !== undefined) appendFileSync(file, `${JSON.stringify(refusal)}\n`);
}
