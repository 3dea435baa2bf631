import { describe, expect, test } from "@jest/globals";
import { isAllowedAddress, parseFetchUrl } from "../../src/identity/fetch-url.ts";

const strict = { allowLoopbackHttp: false };
const loopback = { allowLoopbackHttp: true };

describe("a URL that may be fetched", () => {
  test.each([
    "https://issuer.example",
    "https://issuer.example/a/b?c=d",
    "https://issuer.example:8443/",
    "https://issuer.example:443/",
    "https://Issuer.Example/x",
    "https://xn--bcher-kva.example/",
    "https://93.184.216.34/keys",
    "https://[2606:2800:220:1::1]/keys",
    "https://issuer.example/@/x",
    "https://issuer.example/a%2Fb",
    "https://issuer.example/a?b=c@d",
  ])("%s", (text) => {
    expect(parseFetchUrl(text, strict)).toBeInstanceOf(URL);
  });

  test.each([
    "http://localhost:4000/x",
    "http://127.0.0.1:4000",
    "http://[::1]:4000",
    "http://127.9.9.9",
    "https://localhost:80",
    "http://2130706433/",
  ])("%s, when the operator allows loopback, and not otherwise", (text) => {
    expect(parseFetchUrl(text, loopback)).toBeInstanceOf(URL);
    expect(typeof parseFetchUrl(text, strict)).toBe("string");
  });
});

describe("a URL that may never be fetched, whatever the operator allows (M5)", () => {
  test.each([
    // schemes and shapes
    "",
    "issuer.example",
    "//issuer.example",
    "/etc/passwd",
    "https:",
    "https:/issuer.example",
    "https:issuer.example",
    "https://",
    "https:///issuer.example",
    "ftp://issuer.example",
    "file:///etc/passwd",
    "gopher://issuer.example",
    "data:application/json,{}",
    "javascript:1",
    "ws://issuer.example",
    "blob:https://issuer.example",
    "http://issuer.example",
    "HTTP://issuer.example",
    "http://localhost.example",
    "http://localhost.",
    "http://sub.localhost",
    "http://127.0.0.1.example",
    "http://10.0.0.1",
    "http://169.254.169.254",
    "http://93.184.216.34",
    // what two parsers read differently
    " https://issuer.example",
    "https://issuer.example ",
    "https://issuer.example\n",
    "https://issuer.example\t/x",
    "https://iss\tuer.example",
    "https://issuer.example\\@evil.example",
    "https:\\\\issuer.example",
    "https://issuer.example\\x",
    "https://issuer.example\0",
    "https://issuer.exámple",
    "https://ｉssuer.example",
    "https://issuer。example",
    "https://①②⑦.⓪.⓪.①",
    "https://issuer.example\u200b",
    // user info and fragments
    "https://u@issuer.example",
    "https://u:p@issuer.example",
    "https://:@issuer.example",
    "https://@issuer.example",
    "https://issuer.example@169.254.169.254",
    "https://127.0.0.1:80@issuer.example",
    "https://issuer.example#",
    "https://issuer.example/#x",
    "https://issuer.example/%23#",
    // ports
    "https://issuer.example:0",
    "https://issuer.example:22",
    "https://issuer.example:25",
    "https://issuer.example:80",
    "https://issuer.example:1023",
    "https://issuer.example:65536",
    "https://issuer.example:-1",
    "https://issuer.example:4 43",
    // address spellings of private, link-local and special IPv4
    "https://0.0.0.0",
    "https://0",
    "https://10.0.0.1",
    "https://10.1",
    "https://0xa000001",
    "https://012.0.0.1",
    "https://167772161",
    "https://172.16.0.1",
    "https://172.31.255.255",
    "https://192.168.0.1",
    "https://192.168.1",
    "https://0300.0250.0.1",
    "https://3232235521",
    "https://169.254.169.254",
    "https://0xa9fea9fe",
    "https://2852039166",
    "https://169.254.43518",
    "https://0251.0376.0251.0376",
    "https://100.64.0.1",
    "https://100.100.100.200",
    "https://192.0.0.192",
    "https://192.0.2.1",
    "https://198.18.0.1",
    "https://198.51.100.1",
    "https://203.0.113.1",
    "https://224.0.0.1",
    "https://240.0.0.1",
    "https://255.255.255.255",
    "https://168.63.129.16",
    "https://192.88.99.1",
    "https://10.0.0.1.",
    "https://%31%30.0.0.1",
    "https://10%2e0%2e0%2e1",
    // IPv6, and IPv4 inside it
    "https://[::]",
    "https://[fe80::1]",
    "https://[fe80::1%25eth0]",
    "https://[fc00::1]",
    "https://[fd00:ec2::254]",
    "https://[fec0::1]",
    "https://[ff02::1]",
    "https://[::ffff:10.0.0.1]",
    "https://[::ffff:a9fe:a9fe]",
    "https://[::ffff:93.184.216.34]",
    "https://[::10.0.0.1]",
    "https://[::a00:1]",
    "https://[::ffff:0:10.0.0.1]",
    "https://[64:ff9b::10.0.0.1]",
    "https://[64:ff9b::a9fe:a9fe]",
    "https://[64:ff9b:1::a00:1]",
    "https://[2002:a00:1::]",
    "https://[2002:a9fe:a9fe::1]",
    "https://[2001:0:a00:1::]",
    "https://[2001:db8::1]",
    "https://[3fff::1]",
    "https://[100::1]",
    "https://[5f00::1]",
    "https://[4000::1]",
    "https://[2001:10::1]",
    `https://issuer.example/${"a".repeat(2048)}`,
  ])("%j", (text) => {
    expect(typeof parseFetchUrl(text, strict)).toBe("string");
    expect(typeof parseFetchUrl(text, loopback)).toBe("string");
  });
});

describe("loopback in every spelling is refused unless the operator allows it", () => {
  test.each([
    "https://localhost",
    "https://LocalHost:8443/x",
    "https://127.0.0.1",
    "https://127.1",
    "https://127.0.1",
    "https://2130706433",
    "https://0x7f000001",
    "https://0x7f.1",
    "https://017700000001",
    "https://0177.0.0.1",
    "https://127.255.255.254",
    "https://[::1]",
    "https://[0:0:0:0:0:0:0:1]",
    "https://[0000::0001]",
    "https://127%2e0.0.1",
    "https://127.0.0.1.",
  ])("%s", (text) => {
    expect(typeof parseFetchUrl(text, strict)).toBe("string");
  });

  test("also as IPv4 in IPv6, which is never allowed", () => {
    for (const host of [
      "[::ffff:127.0.0.1]",
      "[::ffff:7f00:1]",
      "[::127.0.0.1]",
      "[64:ff9b::127.0.0.1]",
      "[2002:7f00:1::]",
    ]) {
      expect(typeof parseFetchUrl(`https://${host}`, loopback)).toBe("string");
    }
  });
});

describe("an address that a name resolved to", () => {
  const url = new URL("https://issuer.example");
  const local = new URL("http://localhost:1");

  test.each(["93.184.216.34", "1.1.1.1", "2606:2800:220:1::1"])("%s is public", (address) => {
    expect(isAllowedAddress(address, url, strict)).toBe(true);
  });

  test.each([
    "",
    "x",
    "999.1.1.1",
    "10.0.0.1",
    "0x7f.1",
    "169.254.169.254",
    "168.63.129.16",
    "::",
    "::1",
    "::ffff:1.1.1.1",
    "::1.1.1.1",
    "fe80::1",
    "fe80::1%eth0",
    "64:ff9b::1.1.1.1",
    "4000::1",
  ])("%j is not", (address) => {
    expect(isAllowedAddress(address, url, strict)).toBe(false);
    expect(isAllowedAddress(address, local, strict)).toBe(false);
  });

  test("loopback counts for a host spelled as loopback alone, and only if the operator allows it", () => {
    for (const address of ["127.0.0.1", "::1", "127.0.0.53"]) {
      expect(isAllowedAddress(address, local, loopback)).toBe(true);
      expect(isAllowedAddress(address, local, strict)).toBe(false);
      expect(isAllowedAddress(address, url, loopback)).toBe(false);
    }
    expect(isAllowedAddress("10.0.0.1", local, loopback)).toBe(false);
  });
});
