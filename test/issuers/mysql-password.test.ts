import { describe, expect, test } from "@jest/globals";
import { cachingSha2Password, nativePassword, sha256Crypt } from "../../src/issuers/mysql-password.ts";
import { Secret } from "../../src/lib/secret.ts";

describe("what the servers store for a password", () => {
  test("MariaDB: what its PASSWORD() gives", () => {
    expect(nativePassword(new Secret("password"))).toBe("*2470C0C06DEE42FD1618BB99005ADCA2EC9D1E19");
  });

  test("SHA-256-crypt is what OpenSSL and hashcat's example of MySQL (mode 7401, a salt of 20) have", () => {
    expect(sha256Crypt(Buffer.from("Hello world!"), Buffer.from("saltstring"), 5_000)).toBe(
      "5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5",
    );
    const salt = Buffer.from("F9CC98CE08892924F50A213B6BC571A2C11778C5", "hex");
    expect(sha256Crypt(Buffer.from("hashcat"), salt, 5_000)).toBe("bTy95Y99eAME1dwEkHOA1ndHGBWz.1bxSSRkuTXFGV/");
  });

  test("MySQL: 70 characters with a salt of their own", () => {
    const password = new Secret("p".repeat(43));
    const stored = cachingSha2Password(password);
    expect(stored).toMatch(/^\$A\$005\$[./0-9A-Za-z]{63}$/);
    expect(cachingSha2Password(password)).not.toBe(stored);
    expect(stored).not.toContain(password.reveal());
  });
});
