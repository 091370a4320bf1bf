// On-disk format of EROFS as Linux 6.1 reads it: fs/erofs/erofs_fs.h. Only what an uncompressed image uses.
// All numbers are little-endian.

export const BLOCK_BITS = 12;
export const BLOCK = 1 << BLOCK_BITS;

export const SUPER_OFFSET = 1024;
export const SUPER_MAGIC = 0xe0f5e1e2;
/** struct erofs_super_block. */
export const SUPER = { size: 128, magic: 0, checksum: 4, featureCompat: 8, blkszbits: 12, rootNid: 14, inos: 16, buildTime: 24, buildTimeNsec: 32, blocks: 36, metaBlkaddr: 40, xattrBlkaddr: 44, uuid: 48, volumeName: 64, featureIncompat: 80 } as const;
export const FEATURE_COMPAT_SB_CHKSUM = 0x1, FEATURE_COMPAT_MTIME = 0x2;
export const FEATURE_INCOMPAT_CHUNKED_FILE = 0x4;

/** struct erofs_inode_extended. A nid is the inode's offset from metaBlkaddr in units of SLOT. */
export const INODE = { size: 64, format: 0, xattrIcount: 2, mode: 4, fileSize: 8, u: 16, ino: 20, uid: 24, gid: 28, mtime: 32, mtimeNsec: 40, nlink: 44 } as const;
export const SLOT = 32;
export const INODE_EXTENDED = 1;
/** i_format bits 1 to 3. */
export const FLAT_PLAIN = 0, FLAT_INLINE = 2, CHUNK_BASED = 4;
/** A block map's entry without data. */
export const NULL_ADDR = 0xffffffff;

/** struct erofs_dirent, and its file types (as DT_* are numbered in fs/fs_types.h, FT_*). */
export const DIRENT = { size: 12, nid: 0, nameoff: 8, fileType: 10 } as const;
export const FT = { file: 1, dir: 2, char: 3, block: 4, fifo: 5, socket: 6, symlink: 7 } as const;

/** struct erofs_xattr_ibody_header, struct erofs_xattr_entry; i_xattr_icount counts 4-byte units from 1 for a bare header. */
export const XATTR_HEADER = 12, XATTR_ENTRY = 4;
export const XATTR_PREFIX = [
  ["user.", 1],
  ["system.posix_acl_access", 2],
  ["system.posix_acl_default", 3],
  ["trusted.", 4],
  ["security.", 6],
] as const;

/** stat.h S_IF*. */
export const S_IF = { file: 0o100000, dir: 0o040000, char: 0o020000, block: 0o060000, fifo: 0o010000, symlink: 0o120000 } as const;
