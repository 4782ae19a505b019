/**
 * The session's signing key and those of others, in the browser's WebCrypto: ECDSA on P-256 with SHA-256. The private key is
 * made for this page, is not extractable, and is in memory only.
 */

import { signedBytes } from './copy.js';

const KEY = { name: 'ECDSA', namedCurve: 'P-256' };
const SIGNATURE = { name: 'ECDSA', hash: 'SHA-256' };
/** Keys of others that are kept ready. */
const KNOWN = 64;

/** @typedef {Pick<SubtleCrypto, 'generateKey' | 'exportKey' | 'importKey' | 'sign' | 'verify'>} Subtle */

export class Signing {
  #subtle;
  /** @type {CryptoKey | null} */
  #private = null;
  /** By their text. @type {Map<string, Promise<CryptoKey>>} */
  #known = new Map();
  /** Resolves when the key is made, or cannot be; null from then on. @type {Promise<void> | null} */
  ready;
  /** As it goes with a join: the point, base64url. @type {string | null} */
  publicKey = null;
  /** Why there is none. */
  reason = '';

  /** @param {Subtle | undefined} subtle pages that did not come by https have none */
  constructor(subtle) {
    this.#subtle = subtle;
    this.ready = this.#make().then(
      () => void (this.ready = null),
      () => {
        this.reason = subtle ? 'no_key' : 'no_crypto';
        this.ready = null;
      },
    );
  }

  /** @param {Uint8Array} statement */
  async sign(statement) {
    if (!this.#subtle || !this.#private) throw new Error('no key to sign with');
    return new Uint8Array(await this.#subtle.sign(SIGNATURE, this.#private, signedBytes(statement)));
  }

  /**
   * Whether a statement was signed with a key; false too where the key is none.
   * @param {string} publicKey @param {Uint8Array} statement @param {Uint8Array} signature
   */
  async verify(publicKey, statement, signature) {
    try {
      const key = await this.#import(publicKey);
      return (await this.#subtle?.verify(SIGNATURE, key, signature.slice(), signedBytes(statement))) === true;
    } catch {
      return false;
    }
  }

  async #make() {
    if (!this.#subtle) throw new Error('no WebCrypto');
    const pair = /** @type {CryptoKeyPair} */ (await this.#subtle.generateKey(KEY, false, ['sign', 'verify']));
    const point = new Uint8Array(/** @type {ArrayBuffer} */ (await this.#subtle.exportKey('raw', pair.publicKey)));
    this.#private = pair.privateKey;
    this.publicKey = toBase64Url(point);
  }

  /** @param {string} publicKey */
  #import(publicKey) {
    let key = this.#known.get(publicKey);
    if (!key) {
      const subtle = /** @type {Subtle} */ (this.#subtle);
      key = subtle.importKey('raw', fromBase64Url(publicKey), KEY, false, ['verify']);
      this.#known.set(publicKey, key);
      if (this.#known.size > KNOWN) this.#known.delete(this.#known.keys().next().value ?? '');
    }
    return key;
  }
}

/** What a copy names a key by: the 8 bytes behind its first one. @param {string} publicKey */
export function keyId(publicKey) {
  return Array.from(fromBase64Url(publicKey.slice(0, 12)).subarray(1, 9), (byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** @param {Uint8Array} bytes */
function toBase64Url(bytes) {
  return btoa(String.fromCharCode(...bytes)).replaceAll('+', '-').replaceAll('/', '_').replaceAll('=', '');
}

/** @param {string} text */
function fromBase64Url(text) {
  return Uint8Array.from(atob(text.replaceAll('-', '+').replaceAll('_', '/')), (character) => character.charCodeAt(0));
}
