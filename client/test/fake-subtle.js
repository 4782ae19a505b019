// WebCrypto for virtual time: real signatures come when a thread has made them. A signature here is a digest with a secret that
// only the pair has.

import { createHash } from 'node:crypto';

const secrets = new Map();

const digest = (secret, data) => Uint8Array.from(createHash('sha512').update(secret).update(data).digest());
const hex = (bytes) => Buffer.from(bytes).toString('hex');

/** @param {() => number} random */
export function fakeSubtle(random) {
  const bytes = (count) => Uint8Array.from({ length: count }, () => Math.floor(random() * 256));
  return {
    generateKey: async () => {
      const point = Uint8Array.of(4, ...bytes(64));
      const secret = hex(bytes(16));
      secrets.set(hex(point), secret);
      return { privateKey: { secret }, publicKey: { point } };
    },
    exportKey: async (_, { point }) => point.slice().buffer,
    importKey: async (_, point) => ({ point }),
    sign: async (_, { secret }, data) => digest(secret, data).buffer,
    verify: async (_, { point }, signature, data) => hex(signature) === hex(digest(secrets.get(hex(point)) ?? 'none', data)),
  };
}
