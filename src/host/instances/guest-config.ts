// What the guest's init is told: `/dormouse/config` in a cpio archive of its own (keys: src/guest/README.md).
import type { ImageConfig } from "../images/service.ts";
import type { Lease } from "../network/service.ts";
import { encodePairs, type Pair } from "../../pairs.ts";
import { argvOf, envOf, isSystemInit } from "./argv.ts";
import { cpio } from "./cpio.ts";
import type { Instance } from "./service.ts";
import { mountLines } from "./volumes.ts";

export interface GuestNetwork { readonly lease: Lease; readonly resolvers: readonly string[] }

const S_IFDIR = 0o040000, S_IFREG = 0o100000;

/** The second archive of the initramfs. Throws where a value holds a NUL, which no argument or variable can. */
export function guestConfig(instance: Instance, image: ImageConfig, network: GuestNetwork | null): Uint8Array {
  const data = encodePairs(configPairs(instance, image, network));
  // Readable by root alone: the environment may hold secrets.
  return cpio([{ name: "dormouse", mode: S_IFDIR | 0o700 }, { name: "dormouse/config", mode: S_IFREG | 0o600, data }]);
}

export function configPairs(instance: Instance, image: ImageConfig, network: GuestNetwork | null): Pair[] {
  const argv = argvOf(instance, image);
  const pairs: Pair[] = [["mode", isSystemInit(argv) ? "systemd" : "workload"]];
  const list = (key: string, values: readonly string[]) => pairs.push(...values.map((value): Pair => [key, value]));
  list("arg", argv);
  list("env", envOf(image, instance.env));
  if (image.workingDir) pairs.push(["cwd", image.workingDir]);
  if (image.user) pairs.push(["user", image.user]);
  if (instance.tty) pairs.push(["tty", "1"]);
  if (instance.openStdin) pairs.push(["stdin", "1"]);
  if (image.stopSignal) pairs.push(["stop_signal", image.stopSignal]);
  pairs.push(["hostname", instance.name]);
  if (network !== null) {
    pairs.push(["ip", network.lease.ip], ["gateway", network.lease.gateway]);
    list("dns", network.resolvers);
  }
  pairs.push(["disk.root", "vda"], ["disk.upper", "vdb"]);
  // A volume takes the place of the image's own there.
  list("volume", image.volumes.filter((path) => !instance.volumes.some(({ mountPath }) => mountPath === path.replace(/(.)\/+$/, "$1"))));
  list("mount", mountLines(instance.volumes));
  return pairs;
}
