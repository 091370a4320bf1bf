// linux/virtio_vsock.h: socket devices (virtio 1.2, 5.10).
import { struct, u16, u32, u64 } from "./layout.ts";

export const header = "linux/virtio_vsock.h";

export const virtio_vsock_config = struct("struct virtio_vsock_config", header, { guest_cid: u64 }, true);
export const virtio_vsock_event = struct("struct virtio_vsock_event", header, { id: u32 }, true);
export const virtio_vsock_hdr = struct("struct virtio_vsock_hdr", header, {
  src_cid: u64, dst_cid: u64, src_port: u32, dst_port: u32, len: u32, type: u16, op: u16, flags: u32, buf_alloc: u32, fwd_cnt: u32,
}, true);
export const VIRTIO_VSOCK = {
  VIRTIO_VSOCK_EVENT_TRANSPORT_RESET: 0, VIRTIO_VSOCK_TYPE_STREAM: 1,
  VIRTIO_VSOCK_OP_REQUEST: 1, VIRTIO_VSOCK_OP_RESPONSE: 2, VIRTIO_VSOCK_OP_RST: 3, VIRTIO_VSOCK_OP_SHUTDOWN: 4, VIRTIO_VSOCK_OP_RW: 5,
  VIRTIO_VSOCK_OP_CREDIT_UPDATE: 6, VIRTIO_VSOCK_OP_CREDIT_REQUEST: 7, VIRTIO_VSOCK_SHUTDOWN_RCV: 1, VIRTIO_VSOCK_SHUTDOWN_SEND: 2,
} as const;
