import { type BlockList, isIP } from "node:net";

/** Adds an address or a network (`10.0.0.0/8`, `fd00::/8`) to a list. Throws a TypeError for a text that is neither. */
export function trustNetwork(list: BlockList, text: string): void {
  const [, address = "", prefix] = /^([0-9A-Fa-f.:]+)(?:\/(\d{1,3}))?$/.exec(text) ?? [];
  const version = isIP(address);
  const longest = version === 6 ? 128 : 32;
  if (version === 0 || Number(prefix ?? longest) > longest) throw new TypeError("not an address or a network");
  list.addSubnet(address, Number(prefix ?? longest), version === 6 ? "ipv6" : "ipv4");
}
