// A machine in a network namespace of its own, for the tests: it serves and asks over TCP and UDP as it is told on
// stdin, one JSON command a line, and answers on stdout. With descriptor 3 it is a guest: that is its TAP on the host.
import { RouteSocket } from "../../../src/ffi/netlink/route.ts";
import { openTapDevice } from "../../../src/ffi/tun.ts";

export type Command =
  | { readonly do: "guest"; readonly ip: string; readonly mac: string; readonly gateway: string }
  | { readonly do: "serve"; readonly protocol: "tcp" | "udp"; readonly port: number; readonly name: string }
  | { readonly do: "echo"; readonly port: number }
  | { readonly do: "ask"; readonly protocol: "tcp" | "udp"; readonly host: string; readonly port: number; readonly source?: string }
  | { readonly do: "tell"; readonly host: string; readonly port: number; readonly source?: string; readonly text: string }
  | { readonly do: "heard" };

const PEER_TIMEOUT_MS = 10_000;
/** Text of the datagrams that came to the UDP servers. */
const heard: string[] = [];

function becomeGuest(ip: string, mac: string, gateway: string): void {
  const fd = openTapDevice("eth0");
  const route = new RouteSocket();
  const link = route.link("eth0");
  if (link === null) throw new Error("eth0 is not there");
  route.bringUp(link, new Uint8Array(mac.split(":").map((p) => parseInt(p, 16))));
  route.close();
  for (const args of [["addr", "add", `${ip}/32`, "dev", "eth0"], ["route", "add", gateway, "dev", "eth0"], ["route", "add", "default", "via", gateway, "dev", "eth0"]]) {
    const done = Bun.spawnSync(["ip", ...args]);
    if (!done.success) throw new Error(`ip ${args.join(" ")}: ${done.stderr.toString()}`);
  }
  const worker = new Worker(new URL("./pump-worker.ts", import.meta.url).href);
  worker.postMessage([3, fd]);
}

/** Servers answer with their name and whom they see asking. */
async function serve(protocol: "tcp" | "udp", port: number, name: string): Promise<string> {
  if (protocol === "tcp") {
    Bun.listen({ hostname: "0.0.0.0", port, socket: { data(socket) { socket.end(`${name} sees ${socket.remoteAddress}`); } } });
  } else {
    await Bun.udpSocket({ hostname: "0.0.0.0", port, socket: { data(socket, data, port, address) { heard.push(data.toString()); socket.send(`${name} sees ${address}`, port, address); },
      error() { /* whoever asked did not wait for the answer (ICMP port unreachable) */ } } });
  }
  return "serving";
}

function askTcp(host: string, port: number): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = "";
    Bun.connect({
      hostname: host, port,
      socket: {
        open(socket) { socket.write("hello"); },
        data(_, data) { text += data.toString(); },
        close() { resolve(text); },
        connectError(_, error) { reject(error); },
        error(_, error) { reject(error); },
      },
    }).catch(reject);
  });
}

/** UDP may be lost: asked again until it is answered. */
async function askUdp(host: string, port: number, source: string): Promise<string> {
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  const socket = await Bun.udpSocket({ hostname: source, socket: { data(_, data) { resolve(data.toString()); }, error(_, error) { reject(error); } } });
  const again = setInterval(() => socket.send("hello", port, host), 200);
  socket.send("hello", port, host);
  return promise.finally(() => { clearInterval(again); socket.close(); });
}

async function tell(host: string, port: number, source: string, text: string): Promise<string> {
  const socket = await Bun.udpSocket({ hostname: source });
  socket.send(text, port, host);
  socket.close();
  return "told";
}

async function obey(command: Command): Promise<string> {
  switch (command.do) {
    case "guest": becomeGuest(command.ip, command.mac, command.gateway); return "guest";
    case "serve": return serve(command.protocol, command.port, command.name);
    case "echo": Bun.listen({ hostname: "0.0.0.0", port: command.port, socket: { data(socket, data) { socket.write(data); } } }); return "echoing";
    case "ask": return command.protocol === "tcp" ? askTcp(command.host, command.port) : askUdp(command.host, command.port, command.source ?? "0.0.0.0");
    case "tell": return tell(command.host, command.port, command.source ?? "0.0.0.0", command.text);
    case "heard": return JSON.stringify(heard);
  }
}

const deadline = () => new Promise<string>((_, reject) => setTimeout(() => reject(new Error("no answer")), PEER_TIMEOUT_MS).unref());

if (import.meta.main) {
  const done = Bun.spawnSync(["ip", "link", "set", "lo", "up"]);
  if (!done.success) throw new Error(done.stderr.toString());
  for await (const line of console) {
    const answer = await Promise.race([obey(JSON.parse(line) as Command), deadline()]).then((ok) => ({ ok }), (error: unknown) => ({ error: String(error) }));
    process.stdout.write(`${JSON.stringify(answer)}\n`);
  }
  process.exit(0);
}
