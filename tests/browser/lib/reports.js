/** Reports of the load program, as its own sample has them. */

import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

import { atExit } from './cleanup.js';

const ROOT = join(import.meta.dirname, '../../..');

/** Has them written. @returns {{ url: (name: string) => string, remove: () => void }} */
export function sampleReports() {
  const folder = mkdtempSync(join(tmpdir(), 'switchyard-reports-'));
  const undo = atExit(() => rmSync(folder, { recursive: true }));
  execFileSync(sampleProgram(), [folder], { stdio: ['ignore', 'ignore', 'inherit'] });
  return { url: (name) => pathToFileURL(join(folder, `${name}.html`)).href, remove: undo.now };
}

/** Builds it with the features of the workspace's dependencies, as `cargo test --workspace` has, and gives its path. */
function sampleProgram() {
  const cargo = ['build', '--quiet', '--workspace', '--example', 'sample_report', '--message-format=json'];
  const said = execFileSync('cargo', cargo, { cwd: ROOT, encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'], maxBuffer: 1 << 26 });
  const built = said.split('\n').filter(Boolean).map((line) => JSON.parse(line));
  return built.find(({ target, executable }) => target?.name === 'sample_report' && executable).executable;
}
