// A packet for a sleeper whose volume is away, over a real network in a namespace: it sleeps on and hears the next one.
import { expect, setDefaultTimeout, test } from "bun:test";
import { renameSync } from "node:fs";
import { join } from "node:path";
import { openNetwork } from "../../../src/host/network/network.ts";
import { until } from "../../support/until.ts";
import { datagram, ETH_IP, ethernet, FrameSender, packet, UDP } from "../network/frames.ts";
import { database, inNamespace } from "../network/world.ts";
import { monitorsIn, open, removeRoots } from "./fixture.ts";
import { asleep, stateOf } from "./sleeping.ts";

setDefaultTimeout(60_000); // only a guard: processes start slowly on a busy or emulated machine
inNamespace();

test("a knock on one whose volume is missing is told and leaves it asleep; the next one wakes it once the file is back", async () => {
  const network = openNetwork({ db: database() })._unsafeUnwrap();
  (await network.start())._unsafeUnwrap();
  const fixture = await open(undefined, { network });
  (await fixture.volumes.create({ name: "data", sizeBytes: 64 * 2 ** 20, id: "data", tags: {} }))._unsafeUnwrap();
  const { id } = await asleep(fixture, "one", ["serve"], {
    network: true, volumes: [{ volumeId: "data", mountPath: "/data", readonly: false, overlayBytes: null }],
    autoStandby: { enabled: false, idleTimeoutMs: 0, ignoreDestinationPorts: [], ignoreSourceCidrs: [], wakeOnPacket: true },
  });
  const lease = network.lease(id)!, path = join(fixture.root, "volumes/data/data.ext4");
  const knock = () => {
    const sender = new FrameSender(lease.tap);
    sender.send(ethernet(lease.mac, ETH_IP, packet(UDP, "192.0.2.77", lease.ip, datagram(9, "knock"))));
    sender.close();
  };
  renameSync(path, `${path}.away`);
  knock();
  await until("the wake to fail", () => fixture.instances.get("one")._unsafeUnwrap().stateError?.includes(`${path} is missing`) === true);
  await until("its monitor to be gone", () => monitorsIn(fixture.root).length === 0);
  expect(stateOf(fixture, "one")).toBe("Standby");
  renameSync(`${path}.away`, path);
  await until("a knock that wakes", () => {
    if (stateOf(fixture, "one") === "Standby") knock(); // the one before may have come before its link was listened to again
    return stateOf(fixture, "one") === "Running";
  });
  await fixture.close();
  await removeRoots();
  (await network.teardown())._unsafeUnwrap();
  network.close();
});
