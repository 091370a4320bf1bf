/*
 * Put into the testbed's KVM by scripts/kernel. QEMU's emulation has a fault (seen in 7.2, and there in the sources of 10): VMRUN takes no
 * interrupt shadow from the VMCB, though #VMEXIT stores it there. A guest that left between `sti` and the `hlt` behind it then takes a waiting
 * interrupt before the `hlt`, and halts although that had something for it: with nothing else to come, for good. So a guest that leaves
 * there is taken to have halted already, which an interrupt that waits ends.
 */
static bool leaves_before_hlt(struct kvm_vcpu *vcpu) {
  struct vmcb_control_area *control = &to_svm(vcpu)->vmcb->control;
  struct x86_exception fault;
  u8 opcode;
  if (control->exit_code != SVM_EXIT_INTR || !(control->int_state & SVM_INTERRUPT_SHADOW_MASK)) return false;
  return kvm_read_guest_virt(vcpu, kvm_rip_read(vcpu), &opcode, 1, &fault) == X86EMUL_CONTINUE && opcode == 0xf4;
}
