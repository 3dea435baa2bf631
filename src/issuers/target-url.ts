import { z } from "zod";

/** `https` anywhere, `http` on this host alone; no credentials, no query, no fragment. */
const URL_OF_A_TARGET =
  /^(?:https:\/\/[A-Za-z0-9.-]{1,253}|http:\/\/(?:127\.0\.0\.1|localhost)|https?:\/\/\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?(?:\/[A-Za-z0-9._~-]{1,128}){0,16}\/?$/;

/**
 * A URL of a far side, as an admin writes it: https, or http for a loopback host. A path may follow; dots alone are no part
 * of one.
 */
export function targetUrl(): z.ZodType<string> {
  return z
    .string()
    .max(2048)
    .regex(URL_OF_A_TARGET, "an https URL without credentials, query and fragment (http for a loopback host only)")
    .refine((url) => {
      if (
        !URL.canParse(url) ||
        url
          .split("/")
          .slice(3)
          .some((part) => /^\.+$/.test(part))
      )
        return false;
      const at = new URL(url);
      return at.protocol === "https:" || isLoopback(at.hostname);
    }, "not a URL that Mayfly would go to");
}

/** Whether this host name or address is this very machine, so that a connection without TLS is no risk. */
export function isLoopback(host: string): boolean {
  return /^(localhost|127(\.\d{1,3}){3}|::1|\[::1\])$/.test(host);
}
