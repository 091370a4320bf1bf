// The first part: four real images, each run in a virtual machine of its own from pull to delete.
import { connect } from "node:net";
import type { Daemon } from "../../../test/support/daemon.ts";
import type { ImageName } from "../../../test/support/recipes.ts";
import { until } from "../../../test/support/until.ts";
import { expectText, http, running, Timings, type Instance } from "./shared.ts";

export interface Act {
  readonly image: ImageName;
  /** Talks to the server at `ip`; throws until it answers as it should. */
  readonly talk: (ip: string) => Promise<void>;
  readonly exec: { readonly argv: readonly string[]; readonly says: RegExp };
  readonly logs: RegExp;
}

const ping = (ip: string): Promise<void> =>
  new Promise((done, fail) => {
    const socket = connect({ host: ip, port: 6379 }, () => socket.write("PING\r\n"));
    socket.setTimeout(5000, () => socket.destroy(new Error("no answer to PING")));
    socket.on("error", fail);
    socket.once("data", (bytes: Buffer) => {
      socket.destroy();
      if (bytes.toString() === "+PONG\r\n") done();
      else fail(new Error(`PING was answered with ${JSON.stringify(bytes.toString())}`));
    });
  });

export const acts: readonly Act[] = [
  { image: "busybox", talk: http(80, "/", /^200 .*It is busybox/s), exec: { argv: ["sh", "-c", "echo uid $(id -u)"], says: /^uid 0\n$/ }, logs: /response:200|url:\/|GET/ },
  { image: "nginx", talk: http(80, "/", /^200 .*It is nginx/s), exec: { argv: ["cat", "/var/www/html/index.html"], says: /It is nginx/ }, logs: /"GET \/ HTTP\/1\.1" 200/ },
  { image: "redis", talk: ping, exec: { argv: ["redis-cli", "set", "who", "dormouse"], says: /^OK\n$/ }, logs: /Ready to accept connections/ },
  { image: "python", talk: http(8000, "/hello", /^200 python at \/hello says hello/), exec: { argv: ["python3", "-c", "print(6 * 7)"], says: /^42\n$/ }, logs: /"GET \/hello HTTP\/1\.1" 200/ },
];

/** One image's whole life. */
export async function play(daemon: Daemon, reference: string, act: Act): Promise<Timings> {
  const timings = new Timings(act.image);
  const name = `demo-${act.image}`;
  await timings.step("pull", () => daemon.run(["pull", "-q", reference]));
  const { id } = await timings.step("create", () => daemon.api<Instance>("POST", "/instances", { name, image: reference, size: "256MB", vcpus: 1 }));
  const instance = await timings.step("running", () => running(daemon, id));
  await timings.step("answer", () => until("an answer", () => act.talk(instance.network.ip).then(() => true)));
  await timings.step("logs", () => until("its log", async () => (expectText(await daemon.run(["logs", name]), act.logs), true)));
  await timings.step("exec", async () => expectText(await daemon.run(["exec", name, ...act.exec.argv]), act.exec.says));
  await timings.step("stop", async () => {
    await daemon.run(["stop", name]);
    expectText((await daemon.api<Instance>("GET", `/instances/${id}`)).state, /^Stopped$/);
  });
  await timings.step("delete", async () => {
    await daemon.run(["rm", name]);
    expectText(JSON.stringify(await daemon.api("GET", "/instances")), /^\[\]$/);
  });
  return timings;
}
