// Writes that a guest does not wait for (linux/kvm.h, struct kvm_coalesced_mmio_ring): KVM notes those to some ports in a ring, and the
// guest goes on without the main thread. Whoever answers an access that they matter to looks at them first: what a guest wrote before
// it asked is in the ring by then. A full ring makes the next write an access like any other.
import { kvm_coalesced_mmio, kvm_coalesced_mmio_ring } from "../ffi/abi/kvm.ts";
import { PAGE_SIZE } from "../ffi/memory.ts";

const ENTRIES = Math.floor((PAGE_SIZE - kvm_coalesced_mmio_ring.size) / kvm_coalesced_mmio.size);
const FIRST = kvm_coalesced_mmio_ring.at.first / 4, LAST = kvm_coalesced_mmio_ring.at.last / 4;

export class PostedWrites {
  private readonly words: Int32Array;
  private readonly view: DataView;

  /** The ring's page, which is KVM's and this side's, never the guest's; null where there is none. */
  constructor(page: ArrayBuffer | null) {
    const ring = page ?? new ArrayBuffer(PAGE_SIZE);
    this.words = new Int32Array(ring);
    this.view = new DataView(ring);
  }

  /** Hands over what has been written to ports, the oldest first; values are the guest's, unsigned, of 1, 2 or 4 bytes. */
  take(write: (port: number, size: number, value: number) => void): void {
    const last = Atomics.load(this.words, LAST);
    let first = this.words[FIRST]!;
    if (first === last) return;
    while (first !== last) {
      const at = kvm_coalesced_mmio_ring.size + first * kvm_coalesced_mmio.size;
      const size = this.view.getUint32(at + kvm_coalesced_mmio.at.len, true);
      const value = this.view.getUint32(at + kvm_coalesced_mmio.at.data, true);
      write(this.view.getUint32(at + kvm_coalesced_mmio.at.phys_addr, true), size, size === 4 ? value : value & (2 ** (size * 8) - 1));
      first = (first + 1) % ENTRIES;
    }
    Atomics.store(this.words, FIRST, first);
  }
}
