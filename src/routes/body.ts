// Reads request bodies for every route: JSON whole, archives as they come (Elysia's own parser leaves empty bodies and large ones to chance).
import { DormouseError } from "../errors.ts";
import { bad } from "./errors.ts";

/** Largest JSON body, in bytes. The largest legitimate one is an instance with much environment. */
export const MAX_BODY = 1024 * 1024;

type ParseContext = { readonly request: Request };

/** For routes whose body must be there. */
export const requiredBody = async ({ request }: ParseContext): Promise<unknown> => {
  const value = await readJson(request);
  if (value === undefined || value === null) throw bad("Cannot accept an empty request body: this route needs a JSON object.");
  return value;
};

/** For routes whose body may be absent, empty or `null`: all three are `{}`. */
export const optionalBody = async ({ request }: ParseContext): Promise<unknown> => (await readJson(request)) ?? {};

async function readJson(request: Request): Promise<unknown> {
  const text = await readText(request);
  if (text.trim() === "") return undefined;
  // Also what keeps a web page from posting here without the browser asking first (CORS "simple" requests).
  const type = request.headers.get("content-type")?.split(";")[0]?.trim().toLowerCase();
  if (type !== "application/json") throw bad("Cannot read the request body: its content-type must be application/json.");
  try {
    return JSON.parse(text);
  } catch {
    // The parser's message quotes the body, which may hold secrets.
    throw bad("Cannot read the request body: it is not valid JSON.");
  }
}

const ARCHIVE_TYPES: readonly string[] = ["application/gzip", "application/x-gzip", "application/octet-stream"];

/** A tar.gz as it comes: who doesn't read on is sent nothing more. Nothing limits its length here. */
export function archiveBody(request: Request): AsyncIterable<Uint8Array> {
  const type = request.headers.get("content-type")?.split(";")[0]?.trim().toLowerCase();
  if (type === undefined || !ARCHIVE_TYPES.includes(type)) throw bad("Cannot read the request body: its content-type must be application/gzip.");
  if (request.body === null) throw bad("Cannot accept an empty request body: this route needs a tar.gz archive.");
  return request.body;
}

/** The body, never holding more than the limit of one that does not say its length. */
async function readText(request: Request): Promise<string> {
  const declared = Number(request.headers.get("content-length") ?? 0);
  if (declared > MAX_BODY) throw tooLarge();
  if (request.body === null) return "";
  const decoder = new TextDecoder();
  let text = "";
  let length = 0;
  for await (const chunk of request.body) {
    length += chunk.byteLength;
    if (length > MAX_BODY) throw tooLarge();
    text += decoder.decode(chunk, { stream: true });
  }
  return text + decoder.decode();
}

const tooLarge = () => new DormouseError("request.too_large", `Cannot accept the request body: it is larger than ${MAX_BODY} bytes.`);
