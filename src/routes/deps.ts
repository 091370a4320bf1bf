// What the API stands on: the domains' services, and the few facts about host and server that no domain owns.
import type { ImageService } from "../host/images/service.ts";
import type { IngressService } from "../host/ingress/service.ts";
import type { InstanceService } from "../host/instances/service.ts";
import type { NetworkService } from "../host/network/service.ts";
import type { SleepService } from "../host/snapshots/service.ts";
import type { VolumeService } from "../host/volumes/service.ts";
import type { Logger } from "../log.ts";
import type { Live } from "./live.ts";

export interface HostFacts {
  /** Version of this build. */
  readonly version: string;
  /** Whether guests can run here, from the probe at start. */
  readonly runtimeAvailable: boolean;
  /** Bytes on disk of what instances keep, and free bytes of the data folder's file system. */
  diskUsage(): Promise<Readonly<Record<"instanceBytes" | "snapshotBytes" | "layerBytes" | "volumeBytes" | "memoryBytes" | "freeBytes", number>>>;
}

export interface ApiDeps {
  readonly images: ImageService;
  readonly instances: InstanceService & SleepService;
  readonly ingresses: IngressService;
  readonly volumes: VolumeService;
  readonly network: NetworkService;
  readonly host: HostFacts;
  readonly live: Live;
  readonly log: Logger;
}
