// Answers of the ingress's own: short JSON bodies in the API's form, `{"code","message"}`.
import { latin1 } from "./wire.ts";

const REASONS: Readonly<Record<number, readonly [reason: string, code: string]>> = {
  400: ["Bad Request", "bad_request"], 403: ["Forbidden", "forbidden"], 404: ["Not Found", "not_found"], 408: ["Request Timeout", "request_timeout"],
  417: ["Expectation Failed", "bad_request"], 431: ["Request Header Fields Too Large", "bad_request"],
  501: ["Not Implemented", "not_implemented"], 502: ["Bad Gateway", "bad_gateway"], 503: ["Service Unavailable", "unavailable"],
  504: ["Gateway Timeout", "gateway_timeout"], 505: ["HTTP Version Not Supported", "not_supported"],
};

export interface Answer { readonly status: number; readonly message: string; readonly retryAfterS?: number | null }

/** `head`: without the body, as HEAD wants it. */
export function answerBytes({ status, message, retryAfterS = null }: Answer, close: boolean, head: boolean): Uint8Array {
  const [reason, code] = REASONS[status] ?? REASONS[502]!;
  const body = Buffer.from(`${JSON.stringify({ code, message })}\n`);
  const lines = [
    `HTTP/1.1 ${status} ${reason}`, `Date: ${new Date().toUTCString()}`, "Content-Type: application/json", `Content-Length: ${body.length}`, "Cache-Control: no-store",
    ...(retryAfterS === null ? [] : [`Retry-After: ${retryAfterS}`]), ...(close ? ["Connection: close"] : []),
  ];
  const text = latin1(`${lines.join("\r\n")}\r\n\r\n`);
  return head ? text : Buffer.concat([text, body]);
}
