import { type Clock, systemClock } from "../../src/verify/clock.ts";
import { createVerifier, type Problem, type Verifier, type VerifierOptions } from "../../src/verify/index.ts";
import { type Balancer, startBalancer } from "../support/balancer.ts";
import { type Answer, type Fleet, startFleet } from "../support/fleet.ts";
import type { MayflyProcess } from "../support/processes.ts";
import { aRacer, type Racer } from "../support/racer.ts";
import { AUDIENCE } from "./broker.ts";
import { aCaller } from "./caller.ts";
import type { Living } from "./time-to-refusal.ts";

/** What is not as usual. `authorization: null`: the tool does not authenticate to the broker. */
interface VerifierChanges {
  readonly authorization?: (() => string) | null;
  readonly maxStatusAgeMs?: number;
  readonly allowBearer?: boolean;
  readonly clock?: Clock;
}

/** A token of a task, bound to a key, and its holder. */
export interface Held extends Living {
  readonly token: string;
  readonly taskId: string;
}

/** An agent with a task and a key, who mints at a replica. */
export interface Holder {
  readonly agent: Racer;
  mint(at: MayflyProcess, more?: object): Promise<Held>;
}

/** Two real API processes and a worker on one database, behind one address, and a tool that may ask for their events. */
export interface Replicas extends AsyncDisposable {
  readonly fleet: Fleet;
  readonly balancer: Balancer;
  readonly issuer: string;
  readonly a: MayflyProcess;
  readonly b: MayflyProcess;
  readonly toolId: string;
  /** Another agent: a tool that serves nothing yet. */
  tool(): Promise<{ readonly id: string; readonly token: string }>;
  /** Lets a tool serve the target. Gives the relationship's id. */
  serve(toolId: string): Promise<string>;
  holder(): Promise<Holder>;
  /** A verifier of the tool, whose connections go to the first of these replicas, or to the next when that one is gone. */
  verifier(order: readonly MayflyProcess[], options?: VerifierChanges): Promise<Verifier>;
  /** What verifiers told of so far. */
  readonly problems: Problem[];
  call(at: MayflyProcess, who: string, method: string, path: string, body?: unknown): Promise<NonNullable<Answer>>;
  /** Resolves when the answer to a revocation has arrived. */
  revoke(at: MayflyProcess, id: string): Promise<void>;
}

export function portOf(replica: MayflyProcess): number {
  return Number(replica.ready["port"]);
}

export async function startReplicas(): Promise<Replicas> {
  const balancer = await startBalancer();
  const fleet = await startFleet({ MAYFLY_PUBLIC_URL: balancer.url });
  const [a, b] = await Promise.all([fleet.start("api"), fleet.start("api"), fleet.start("worker")]);
  const { broker, idp, seeded } = fleet;
  const issuer = broker.issuerUrl("default");
  const tokens = { broker, token: (claims: Readonly<Record<string, unknown>>) => idp.token(issuer, claims) };
  const tool = await aRacer(tokens, seeded);
  const verifiers: Verifier[] = [];
  const problems: Problem[] = [];

  const replicas: Replicas = {
    fleet,
    balancer,
    issuer,
    a,
    b,
    toolId: tool.agentId,
    problems,
    async call(at, who, method, path, body) {
      const answer = await fleet.call(at, who, method, path, body);
      if (answer === undefined || answer.status >= 300) throw new Error(`${path}: ${JSON.stringify(answer)}`);
      return answer;
    },
    async revoke(at, id) {
      await replicas.call(at, "orchestrator", "POST", `/v1/credentials/${id}/revoke`);
    },
    async tool() {
      const { agentId, token } = await aRacer(tokens, seeded);
      return { id: agentId, token };
    },
    async serve(toolId) {
      const relationship = { subject: toolId, relation: "serves", object: seeded.targetId };
      return (await replicas.call(a, "admin", "POST", "/v1/relationships", relationship)).body.id;
    },
    async holder() {
      const agent = await aRacer(tokens, seeded, { bearerTtlSeconds: null });
      const caller = await aCaller();
      let nonce: string | null = null;
      const post = async (at: MayflyProcess, body: object): Promise<Response> => {
        const path = "/v1/credentials";
        const claims = { htm: "POST", htu: `${balancer.url}${path}`, ath: null, nonce };
        const response = await fetch(`http://127.0.0.1:${portOf(at)}${path}`, {
          method: "POST",
          headers: {
            authorization: `Bearer ${agent.token}`,
            "content-type": "application/json",
            dpop: await caller.proof(agent.token, { claims }),
          },
          body: JSON.stringify(body),
        });
        nonce = response.headers.get("dpop-nonce") ?? nonce;
        return response;
      };
      return {
        agent,
        async mint(at, more = {}) {
          const body = {
            task_id: agent.taskId,
            target: "tickets-api",
            actions: ["read"],
            resources: ["tickets"],
            ttl_seconds: 300,
            ...more,
          };
          let response = await post(at, body);
          // The first one is told the nonce.
          if (response.status === 400) response = await post(at, body);
          const text = await response.text();
          if (response.status !== 201) throw new Error(`not minted: ${response.status} ${text}`);
          const { credential, secret } = JSON.parse(text) as {
            credential: { id: string };
            secret: { access_token: string };
          };
          const token = secret.access_token;
          return { id: credential.id, token, taskId: agent.taskId, call: () => caller.call(token) };
        },
      };
    },
    async verifier(order, { authorization = () => `Bearer ${tool.token}`, clock = systemClock, ...changes } = {}) {
      balancer.serve(...order.map(portOf));
      const options: VerifierOptions = {
        issuer,
        audience: AUDIENCE,
        onProblem: (problem) => problems.push(problem),
        ...(authorization === null ? {} : { authorization }),
        ...changes,
      };
      const verifier = await createVerifier(options, clock);
      verifiers.push(verifier);
      return verifier;
    },
    async [Symbol.asyncDispose]() {
      for (const verifier of verifiers) await verifier.close();
      await fleet[Symbol.asyncDispose]();
      await balancer[Symbol.asyncDispose]();
    },
  };
  await replicas.serve(tool.agentId);
  return replicas;
}
