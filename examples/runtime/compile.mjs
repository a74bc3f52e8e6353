// Compiles Python files with the Python that will run them:
//
//     node compile.mjs PYODIDE FOLDER PREFIX
//
// PYODIDE is the folder of the npm package. Each .py in FOLDER gets a .pyc beside it, in which the
// file has the name PREFIX/….

import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [packageFolder, folder, prefix] = process.argv.slice(2);
const { loadPyodide } = await import(pathToFileURL(join(packageFolder, "pyodide.mjs")));
const pyodide = await loadPyodide();
pyodide.runPython(`
import warnings
from importlib._bootstrap_external import _code_to_hash_pyc

warnings.simplefilter("ignore")

def compiled(source, name):
    code = compile(source.to_bytes(), name, "exec", dont_inherit=True)
    return bytes(_code_to_hash_pyc(code, bytes(8), False))
`);
const compiled = pyodide.globals.get("compiled");
for (const name of readdirSync(folder, { recursive: true })) {
  if (!name.endsWith(".py")) continue;
  const bytes = compiled(new Uint8Array(readFileSync(join(folder, name))), `${prefix}/${name}`);
  writeFileSync(join(folder, `${name}c`), bytes.toJs());
  bytes.destroy();
}
