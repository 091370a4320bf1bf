// linux/virtio_pci.h: the modern PCI transport (virtio 1.2, 4.1); linux/pci_regs.h: what of PCI it stands on.
import { struct, u16, u32, u8 } from "./layout.ts";

export const header = "linux/virtio_pci.h";

export const virtio_pci_cap = struct("struct virtio_pci_cap", header, {
  cap_vndr: u8, cap_next: u8, cap_len: u8, cfg_type: u8, bar: u8, id: u8, padding: u16, offset: u32, length: u32,
});
export const virtio_pci_notify_cap = struct("struct virtio_pci_notify_cap", header, { cap: virtio_pci_cap, notify_off_multiplier: u32 });
export const virtio_pci_cfg_cap = struct("struct virtio_pci_cfg_cap", header, { cap: virtio_pci_cap, pci_cfg_data: u32 });
export const virtio_pci_common_cfg = struct("struct virtio_pci_common_cfg", header, {
  device_feature_select: u32, device_feature: u32, guest_feature_select: u32, guest_feature: u32, msix_config: u16, num_queues: u16,
  device_status: u8, config_generation: u8, queue_select: u16, queue_size: u16, queue_msix_vector: u16, queue_enable: u16, queue_notify_off: u16,
  queue_desc_lo: u32, queue_desc_hi: u32, queue_avail_lo: u32, queue_avail_hi: u32, queue_used_lo: u32, queue_used_hi: u32,
});
export const VIRTIO_PCI = {
  VIRTIO_PCI_CAP_COMMON_CFG: 1, VIRTIO_PCI_CAP_NOTIFY_CFG: 2, VIRTIO_PCI_CAP_ISR_CFG: 3, VIRTIO_PCI_CAP_DEVICE_CFG: 4, VIRTIO_PCI_CAP_PCI_CFG: 5,
  VIRTIO_PCI_ISR_CONFIG: 2, VIRTIO_MSI_NO_VECTOR: 0xffff,
} as const;
