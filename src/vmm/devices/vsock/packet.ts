// The header of a vsock packet (virtio 1.2, 5.10.6): one buffer, filled from a chain or for one.
import { VIRTIO_VSOCK, virtio_vsock_hdr } from "../../../ffi/abi/virtio_vsock.ts";

export const HEADER = virtio_vsock_hdr.size;
const HOST_CID = 2;
const H = virtio_vsock_hdr.at;

export class PacketHeader {
  readonly bytes = new Uint8Array(HEADER);
  private readonly view = new DataView(this.bytes.buffer);

  get guestPort(): number { return this.view.getUint32(H.src_port, true); }
  get hostPort(): number { return this.view.getUint32(H.dst_port, true); }
  get length(): number { return this.view.getUint32(H.len, true); }
  get type(): number { return this.view.getUint16(H.type, true); }
  get op(): number { return this.view.getUint16(H.op, true); }
  get flags(): number { return this.view.getUint32(H.flags, true); }
  get bufAlloc(): number { return this.view.getUint32(H.buf_alloc, true); }
  get fwdCnt(): number { return this.view.getUint32(H.fwd_cnt, true); }

  /** From guest `cid` to the host. */
  isFrom(cid: number): boolean {
    const v = this.view;
    return v.getUint32(H.src_cid, true) === cid && v.getUint32(H.src_cid + 4, true) === 0 && v.getUint32(H.dst_cid, true) === HOST_CID && v.getUint32(H.dst_cid + 4, true) === 0;
  }

  /** From the host to guest `cid`. */
  set(cid: number, guestPort: number, hostPort: number, op: number, length: number, flags: number, bufAlloc: number, forwarded: number): void {
    const v = this.view;
    v.setUint32(H.src_cid, HOST_CID, true);
    v.setUint32(H.src_cid + 4, 0, true);
    v.setUint32(H.dst_cid, cid, true);
    v.setUint32(H.dst_cid + 4, 0, true);
    v.setUint32(H.src_port, hostPort, true);
    v.setUint32(H.dst_port, guestPort, true);
    v.setUint32(H.len, length, true);
    v.setUint16(H.type, VIRTIO_VSOCK.VIRTIO_VSOCK_TYPE_STREAM, true);
    v.setUint16(H.op, op, true);
    v.setUint32(H.flags, flags, true);
    v.setUint32(H.buf_alloc, bufAlloc, true);
    v.setUint32(H.fwd_cnt, forwarded, true);
  }
}
