// Records of LOG messages, byte by byte and back.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { FrameError } from '../src/frame.js';
import { decodeRecords, encodeRecords } from '../src/record.js';

const bytes = (...numbers) => Uint8Array.from(numbers);
const content = { kind: 1, version: 2, flags: 1, target: 2 ** 40 + 1, body: bytes(9, 8) };
const writer = { origin: 'ffffffffffffff07', cseq: 3 };

const RECORDS = [
  { tag: 'submit', ...writer, base: 2, nonce: 0xffff_ffff, ...content },
  { tag: 'begin', origin: '0000000000000001', key: 4, ...content },
  { tag: 'part', origin: '0000000000000001', key: 4, offset: 5, text: bytes(0x61) },
  { tag: 'event', seq: 2 ** 53 - 1, at: 1_800_000_000_000, ...writer, ...content, user: 'ünn', name: '' },
  { tag: 'head', epoch: 1, seq: 2, digest: '8000000000000000', proof: '00000000000000ff' },
  { tag: 'accepted', ...writer, seq: 70_000_000_000 },
  { tag: 'refused', ...writer, code: 'forbidden', message: 'nö' },
  { tag: 'expected', ...writer, retryAfterMs: 600, code: 'rate_limited' },
  { tag: 'conflict', ...writer },
  { tag: 'snapshot', encoding: 1, json: bytes(1, 2, 3) },
  { tag: 'page', id: 7, encoding: 0, json: bytes() },
  { tag: 'answer', id: 7, last: 1 },
  { tag: 'stream', stream: 1, origin: '0000000000000001', key: 4, ...content, user: 'a', name: 'A', text: bytes(0x62, 0x63) },
  { tag: 'text', stream: 1, offset: 2, text: bytes(0x64) },
  { tag: 'ended', stream: 1, seq: 0 },
  { tag: 'have', origin: '0000000000000001', key: 4, offset: 2 },
  { tag: 'status', state: 1, code: 'storage_unavailable' },
];

test('every record is read as it was written, alone and together', () => {
  for (const record of RECORDS) assert.deepEqual(decodeRecords(encodeRecords([record])), [record]);
  assert.deepEqual(decodeRecords(encodeRecords(RECORDS)), RECORDS);
});

test('the bytes are those of the protocol', () => {
  const hex = (record) => Buffer.from(encodeRecords([record])).toString('hex');
  assert.equal(
    hex({ tag: 'submit', origin: '0102030405060708', cseq: 1, base: 1, nonce: 2, kind: 1, version: 0, flags: 0, target: 5, body: bytes(0x7b, 0x7d) }),
    '01 00000021 0102030405060708 00000001 00000001 00000002 01 00 00 0000000000000005 7b7d'.replaceAll(' ', ''),
  );
  assert.equal(hex({ tag: 'status', state: 1, code: 'x' }), '8e 00000003 01 01 78'.replaceAll(' ', ''));
});

test('an unknown record is skipped, and so is what a newer server appends', () => {
  const unknown = bytes(0x70, 0, 0, 0, 2, 1, 2);
  const longer = bytes(0x8c, 0, 0, 0, 13, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9, 0xff);
  assert.deepEqual(decodeRecords(Uint8Array.from([...unknown, ...longer])), [{ tag: 'ended', stream: 1, seq: 9 }]);
});

test('every truncation is refused, and never read beyond', () => {
  const whole = encodeRecords(RECORDS);
  const ends = new Set();
  for (let at = 0; at <= whole.length; at += 5 + new DataView(whole.buffer).getUint32(at + 1)) {
    ends.add(at);
    if (at === whole.length) break;
  }
  for (let length = 0; length < whole.length; length += 1) {
    if (ends.has(length)) continue;
    assert.throws(() => decodeRecords(whole.subarray(0, length)), FrameError, `${length}`);
  }
});

test('a count that no number holds, and a name that is no text, are refused', () => {
  const [ended] = [encodeRecords([{ tag: 'ended', stream: 1, seq: 0 }])];
  ended[9] = 0x7f;
  assert.throws(() => decodeRecords(ended), FrameError);
  const status = encodeRecords([{ tag: 'status', state: 1, code: 'x' }]);
  status[7] = 0xff;
  assert.throws(() => decodeRecords(status), FrameError);
});
