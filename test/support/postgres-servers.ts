import { testSuperuserUrl } from "./database.ts";

/** A PostgreSQL that the tests of an issuer run against. */
export interface PostgresServer {
  /** Its major version, for the name of the suite. */
  readonly major: string;
  readonly superuserUrl: string;
}

/**
 * Every PostgreSQL there is: the 18 of this run, and those of TEST_POSTGRES_SERVERS (`16=<url>,17=<url>`), which
 * `.ci/run` starts because majors differ in what a role may do. For `describe.each(postgresServers())`.
 */
export function postgresServers(): readonly PostgresServer[] {
  const others = (process.env["TEST_POSTGRES_SERVERS"] ?? "").split(",").filter((entry) => entry !== "");
  return [
    { major: "18", superuserUrl: testSuperuserUrl() },
    ...others.map((entry) => {
      const at = entry.indexOf("=");
      return { major: entry.slice(0, at), superuserUrl: entry.slice(at + 1) };
    }),
  ];
}
