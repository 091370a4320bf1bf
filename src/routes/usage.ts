// `GET /usage`: what Dormouse keeps on disk. An extension; the contract's `/resources` also tells of capacity, and comes later.
import { Type } from "@sinclair/typebox";
import { Elysia } from "elysia";
import type { ApiDeps } from "./deps.ts";
import { describe } from "./describe.ts";
import { Bytes } from "./schema.ts";

export const Usage = Type.Object(
  {
    images: Type.Object({
      count: Type.Integer(),
      blob_bytes: Bytes("Layers as they were pulled."),
      rootfs_bytes: Bytes("Root file systems made of them."),
    }),
    instances: Type.Object({ count: Type.Integer(), disk_bytes: Bytes("Allocated by writable disks and logs; sparse parts cost nothing.") }),
    snapshots: Type.Object({ count: Type.Integer(), disk_bytes: Bytes("Allocated by disks of their own, where the file system shares blocks between files.") }),
    shared_disk_bytes: Bytes("Layers that disks of instances and snapshots share, where the file system does not."),
    volumes: Type.Object({ count: Type.Integer(), disk_bytes: Bytes("Allocated by volumes; what was never written to them costs nothing.") }),
    saved_memory_bytes: Bytes("Memory of sleeping instances and of snapshots, and of what running ones were woken from."),
    free_bytes: Bytes("Free on the data folder's file system."),
  },
  { title: "Usage" },
);

const example = {
  images: { count: 1, blob_bytes: 73_400_320, rootfs_bytes: 192_937_984 },
  instances: { count: 2, disk_bytes: 41_943_040 },
  snapshots: { count: 1, disk_bytes: 8_388_608 },
  shared_disk_bytes: 0,
  volumes: { count: 1, disk_bytes: 16_777_216 },
  saved_memory_bytes: 62_914_560,
  free_bytes: 53_687_091_200,
};

export const usageRoutes = ({ host, images, instances, volumes, live }: ApiDeps) =>
  new Elysia({ normalize: false }).get("/usage", async ({ request }) => {
    live.keep(request); // every file is looked at
    const { blobBytes, rootfsBytes, images: count } = images.usage();
    const { instanceBytes, snapshotBytes, layerBytes, volumeBytes, memoryBytes, freeBytes } = await host.diskUsage();
    return Response.json({
      images: { count, blob_bytes: blobBytes, rootfs_bytes: rootfsBytes },
      instances: { count: instances.list().length, disk_bytes: instanceBytes },
      snapshots: { count: instances.listSnapshots().length, disk_bytes: snapshotBytes },
      shared_disk_bytes: layerBytes,
      volumes: { count: volumes.list().length, disk_bytes: volumeBytes },
      saved_memory_bytes: memoryBytes,
      free_bytes: freeBytes,
    });
  }, {
    detail: describe({
      tag: "Server",
      operationId: "getUsage",
      summary: "Disk in use",
      description: "Allocated bytes of images, instances, snapshots, volumes and saved memory. An extension of Dormouse.",
      answers: { 200: { description: "The usage.", schema: "Usage", example } },
      errors: ["host.storage"],
    }),
  });
