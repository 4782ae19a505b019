// The vectors that the Rust half is held to as well: signaling/vectors/, whose first field explains them.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';

import { FrameError, decodeFrame, encodeFrame, joinFrames, splitFrames } from '../src/frame.js';
import { Lane } from '../src/lane.js';
import { Reader } from '../src/reader.js';
import { KINDS } from '../src/record.js';
import { Writer } from '../src/writer.js';

const load = (name) => JSON.parse(readFileSync(new URL(`../../signaling/vectors/${name}`, import.meta.url), 'utf8'));

const bytesOf = (hex) =>
  Uint8Array.from(
    hex
      .split(' ')
      .flatMap((word) => {
        const [digits, count = '1'] = word.split('*');
        return Array(Number(count)).fill(Buffer.from(digits, 'hex'));
      })
      .flatMap((buffer) => [...buffer]),
  );

const targetOf = (target) => {
  if (target === undefined) return undefined;
  if (target === 'room') return { tag: 'room' };
  return target.users ? { tag: 'users', users: target.users } : { tag: 'topic', topic: target.topic };
};

function frameOf(vector) {
  const { lane_seq: laneSeq, target, payload, ...rest } = vector;
  const frame = { ...rest };
  if (laneSeq !== undefined) frame.laneSeq = laneSeq;
  if (target !== undefined) frame.target = targetOf(target);
  if (payload !== undefined) frame.payload = bytesOf(payload);
  return frame;
}

const frames = load('frames.json');

for (const { name, hex, frame } of frames.frames) {
  test(`frame: ${name}`, () => {
    const decoded = decodeFrame(bytesOf(hex));
    assert.deepEqual(decoded, frameOf(frame));
    if (frame.kind !== 'unknown') assert.deepEqual(encodeFrame(frameOf(frame)), bytesOf(hex));
  });
}

for (const { name, hex, frame } of frames.more_frames) {
  test(`more than a frame: ${name}`, () => {
    assert.deepEqual(decodeFrame(bytesOf(hex)), frameOf(frame));
  });
}

for (const { name, hex } of frames.bad_frames) {
  test(`bad frame: ${name}`, () => {
    assert.throws(() => decodeFrame(bytesOf(hex)), FrameError);
  });
}

for (const { name, hex, frames: parts } of frames.pipe_messages) {
  test(`pipe message: ${name}`, () => {
    assert.deepEqual([...splitFrames(bytesOf(hex))], parts.map(bytesOf));
    assert.deepEqual(joinFrames(parts.map(bytesOf)), bytesOf(hex));
  });
}

for (const { name, hex, frames: parts } of frames.bad_pipe_messages) {
  test(`bad pipe message: ${name}`, () => {
    const split = [];
    assert.throws(() => {
      for (const frame of splitFrames(bytesOf(hex))) split.push(frame);
    }, FrameError);
    assert.deepEqual(split, parts.map(bytesOf));
  });
}

test('every truncation of a good frame is refused or decodes, and never reads beyond it', () => {
  for (const { hex } of frames.frames) {
    const bytes = bytesOf(hex);
    for (let length = 0; length < Math.min(bytes.length, 64); length += 1) {
      try {
        decodeFrame(bytes.subarray(0, length));
      } catch (error) {
        assert.ok(error instanceof FrameError, `${error}`);
      }
    }
  }
});

for (const { name, options = {}, steps } of load('lane.json').scenarios) {
  test(`lane: ${name}`, () => {
    const lane = new Lane({ limit: 1_048_576, ...options });
    let at = 0;
    const run = (step) => {
      if (step.repeat) {
        for (let i = 0; i < step.times; i += 1) step.repeat.forEach(run);
        return;
      }
      at += 1;
      doStep(lane, step, `step ${at}: ${JSON.stringify(step)}`);
    };
    steps.forEach(run);
  });
}

function doStep(lane, step, label) {
  switch (step.do) {
    case 'offer': {
      const { kind = 'data', room = 1, stream = 0, target = 'room', length } = step;
      const payload = new Uint8Array(length);
      const taken = lane.offer({ kind, room, stream, text: false, target: targetOf(target), payload });
      assert.equal(taken ? 'ok' : 'buffer_full', step.expect, label);
      return;
    }
    case 'next': {
      const bytes = lane.next();
      if (step.expect === null) {
        assert.equal(bytes, null, label);
        return;
      }
      assert.ok(bytes, label);
      const frame = decodeFrame(bytes);
      const seen = {
        ...frame,
        lane_seq: frame.laneSeq,
        total: frame.total ?? null,
        target: frame.target ?? null,
        length: frame.payload.length,
        bytes: bytes.length,
      };
      for (const [field, value] of Object.entries(step.expect)) {
        const expected = field === 'target' && value !== null ? targetOf(value) : value;
        assert.deepEqual(seen[field], expected, `${label}: ${field}`);
      }
      return;
    }
    case 'ack':
      lane.acknowledge(step.ack);
      return;
    case 'replay':
      assert.equal(lane.replayFrom(step.ack) ? 'ok' : 'impossible', step.expect, label);
      return;
    case 'receive':
      assert.equal(lane.receive(step.seq, step.bytes, step.now), step.expect, label);
      return;
    case 'receive_more':
      for (let i = 0; i < step.count; i += 1) {
        assert.equal(lane.receive((lane.received + 1) >>> 0, step.bytes, step.now), 'next', label);
      }
      return;
    case 'ack_due': {
      const due = lane.ackDueAt !== null && lane.ackDueAt <= step.now ? lane.takeAck() : null;
      assert.equal(due, step.expect, label);
      return;
    }
    case 'held':
      assert.equal(lane.heldBytes, step.expect, label);
      return;
    case 'unacknowledged':
      assert.equal(lane.unacknowledgedFrames, step.expect, label);
      return;
    default:
      assert.fail(`unknown step ${step.do}`);
  }
}

const delivery = load('delivery.json');
const ORIGIN = '0000000000000007';
const hex = (number) => number.toString(16).padStart(16, '0');

for (const { name, steps } of delivery.writers) {
  test(`writer: ${name}`, () => {
    let writer = new Writer({ origin: ORIGIN });
    let now = 0;
    for (const step of steps) {
      now = step.now ?? now;
      if (step.do === 'restore') writer = restored(writer);
      else assert.deepEqual(written(writer, step, now), step.expect ?? null, JSON.stringify(step));
    }
  });
}

/** One made from what is kept of another: answers that came out of order are forgotten. */
function restored(old) {
  const writer = new Writer({ origin: ORIGIN, next: old.base });
  for (const submission of old.unanswered) writer.push(submission);
  return writer;
}

function contentOf({ kind, text = '', length, flags = 0 }) {
  const body = length === undefined ? Buffer.from(text) : new Uint8Array(length);
  return { kind: kind === 'end' ? KINDS.end : KINDS.chat, version: 0, flags, target: 0, body: new Uint8Array(body) };
}

function written(writer, step, now) {
  const backOf = ({ body, nonce }) => [Buffer.from(body).toString(), nonce];
  switch (step.do) {
    case 'submit': {
      if (writer.closed) return null;
      const { nonce, times = 1 } = step;
      for (let i = 0; i < times; i += 1) writer.push({ cseq: writer.next, nonce: nonce + i, ...contentOf(step) });
      return writer.next - 1;
    }
    case 'attach':
      writer.attach();
      return null;
    case 'detach':
      writer.detach();
      return null;
    case 'send': {
      const sent = writer.poll(now);
      if (sent.length === 0) return null;
      const [{ cseq: from, base }] = sent;
      sent.forEach((submission, i) => assert.deepEqual([submission.cseq, submission.base], [from + i, base]));
      return { from, to: sent.at(-1).cseq, base };
    }
    case 'due':
      return writer.dueAt;
    case 'outbox':
      return { base: writer.base, unanswered: writer.unanswered.map(backOf) };
    default: {
      const { do: tag, origin = ORIGIN, cseq, seq, code = '', retry_after_ms: retryAfterMs } = step;
      const [conflicting] = writer.unanswered.filter((submission) => submission.cseq === cseq).map(backOf);
      const told = writer.handle({ tag, origin, cseq, seq, code, message: '', retryAfterMs, ...contentOf(step) }, now);
      writer.release(writer.answeredTo);
      if (told === null) return null;
      if ('conflict' in told) return { conflict: [told.cseq, ...conflicting] };
      if ('waits' in told) return { waits: [told.cseq, told.waits] };
      return 'code' in told ? { refused: [told.cseq, told.code] } : { accepted: [told.cseq, told.seq] };
    }
  }
}

for (const { name, position, steps } of delivery.readers) {
  test(`reader: ${name}`, () => {
    const reader = new Reader(position ? positionOf(...position) : null);
    let now = 0;
    for (const step of steps) {
      now = step.now ?? now;
      assert.deepEqual(readOf(reader, step, now), step.expect ?? null, JSON.stringify(step));
    }
  });
}

const positionOf = (epoch, seq) => ({ epoch, seq, digest: hex(seq), proof: hex(seq) });

function readOf(reader, step, now) {
  switch (step.do) {
    case 'attach':
      reader.attach(now);
      return null;
    case 'detach':
      reader.detach();
      return null;
    case 'gap':
      reader.gap();
      return null;
    case 'pull':
      return reader.poll(now);
    case 'due':
      return reader.dueAt;
    case 'position':
      return reader.position && [reader.position.epoch, reader.position.seq];
    case 'message': {
      const { answer, snapshot, events = [], head } = step;
      // Answers to a replay are kept apart by log.js.
      if (answer) return [{ answered: [...answer, events] }];
      const records = events.map((seq) => ({ tag: 'event', seq }));
      if (snapshot) {
        const [reason, ...at] = snapshot;
        records.unshift({ tag: 'snapshot', snapshot: { reason, ...positionOf(...at) } });
      }
      if (head) records.push({ tag: 'head', ...positionOf(...head) });
      return reader.handle(records).map((read) => (read.tag === 'event' ? read.event.seq : { snapshot: read.snapshot.reason }));
    }
    default:
      return assert.fail(step.do);
  }
}
