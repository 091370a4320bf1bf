// One HTTP request, asked once, over a connection of its own. What fails is thrown, never asked again: for servers of which
// nothing may be lost. (fetch() keeps connections, and asks again by itself where a kept one is dead.)
import { connect } from "node:net";

export interface Answer { readonly status: number; readonly body: string; /** From the call to the answer's first byte. */ readonly firstByteMs: number }

/** Nothing takes as long: a hang gets an end and a name. */
const HANG_MS = 120_000;

/** GET `path`; throws where it is refused, reset, or ends before the answer does. */
export function request(host: string, port: number, path = "/", headers: Readonly<Record<string, string>> = {}): Promise<Answer> {
  const what = `GET http://${headers["Host"] ?? host}:${port}${path}`;
  return new Promise((done, failed) => {
    const started = performance.now();
    let text = "", firstByteMs = 0, connected = "never connected";
    const since = (): string => `after ${Math.round(performance.now() - started)} ms`;
    const fail = (why: string): void => failed(new Error(`${what} from port ${socket.localPort}: ${why} ${since()}, ${connected}`));
    const socket = connect({ host, port });
    socket.setTimeout(HANG_MS, () => { fail("no answer"); socket.destroy(); });
    socket.on("connect", () => {
      connected = `connected ${since()}`;
      socket.write([`GET ${path} HTTP/1.1`, ...Object.entries({ Host: host, Connection: "close", ...headers }).map(([key, value]) => `${key}: ${value}`), "", ""].join("\r\n"));
    });
    socket.on("data", (bytes) => {
      if (text === "") firstByteMs = performance.now() - started;
      text += bytes.toString("latin1");
    });
    socket.on("error", (error) => fail(error.message));
    socket.on("close", () => {
      const answer = parse(text);
      if (answer === null) fail(`the connection ended with ${JSON.stringify(text.slice(0, 200))}`);
      else done({ ...answer, firstByteMs });
    });
  });
}

/** Null where it is not whole. */
function parse(text: string): { status: number; body: string } | null {
  const at = text.indexOf("\r\n\r\n");
  const status = /^HTTP\/1\.[01] (\d{3}) /.exec(text)?.[1];
  if (at < 0 || status === undefined) return null;
  const head = text.slice(0, at).toLowerCase(), body = text.slice(at + 4);
  if (/^transfer-encoding: chunked$/m.test(head.replaceAll("\r", ""))) return body.endsWith("0\r\n\r\n") ? { status: Number(status), body } : null;
  const length = /^content-length: (\d+)$/m.exec(head.replaceAll("\r", ""))?.[1];
  return length !== undefined && Number(length) !== body.length ? null : { status: Number(status), body };
}

/** As request(), where anything but 200 is a failure too; the body. */
export async function page(host: string, port: number, path = "/", headers: Readonly<Record<string, string>> = {}): Promise<string> {
  const { status, body } = await request(host, port, path, headers);
  if (status !== 200) throw new Error(`GET http://${headers["Host"] ?? host}:${port}${path} answers ${status}: ${body.slice(0, 500)}`);
  return body;
}
