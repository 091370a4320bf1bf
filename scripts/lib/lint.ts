// What the compiler doesn't check: circular and upward imports, Results that nobody looks at, stray white space.
// `bun fmt` is no part of it: it unfolds the tables and one-line methods of the house style.
import { readFileSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import ts from "typescript";

const repo = resolve(import.meta.dir, "../..");
const complaints: string[] = [];
const config = ts.getParsedCommandLineOfConfigFile(join(repo, "tsconfig.json"), {}, { ...ts.sys, onUnRecoverableConfigFileDiagnostic: (d) => { throw new Error(String(d.messageText)); } });
if (config === undefined) throw new Error("cannot read tsconfig.json");
const program = ts.createProgram(config.fileNames, config.options);
const checker = program.getTypeChecker();
const sources = program.getSourceFiles().filter((file) => file.fileName.startsWith(repo) && !file.fileName.includes("/node_modules/"));
const nameOf = (file: string): string => relative(repo, file);
const where = (node: ts.Node): string => {
  const file = node.getSourceFile();
  return `${nameOf(file.fileName)}:${file.getLineAndCharacterOfPosition(node.getStart()).line + 1}`;
};

/** The modules of ours that `file` needs when it runs: `import type` is gone by then. */
function valueImports(file: ts.SourceFile): string[] {
  const found: string[] = [];
  for (const statement of file.statements) {
    if (!ts.isImportDeclaration(statement) && !ts.isExportDeclaration(statement)) continue;
    const from = statement.moduleSpecifier;
    const typeOnly = ts.isExportDeclaration(statement) ? statement.isTypeOnly : statement.importClause?.isTypeOnly === true;
    if (from === undefined || !ts.isStringLiteral(from) || typeOnly || !from.text.startsWith(".")) continue;
    found.push(resolve(dirname(file.fileName), from.text));
  }
  return found;
}

const graph = new Map(sources.map((file) => [file.fileName, valueImports(file)]));

function findCycles(): void {
  const done = new Set<string>(), path: string[] = [];
  const visit = (file: string): void => {
    const at = path.indexOf(file);
    if (at >= 0) return void complaints.push(`circular import: ${[...path.slice(at), file].map(nameOf).join(" → ")}`);
    if (done.has(file)) return;
    path.push(file);
    for (const next of graph.get(file) ?? []) visit(next);
    path.pop();
    done.add(file);
  };
  for (const file of graph.keys()) visit(file);
}

/** docs/architecture.md: imports run downward. A folder must not import from those beside it here. */
const FORBIDDEN: readonly (readonly [string, readonly string[]])[] = [
  ["src/ffi/", ["src/vmm/", "src/host/", "src/routes/", "src/cli/"]],
  ["src/machine-state/", ["src/vmm/", "src/host/", "src/routes/", "src/cli/"]],
  ["src/vmm/", ["src/host/", "src/routes/", "src/cli/"]],
  ["src/host/", ["src/routes/", "src/cli/"]],
  ["src/", ["test/", "scripts/", "bench/"]],
];

function checkLayers(): void {
  for (const [file, imports] of graph)
    for (const [from, banned] of FORBIDDEN)
      for (const target of imports)
        if (nameOf(file).startsWith(from) && banned.some((folder) => nameOf(target).startsWith(folder))) complaints.push(`upward import: ${nameOf(file)} imports ${nameOf(target)}`);
}

const RESULTS = new Set(["Ok", "Err", "Result", "ResultAsync"]);

function isResult(type: ts.Type): boolean {
  if (type.isUnion()) return type.types.some(isResult);
  const name = (type.aliasSymbol ?? type.symbol)?.name;
  if (name === "Promise") return checker.getTypeArguments(type as ts.TypeReference).some(isResult);
  return name !== undefined && RESULTS.has(name);
}

/** A Result as a statement, awaited or voided: its error goes nowhere. */
function findDroppedResults(node: ts.Node): void {
  if (ts.isExpressionStatement(node)) {
    let { expression } = node;
    while (ts.isVoidExpression(expression) || ts.isAwaitExpression(expression) || ts.isParenthesizedExpression(expression)) expression = expression.expression;
    if (!ts.isBinaryExpression(expression) && isResult(checker.getTypeAtLocation(expression))) complaints.push(`dropped Result: ${where(node)}: ${node.getText().slice(0, 80)}`);
  }
  ts.forEachChild(node, findDroppedResults);
}

function checkLayout(file: ts.SourceFile): void {
  const text = readFileSync(file.fileName, "utf8");
  if (!text.endsWith("\n")) complaints.push(`no newline at the end: ${nameOf(file.fileName)}`);
  text.split("\n").forEach((line, i) => { if (/[ \t]$|^\t/.test(line)) complaints.push(`stray white space: ${nameOf(file.fileName)}:${i + 1}`); });
}

findCycles();
checkLayers();
for (const file of sources) {
  findDroppedResults(file);
  checkLayout(file);
}
for (const complaint of complaints) console.log(complaint);
console.log(`${sources.length} files, ${complaints.length} complaints`);
process.exitCode = complaints.length > 0 ? 1 : 0;
