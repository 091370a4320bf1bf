// A host with an outside, programs' rules of its own, and a network of guests that each test opens: in a namespace, for the tests of one file.
import { afterAll, afterEach, beforeAll, beforeEach, setDefaultTimeout } from "bun:test";
import type { Database } from "bun:sqlite";
import { openNetwork, type NetworkOptions } from "../../../src/host/network/network.ts";
import type { Lease, NetworkService } from "../../../src/host/network/service.ts";
import { database, enterNamespace, guest, outside, run, type Peer } from "./world.ts";

export class Lab {
  out!: Peer;
  db!: Database;
  /** Closed and taken down after each test. */
  network!: NetworkService;
  readonly peers: Peer[] = [];

  async start(options: Partial<NetworkOptions> = {}): Promise<void> {
    this.network = openNetwork({ db: this.db, ...options })._unsafeUnwrap();
    (await this.network.start())._unsafeUnwrap();
  }

  async add(id: string): Promise<{ peer: Peer; lease: Lease }> {
    const made = await guest(this.network, id);
    this.peers.push(made.peer);
    return made;
  }
}

/** Once a file. */
export function useLab(): Lab {
  setDefaultTimeout(60_000); // only a guard: processes start slowly on a busy or emulated machine
  const lab = new Lab();
  let leave: () => void;
  beforeAll(async () => {
    leave = enterNamespace();
    lab.out = await outside();
    run("nft", "add table inet theirs; add chain inet theirs forward { type filter hook forward priority 0; policy accept; }; add rule inet theirs forward tcp dport 4444 drop");
    await lab.out.serve("tcp", 80, "outside");
    await lab.out.serve("udp", 53, "outside");
  });
  afterAll(async () => {
    await lab.out.close();
    leave();
  });
  beforeEach(() => { lab.db = database(); });
  afterEach(async () => {
    await lab.network.teardown();
    lab.network.close();
    for (const peer of lab.peers.splice(0)) await peer.close();
  });
  return lab;
}

/** What a server says, from the host. */
export const curl = (host: string, port = 80): string => run("curl", "-sS", "--http0.9", "--max-time", "10", `http://${host}:${port}/`);
