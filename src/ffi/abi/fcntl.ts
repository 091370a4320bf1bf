// fcntl.h: flags of the calls that take a folder and a name below it.
export const header = "fcntl.h";

export const AT = { AT_SYMLINK_NOFOLLOW: 0x100, AT_REMOVEDIR: 0x200, O_DIRECTORY: 0o200000, O_NOFOLLOW: 0o400000 } as const;
