// How a target's answer goes to the client: framing and connection of either side, decided once its head is there.
import { type Framing, responseFraming } from "./framing.ts";
import { Malformed, type RequestHead, type ResponseHead, tokensOf, valuesOf } from "./head.ts";
import { responseHead } from "./headers.ts";

export interface Plan {
  /** Of what the target sends, and of what the client gets. */
  readonly from: Framing;
  readonly to: Framing;
  readonly keepAlive: boolean;
  /** The connection to the target can carry another request. */
  readonly reusable: boolean;
  /** The head as the client gets it. */
  readonly head: string;
}

/** `bodyDue`: the request's body has not come in full, and no 100 (Continue) has asked for it. */
export function planAnswer(request: RequestHead, head: ResponseHead, wantsKeepAlive: boolean, bodyDue: boolean): Plan | Malformed {
  const from = responseFraming(head, request.method);
  if (from instanceof Malformed) return from;
  const to: Framing = from.kind === "close" || from.kind === "chunked" ? { kind: request.minor === 1 ? "chunked" : "close" } : from;
  const reusable = head.minor === 1 && from.kind !== "close" && !tokensOf(head.fields, "connection").includes("close");
  // Who waits for 100 (Continue) and gets an answer instead may send its body or not: nothing can come after it.
  const waits = bodyDue && valuesOf(request.fields, "expect").length > 0;
  const keepAlive = wantsKeepAlive && to.kind !== "close" && !waits;
  const connection = !keepAlive ? "close" : request.minor === 0 ? "keep-alive" : null;
  return { from, to, reusable, keepAlive, head: responseHead(head, to, connection, lengthUnsent(head, from)) };
}

/** The length of a body that is told and not sent: of HEAD's answer, and of 304. */
function lengthUnsent({ status, fields }: ResponseHead, framing: Framing): string[] {
  const [length, more] = valuesOf(fields, "content-length");
  return framing.kind === "none" && status !== 204 && length !== undefined && more === undefined && /^\d+$/.test(length) ? [`Content-Length: ${length}`] : [];
}
