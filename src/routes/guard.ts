// Who may speak to the API until access control is there: programs of this machine, and no web page of another site.
// The server binds loopback only; a page could still reach it through a name of its own that resolves to 127.0.0.1
// (DNS rebinding) or by a plain cross-site request: so Host must be a name of loopback, and Origin must be our own.
import { isIP } from "node:net";
import { ok } from "neverthrow";
import { DormouseError, fail, type Res } from "../errors.ts";

export interface Address { readonly hostname: string; readonly port: number }

/** True for 127.0.0.0/8 and ::1, written plainly. */
const isLoopback = (address: string): boolean => (isIP(address) === 4 && address.startsWith("127.")) || address === "::1";

/** `127.0.0.1:4973`, `[::1]:4973` or `localhost:4973`; anything but loopback is refused. */
export function parseListen(text: string): Res<Address> {
  const match = /^(?:\[([0-9a-fA-F:]+)\]|([^:[\]]+)):(\d{1,5})$/.exec(text);
  const port = Number(match?.[3]);
  if (match === null || port > 65_535) return fail("request.bad", `Cannot listen on ${text}: write it as address:port, like 127.0.0.1:4973.`);
  const name = match[1] ?? match[2] ?? "";
  const hostname = name === "localhost" ? "127.0.0.1" : name;
  if (!isLoopback(hostname)) {
    return fail("request.forbidden", `Cannot listen on ${text}: the API has no access control yet, so it binds loopback addresses only. Use 127.0.0.1:${port}, and a tunnel from elsewhere.`);
  }
  return ok({ hostname, port });
}

/** The name in `host` without port and brackets; null where it is not `name[:port]`. */
function hostName(host: string): string | null {
  const match = /^(?:\[([0-9a-fA-F:]+)\]|([^:[\]/@]+))(?::\d{1,5})?$/.exec(host);
  return match === null ? null : (match[1] ?? match[2] ?? null);
}

/** Why this request is not answered, or null. Cheap: it runs before every route. */
export function refusal(request: Request): DormouseError | null {
  const host = request.headers.get("host") ?? "";
  const name = hostName(host)?.toLowerCase();
  if (name === undefined || !(name === "localhost" || isLoopback(name))) {
    return new DormouseError("request.forbidden", "Cannot answer: the Host header names neither localhost nor a loopback address, as a rebound DNS name would. Call the API by its loopback address.");
  }
  const origin = request.headers.get("origin");
  if (origin !== null && origin.toLowerCase() !== `http://${host.toLowerCase()}`) {
    return new DormouseError("request.forbidden", "Cannot answer: the Origin header names another site than this server's own.");
  }
  return null;
}
