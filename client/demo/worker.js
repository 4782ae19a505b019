/**
 * The demo's service worker: what was written without a network is sent when there is one again, though no window is open, in
 * browsers with Background Sync. Whose it is its address says.
 */

import { flushOnSync } from '/client/background.js';
import { devToken } from './token.js';

const who = new URL(import.meta.url).searchParams;

flushOnSync({ getToken: (room) => devToken(room, who.get('user') ?? '', who.get('name') ?? '') });
