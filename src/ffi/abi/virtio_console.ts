// linux/virtio_console.h: console devices (virtio 1.2, 5.3).
import { struct, u16, u32 } from "./layout.ts";

export const header = "linux/virtio_console.h";

export const virtio_console_config = struct("struct virtio_console_config", header, { cols: u16, rows: u16, max_nr_ports: u32, emerg_wr: u32 }, true);
export const virtio_console_control = struct("struct virtio_console_control", header, { id: u32, event: u16, value: u16 });
export const VIRTIO_CONSOLE = {
  VIRTIO_CONSOLE_F_MULTIPORT: 1, VIRTIO_CONSOLE_DEVICE_READY: 0, VIRTIO_CONSOLE_PORT_ADD: 1, VIRTIO_CONSOLE_PORT_READY: 3,
  VIRTIO_CONSOLE_CONSOLE_PORT: 4, VIRTIO_CONSOLE_PORT_OPEN: 6, VIRTIO_CONSOLE_PORT_NAME: 7,
} as const;
