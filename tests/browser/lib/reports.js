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
  const cargo = ['run', '--quiet', '--package', 'switchyard-loadtest', '--example', 'sample_report', '--', folder];
  execFileSync('cargo', cargo, { cwd: ROOT, stdio: ['ignore', 'ignore', 'inherit'] });
  return { url: (name) => pathToFileURL(join(folder, `${name}.html`)).href, remove: undo.now };
}
