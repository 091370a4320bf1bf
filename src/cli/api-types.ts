// What the daemon's HTTP API takes and answers, as far as the command line uses it (docs/api-compatibility.md).
export interface PortMapping { readonly guest_port: number; readonly host_port: number; readonly protocol?: "tcp" | "udp" }

export interface Compression { readonly enabled: boolean; readonly algorithm?: "zstd" | "lz4"; readonly level?: number }

export interface AutoStandby {
  readonly enabled?: boolean;
  readonly idle_timeout?: string;
  readonly ignore_destination_ports?: readonly number[];
  readonly ignore_source_cidrs?: readonly string[];
  readonly wake_on_packet?: boolean;
}

export interface InstanceUpdate {
  readonly auto_standby?: AutoStandby;
  readonly snapshot_policy?: { readonly compression?: Compression; readonly standby_compression_delay?: string };
}

export interface AutoStandbyStatus {
  readonly status: string;
  readonly reason: string;
  readonly active_inbound_connections: number;
  readonly idle_timeout?: string | null;
  readonly idle_since?: string | null;
  readonly next_standby_at?: string | null;
  readonly hold_until?: string | null;
}

export interface Snapshot {
  readonly id: string;
  readonly name?: string | null;
  readonly kind: "Standby" | "Stopped";
  readonly created_at: string;
  readonly source_instance_id: string;
  readonly source_instance_name: string;
  readonly size_bytes: number;
  readonly compression?: Compression;
  readonly compression_state?: "none" | "compressing" | "compressed" | "error";
  readonly compression_error?: string | null;
}

export interface Schedule {
  readonly interval: string;
  readonly retention: { readonly max_count?: number; readonly max_age?: string };
  readonly name_prefix?: string | null;
  readonly next_run_at: string;
  readonly last_run_at?: string | null;
  readonly last_error?: string | null;
}

/** The fields of the contract's Instance that the command line shows. `--json` passes on all that the daemon sends. */
export interface Instance {
  readonly id: string;
  readonly name: string;
  readonly image: string;
  readonly state: string;
  readonly state_error?: string | null;
  readonly created_at: string;
  readonly started_at?: string | null;
  readonly stopped_at?: string | null;
  readonly exit_code?: number | null;
  readonly exit_message?: string | null;
  readonly network?: { readonly ip?: string | null };
  readonly port_mappings?: readonly PortMapping[];
  readonly current_phase_since?: string;
  readonly auto_standby?: AutoStandby;
  readonly snapshot_policy?: { readonly compression?: Compression; readonly standby_compression_delay?: string };
}

export interface InstanceCreate {
  readonly name: string;
  readonly image: string;
  readonly size?: string;
  readonly vcpus?: number;
  readonly env?: Readonly<Record<string, string>>;
  readonly entrypoint?: readonly string[];
  readonly cmd?: readonly string[];
  readonly port_mappings?: readonly PortMapping[];
  readonly tty?: boolean;
  readonly open_stdin?: boolean;
  readonly auto_standby?: AutoStandby;
  readonly volumes?: readonly VolumeMount[];
}

export interface VolumeMount {
  readonly volume_id: string;
  readonly mount_path: string;
  readonly readonly?: boolean;
  readonly overlay?: boolean;
  readonly overlay_size?: string;
}

/** What is at a path of a guest. */
export interface PathInfo { readonly exists: boolean; readonly is_dir?: boolean; readonly error?: string | null }

export interface Image {
  readonly name: string;
  readonly digest: string;
  readonly status: "pending" | "pulling" | "converting" | "ready" | "failed";
  readonly error?: string | null;
  readonly platform?: string;
  readonly size_bytes?: number | null;
  readonly created_at: string;
  readonly queue_position?: number | null;
  /** Of the step that `status` names; an extension of ours. */
  readonly progress?: { readonly done_bytes: number; readonly total_bytes: number } | null;
}

export interface IngressRule {
  readonly match: { readonly hostname: string; readonly port?: number };
  readonly target: { readonly instance: string; readonly port: number };
  readonly request_header_auth?: { readonly header: string; readonly value: string };
}
export interface IngressCreate { readonly name: string; readonly rules: readonly IngressRule[]; readonly tags?: Readonly<Record<string, string>> }
export interface Ingress extends IngressCreate { readonly id: string; readonly created_at: string }

export interface VolumeCreate { readonly name: string; readonly size_gb: number; readonly id?: string; readonly tags?: Readonly<Record<string, string>> }
export interface Volume extends VolumeCreate {
  readonly id: string;
  readonly created_at: string;
  readonly attachments?: readonly { readonly instance_id: string; readonly mount_path: string; readonly readonly: boolean }[];
}

export interface Usage {
  readonly images: { readonly count: number; readonly blob_bytes: number; readonly rootfs_bytes: number };
  readonly instances: { readonly count: number; readonly disk_bytes: number };
  readonly snapshots: { readonly count: number; readonly disk_bytes: number };
  readonly shared_disk_bytes: number;
  readonly volumes: { readonly count: number; readonly disk_bytes: number };
  readonly saved_memory_bytes: number;
  readonly free_bytes: number;
}

export interface Credentials { username?: string; password?: string; registry_token?: string }
export type LogSource = "app" | "vmm" | "dormouse";
