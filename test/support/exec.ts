// A command in an instance, over the API's WebSocket. The command line does the same, but where processors are emulated each of its
// processes costs a ninth of a boot: what is not about the command line does without.
import { Channel, EXEC_V1, type ExecStart } from "../../src/routes/exec-protocol.ts";

export interface Executed { readonly status: number; readonly stdout: string; readonly stderr: string }

/** To its end; rejects where it could not be begun, or the guest went away. */
export function exec(daemonUrl: string, ref: string, command: readonly string[]): Promise<Executed> {
  const what = `exec of ${command.join(" ")} in ${ref}`;
  return new Promise((done, failed) => {
    const socket = new WebSocket(`${daemonUrl.replace("http", "ws")}/instances/${ref}/exec`, [EXEC_V1]);
    const decoders = { [Channel.STDOUT]: new TextDecoder(), [Channel.STDERR]: new TextDecoder() };
    const said = { [Channel.STDOUT]: "", [Channel.STDERR]: "" };
    let last: { exitCode?: number; error?: string } = {};
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      socket.send(JSON.stringify({ command } satisfies ExecStart));
      socket.send(new Uint8Array([Channel.STDIN])); // the end of its input
    };
    socket.onmessage = ({ data }: MessageEvent<string | ArrayBuffer>) => {
      if (typeof data === "string") return void (last = JSON.parse(data) as typeof last);
      const bytes = new Uint8Array(data), channel = bytes[0] as keyof typeof said;
      said[channel] += decoders[channel].decode(bytes.subarray(1), { stream: true });
    };
    socket.onerror = () => failed(new Error(`${what}: the WebSocket failed`));
    socket.onclose = ({ code, reason }) => {
      if (last.exitCode === undefined) failed(new Error(`${what}: ${last.error ?? `the WebSocket closed with ${code} ${reason}`}`));
      else done({ status: last.exitCode, stdout: said[Channel.STDOUT], stderr: said[Channel.STDERR] });
    };
  });
}

/** A command that must succeed; its standard output. */
export async function execOutput(daemonUrl: string, ref: string, command: readonly string[]): Promise<string> {
  const { status, stdout, stderr } = await exec(daemonUrl, ref, command);
  if (status !== 0) throw new Error(`exec of ${command.join(" ")} in ${ref}: status ${status}: ${stderr.trim() || stdout.trim()}`);
  return stdout;
}
