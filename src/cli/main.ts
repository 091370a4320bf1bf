export async function cli(args: readonly string[]): Promise<number> { console.log(args); return 0; }
