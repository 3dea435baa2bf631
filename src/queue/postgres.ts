import { Socket } from "node:net";
import { createPostgresBackend, type JobProgress, type PgPool, Queue, Worker } from "bullmq";
import pg from "pg";
import { consumer, producer, QUEUE_NAME, queueOptions, workerOptions } from "./bullmq.ts";
import { BULLMQ_SCHEMA, prepareSchema } from "./postgres-schema.ts";
import type { QueueServer } from "./server.ts";

/**
 * BullMQ on Postgres, as the runtime role. It needs the server itself: LISTEN does not pass through a pooler that
 * shares connections between transactions. The schema is shared, so `prefix` is part of the queue's name.
 */
export function postgresServer(connectionString: string, prefix: string): QueueServer {
  const name = `${prefix}-${QUEUE_NAME}`;
  return {
    kind: "postgres",
    async prepare() {
      const link = openLink(connectionString, 1);
      try {
        await prepareSchema(link.pool);
      } finally {
        link.cut();
      }
    },
    produce() {
      const link = openLink(connectionString, 2);
      const queue = new Queue<object, void, string, object, void, string, Backend, Connection>(
        name,
        { connection: link.pool, ...queueOptions },
        createPostgresBackend,
      );
      return producer(queue, {
        async check() {
          // A read of BullMQ's own tables: there, migrated, and ours to read.
          await queue.getJobCounts("waiting");
        },
        discard() {
          link.cut();
          void queue.getBackend().close(true).catch(ignore);
        },
      });
    },
    consume(run) {
      // One connection stays with LISTEN, and while it waits BullMQ asks two things at once.
      const link = openLink(connectionString, 3);
      return consumer<Backend, Connection>(
        run,
        (processor) =>
          new Worker<object, void, string, Backend, JobProgress, Connection>(
            name,
            processor,
            { connection: link.pool, ...workerOptions },
            createPostgresBackend,
          ),
        (worker) => {
          link.cut();
          // A forced close leaves the wait for the next job, and its timer of up to an hour, behind.
          void worker.getBackend().disconnectBlocking().catch(ignore);
          void worker.close(true).catch(ignore);
        },
      );
    },
  };
}

type Backend = ReturnType<typeof createPostgresBackend>;
type Connection = Parameters<typeof createPostgresBackend>[1]["connection"];

interface Link {
  readonly pool: PgPool;
  /** Ends every connection now, whatever it is doing and whether or not the server answers. */
  cut(): void;
}

function openLink(connectionString: string, max: number): Link {
  const sockets = new Set<Socket>();
  const { url, options } = splitOptions(connectionString);
  const pool = new pg.Pool({
    connectionString: url,
    max,
    application_name: "mayfly queue",
    // Losing the last wake-ups in a crash of the server is fine, so no add waits for the disk.
    options: `${options} -c search_path=${BULLMQ_SCHEMA} -c synchronous_commit=off`.trim(),
    connectionTimeoutMillis: 2_000,
    query_timeout: 5_000,
    statement_timeout: 5_000,
    lock_timeout: 5_000,
    keepAlive: true,
    keepAliveInitialDelayMillis: 10_000,
    Client: QuietClient,
    stream() {
      const socket = new Socket();
      sockets.add(socket);
      socket.once("close", () => sockets.delete(socket));
      return socket;
    },
  });
  pool.on("error", ignore);
  return {
    // What BullMQ asks of a pool is what pg.Pool is; only the overloads of `on` are spelled differently.
    pool: pool as unknown as PgPool,
    cut() {
      for (const socket of sockets) socket.destroy();
      void pool.end().catch(ignore);
    },
  };
}

/**
 * A client whose errors nobody has to listen to; they come back from its queries as well. BullMQ takes clients out of
 * the pool without a listener, and takes its own away before it closes the connection: if Postgres says "terminating
 * connection" in such a moment, the event would end the process (reliability C11).
 */
class QuietClient extends pg.Client {
  constructor(config?: pg.ClientConfig) {
    super(config);
    this.on("error", ignore);
  }

  override removeAllListeners(event?: string | symbol): this {
    super.removeAllListeners(event);
    return this.on("error", ignore);
  }
}

// In pg the `options` of a connection string replace those of the configuration, and without our search_path BullMQ
// finds none of its functions.
function splitOptions(connectionString: string): { url: string; options: string } {
  if (!URL.canParse(connectionString)) return { url: connectionString, options: "" };
  const url = new URL(connectionString);
  const options = url.searchParams.get("options");
  if (options === null) return { url: connectionString, options: "" };
  url.searchParams.delete("options");
  return { url: url.href, options };
}

function ignore(): void {}
