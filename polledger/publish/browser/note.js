'use strict';
// Tree heads: a C2SP tlog-checkpoint in a C2SP signed note (docs/protocol.md, section 4).
// Only the signature of the run's key counts; those of witnesses may follow it.

const NOTE_BYTES = 2 ** 17;
const ED25519_KIND = Uint8Array.of(1);
const KEY_ID_BYTES = 4;

const HEAD_TEXT = new RegExp(
  '^polledger/run/([0-9a-f]{32})\\n([1-9][0-9]{0,15})\\n([A-Za-z0-9+/]{43}=)\\n' +
    'chainpoint ([A-Za-z0-9+/]{43}=)\\nprevious ([0-9a-f]{64})\\n$',
);
const SIGNATURE_LINE = /^\u2014 ([^\s+]+) ([A-Za-z0-9+/]+={0,2})$/;

/** A parsed note: the head's values, `text` (the signed bytes) and the signature lines, none of them checked. */
function parseNote(bytes) {
  demand(bytes.length <= NOTE_BYTES, 'a note is too long');
  const whole = toText(bytes);
  demand(!/[\x00-\x09\x0b-\x1f]/.test(whole), 'a note has a control character');
  // The last empty line separates. The text of a head has none, so a second one makes it unreadable.
  const end = whole.lastIndexOf('\n\n');
  demand(end >= 0, 'a note has no signatures');
  const text = whole.slice(0, end + 1);
  return { ...parseHeadText(text), text: fromText(text), signatures: parseSignatures(whole.slice(end + 2)) };
}

function parseHeadText(text) {
  const match = HEAD_TEXT.exec(text);
  demand(match !== null, 'a tree head is not the five lines origin, size, root, chainpoint, previous');
  const size = Number(match[2]);
  demand(Number.isSafeInteger(size), 'a tree size is beyond 2^53-1');
  return {
    origin: text.slice(0, text.indexOf('\n')),
    run: fromHex(match[1]),
    size,
    root: fromBase64(match[3]),
    chainpoint: fromBase64(match[4]),
    previous: fromHex(match[5]),
  };
}

function parseSignatures(lines) {
  demand(lines.endsWith('\n'), 'a note does not end in a signature line and a newline');
  const split = lines.slice(0, -1).split('\n');
  demand(eachOnce(split), 'a note repeats a signature line');
  return split.map(parseSignatureLine);
}

function parseSignatureLine(line) {
  const match = SIGNATURE_LINE.exec(line);
  demand(match !== null, 'a signature line is not a dash, a name and base64');
  const blob = fromBase64(match[2]);
  demand(blob.length > KEY_ID_BYTES, 'a signature line carries no signature');
  return { name: match[1], keyId: blob.slice(0, KEY_ID_BYTES), signature: blob.slice(KEY_ID_BYTES) };
}

function keyId(name, key) {
  return sha256(fromText(name + '\n'), ED25519_KIND, key).slice(0, KEY_ID_BYTES);
}

/** Whether exactly one line is under the run's name with this key's id, and its signature of the text holds. */
async function noteIsSigned(note, key) {
  const wanted = keyId(note.origin, key);
  const found = note.signatures.filter((line) => line.name === note.origin && sameBytes(line.keyId, wanted));
  return found.length === 1 && verifyEd25519(key, found[0].signature, note.text);
}
